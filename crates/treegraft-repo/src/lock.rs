//! Locks: the repository's own, and plain ones on files.
//!
//! All of them are *open-file-description* locks (`F_OFD_SETLK`) on the whole file, as libostree takes them. They belong
//! to the open file, so they are released when it is closed, also by the kernel when the process dies; unlike POSIX locks
//! they are not lost when another descriptor of the same file is closed; and `flock` does not interlock with them.
//!
//! | lock | file | shared | exclusive |
//! |---|---|---|---|
//! | repository | `.lock` | while objects are added and refs moved, from the first look-up to the last ref | while objects are deleted |
//! | publish | `.treegraft/publish.lock` | never | one publish at a time |
//! | queue | `.treegraft/queue/*` | never | while waiting for the publish lock |
//! | pending | `.treegraft/pending/*` | never | while there is work to do after a publish |
//! | staging | `.treegraft/staging/*/lock` | never | while the push is alive |
//!
//! A lock file is never deleted while somebody may wait for it. A shared lock cannot be turned into an exclusive one: two
//! holders who both try wait for each other.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::ControlFlow,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use rustix::fs::{AtFlags, fstat, statat};

use crate::{LockTimeout, Repo, holders};

/// First pause between two attempts; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Longest pause between two attempts, which is libostree's constant one.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Mode of a lock file before the umask, as libostree creates `.lock`: members of the group can take it, too.
const LOCK_FILE_MODE: u32 = 0o660;

/// Who may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Any number of shared holders, no exclusive one.
    Shared,
    /// Nobody else.
    Exclusive,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else held the lock all the time.
    #[error("Could not lock `{path}` within {waited_secs} s: {} it", held_by(holders), path = path.display())]
    Timeout {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        waited_secs: u64,
        /// The processes that seemed to hold it, where the system tells: texts for messages.
        holders: Vec<String>,
    },
    /// The caller no longer wanted the lock that somebody else held.
    #[error("Gave up waiting for `{path}` after {waited_secs} s", path = path.display())]
    GivenUp {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        waited_secs: u64,
    },
    /// The lock file could not be opened or locked.
    #[error("Could not lock `{path}`", path = path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

fn held_by(holders: &[String]) -> String {
    match holders {
        [] => "another process holds".to_owned(),
        [holder] => format!("{holder} holds"),
        holders => format!("{} hold", holders.join(", ")),
    }
}

impl LockError {
    pub(crate) fn timeout(path: &Path, waited: Duration) -> Self {
        Self::Timeout { path: path.to_owned(), waited_secs: waited.as_secs(), holders: holders::of(path) }
    }

    pub(crate) fn given_up(path: &Path, waited: Duration) -> Self {
        Self::GivenUp { path: path.to_owned(), waited_secs: waited.as_secs() }
    }

    /// Tells whether a later try may succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::GivenUp { .. } => true,
            Self::Io { source, .. } => crate::find::is_temporary(source),
        }
    }
}

/// Makes a callback for waiting that never gives up.
pub(crate) fn patiently(waiting: &mut dyn FnMut(Duration)) -> impl FnMut(Duration) -> ControlFlow<()> {
    move |waited| {
        waiting(waited);
        ControlFlow::Continue(())
    }
}

/// A lock on a file, released on drop.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Opens or creates the lock file and takes the lock, or returns nothing when somebody else holds it.
    ///
    /// A symlink is refused.
    pub fn try_acquire(path: &Path, kind: LockKind) -> Result<Option<Self>, LockError> {
        let file = open_lock_file(path)?;
        Self::try_acquire_open(file, path, kind).map(Result::ok)
    }

    /// Takes the lock on a file that is open already for reading and writing. `path` is for messages.
    ///
    /// Gives the file back when somebody else holds the lock.
    pub fn try_acquire_open(file: File, path: &Path, kind: LockKind) -> Result<Result<Self, File>, LockError> {
        match set_lock(&file, kind) {
            Ok(true) => Ok(Ok(Self { file, path: path.to_owned() })),
            Ok(false) => Ok(Err(file)),
            Err(source) => Err(LockError::Io { path: path.to_owned(), source }),
        }
    }

    /// Opens or creates the lock file and waits for the lock.
    ///
    /// `waiting` is called after each failed try with the time waited so far, the first time with zero.
    pub fn acquire(
        path: &Path,
        kind: LockKind,
        timeout: LockTimeout,
        waiting: &mut dyn FnMut(Duration),
    ) -> Result<Self, LockError> {
        Self::acquire_while(path, kind, timeout, &mut patiently(waiting))
    }

    /// Waits for the lock as [`acquire`](Self::acquire) does, as long as `waiting` says so.
    pub fn acquire_while(
        path: &Path,
        kind: LockKind,
        timeout: LockTimeout,
        waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
    ) -> Result<Self, LockError> {
        let mut file = open_lock_file(path)?;
        let mut waited = Duration::ZERO;
        let mut pause = FIRST_PAUSE;
        loop {
            file = match Self::try_acquire_open(file, path, kind)? {
                Ok(lock) => return Ok(lock),
                Err(file) => file,
            };
            if waiting(waited).is_break() {
                return Err(LockError::given_up(path, waited));
            }
            let left = match timeout {
                LockTimeout::Forever => MAX_PAUSE,
                LockTimeout::Secs(secs) => Duration::from_secs(secs.into()).saturating_sub(waited),
            };
            if left.is_zero() {
                return Err(LockError::timeout(path, waited));
            }
            let step = pause.min(left);
            thread::sleep(step);
            // The sum of the pauses stands for the time: no clock is read, and a suspended machine does not time out.
            waited += step;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Returns the lock file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the lock's file is still the one with this name: somebody else may have removed or replaced it before
    /// the lock was taken.
    pub(crate) fn is_at(&self, dir: impl AsFd, name: &str) -> bool {
        match (statat(dir, name, AtFlags::SYMLINK_NOFOLLOW), fstat(&self.file)) {
            (Ok(there), Ok(here)) => (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino),
            _ => false,
        }
    }
}

/// The repository's own lock (`.lock`), which libostree and flatpak take, too. Released on drop.
///
/// Whoever adds objects holds it shared from before the first "is this object there?" until its refs are written: an
/// object that was there already is kept from a concurrent prune by nothing else.
#[derive(Debug)]
pub struct RepoLock {
    kind: LockKind,
    /// Nothing when the repository says `core.locking=false` or cannot be written to.
    lock: Option<FileLock>,
}

impl RepoLock {
    /// Waits for the lock, at most `core.lock-timeout-secs`.
    ///
    /// `waiting` is called after each failed try with the time waited so far. As in libostree nothing is locked with
    /// `core.locking=false` and when this process cannot write to `objects/`.
    pub fn acquire(repo: &Repo, kind: LockKind, waiting: &mut dyn FnMut(Duration)) -> Result<Self, LockError> {
        Self::acquire_within(repo, kind, repo.config().lock_timeout, waiting)
    }

    /// Waits for the lock as [`acquire`](Self::acquire) does, as long as `waiting` says so, which is asked at least once a
    /// second.
    pub fn acquire_while(
        repo: &Repo,
        kind: LockKind,
        waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
    ) -> Result<Self, LockError> {
        Self::acquire_within_while(repo, kind, repo.config().lock_timeout, waiting)
    }

    /// Waits for the lock as [`acquire`](Self::acquire) does, at most as long as is told.
    pub fn acquire_within(
        repo: &Repo,
        kind: LockKind,
        timeout: LockTimeout,
        waiting: &mut dyn FnMut(Duration),
    ) -> Result<Self, LockError> {
        Self::acquire_within_while(repo, kind, timeout, &mut patiently(waiting))
    }

    fn acquire_within_while(
        repo: &Repo,
        kind: LockKind,
        timeout: LockTimeout,
        waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
    ) -> Result<Self, LockError> {
        let lock = if repo.config().locking && repo.is_writable() {
            Some(FileLock::acquire_while(&repo.path().join(".lock"), kind, timeout, waiting)?)
        } else {
            None
        };
        Ok(Self { kind, lock })
    }

    /// Names the processes that seem to hold the lock, such as "`ostree` (process 4711)", as far as the system tells: texts for
    /// messages. Looking for them takes some milliseconds.
    pub fn holders(repo: &Repo) -> Vec<String> {
        holders::of(&repo.path().join(".lock"))
    }

    /// Returns whether the lock is shared or exclusive.
    pub const fn kind(&self) -> LockKind {
        self.kind
    }

    /// Tells whether a lock is really held.
    pub const fn is_held(&self) -> bool {
        self.lock.is_some()
    }
}

pub(crate) fn open_lock_file(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(LOCK_FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|source| LockError::Io { path: path.to_owned(), source })
}

/// Tells whether the file could be locked exclusively. Nothing is locked.
pub(crate) fn is_free(file: &File) -> io::Result<bool> {
    let mut found = whole_file(LockKind::Exclusive)?;
    loop {
        return match fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut found)) {
            Ok(_) => Ok(i32::from(found.l_type) == libc::F_UNLCK),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

fn whole_file(kind: LockKind) -> io::Result<libc::flock> {
    let l_type = match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    };
    let l_type = l_type.try_into().map_err(io::Error::other)?;
    let l_whence = libc::SEEK_SET.try_into().map_err(io::Error::other)?;
    // Length 0 means up to the end of the file, however long it becomes; the process id must be 0 for this kind.
    Ok(libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 })
}

/// Tries to lock the whole file; false when somebody else holds it.
fn set_lock(file: &File, kind: LockKind) -> io::Result<bool> {
    let whole_file = whole_file(kind)?;
    loop {
        return match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole_file)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}
