//! One publish at a time, and recovery from one that was cut off.
//!
//! A publish writes its refs one after the other, so a crash may leave some new and some old. The journal says which; who
//! takes the lock next puts it right before anything else:
//!
//! | refs are | then |
//! |---|---|
//! | all old or new, all new commits complete | the old ones are written: [`Outcome::Completed`] |
//! | none new, one moved elsewhere or its commit pruned meanwhile | the publish never happened: [`Outcome::Undone`] |
//! | some new, one moved elsewhere or pruned | that one stays as it is, the others are written: [`Outcome::Completed`] |
//! | unknown, the journal is torn | no ref was written: [`Outcome::Torn`] |
//!
//! After [`Outcome::Completed`] the summary is old; the journal stays until [`PublishLock::finish_recovery`], so that a crash
//! before that is recovered from again.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _},
    ops::ControlFlow,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
    time::Duration,
};

use treegraft_object::CommitId;

use crate::{
    Closure, FileLock, LockError, LockKind, ReadError, RefError, Repo, RepoLock,
    durable::{self, Durability},
    fault,
    journal::{self, Journal},
    lock::patiently,
    private_dir, queue,
    ref_edit::{self, RefEdit, RefEditError},
};

/// The lock's file in `.treegraft`.
pub(crate) const LOCK: &str = "publish.lock";

/// The file in `.treegraft` that says who holds the lock.
const HOLDER: &str = "publish.holder";

/// Largest such file in bytes that is read.
pub const MAX_HOLDER_BYTES: u64 = 4096;

/// The right to publish, and to write the summary and detached metadata. Released on drop.
///
/// Only treegraft knows this lock. libostree and flatpak may write refs and summaries at the same time; what they did is seen
/// by the expected values of refs.
#[derive(Debug)]
pub struct PublishLock {
    /// `.treegraft`.
    private: OwnedFd,
    path: PathBuf,
    durability: Durability,
    recovered: Option<Recovered>,
    /// Released last.
    _lock: FileLock,
}

/// What was found and done about a publish that had been cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// What became of it.
    pub outcome: Outcome,
    /// Its refs.
    pub refs: Vec<RecoveredRef>,
}

/// What became of a publish that had been cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its refs are written now; the summary has to be, too.
    Completed,
    /// None of its refs is written.
    Undone,
    /// It was cut off before its first ref.
    Torn,
}

/// One ref of a publish that had been cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredRef {
    /// What the publish wanted.
    pub edit: RefEdit,
    /// In which state the ref was found.
    pub found: FoundRef,
}

/// The state of a ref when recovery began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundRef {
    /// It was not written yet; it is now, unless the publish was undone.
    Old,
    /// It was written.
    New,
    /// Somebody else has moved it since; it stays as it is.
    Moved {
        /// What it points to, nothing when it was deleted.
        to: Option<CommitId>,
    },
    /// It was not written, and its new commit is not complete any more; it stays as it is.
    Pruned,
}

/// Why the lock was not taken or recovery failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The lock was not taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A newer treegraft was cut off; only it knows how to recover.
    #[error("Could not read the journal `{path}`: it has the version {version}", path = path.display())]
    JournalVersion {
        /// The journal.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// A ref could not be written.
    #[error(transparent)]
    Ref(#[from] RefEditError),
    /// An object could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file system refused.
    #[error("Could not write to `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl PublishError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Lock(source) => source.is_temporary(),
            Self::Ref(source) => source.is_temporary(),
            Self::Read(source) => source.is_temporary(),
            Self::Io { source, .. } => crate::find::is_temporary(source),
            Self::JournalVersion { .. } => false,
        }
    }
}

impl Drop for PublishLock {
    fn drop(&mut self) {
        // While the lock is still held: the next one may already have said who it is.
        let _ = durable::unlink_if_there(&self.private, HOLDER);
    }
}

impl From<RefError> for PublishError {
    fn from(error: RefError) -> Self {
        Self::Ref(error.into())
    }
}

impl Recovered {
    /// Tells whether the summary is older than the refs.
    pub fn needs_summary(&self) -> bool {
        self.outcome == Outcome::Completed
    }
}

impl PublishLock {
    /// Waits for the lock, at most `core.lock-timeout-secs`, and recovers from a publish that was cut off.
    ///
    /// `waiting` is called after each failed try with the time waited so far. Recovery holds the repository's lock shared,
    /// so that no prune takes away what it is about to refer to; the caller must not hold it exclusively.
    pub fn acquire(repo: &Repo, waiting: &mut dyn FnMut(Duration)) -> Result<Self, PublishError> {
        Self::acquire_while(repo, &mut patiently(waiting))
    }

    /// Waits for the lock as [`acquire`](Self::acquire) does, as long as `waiting` says so, which is asked at least once a
    /// second. Whoever has the lock is not asked any more, except before a recovery.
    pub fn acquire_while(
        repo: &Repo,
        waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
    ) -> Result<Self, PublishError> {
        let path = private_dir::path(repo);
        let fail = |source| PublishError::Io { path: path.clone(), source };
        let private = private_dir::open(repo).map_err(fail)?;
        let timeout = repo.config().lock_timeout;
        let lock = queue::acquire(repo, &private, &path.join(LOCK), timeout, waiting)?;
        Self::recovering(repo, private, path, lock, waiting)
    }

    /// Takes the lock and recovers if a publish was cut off. Nothing is returned when none was, or when somebody else has the
    /// lock: then they recover, or are in the middle of a publish of their own. `waiting` is asked while another process holds
    /// the repository's lock.
    pub fn recover(
        repo: &Repo,
        waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
    ) -> Result<Option<Self>, PublishError> {
        if !Self::is_recovery_needed(repo)? {
            return Ok(None);
        }
        let path = private_dir::path(repo);
        let private = private_dir::open(repo).map_err(|source| PublishError::Io { path: path.clone(), source })?;
        match FileLock::try_acquire(&path.join(LOCK), LockKind::Exclusive)? {
            Some(lock) => Self::recovering(repo, private, path, lock, waiting).map(Some),
            None => Ok(None),
        }
    }

    fn recovering(
        repo: &Repo,
        private: OwnedFd,
        path: PathBuf,
        lock: FileLock,
        waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
    ) -> Result<Self, PublishError> {
        let fail = |source| PublishError::Io { path: path.clone(), source };
        // What a crash has left would be taken for ours.
        durable::unlink_if_there(&private, HOLDER).map_err(fail)?;
        let found = journal::read(private.as_fd()).map_err(fail)?;
        let durability = Durability::of(repo);
        let mut this = Self { private, path, durability, recovered: None, _lock: lock };
        fault::point("publish-lock:taken").map_err(|source| this.io_error(source))?;
        match found {
            None => {}
            Some(Journal::OtherVersion(version)) => {
                return Err(PublishError::JournalVersion { path: this.path.join(journal::NAME), version });
            }
            Some(Journal::Torn) => {
                this.remove_journal()?;
                this.recovered = Some(Recovered { outcome: Outcome::Torn, refs: Vec::new() });
            }
            Some(Journal::Edits(edits)) => {
                let _lock = RepoLock::acquire_while(repo, LockKind::Shared, waiting)?;
                this.recovered = Some(this.replay(repo, edits)?);
            }
        }
        Ok(this)
    }

    /// Tells whether a publish was cut off, or is under way at this moment.
    ///
    /// A look without a lock: to [`acquire`](Self::acquire) it tells which of both.
    pub fn is_recovery_needed(repo: &Repo) -> Result<bool, PublishError> {
        let journal = private_dir::path(repo).join(journal::NAME);
        journal.try_exists().map_err(|source| PublishError::Io { path: journal, source })
    }

    /// Returns what was done about a publish that had been cut off.
    ///
    /// If it [needs a summary](Recovered::needs_summary), write one and call [`finish_recovery`](Self::finish_recovery), or
    /// go on with a publish of one's own, whose summary serves both.
    pub const fn recovered(&self) -> Option<&Recovered> {
        self.recovered.as_ref()
    }

    /// Forgets the recovered publish, after the summary was written.
    pub fn finish_recovery(&mut self) -> Result<(), PublishError> {
        self.recovered = None;
        self.remove_journal()
    }

    fn replay(&self, repo: &Repo, edits: Vec<RefEdit>) -> Result<Recovered, PublishError> {
        let mut closure = Closure::new(repo);
        let mut refs = Vec::with_capacity(edits.len());
        for edit in edits {
            let found = match look(repo, &edit)? {
                // Until its ref is written nothing keeps a prune from taking the new commit away.
                FoundRef::Old if !closure.check_commit(edit.new)? => FoundRef::Pruned,
                found => found,
            };
            refs.push(RecoveredRef { edit, found });
        }
        self.carry_out(repo, refs)
    }

    /// Finishes or undoes a publish whose refs were in these states a while ago.
    fn carry_out(&self, repo: &Repo, mut refs: Vec<RecoveredRef>) -> Result<Recovered, PublishError> {
        // To look through the trees takes its time, and libostree takes no lock to move a ref.
        for RecoveredRef { edit, found } in refs.iter_mut().filter(|recovered| recovered.found == FoundRef::Old) {
            *found = look(repo, edit)?;
        }
        let has = |wanted: fn(&FoundRef) -> bool| refs.iter().any(|recovered| wanted(&recovered.found));
        let is_blocked = has(|found| matches!(found, FoundRef::Moved { .. } | FoundRef::Pruned));
        if is_blocked && !has(|found| *found == FoundRef::New) {
            self.remove_journal()?;
            return Ok(Recovered { outcome: Outcome::Undone, refs });
        }
        fault::point("recovery:decided").map_err(|source| self.io_error(source))?;
        let mut directories = HashSet::new();
        for RecoveredRef { edit, found } in refs.iter_mut().filter(|recovered| recovered.found == FoundRef::Old) {
            match look(repo, edit)? {
                FoundRef::Old => {
                    directories.insert(ref_edit::write(repo, &edit.target, edit.new, self.durability)?);
                    fault::point("recovery:ref-written").map_err(|source| self.io_error(source))?;
                }
                // One of the others may be written already, so that it is too late to undo anything.
                changed => *found = changed,
            }
        }
        let is_new = |recovered: &RecoveredRef| recovered.found == FoundRef::New;
        if directories.is_empty() && !refs.iter().any(is_new) {
            self.remove_journal()?;
            return Ok(Recovered { outcome: Outcome::Undone, refs });
        }
        // The crash may also have come before the directories of the refs that were written were durable.
        for RecoveredRef { edit, .. } in refs.iter().filter(|recovered| is_new(recovered)) {
            let path = repo.ref_path(&edit.target);
            directories.extend(path.rsplit_once('/').map(|(directory, _)| directory.to_owned()));
        }
        ref_edit::sync_directories(repo, &directories, self.durability)?;
        Ok(Recovered { outcome: Outcome::Completed, refs })
    }

    /// Says who holds the lock to those who wait for it: a text for messages, in the caller's own format.
    ///
    /// It is gone with the lock.
    pub fn say_holder(&self, text: &[u8]) {
        // Without it others wait as well, and only do not know for whom.
        let _ = durable::replace(&self.private, HOLDER, text, Durability::None);
    }

    /// Reads what the holder of the lock has said, if there is one and it did, and when it said so, in seconds since 1970 UTC.
    ///
    /// Whoever may write to the repository may have written it. It may also be of another holder by now.
    pub fn holder(repo: &Repo) -> Option<(Vec<u8>, u64)> {
        let file = File::open(private_dir::path(repo).join(HOLDER)).ok()?;
        let since_secs = u64::try_from(file.metadata().ok()?.mtime()).unwrap_or(0);
        let mut text = Vec::new();
        file.take(MAX_HOLDER_BYTES + 1).read_to_end(&mut text).ok()?;
        (text.len() as u64 <= MAX_HOLDER_BYTES).then_some((text, since_secs))
    }

    /// Returns the directory `.treegraft`.
    pub(crate) fn private_dir(&self) -> BorrowedFd<'_> {
        self.private.as_fd()
    }

    pub(crate) const fn durability(&self) -> Durability {
        self.durability
    }

    /// Ends a publish of one's own that was set back: what was recovered before may still need its summary.
    pub(crate) fn give_back_journal(&self) -> Result<(), PublishError> {
        match self.recovered.as_ref().filter(|recovered| recovered.needs_summary()) {
            Some(Recovered { refs, .. }) => {
                let edits: Vec<_> = refs.iter().map(|recovered| recovered.edit.clone()).collect();
                journal::write(self.private.as_fd(), &edits, self.durability).map_err(|source| self.io_error(source))
            }
            None => self.remove_journal(),
        }
    }

    pub(crate) fn remove_journal(&self) -> Result<(), PublishError> {
        journal::remove(self.private.as_fd(), self.durability).map_err(|source| self.io_error(source))
    }

    fn io_error(&self, source: io::Error) -> PublishError {
        PublishError::Io { path: self.path.clone(), source }
    }
}

/// Tells in which of the states that need no look at objects a ref is.
fn look(repo: &Repo, edit: &RefEdit) -> Result<FoundRef, PublishError> {
    Ok(match repo.resolve(&edit.target)? {
        current if current == Some(edit.new) => FoundRef::New,
        current if current == edit.expected => FoundRef::Old,
        to => FoundRef::Moved { to },
    })
}

#[cfg(test)]
mod tests {
    use treegraft_object::{Checksum, RefName};

    use super::*;
    use crate::RefTarget;

    #[test]
    fn a_ref_that_moves_while_trees_are_looked_through_stays_where_it_is() {
        let id = |text: &str| CommitId(Checksum::of(text.as_bytes()));
        let (old, new, foreign) = (id("old"), id("new"), id("foreign"));
        for (is_begun, outcome, other) in [(false, Outcome::Undone, old), (true, Outcome::Completed, new)] {
            let base = tempfile::tempdir().expect("a temporary directory");
            let repo = Repo::init(&base.path().join("repo"), None).expect("the path is free");
            let lock = PublishLock::acquire(&repo, &mut |_| {}).expect("it is free");
            let recovered = |name: &str, now: CommitId, found: FoundRef| {
                let target = RefTarget::Head(RefName::new(name).expect("it is valid"));
                let _ = ref_edit::write(&repo, &target, now, Durability::None).expect("it can be written");
                RecoveredRef { edit: RefEdit { target, expected: Some(old), new }, found }
            };
            let mut refs = vec![recovered("a", old, FoundRef::Old), recovered("main", foreign, FoundRef::Old)];
            if is_begun {
                refs.push(recovered("z", new, FoundRef::New));
            }
            let done = lock.carry_out(&repo, refs).expect("it ends");
            assert_eq!(done.outcome, outcome, "with a ref that was written: {is_begun}");
            assert_eq!(done.refs[1].found, FoundRef::Moved { to: Some(foreign) }, "the foreign value is told");
            let now: Vec<_> = repo.refs().expect("they can be read").into_values().take(2).collect();
            assert_eq!(now, [other, foreign], "and it stays");
        }
    }
}
