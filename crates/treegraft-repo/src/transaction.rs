//! Publishing staged objects and moving refs: all of it or nothing.
//!
//! ```text
//! new      objects and ref edits are named                                   nothing is changed
//! prepare  names and expected values checked; staged data durable;
//!          content, dirmeta, dirtree, detached metadata renamed into objects/;
//!          their directories durable; tombstones and marks as partial removed;
//!          commits renamed; their directories durable
//!                                                                            objects that no ref leads to
//! commit   expected values checked again; journal durable; each ref checked and written;
//!          their directories durable                                         refs moved
//!          (the caller writes the summary and its signature)
//! finish   journal removed
//! ```
//!
//! # Invariants
//!
//! * A commit is in `objects/` only after everything else that was linked is durable there. Whoever looks at all commits,
//!   as `ostree fsck` and `ostree prune` do, finds none with a hole, after a power loss as well.
//! * The journal is durable before the first ref is written, and removed after the caller has written the summary.
//!
//! # Locks
//!
//! The [`PublishLock`] is a parameter. The caller also holds the repository's lock shared ([`RepoLock`](crate::RepoLock)) from
//! before its first "is this object there?" until [`Prepared::commit`] returns.
//!
//! # What a crash leaves
//!
//! Up to the journal: objects without a ref, in `objects/` or in the staging area, which the next push uses. From the journal
//! on: [`PublishLock::acquire`] brings the refs to their new values.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode as FileMode, mkdirat, renameat, statat},
    io::Errno,
};
use treegraft_object::{CommitId, ObjectKind, ObjectName};

use crate::{
    Find, PublishError, PublishLock, ReadError, RefEdit, RefEditError, RefTarget, Repo, Staging,
    durable::{self, Durability, rename_new},
    fault, journal, ref_edit,
    store::LoosePath,
    touched::Touched,
};

/// Most refs that one transaction moves: with the longest names the journal stays below what is read of it.
pub const MAX_EDITS: usize = 10_000;

/// Mode of the directories `objects/XX` before the umask, as libostree makes them.
const DIRECTORY_MODE: FileMode = FileMode::from_raw_mode(0o777);

/// A publish that is being put together. Dropping it changes nothing.
#[derive(Debug)]
pub struct Transaction<'r> {
    repo: &'r Repo,
    lock: &'r PublishLock,
    staging: &'r Staging,
    objects: Vec<ObjectName>,
    edits: Vec<RefEdit>,
}

/// A publish whose objects are in the repository and durable. Dropping it leaves them there without refs.
#[derive(Debug)]
#[must_use = "nothing is visible before `commit`"]
pub struct Prepared<'r> {
    repo: &'r Repo,
    lock: &'r PublishLock,
    edits: Vec<RefEdit>,
}

/// A publish whose refs are written and durable. The summary is still the old one.
///
/// Dropping it leaves the journal, and the next publish writes the summary.
#[derive(Debug)]
#[must_use = "the journal stays until `finish`"]
pub struct Committed<'r> {
    lock: &'r PublishLock,
}

/// Why a transaction failed. Nothing is visible, except after [`TransactionError::Unfinished`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// A ref has another value than the caller expects.
    #[error("Could not move the ref `{target}` from {}: it is at {}", shown(.expected.as_ref()), shown(.found.as_ref()))]
    RefMoved {
        /// The ref.
        target: RefTarget,
        /// What the caller expects, nothing for a ref that should not be there.
        expected: Option<CommitId>,
        /// What it points to.
        found: Option<CommitId>,
    },
    /// A ref cannot be written.
    #[error(transparent)]
    Ref(#[from] RefEditError),
    /// There are more refs than one transaction can move.
    #[error("Could not move {count} refs at once, at most {limit} are possible")]
    TooManyRefs {
        /// How many there are.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// An object is neither staged nor in the repository.
    #[error("Could not find the object `{name}` to publish")]
    Missing {
        /// The object.
        name: ObjectName,
    },
    /// An object cannot be published in this way.
    #[error("Could not publish `{name}`: only a repository itself makes tombstones")]
    Tombstone {
        /// The object.
        name: ObjectName,
    },
    /// An object could not be looked up.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file system refused.
    #[error("Could not write `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Some refs were written and could not be set back. The next publish will write the others.
    #[error("Could not write all refs, nor set back the ones that were written; the next publish will finish this one")]
    Unfinished {
        /// Why the refs could not be written.
        #[source]
        source: Box<Self>,
    },
    /// The journal could not be removed. The refs are written; the next publish removes it.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

fn shown(commit: Option<&CommitId>) -> String {
    commit.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

impl TransactionError {
    /// Tells whether a later try may succeed: the same one, or for a moved ref one with its new value.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::RefMoved { .. } => true,
            Self::Ref(source) => source.is_temporary(),
            Self::Read(source) => source.is_temporary(),
            Self::Io { source, .. } => crate::find::is_temporary(source),
            Self::Publish(source) => source.is_temporary(),
            Self::Unfinished { source } => source.is_temporary(),
            Self::TooManyRefs { .. } | Self::Missing { .. } | Self::Tombstone { .. } => false,
        }
    }

    /// Returns the stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RefMoved { .. } => "ref-moved",
            Self::Ref(source) => source.code(),
            Self::TooManyRefs { .. } => "too-many-refs",
            Self::Missing { .. } => "missing-object",
            Self::Tombstone { .. } => "object-kind",
            Self::Read(source) => source.code(),
            Self::Unfinished { .. } => "unfinished",
            Self::Io { .. } | Self::Publish(_) => "io",
        }
    }
}

impl<'r> Transaction<'r> {
    /// Starts a transaction without objects and refs.
    pub const fn new(repo: &'r Repo, lock: &'r PublishLock, staging: &'r Staging) -> Self {
        Self { repo, lock, staging, objects: Vec::new(), edits: Vec::new() }
    }

    /// Adds objects that are staged or in the repository already, in any order.
    ///
    /// The tree of each commit among them must be complete, from what is added and what is there: a mark of the commit as
    /// partial is taken away.
    pub fn link(&mut self, objects: impl IntoIterator<Item = ObjectName>) {
        self.objects.extend(objects);
    }

    /// Adds a ref to move.
    pub fn set_ref(&mut self, edit: RefEdit) {
        self.edits.push(edit);
    }

    /// Puts the objects into the repository. Refs are only looked at.
    pub fn prepare(mut self) -> Result<Prepared<'r>, TransactionError> {
        if self.edits.len() > MAX_EDITS {
            return Err(TransactionError::TooManyRefs { count: self.edits.len(), limit: MAX_EDITS });
        }
        if let Some(&name) = self.objects.iter().find(|name| name.kind == ObjectKind::TombstoneCommit) {
            return Err(TransactionError::Tombstone { name });
        }
        check_expected(self.repo, &self.edits)?;
        ref_edit::check_names(self.repo, &self.edits)?;
        self.objects.sort_unstable_by_key(|name| (rank(name.kind), name.checksum));
        self.objects.dedup();
        let durability = self.lock.durability();
        let mut absent = self.absent_directories();
        // This also covers what a publish that was cut off has moved into `objects/` and not synced.
        let synced = durability.sync_fs(self.staging.dir()).and_then(|()| fault::point("transaction:staging-durable"));
        synced.map_err(|source| io_error(self.staging.path(), source))?;
        let commits_from = self.objects.partition_point(|name| name.kind != ObjectKind::Commit);
        let (others, commits) = self.objects.split_at(commits_from);
        self.link_durably(others, &mut absent, durability)?;
        self.forget_absence(commits, durability)?;
        self.link_durably(commits, &mut absent, durability)?;
        Ok(Prepared { repo: self.repo, lock: self.lock, edits: self.edits })
    }

    /// Returns the first bytes of objects whose directory `objects/XX` is not there.
    fn absent_directories(&self) -> HashSet<u8> {
        let needed: HashSet<u8> = self.objects.iter().map(|name| name.checksum.as_bytes()[0]).collect();
        let is_absent = |byte: &u8| {
            let name = format!("{byte:02x}");
            // Whatever the reason, linking meets it again and tells.
            statat(self.repo.objects_dir(), name.as_str(), AtFlags::empty()).is_err()
        };
        needed.into_iter().filter(is_absent).collect()
    }

    /// Moves objects into `objects/`; they are durable there on return.
    ///
    /// `absent` are the directories that were missing before the last sync of everything, without those that are durable now.
    fn link_durably(
        &self,
        objects: &[ObjectName],
        absent: &mut HashSet<u8>,
        durability: Durability,
    ) -> Result<(), TransactionError> {
        let mut touched = Touched::default();
        for &name in objects {
            let path = LoosePath::new(name, self.repo.mode());
            let fail = |source: io::Error| io_error(&self.repo.objects_path().join(path.as_str()), source);
            let byte = name.checksum.as_bytes()[0];
            if touched.add(byte) {
                let is_made = self.make_directory(path.directory()).map_err(fail)?;
                // Also when somebody else was first: the sync of everything had not seen it.
                if absent.remove(&byte) || is_made {
                    touched.note_new();
                }
            }
            let (staged, objects) = (self.staging.dir(), self.repo.objects_dir());
            let renamed = if name.kind == ObjectKind::CommitMeta {
                renameat(staged, path.as_c_str(), objects, path.as_c_str()).map(|()| true)
            } else {
                rename_new(staged, path.as_c_str(), objects, path.as_c_str())
            };
            match renamed {
                // What is there already has the same name and thus the same content; the staged copy is not needed.
                Ok(_) => {}
                Err(Errno::NOENT) if self.repo.has(name)? => {}
                Err(Errno::NOENT) => return Err(TransactionError::Missing { name }),
                Err(errno) => return Err(fail(errno.into())),
            }
            fault::point("transaction:linked").map_err(fail)?;
        }
        touched
            .sync(self.repo, durability)
            .and_then(|()| fault::point("transaction:objects-durable"))
            .map_err(|source| io_error(self.repo.objects_path(), source))
    }

    /// Makes a directory `objects/XX` when it is missing. Tells whether it was.
    fn make_directory(&self, name: &str) -> io::Result<bool> {
        match mkdirat(self.repo.objects_dir(), name, DIRECTORY_MODE) {
            Ok(()) => fault::point("transaction:directory-made").map(|()| true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the tombstones of commits and their marks as partial.
    ///
    /// All else is durable by now, and the commits come next, so that a publish that is cut off leaves none of them with a
    /// tombstone. Tombstones are in the commits' directories, whose sync makes their removal durable as well.
    fn forget_absence(&self, commits: &[ObjectName], durability: Durability) -> Result<(), TransactionError> {
        let mut is_any_partial = false;
        for commit in commits {
            let tombstone = ObjectName::new(ObjectKind::TombstoneCommit, commit.checksum).loose_path("filez");
            let partial = Repo::partial_path(CommitId(commit.checksum));
            for (path, is_partial) in [(tombstone, false), (partial, true)] {
                let removed = durable::unlink_if_there(self.repo.dir(), path.as_str())
                    .and_then(|is_removed| fault::point("transaction:absence-forgotten").map(|()| is_removed))
                    .map_err(|source| io_error(&self.repo.path().join(path), source))?;
                is_any_partial |= removed && is_partial;
            }
        }
        if is_any_partial {
            let synced = durable::open_dir(self.repo.dir(), "state").and_then(|state| durability.sync_dir(state));
            synced.map_err(|source| io_error(&self.repo.path().join("state"), source))?;
        }
        Ok(())
    }
}

impl<'r> Prepared<'r> {
    /// Moves the refs.
    ///
    /// When a ref cannot be written, those that were are set back, and nothing was published. When that fails as well, the
    /// error is [`TransactionError::Unfinished`].
    pub fn commit(self) -> Result<Committed<'r>, TransactionError> {
        let Self { repo, lock, edits } = self;
        check_expected(repo, &edits)?;
        fault::point("transaction:checked").map_err(|source| io_error(repo.path(), source))?;
        if edits.is_empty() {
            return Ok(Committed { lock });
        }
        write_all_or_none(repo, &edits, lock)?;
        Ok(Committed { lock })
    }
}

impl Committed<'_> {
    /// Ends the publish, after the caller has written the summary.
    pub fn finish(self) -> Result<(), TransactionError> {
        Ok(self.lock.remove_journal()?)
    }
}

/// The order in which kinds of objects get their names: what others refer to comes first.
const fn rank(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::File => 0,
        ObjectKind::DirMeta => 1,
        ObjectKind::DirTree => 2,
        ObjectKind::CommitMeta | ObjectKind::TombstoneCommit => 3,
        ObjectKind::Commit => 4,
    }
}

fn check_expected(repo: &Repo, edits: &[RefEdit]) -> Result<(), TransactionError> {
    edits.iter().try_for_each(|edit| check_one(repo, edit, edit.expected))
}

/// Fails when a ref is neither where it is expected nor at `other`.
fn check_one(repo: &Repo, edit: &RefEdit, other: Option<CommitId>) -> Result<(), TransactionError> {
    let RefEdit { target, expected, .. } = edit;
    let found = repo.resolve(target).map_err(RefEditError::from)?;
    if found == *expected || found == other {
        return Ok(());
    }
    Err(TransactionError::RefMoved { target: target.clone(), expected: *expected, found })
}

/// Writes the journal and the refs, and on an error sets back those that were written.
fn write_all_or_none(repo: &Repo, edits: &[RefEdit], lock: &PublishLock) -> Result<(), TransactionError> {
    let durability = lock.durability();
    let written = match journal::write(lock.private_dir(), edits, durability) {
        Ok(()) => write_refs(repo, edits, durability),
        Err(source) => Err(io_error(&crate::private_dir::path(repo).join(journal::NAME), source)),
    };
    written.map_err(|error| match set_back(repo, edits, lock) {
        Ok(()) => error,
        Err(_) => TransactionError::Unfinished { source: Box::new(error) },
    })
}

fn write_refs(repo: &Repo, edits: &[RefEdit], durability: Durability) -> Result<(), TransactionError> {
    let mut directories = HashSet::new();
    for edit in edits {
        // libostree takes no lock to move a ref: the less time between the look and the write, the better.
        check_one(repo, edit, Some(edit.new))?;
        directories.insert(ref_edit::write(repo, &edit.target, edit.new, durability)?);
        fault::point("transaction:ref-written").map_err(|source| io_error(repo.path(), source))?;
    }
    Ok(ref_edit::sync_directories(repo, &directories, durability)?)
}

/// Gives the refs that have their new value their old one back, and the journal to the publish that was recovered before.
fn set_back(repo: &Repo, edits: &[RefEdit], lock: &PublishLock) -> Result<(), TransactionError> {
    let mut directories = HashSet::new();
    for RefEdit { target, expected, new } in edits {
        if expected == &Some(*new) || repo.resolve(target).map_err(RefEditError::from)? != Some(*new) {
            continue;
        }
        directories.insert(match expected {
            Some(old) => ref_edit::write(repo, target, *old, lock.durability())?,
            None => ref_edit::delete(repo, target)?,
        });
        fault::point("transaction:ref-set-back").map_err(|source| io_error(repo.path(), source))?;
    }
    if !directories.is_empty() {
        ref_edit::sync_directories(repo, &directories, lock.durability())?;
    }
    Ok(lock.give_back_journal()?)
}

fn io_error(path: &Path, source: io::Error) -> TransactionError {
    TransactionError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use treegraft_object::{Checksum, RefName};

    use super::*;

    #[test]
    fn a_ref_that_moves_at_the_last_moment_stays_and_the_others_are_set_back() {
        let id = |text: &str| CommitId(Checksum::of(text.as_bytes()));
        let (old, new, foreign) = (id("old"), id("new"), id("foreign"));
        let base = tempfile::tempdir().expect("a temporary directory");
        let repo = Repo::init(&base.path().join("repo"), None).expect("the path is free");
        let lock = PublishLock::acquire(&repo, &mut |_| {}).expect("it is free");
        let edit = |name: &str, expected: Option<CommitId>, now: Option<CommitId>| {
            let target = RefTarget::Head(RefName::new(name).expect("it is valid"));
            if let Some(now) = now {
                let _ = ref_edit::write(&repo, &target, now, Durability::None).expect("it can be written");
            }
            RefEdit { target, expected, new }
        };
        let edits = [edit("a", Some(old), Some(old)), edit("b", None, None), edit("c", Some(old), Some(foreign))];
        match write_all_or_none(&repo, &edits, &lock).expect_err("a ref has moved") {
            TransactionError::RefMoved { target, expected, found } => {
                assert_eq!(
                    (target, expected, found),
                    (edits[2].target.clone(), Some(old), Some(foreign)),
                    "it is told"
                );
            }
            error => panic!("unexpected: {error}"),
        }
        let refs: Vec<_> = repo.refs().expect("they can be read").into_values().collect();
        assert_eq!(refs, [old, foreign], "the first two are as before, and the foreign value stays");
        assert!(!PublishLock::is_recovery_needed(&repo).expect("it can be looked"), "nothing is left to finish");
        // A publish before this one, whose summary was not written.
        let earlier = [edit("earlier", None, Some(new))];
        journal::write(lock.private_dir(), &earlier, Durability::None).expect("it can be written");
        drop(lock);
        let lock = PublishLock::acquire(&repo, &mut |_| {}).expect("it is free");
        let _moved = write_all_or_none(&repo, &edits, &lock).expect_err("a ref has moved");
        assert!(
            PublishLock::is_recovery_needed(&repo).expect("it can be looked"),
            "its summary is still to be written"
        );
    }
}
