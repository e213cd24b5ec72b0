//! Deleting what nothing leads to any more, beside running pushes.
//!
//! # What is kept
//!
//! Commits that [`Rules`] keep, from all refs (heads, remotes, mirrors), from a publish that was cut off (its journal names old
//! and new commits), and from the summary, which clients follow even while it is older than the refs. Of these commits all that
//! is below them. A commit that is marked partial may lack some of it; any other must not, or nothing is deleted. History ends
//! where a commit is not there. Objects of a parent repository are looked at and not touched.
//!
//! Everything else in `objects/` is deleted: commits, dirtrees, dirmetas, content. With it goes what belongs to commits that
//! are not there: detached metadata, marks as partial, static deltas that lead to them. Tombstones are written when
//! `core.tombstone-commits` asks for it; those that are there stay. Caches of Flatpak's own prune (`.commitmeta2`) are deleted
//! all: Flatpak up to 1.18.1 may have written lists into them that lack objects, and newer versions believe them.
//! `tmp/` is libostree's, which clears it by itself.
//!
//! # Locks
//!
//! Marking and listing need the time, and run without any lock. Then the repository's lock is taken exclusively, in turns of
//! [`Pace::turn`] with rests between them that are longer than the pause between two tries of those who wait for it. At the
//! beginning of each turn everything is marked that refs lead to by now, walking only from what is not marked yet, and what
//! commits lead to that have come without a ref: directories whose time has changed are listed for new commits. What is not in
//! the inventory is never deleted. So a turn lasts as long as it takes to read the refs, to list the directories that others
//! have changed, to walk what is new, and [`Pace::turn`].
//!
//! Pushes hold the lock shared from their first answer about an object to their last ref. While it is held exclusively there
//! is no push in between: what one was told to be there is behind a ref, or the push is over. The publish lock is not taken:
//! who holds it may wait for `.lock`, or have a program started that does.
//!
//! # Order, and what a crash leaves
//!
//! 1. Commits; made durable.
//! 2. Detached metadata, tombstones, marks as partial, static deltas, caches; dirtrees, each before those below it; made durable.
//! 3. Dirmetas and content.
//!
//! `ostree fsck` looks at every commit in `objects/` that is not marked partial. A commit is gone for good, over a power loss
//! as well, before anything that it needs is; so is the commit before its mark. A crash at any instruction leaves objects that
//! nothing leads to, which the next prune deletes, and perhaps a deleted commit without its tombstone. A dirtree that is there
//! always has all below it, if it had before. Between two turns, which is the same to others as after a crash, a push may use
//! what is left: it is asked for each object anew, and what it has used is marked in the next turn.
//!
//! # Limits
//!
//! 32 bytes and a bit for an object, some 100 bytes for a commit that refs lead to, and 8 for a dirtree that is deleted.

mod inventory;
mod mark;
mod rules;
mod sweep;

use std::{fmt, io, path::PathBuf, time::Duration};

use rustix::{
    fs::{AtFlags, statat},
    io::Errno,
};
use treegraft_object::{CommitId, DirTreeId, ObjectKind, ObjectName};

pub use self::rules::{Depth, ParseDepthError, Rules, Selector};
use self::{
    inventory::{FileClock, Inventory, Names},
    mark::Marker,
    sweep::Sweep,
};
use crate::{
    Find, LockError, LockTimeout, Mode, ReadError, RefError, Repo,
    deltas::{self, DeltaError, DeltaName},
    private_dir,
    store::LoosePath,
    summary::SummaryError,
};

/// How long the lock is held for deleting before others get their turn.
pub const USUAL_TURN: Duration = Duration::from_secs(1);

/// How long it is left to others then: a little more than the second between two tries of libostree and of treegraft.
pub const USUAL_REST: Duration = Duration::from_millis(1200);

/// How long the lock is held at a time.
#[derive(Clone, Copy)]
pub struct Pace<'c> {
    /// How long the lock is waited for in each turn.
    pub wait: LockTimeout,
    /// After so much time in a turn no further object is deleted.
    pub turn: Duration,
    /// The time between two turns, if the first one was used up.
    pub rest: Duration,
    /// Tells the time that has passed since any fixed moment.
    pub elapsed: &'c dyn Fn() -> Duration,
}

impl fmt::Debug for Pace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Pace");
        shown.field("wait", &self.wait).field("turn", &self.turn).field("rest", &self.rest).finish_non_exhaustive()
    }
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// All objects are listed.
    Listed {
        /// How many there are.
        objects: u64,
    },
    /// What is kept is marked.
    Marked {
        /// How many objects are to be deleted, as it seems without the lock.
        objects: u64,
        /// Their size on disk in bytes.
        bytes: u64,
    },
    /// Somebody else holds the lock.
    Waiting {
        /// How long it has been waited for.
        waited: Duration,
    },
    /// Objects were deleted.
    Deleted {
        /// How many, since the beginning.
        objects: u64,
    },
}

/// How many objects of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Commits.
    pub commits: u64,
    /// Dirtrees.
    pub dirtrees: u64,
    /// Dirmetas.
    pub dirmetas: u64,
    /// Content objects.
    pub files: u64,
}

impl Counts {
    /// Returns the sum.
    pub const fn all(&self) -> u64 {
        self.commits + self.dirtrees + self.dirmetas + self.files
    }

    const fn add(&mut self, kind: ObjectKind) {
        match kind {
            ObjectKind::Commit => self.commits += 1,
            ObjectKind::DirTree => self.dirtrees += 1,
            ObjectKind::DirMeta => self.dirmetas += 1,
            _ => self.files += 1,
        }
    }
}

/// What was deleted, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many objects there were.
    pub objects: u64,
    /// How many commits are kept that refs lead to.
    pub kept_commits: u64,
    /// How many objects were deleted.
    pub deleted: Counts,
    /// The size on disk in bytes of all that was deleted.
    pub bytes: u64,
    /// The commits that were deleted.
    pub commits: Vec<CommitId>,
    /// How many commits' detached metadata was deleted.
    pub detached_metadata: u64,
    /// How many tombstones were written.
    pub tombstones: u64,
    /// How many marks as partial were deleted.
    pub partial_marks: u64,
    /// How many caches of Flatpak's own prune were deleted.
    pub flatpak_caches: u64,
    /// How many files were deleted that crashes had left.
    pub temporaries: u64,
    /// The static deltas that were deleted. Indexes and summary may still name them.
    pub deltas: Vec<DeltaName>,
    /// How often the lock was held.
    pub lock_turns: u64,
    /// How long it was held at a time, at most.
    pub longest_turn: Duration,
}

/// Why a repository could not be pruned. What was deleted before stays deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The repository is none that treegraft writes to.
    #[error("Could not prune `{path}`: it is a {mode} repository, treegraft deletes from archive ones only",
        path = path.display())]
    NotArchive {
        /// The repository.
        path: PathBuf,
        /// Its mode.
        mode: Mode,
    },
    /// This user may not write to the repository.
    #[error("Could not prune `{path}`: it is not writable for this user", path = path.display())]
    NotWritable {
        /// The repository.
        path: PathBuf,
    },
    /// Nothing would keep pushes away.
    #[error("Could not prune `{path}`: it has `core.locking=false`, and nothing tells whether a push relies on its objects",
        path = path.display())]
    NoLocking {
        /// The repository.
        path: PathBuf,
    },
    /// There are commits, and nothing names one: everything would be deleted.
    #[error("Could not prune `{path}`: it has {commits} commits and no ref; if `refs/heads` is neither lost nor unmounted, \
        delete them with `ostree prune --refs-only`", path = path.display())]
    NoRefs {
        /// The repository.
        path: PathBuf,
        /// How many commits there are.
        commits: usize,
    },
    /// A commit that is kept lacks a dirtree, and is not marked as partial.
    #[error("Could not tell what the commit `{commit}` needs: its dirtree `{dirtree}` is missing")]
    Incomplete {
        /// The missing dirtree.
        dirtree: DirTreeId,
        /// The commit.
        commit: CommitId,
    },
    /// A newer treegraft was cut off; only it knows what its publish needs.
    #[error("Could not read the journal `{path}`: it has the version {version}", path = path.display())]
    JournalVersion {
        /// The journal.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// The lock was not taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Refs could not be read.
    #[error(transparent)]
    Refs(#[from] RefError),
    /// An object could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The summary could not be read.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// Static deltas could not be listed or deleted.
    #[error(transparent)]
    Deltas(#[from] DeltaError),
    /// The file system refused.
    #[error("Could not read or delete `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl PruneError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Lock(source) => source.is_temporary(),
            Self::Refs(source) => source.is_temporary(),
            Self::Read(source) => source.is_temporary(),
            Self::Summary(source) => source.is_temporary(),
            Self::Deltas(source) => source.is_temporary(),
            Self::Io { source, .. } => crate::find::is_temporary(source),
            Self::NotArchive { .. }
            | Self::NotWritable { .. }
            | Self::NoLocking { .. }
            | Self::NoRefs { .. }
            | Self::Incomplete { .. }
            | Self::JournalVersion { .. } => false,
        }
    }

    /// Returns the stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotArchive { .. } => "not-archive",
            Self::NotWritable { .. } => "not-writable",
            Self::NoLocking { .. } => "no-locking",
            Self::NoRefs { .. } => "no-refs",
            Self::Incomplete { .. } => "missing-object",
            Self::JournalVersion { .. } => "journal-version",
            Self::Lock(_) => "lock",
            Self::Refs(source) => source.code(),
            Self::Read(source) => source.code(),
            Self::Summary(_) | Self::Deltas(_) | Self::Io { .. } => "io",
        }
    }
}

/// Tells what a prune would delete now. Nothing is written, no lock is taken.
pub fn preview(repo: &Repo, rules: &Rules, events: &mut dyn FnMut(Event)) -> Result<Report, PruneError> {
    check_mode(repo)?;
    let marker = mark(repo, rules, None, events)?;
    marker.check_complete()?;
    survey(repo, &marker, events)
}

/// Deletes what the rules do not keep.
///
/// The caller finishes an interrupted publish before ([`PublishLock`](crate::PublishLock)), and writes delta indexes and summary
/// afterwards when deltas were deleted. It must not hold the repository's lock.
pub fn run(repo: &Repo, rules: &Rules, pace: Pace<'_>, events: &mut dyn FnMut(Event)) -> Result<Report, PruneError> {
    check_mode(repo)?;
    let path = repo.path().to_owned();
    if !repo.is_writable() {
        return Err(PruneError::NotWritable { path });
    }
    if !repo.config().locking {
        return Err(PruneError::NoLocking { path });
    }
    let path = private_dir::path(repo);
    let private = private_dir::open(repo).map_err(|source| PruneError::Io { path: path.clone(), source })?;
    let clock = FileClock::new(private, path);
    let marker = mark(repo, rules, Some(&clock), events)?;
    // This also brings what is to be deleted into the kernel's caches, while nobody waits for it.
    survey(repo, &marker, events)?;
    Sweep::new(repo, rules, marker, clock, pace, events).run()
}

fn check_mode(repo: &Repo) -> Result<(), PruneError> {
    match repo.mode() {
        Mode::Archive => Ok(()),
        mode => Err(PruneError::NotArchive { path: repo.path().to_owned(), mode }),
    }
}

fn mark<'r>(
    repo: &'r Repo,
    rules: &Rules,
    clock: Option<&FileClock>,
    events: &mut dyn FnMut(Event),
) -> Result<Marker<'r>, PruneError> {
    let inventory = Inventory::read(repo, clock)?;
    events(Event::Listed { objects: inventory.len() });
    let mut marker = Marker::new(repo, inventory);
    for root in rules::roots(repo, rules)? {
        marker.keep(root)?;
    }
    Ok(marker)
}

/// Counts what is not marked.
fn survey(repo: &Repo, marker: &Marker<'_>, events: &mut dyn FnMut(Event)) -> Result<Report, PruneError> {
    let inventory = &marker.inventory;
    let mut report = Report { objects: inventory.len(), kept_commits: marker.kept_commits(), ..Report::default() };
    let kinds: [(ObjectKind, &Names); 4] = [
        (ObjectKind::Commit, &inventory.commits),
        (ObjectKind::DirTree, &inventory.dirtrees),
        (ObjectKind::DirMeta, &inventory.dirmetas),
        (ObjectKind::File, &inventory.files),
    ];
    for (kind, names) in kinds {
        for index in names.unmarked() {
            report.deleted.add(kind);
            report.bytes +=
                size_bytes(repo, LoosePath::new(ObjectName::new(kind, names.name(index)), Mode::Archive).as_str())?;
        }
    }
    report.commits = inventory.commits.unmarked().map(|index| CommitId(inventory.commits.name(index))).collect();
    events(Event::Marked { objects: report.deleted.all(), bytes: report.bytes });
    let is_leaving = |commit: CommitId| match inventory.commits.find(&commit.0) {
        Some(index) => Ok(!inventory.commits.is_marked(index)),
        None => repo.has(commit.into()).map(|is_there| !is_there),
    };
    for &commit in &inventory.detached {
        if is_leaving(commit)? {
            report.detached_metadata += 1;
            report.bytes += size_bytes(repo, LoosePath::new(ObjectName::commit_meta(commit), Mode::Archive).as_str())?;
        }
    }
    if repo.config().tombstone_commits {
        report.tombstones = report.deleted.commits;
    }
    for commit in sweep::partial_marks(repo)? {
        report.partial_marks += u64::from(is_leaving(commit)?);
    }
    for name in deltas::names_of_all(repo)? {
        if is_leaving(name.to)? {
            report.deltas.push(name);
        }
    }
    report.flatpak_caches = inventory.flatpak_caches.len() as u64;
    report.temporaries = inventory.temporaries.len() as u64;
    Ok(report)
}

/// Returns the size of a file in `objects/`; nothing of one that is gone.
fn size_bytes(repo: &Repo, path: &str) -> Result<u64, PruneError> {
    match statat(repo.objects_dir(), path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(u64::try_from(stat.st_size).unwrap_or(0)),
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(PruneError::Io { path: repo.objects_path().join(path), source: errno.into() }),
    }
}
