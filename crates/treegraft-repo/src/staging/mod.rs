//! Staging areas: where the objects of a push wait until they are published.
//!
//! ```text
//! .treegraft/staging/<random>/
//!   lock                    held exclusively as long as the push is alive
//!   boot-id                 which boot of the machine wrote the objects
//!   XX/<62 digits>.<ext>    verified objects, laid out as in objects/
//!   XX/.<number>            an object that is being received
//! ```
//!
//! # Invariants
//!
//! * An object has its name only after it passed [`treegraft_object::verify`], with mode 0644.
//! * Nobody but the holder of `lock` changes anything in the directory. A lock counts only while its file is still linked:
//!   after locking the holder looks again, since another process may have cleared the directory away in between.
//! * Objects are not durable here; [`Transaction::prepare`](crate::Transaction::prepare) syncs them all at once.
//!
//! # What a crash leaves
//!
//! The directory with a lock that is free: it is dead. [`Staging::open`] adopts all that are. Objects of the running boot
//! are as they were named. Those of another boot may have lost their data, so each is verified again and dropped if it does
//! not pass. Objects that were being received have no name yet and are deleted.
//!
//! # What a success leaves
//!
//! [`Staging::retire`] deletes the area of a push that was published, but for what was adopted from other pushes and is of
//! use to them still: an area with only that stays, dead, for whoever comes next. Objects get no younger by it: a day
//! ([`MAX_LEFTOVER_AGE_SECS`]) after they were received they are deleted.
//!
//! [`Staging::clear_leftovers`] deletes objects of dead pushes after the same time, whether there is another push or not: each
//! push calls it when it opens, and so does a prune.
//!
//! # Cost
//!
//! A small object is verified in memory and costs four system calls: create, write, rename, close. On ext4 a named
//! temporary file and an unnamed one (`O_TMPFILE`) that is linked measure alike, about 0.13 ms of CPU an object for 30,000
//! objects of 700 bytes, so the named one was taken, which works on every file system.

mod adopt;
mod flush;
mod incoming;
mod index;
mod plain;
mod view;

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
};

use treegraft_object::{
    CommitId, ContentId, DecodeError, FileKind, ObjectKind, ObjectName,
    verify::{self, VerifyError},
};

pub use flush::Flush;
pub use view::StagedView;

use self::{
    adopt::{Clearing, Owned},
    flush::Flushes,
    incoming::Incoming,
    index::Index,
};
use crate::{
    FileLock, Find, LockError, Mode, ReadError, Repo,
    durable::{self, Durability},
    fault,
    find::is_temporary,
    free_space::FreeSpace,
    private_dir,
    store::LooseDir,
};

/// The directory in `.treegraft` with all staging areas.
pub(crate) const STAGING: &str = "staging";

/// How long objects of an interrupted push wait for its next try while other pushes succeed, in seconds: a day, in which a
/// CI job that failed over night is started again.
pub const MAX_LEFTOVER_AGE_SECS: u64 = 24 * 60 * 60;

/// The objects of one push, verified but not published. Shared by all threads that receive.
///
/// Dropping it keeps the objects for the next push; [`retire`](Self::retire) keeps those of others, [`remove`](Self::remove)
/// none.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    dir: OwnedFd,
    /// The directory that it is in, and its name there.
    parent: OwnedFd,
    name: String,
    free_space: FreeSpace,
    /// Full when each object is to be synced by itself.
    per_object: Durability,
    next_temporary: AtomicU64,
    index: Index,
    flushes: Flushes,
    durability: Durability,
    /// Whether a new file has the mode 0644 as it is made: the umask takes nothing of it away.
    is_mode_kept: bool,
    /// In which form content objects are kept.
    mode: Mode,
    zlib_level: u32,
    /// Released last.
    lock: FileLock,
}

/// What was taken over from pushes that were interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resumed {
    /// How many objects.
    pub objects: u64,
    /// Their size on disk in bytes.
    pub bytes: u64,
}

/// What was deleted of what dead pushes had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleared {
    /// How many staging areas are gone.
    pub areas: u64,
    /// How many objects.
    pub objects: u64,
    /// The size on disk in bytes of all that was deleted.
    pub bytes: u64,
}

/// What became of an object that was staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// Whether the object was not staged before.
    pub is_new: bool,
    /// Its size on disk in bytes.
    pub archived_bytes: u64,
}

/// Why an object could not be staged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// The repository is of a kind that cannot be written.
    #[error("Could not stage objects for `{path}`: it is a {mode} repository, only archive and bare-user ones can be written",
        path = path.display())]
    Mode {
        /// The repository.
        path: PathBuf,
        /// Its mode.
        mode: Mode,
    },
    /// The object is not what its name says.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The object cannot be staged in this way.
    #[error("Could not stage `{name}`: {reason}")]
    Kind {
        /// The object.
        name: ObjectName,
        /// The rule that forbids it.
        reason: &'static str,
    },
    /// The object is larger than the caller allows.
    #[error("Could not stage `{name}`: it has more than the allowed {limit_bytes} bytes")]
    TooLarge {
        /// The object.
        name: ObjectName,
        /// The limit.
        limit_bytes: u64,
    },
    /// The file system is full, or less would be free than must stay.
    #[error("Could not stage `{name}`: `{path}` has not enough free space (see `core.min-free-space-percent` and \
        `core.min-free-space-size`)", path = path.display())]
    NoSpace {
        /// The object.
        name: ObjectName,
        /// The staging area.
        path: PathBuf,
    },
    /// A staging area could not be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A staged object could not be read.
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

impl StagingError {
    /// Tells whether the same call may succeed later without a change to the repository or to the object.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Verify(VerifyError::Read { source, .. } | VerifyError::Write { source, .. })
            | Self::Io { source, .. } => is_temporary(source),
            Self::Lock(source) => source.is_temporary(),
            Self::Read(source) => source.is_temporary(),
            _ => false,
        }
    }

    /// Tells whether the content is not that of the object: it has another checksum or another size.
    pub fn is_other_content(&self) -> bool {
        matches!(
            self,
            Self::Verify(
                VerifyError::Checksum { .. } | VerifyError::Invalid { source: DecodeError::ContentSize { .. }, .. }
            )
        )
    }

    /// Returns the stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Mode { .. } => "not-writable-mode",
            Self::Verify(source) => source.code(),
            Self::Kind { .. } => "object-kind",
            Self::TooLarge { .. } => "too-large",
            Self::NoSpace { .. } => "no-space",
            Self::Lock(_) => "lock",
            Self::Read(source) => source.code(),
            Self::Io { .. } => "io",
        }
    }
}

impl Staging {
    /// Opens a staging area for one push, and adopts what interrupted pushes have left.
    ///
    /// Each such area is adopted by exactly one push; areas of pushes that are alive are not touched.
    pub fn open(repo: &Repo) -> Result<(Self, Resumed), StagingError> {
        if !matches!(repo.mode(), Mode::Archive | Mode::BareUser) {
            return Err(StagingError::Mode { path: repo.path().to_owned(), mode: repo.mode() });
        }
        let fail = |source| StagingError::Io { path: private_dir::path(repo), source };
        let durability = Durability::of(repo);
        let private = private_dir::open(repo).map_err(fail)?;
        let parent = durable::make_dirs(private.as_fd(), STAGING, rustix::fs::Mode::RWXU, durability).map_err(fail)?;
        let root = private_dir::path(repo).join(STAGING);
        let (Owned { name, dir, lock }, index) = adopt::open(parent.as_fd(), &root, repo.mode())?;
        let (objects, bytes) = index.total();
        let resumed = Resumed { objects, bytes };
        let path = root.join(&name);
        let free_space = FreeSpace::sample(dir.as_fd(), repo.config().min_free_space)
            .map_err(|source| StagingError::Io { path: path.clone(), source })?;
        let is_synced_alone = repo.config().per_object_fsync && durability == Durability::Full;
        let per_object = if is_synced_alone { Durability::Full } else { Durability::None };
        let is_mode_kept =
            durable::is_mode_kept(&dir).map_err(|source| StagingError::Io { path: path.clone(), source })?;
        let (next_temporary, flushes) = (AtomicU64::new(0), Flushes::default());
        let staging = Self {
            path,
            dir,
            parent,
            name,
            free_space,
            per_object,
            next_temporary,
            index,
            flushes,
            durability,
            is_mode_kept,
            mode: repo.mode(),
            zlib_level: repo.config().zlib_level,
            lock,
        };
        Ok((staging, resumed))
    }

    /// Deletes what dead pushes have left and what no push has taken up for [`MAX_LEFTOVER_AGE_SECS`].
    ///
    /// `now_secs` is the time in seconds since 1970 UTC. Areas of pushes that are alive are not touched.
    pub fn clear_leftovers(repo: &Repo, now_secs: u64) -> Result<Cleared, StagingError> {
        clear_leftovers(repo, now_secs, Clearing::Done)
    }

    /// Tells what [`clear_leftovers`](Self::clear_leftovers) would delete.
    pub fn old_leftovers(repo: &Repo, now_secs: u64) -> Result<Cleared, StagingError> {
        clear_leftovers(repo, now_secs, Clearing::Told)
    }

    /// Tells whether there is any staging area, of a push that is alive or was interrupted.
    pub fn is_any_there(repo: &Repo) -> bool {
        std::fs::read_dir(private_dir::path(repo).join(STAGING)).is_ok_and(|mut areas| areas.next().is_some())
    }

    /// Tells whether the object was staged, here or by the push that it was adopted from. It stays so after a publish.
    pub fn has(&self, name: impl Into<ObjectName>) -> bool {
        self.index.has(name.into())
    }

    /// Returns the size of an object on disk in bytes, or nothing when it is not staged.
    pub fn size(&self, name: impl Into<ObjectName>) -> Option<u64> {
        self.index.size(name.into())
    }

    /// Verifies and keeps a metadata object. Detached metadata replaces what was staged for the same commit.
    pub fn stage_metadata(&self, name: impl Into<ObjectName>, data: &[u8]) -> Result<Staged, StagingError> {
        let name = name.into();
        match name.kind {
            ObjectKind::File => {
                return Err(StagingError::Kind { name, reason: "a content object is no metadata" });
            }
            ObjectKind::TombstoneCommit => {
                return Err(StagingError::Kind { name, reason: "only a repository itself makes tombstones" });
            }
            ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta | ObjectKind::CommitMeta => {}
        }
        verify::metadata(name, data)?;
        let incoming = Incoming::new(self, name);
        let is_new = incoming.keep_all(data).map_err(|source| self.write_error(name, source))?;
        let staged = Staged { is_new, archived_bytes: data.len() as u64 };
        if is_new {
            self.index.receive(name, staged.archived_bytes, false);
        }
        Ok(staged)
    }

    /// Verifies and keeps a content object, a `.filez` that `source` gives to its end, of at most `max_bytes` bytes.
    ///
    /// `source` is read to its end on success only. After an error nothing of the object is left.
    pub fn stage_content(
        &self,
        name: impl Into<ObjectName>,
        source: &mut dyn Read,
        max_bytes: u64,
    ) -> Result<Staged, StagingError> {
        let name = name.into();
        if name.kind != ObjectKind::File {
            return Err(StagingError::Kind { name, reason: "it is no content object" });
        }
        if self.mode != Mode::Archive {
            return Err(StagingError::Kind { name, reason: "only archive repositories store it as it is sent" });
        }
        let mut source = Limited { source, left_bytes: max_bytes, is_exceeded: false };
        let mut incoming = Incoming::new(self, name);
        let info = verify::content(name, &mut source, &mut incoming).map_err(|error| match error {
            _ if source.is_exceeded => StagingError::TooLarge { name, limit_bytes: max_bytes },
            VerifyError::Write { source, .. } => self.write_error(name, source),
            error => error.into(),
        })?;
        let is_new = incoming.keep().map_err(|source| self.write_error(name, source))?;
        if is_new {
            let is_symlink = matches!(info.header.kind, FileKind::Symlink(_));
            self.index.receive(name, info.archived_bytes, is_symlink);
        }
        Ok(Staged { is_new, archived_bytes: info.archived_bytes })
    }

    /// Counts a staged object, and returns a flush when it is time for one. Run it where it delays nobody.
    pub fn due_flush(&self, staged: &Staged) -> Option<Flush> {
        let written_bytes = if staged.is_new { staged.archived_bytes } else { 0 };
        self.flushes.count(self.dir.as_fd(), written_bytes, self.durability)
    }

    /// Opens a staged `.filez`, or returns nothing when it is not staged. The size is in bytes.
    pub fn open_archived(&self, id: ContentId) -> Result<Option<(std::fs::File, u64)>, ReadError> {
        self.loose().open(id.into())
    }

    /// Reads a staged metadata object, or nothing when it is not staged.
    pub fn metadata(&self, name: impl Into<ObjectName>) -> Result<Option<Vec<u8>>, ReadError> {
        self.loose().metadata(name.into())
    }

    /// Looks objects up here first, then in the repository.
    pub const fn view<'a>(&'a self, repo: &'a Repo) -> StagedView<'a> {
        StagedView::new(self, repo)
    }

    /// Ends the staging area of a push that was published.
    ///
    /// Deletes what the push has staged and not published, `pushed` with their detached metadata, and what `repo` has. What
    /// was adopted from other pushes besides stays for their next try, up to [`MAX_LEFTOVER_AGE_SECS`] after it was received.
    /// `now_secs` is the time in seconds since 1970 UTC.
    pub fn retire(self, repo: &Repo, pushed: &[CommitId], now_secs: u64) -> Result<(), StagingError> {
        let is_of_push = |name: ObjectName| {
            matches!(name.kind, ObjectKind::Commit | ObjectKind::CommitMeta)
                && pushed.contains(&CommitId(name.checksum))
        };
        let mut is_kept = |name: ObjectName, modified_secs| {
            let is_of_another = self.index.is_adopted(name) && !is_of_push(name);
            Ok(is_of_another && is_young(modified_secs, now_secs) && !repo.has(name).map_err(io::Error::other)?)
        };
        let is_any_left = adopt::sweep(self.dir.as_fd(), self.mode, &mut is_kept)
            .map_err(|source| StagingError::Io { path: self.path.clone(), source })?;
        if is_any_left { Ok(()) } else { self.remove() }
    }

    /// Deletes the staging area and the objects that are left in it, whosever they are.
    pub fn remove(self) -> Result<(), StagingError> {
        let fail = |source| StagingError::Io { path: self.path.clone(), source };
        adopt::delete(self.parent.as_fd(), &self.name, self.dir.as_fd()).map_err(fail)
    }

    /// Drops the staged detached metadata of a commit, if there is any.
    pub fn forget_commit_meta(&self, commit: CommitId) -> Result<(), StagingError> {
        let path = crate::store::LoosePath::new(ObjectName::commit_meta(commit), self.mode);
        let fail = |source| StagingError::Io { path: self.path.join(path.as_str()), source };
        durable::unlink_if_there(&self.dir, path.as_c_str())
            .and_then(|_| fault::point("staging:meta-forgotten"))
            .map_err(fail)?;
        self.index.remove(ObjectName::commit_meta(commit));
        Ok(())
    }

    /// Returns the path that an object has here once it is staged.
    pub fn object_path(&self, name: impl Into<ObjectName>) -> PathBuf {
        self.loose().path_of(name.into())
    }

    /// Returns the path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Tells whether the lock's file is still in its place. It is unless somebody deleted the directory by hand.
    pub fn is_linked(&self) -> bool {
        self.lock.is_at(&self.dir, adopt::LOCK)
    }

    fn loose(&self) -> LooseDir<'_> {
        LooseDir::new(self.dir.as_fd(), &self.path, self.mode)
    }

    fn write_error(&self, name: ObjectName, source: io::Error) -> StagingError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StagingError::NoSpace { name, path: self.path.clone() }
            }
            _ => StagingError::Io { path: self.loose().path_of(name), source },
        }
    }
}

/// Reads at most this many bytes and fails at the next one.
struct Limited<'a> {
    source: &'a mut dyn Read,
    left_bytes: u64,
    is_exceeded: bool,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(left) = self.left_bytes.checked_sub(count as u64) {
            self.left_bytes = left;
            return Ok(count);
        }
        self.is_exceeded = true;
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "the object is larger than allowed"))
    }
}

fn clear_leftovers(repo: &Repo, now_secs: u64, clearing: Clearing) -> Result<Cleared, StagingError> {
    let path = private_dir::path(repo).join(STAGING);
    let root = match durable::open_dir(repo.dir(), &format!("{}/{STAGING}", private_dir::NAME)) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cleared::default()),
        Err(source) => return Err(StagingError::Io { path, source }),
    };
    adopt::clear(root.as_fd(), &path, repo.mode(), &|modified_secs| !is_young(modified_secs, now_secs), clearing)
}

/// Tells whether an object of an interrupted push still waits for its next try.
fn is_young(modified_secs: i64, now_secs: u64) -> bool {
    // A time in the future is that of a clock that was set back.
    let modified_secs = u64::try_from(modified_secs).unwrap_or(0);
    now_secs.saturating_sub(modified_secs) < MAX_LEFTOVER_AGE_SECS
}
