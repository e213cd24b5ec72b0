//! Checking a whole repository.
//!
//! Four passes: list the objects; verify each one's bytes against its name and the strict rules of its format, on all
//! cores; check that every commit that is not marked partial has its whole tree; check that every ref leads to a commit.
//! Like libostree's, it takes no lock: hold the repository's shared lock to keep a prune away. Objects of parent
//! repositories are looked up but not verified, except for dirtrees.

use std::{
    collections::{BTreeSet, HashSet},
    error::Error,
    fmt,
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use treegraft_object::{
    CommitId, ContentId, ObjectKind, ObjectName,
    verify::{self, VerifyError},
};

use crate::{ArchivedFile, Closure, Find, Listing, ReadError, RefError, Repo};

/// How many objects a thread takes at a time: enough that the threads do not contend, few enough that progress moves.
const BATCH_OBJECTS: usize = 64;

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// How many things of this phase are done.
    pub done: u64,
    /// How many there are; while listing it is not known and equal to `done`.
    pub total: u64,
}

/// What a check does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Finding the objects.
    Listing,
    /// Verifying objects.
    Objects,
    /// Walking the trees of commits.
    Commits,
    /// Resolving refs.
    Refs,
}

/// What a check has found.
#[derive(Debug, Default)]
pub struct Report {
    /// Number of objects that were verified, detached metadata and tombstones included.
    pub objects: u64,
    /// Number of commits whose trees were walked.
    pub commits: u64,
    /// Number of commits that are marked partial and were not walked.
    pub partial_commits: u64,
    /// Number of refs.
    pub refs: u64,
    /// Number of objects that a commit needs and that are missing. Not all of them need to be in `problems`.
    pub missing_objects: u64,
    /// What is wrong, in the order of the passes and then of the names.
    pub problems: Vec<Problem>,
}

/// Something that is wrong in a repository.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// An object is damaged, breaks the rules of its format, or cannot be read.
    Object {
        /// The object.
        name: ObjectName,
        /// What is wrong.
        source: ReadError,
    },
    /// A commit needs an object that is not there.
    MissingObject {
        /// The missing object.
        name: ObjectName,
        /// The first commit that needs it.
        needed_by: CommitId,
    },
    /// A commit has a tombstone, the mark that it was deleted, but is there.
    TombstoneOfLiveCommit {
        /// The commit.
        commit: CommitId,
    },
    /// A ref's commit is not there.
    DanglingRef {
        /// The ref's path below the repository.
        path: String,
        /// The missing commit.
        commit: CommitId,
    },
    /// A ref cannot be read.
    Ref {
        /// The ref's path below the repository.
        path: String,
        /// What is wrong.
        source: RefError,
    },
}

impl Problem {
    /// Returns the stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Object { source, .. } => source.code(),
            Self::MissingObject { .. } => "missing-object",
            Self::TombstoneOfLiveCommit { .. } => "tombstone-of-live-commit",
            Self::DanglingRef { .. } => "dangling-ref",
            Self::Ref { source, .. } => source.code(),
        }
    }

    /// Returns the object that is wrong or missing.
    pub fn object(&self) -> Option<ObjectName> {
        match self {
            Self::Object { name, .. } | Self::MissingObject { name, .. } => Some(*name),
            Self::TombstoneOfLiveCommit { commit } => Some(ObjectName::new(ObjectKind::TombstoneCommit, commit.0)),
            Self::DanglingRef { .. } | Self::Ref { .. } => None,
        }
    }

    /// Returns the path below the repository of the ref that is wrong, e.g. `refs/heads/main`.
    pub fn ref_path(&self) -> Option<&str> {
        match self {
            Self::DanglingRef { path, .. } | Self::Ref { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// Shows the problem with its causes in one line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { source, .. } => chain(f, source),
            Self::MissingObject { name, needed_by } => {
                write!(f, "The object `{name}` is missing; the commit `{needed_by}` needs it")
            }
            Self::TombstoneOfLiveCommit { commit } => {
                write!(f, "The commit `{commit}` is there, but also a mark that it was deleted")
            }
            Self::DanglingRef { path, commit } => write!(f, "The ref `{path}` leads to the missing commit `{commit}`"),
            Self::Ref { source, .. } => chain(f, source),
        }
    }
}

fn chain(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    write!(f, "{error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(f, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}

/// Checks the repository. Damage is in the report; only what makes the check itself impossible is an error.
///
/// `progress` is called on the calling thread.
pub fn run(repo: &Repo, progress: &mut dyn FnMut(Progress)) -> Result<Report, ReadError> {
    let mut names = list(repo, progress)?;
    // Sorted, objects of one directory are read together, and problems come in an order that does not change.
    names.sort_unstable_by_key(|name| (name.checksum, name.kind));
    let mut report = Report::default();
    let bad = check_objects(repo, &names, &mut report, progress);
    check_commits(repo, &names, bad, &mut report, progress);
    check_refs(repo, &mut report, progress)?;
    Ok(report)
}

fn list(repo: &Repo, progress: &mut dyn FnMut(Progress)) -> Result<Vec<ObjectName>, ReadError> {
    let mut names = Vec::new();
    for name in repo.objects_with(Listing::All) {
        names.push(name?);
        if names.len().is_multiple_of(BATCH_OBJECTS) {
            let done = names.len() as u64;
            progress(Progress { phase: Phase::Listing, done, total: done });
        }
    }
    Ok(names)
}

/// Verifies every object on all cores. Returns those that are bad.
fn check_objects(
    repo: &Repo,
    names: &[ObjectName],
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) -> HashSet<ObjectName> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next_batch = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut problems = Vec::new();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next_batch) = (sender.clone(), &next_batch);
            scope.spawn(move || {
                loop {
                    let batch = next_batch.fetch_add(1, Ordering::Relaxed);
                    let Some(batch) = names.chunks(BATCH_OBJECTS).nth(batch) else { return };
                    let problems: Vec<_> = batch.iter().filter_map(|&name| check_object(repo, name)).collect();
                    // Nobody receives any more when the calling thread panics; there is nothing left to do then.
                    if sender.send((batch.len(), problems)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (count, found) in receiver {
            report.objects += count as u64;
            problems.extend(found);
            progress(Progress { phase: Phase::Objects, done: report.objects, total: names.len() as u64 });
        }
    });
    problems.sort_by_key(Problem::object);
    let is_bad = |problem: &Problem| match problem {
        Problem::Object { name, .. } => Some(*name),
        _ => None,
    };
    let bad = problems.iter().filter_map(is_bad).collect();
    report.problems.extend(problems);
    bad
}

fn check_object(repo: &Repo, name: ObjectName) -> Option<Problem> {
    let result = if name.kind == ObjectKind::File {
        repo.verify_own_content(ContentId(name.checksum)).map(drop)
    } else {
        match repo.loose().metadata(name) {
            // Deleted since it was listed; whether a commit needs it shows in the next pass.
            Ok(None) => Ok(()),
            Ok(Some(data)) => match verify_metadata(name, &data) {
                Ok(()) if name.kind == ObjectKind::TombstoneCommit => return check_tombstone(repo, name),
                result => result,
            },
            Err(error) => Err(error),
        }
    };
    match result {
        Ok(()) | Err(ReadError::NotFound { .. }) => None,
        Err(source) => Some(Problem::Object { name, source }),
    }
}

fn verify_metadata(name: ObjectName, data: &[u8]) -> Result<(), ReadError> {
    verify::metadata(name, data).map_err(|error| match error {
        VerifyError::Invalid { name, source } => ReadError::Invalid { name, source },
        VerifyError::Checksum { name, actual } => ReadError::Checksum { name, actual },
        _ => unreachable!("bytes in memory are neither read nor written"),
    })
}

/// Checks that the commit of a valid tombstone is really gone.
fn check_tombstone(repo: &Repo, name: ObjectName) -> Option<Problem> {
    let commit = CommitId(name.checksum);
    match repo.loose().has(commit.into()) {
        Ok(false) => None,
        Ok(true) => Some(Problem::TombstoneOfLiveCommit { commit }),
        Err(source) => Some(Problem::Object { name, source }),
    }
}

/// A repository without its bad objects, so that a walk over it does not stop at them.
struct Sound<'r> {
    repo: &'r Repo,
    bad: Mutex<(HashSet<ObjectName>, Vec<Problem>)>,
}

impl Sound<'_> {
    fn is_bad(&self, name: ObjectName) -> bool {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).0.contains(&name)
    }

    fn add_bad(&self, name: ObjectName, source: ReadError) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.0.insert(name) {
            bad.1.push(Problem::Object { name, source });
        }
    }
}

impl Find for Sound<'_> {
    fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        Ok(!self.is_bad(name) && self.repo.has(name)?)
    }

    fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
        if self.is_bad(name) {
            return Ok(None);
        }
        match self.repo.metadata(name) {
            // Again, because it may come from a parent.
            Ok(Some(data)) => match verify_metadata(name, &data) {
                Ok(()) => Ok(Some(data)),
                Err(source) => {
                    self.add_bad(name, source);
                    Ok(None)
                }
            },
            Ok(None) => Ok(None),
            Err(source) => {
                self.add_bad(name, source);
                Ok(None)
            }
        }
    }

    fn archived_file(&self, id: ContentId) -> Result<Option<ArchivedFile>, ReadError> {
        self.repo.archived_file(id)
    }
}

fn check_commits(
    repo: &Repo,
    names: &[ObjectName],
    bad: HashSet<ObjectName>,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) {
    let is_walked = |name: &&ObjectName| name.kind == ObjectKind::Commit && !bad.contains(name);
    let commits: Vec<CommitId> = names.iter().filter(is_walked).map(|name| CommitId(name.checksum)).collect();
    let sound = Sound { repo, bad: Mutex::new((bad, Vec::new())) };
    let mut closure = Closure::new(&sound);
    let mut missing = Vec::new();
    let mut reported = 0;
    for (index, &commit) in commits.iter().enumerate() {
        match repo.is_partial(commit) {
            Ok(true) => report.partial_commits += 1,
            Ok(false) => {
                report.commits += 1;
                if let Err(source) = closure.check_commit(commit) {
                    sound.add_bad(commit.into(), source);
                }
                missing.extend(closure.missing()[reported..].iter().map(|&name| (name, commit)));
                reported = closure.missing().len();
            }
            Err(source) => sound.add_bad(commit.into(), source),
        }
        progress(Progress { phase: Phase::Commits, done: index as u64 + 1, total: commits.len() as u64 });
    }
    // A bad object was hidden from the walk and is reported already.
    let is_reported = |name: &ObjectName| sound.is_bad(*name);
    report.missing_objects = closure.all_missing().filter(|name| !is_reported(name)).count() as u64;
    missing.retain(|(name, _)| !is_reported(name));
    let (_, problems) = sound.bad.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.problems.extend(problems);
    let missing = missing.into_iter().map(|(name, needed_by)| Problem::MissingObject { name, needed_by });
    report.problems.extend(missing);
}

fn check_refs(repo: &Repo, report: &mut Report, progress: &mut dyn FnMut(Progress)) -> Result<(), ReadError> {
    let mut roots = BTreeSet::from(["refs/heads".to_owned()]);
    for group in ["refs/mirrors", "refs/remotes"] {
        let names = repo.subdirectories(group).map_err(|error| listing_error(repo, error))?;
        roots.extend(names.into_iter().map(|name| format!("{group}/{name}")));
    }
    for root in roots {
        let mut found = repo.list_refs(&root).map_err(|error| listing_error(repo, error))?;
        found.sort_by(|a, b| a.target.cmp(&b.target));
        for found in found {
            let path = format!("{root}/{}", found.target);
            report.refs += 1;
            match found.commit {
                Err(source) => report.problems.push(Problem::Ref { path, source }),
                Ok(commit) if !repo.has(commit.into())? => {
                    report.problems.push(Problem::DanglingRef { path, commit });
                }
                Ok(_) => {}
            }
            progress(Progress { phase: Phase::Refs, done: report.refs, total: report.refs });
        }
    }
    Ok(())
}

fn listing_error(repo: &Repo, error: RefError) -> ReadError {
    match error {
        RefError::Io { path, source } => ReadError::Io { path, source },
        other => ReadError::Io { path: repo.path().join("refs"), source: std::io::Error::other(other) },
    }
}
