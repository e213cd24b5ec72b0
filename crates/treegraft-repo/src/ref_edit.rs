//! Writing refs.
//!
//! A ref is written as libostree does: a temporary file with mode 0644 in the same directory, made durable, renamed over the
//! old one. The temporary name begins with a dot, so that libostree, which lists its own temporary names as refs, does not
//! list ours.
//!
//! Refs and directories share one name space: where `a/b` is a ref, `a` can be none. A directory without anything in it is
//! no obstacle and removed.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, statat, unlinkat},
    io::Errno,
};
use treegraft_object::CommitId;

use crate::{
    RefError, RefTarget, Repo,
    durable::{self, Durability, TEMPORARY, open_dir},
    fault,
};

/// Moves a ref from one commit to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefEdit {
    /// The ref.
    pub target: RefTarget,
    /// What it points to now, nothing when it is to be made. If it is something else, nothing is written at all.
    pub expected: Option<CommitId>,
    /// What it shall point to.
    pub new: CommitId,
}

/// Why a ref could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefEditError {
    /// The name of a new ref has characters beyond ASCII.
    #[error("Could not make the ref `{target}`: new refs have only letters, digits, `-`, `.`, `_` and `/` of ASCII")]
    NotPortable {
        /// The ref.
        target: RefTarget,
    },
    /// Two edits are for one ref.
    #[error("Could not write the ref `{target}` twice at once")]
    Twice {
        /// The ref.
        target: RefTarget,
    },
    /// A part of the name before the last `/` is a ref itself.
    #[error("Could not make the ref `{target}`: `{path}` is in the way", path = path.display())]
    BelowRef {
        /// The ref.
        target: RefTarget,
        /// The ref's file that would have to be a directory.
        path: PathBuf,
    },
    /// There are refs below this name.
    #[error("Could not make the ref `{target}`: there is something below `{path}`", path = path.display())]
    AboveRefs {
        /// The ref.
        target: RefTarget,
        /// The directory, or what is in it.
        path: PathBuf,
    },
    /// A ref could not be read.
    #[error(transparent)]
    Read(#[from] RefError),
    /// The file system refused.
    #[error("Could not write `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl RefEditError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Read(source) => source.is_temporary(),
            Self::Io { source, .. } => crate::find::is_temporary(source),
            _ => false,
        }
    }

    /// Returns the stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotPortable { .. } => "ref-not-portable",
            Self::Twice { .. } => "ref-twice",
            Self::BelowRef { .. } | Self::AboveRefs { .. } => "ref-conflict",
            Self::Read(source) => source.code(),
            Self::Io { .. } => "io",
        }
    }
}

/// Checks edits against each other and against the refs that exist, as far as names go. Nothing is written.
pub(crate) fn check_names(repo: &Repo, edits: &[RefEdit]) -> Result<(), RefEditError> {
    let mut paths = HashSet::new();
    for edit in edits {
        if !paths.insert(repo.ref_path(&edit.target)) {
            return Err(RefEditError::Twice { target: edit.target.clone() });
        }
    }
    for edit in edits.iter().filter(|edit| edit.expected.is_none()) {
        let target = || edit.target.clone();
        if !edit.target.name().is_portable() {
            return Err(RefEditError::NotPortable { target: target() });
        }
        let path = repo.ref_path(&edit.target);
        let io_error = |path: &str, source: io::Error| RefEditError::Io { path: repo.path().join(path), source };
        for above in directories_above(&path) {
            let is_file = file_type(repo.dir(), above)
                .map_err(|source| io_error(above, source))?
                .is_some_and(|file_type| file_type != FileType::Directory);
            if is_file || paths.contains(above) {
                return Err(RefEditError::BelowRef { target: target(), path: repo.path().join(above) });
            }
        }
        if file_type(repo.dir(), &path).map_err(|source| io_error(&path, source))? == Some(FileType::Directory)
            && let Some(obstacle) = first_file(repo.dir(), &path).map_err(|source| io_error(&path, source))?
        {
            return Err(RefEditError::AboveRefs { target: target(), path: repo.path().join(obstacle) });
        }
    }
    Ok(())
}

/// Writes a ref, and returns the path of its directory below the repository.
///
/// The data is durable on return; the name is after a sync of the directory.
pub(crate) fn write(
    repo: &Repo,
    target: &RefTarget,
    commit: CommitId,
    durability: Durability,
) -> Result<String, RefEditError> {
    let path = repo.ref_path(target);
    let (directory, name) = path.rsplit_once('/').expect("a ref is below `refs/heads`");
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::NotADirectory => {
            RefEditError::BelowRef { target: target.clone(), path: repo.path().join(directory) }
        }
        io::ErrorKind::DirectoryNotEmpty => {
            RefEditError::AboveRefs { target: target.clone(), path: repo.path().join(&path) }
        }
        _ => RefEditError::Io { path: repo.path().join(&path), source },
    };
    let dir = durable::make_dirs(repo.dir(), directory, durable::DIRECTORY_MODE, durability).map_err(fail)?;
    let data = format!("{commit}\n");
    match durable::replace(&dir, name, data.as_bytes(), durability) {
        // What is in the way may be a directory that refs were deleted from.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            remove_empty(dir.as_fd(), name).map_err(fail)?;
            durable::replace(&dir, name, data.as_bytes(), durability).map_err(fail)?;
        }
        result => result.map_err(fail)?,
    }
    Ok(directory.to_owned())
}

/// Deletes a ref's file, and returns the path of its directory below the repository.
pub(crate) fn delete(repo: &Repo, target: &RefTarget) -> Result<String, RefEditError> {
    let path = repo.ref_path(target);
    let (directory, _) = path.rsplit_once('/').expect("a ref is below `refs/heads`");
    durable::unlink_if_there(repo.dir(), path.as_str())
        .and_then(|_| fault::point("ref-deleted"))
        .map_err(|source| RefEditError::Io { path: repo.path().join(&path), source })?;
    Ok(directory.to_owned())
}

/// Makes the names in these directories durable, and changes the repository's time, which tells libostree that refs changed.
pub(crate) fn sync_directories(
    repo: &Repo,
    directories: &HashSet<String>,
    durability: Durability,
) -> Result<(), RefEditError> {
    let fail = |path: PathBuf| move |source| RefEditError::Io { path, source };
    if directories.len() > durable::MAX_DIRECTORY_SYNCS {
        durability.sync_fs(repo.dir()).map_err(fail(repo.path().to_owned()))?;
    } else if durability == Durability::Full {
        for directory in directories {
            let sync = || durability.sync_dir(open_dir(repo.dir(), directory)?);
            sync().map_err(fail(repo.path().join(directory)))?;
        }
    }
    fault::point("refs-durable").map_err(fail(repo.path().to_owned()))?;
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    rustix::fs::futimens(repo.dir(), &times).map_err(|errno| fail(repo.path().to_owned())(errno.into()))
}

/// Returns the directories below `refs/heads` or `refs/mirrors/<collection>` that a ref is in, the highest first.
fn directories_above(path: &str) -> impl Iterator<Item = &str> {
    let fixed_parts = if path.starts_with("refs/mirrors/") { 3 } else { 2 };
    path.match_indices('/').skip(fixed_parts).map(|(end, _)| &path[..end])
}

fn file_type(dir: BorrowedFd<'_>, path: &str) -> io::Result<Option<FileType>> {
    match statat(dir, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Finds something else than a directory below a directory.
fn first_file(base: BorrowedFd<'_>, path: &str) -> io::Result<Option<String>> {
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        for name in entries(base, &path)? {
            let entry = format!("{path}/{name}");
            match file_type(base, &entry)? {
                Some(FileType::Directory) => pending.push(entry),
                Some(_) if name != TEMPORARY => return Ok(Some(entry)),
                _ => {}
            }
        }
    }
    Ok(None)
}

/// Removes a directory and the directories below it. Fails with `DirectoryNotEmpty` when there is anything else.
fn remove_empty(base: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let mut directories = vec![path.to_owned()];
    let mut index = 0;
    while let Some(directory) = directories.get(index).cloned() {
        for name in entries(base, &directory)? {
            let entry = format!("{directory}/{name}");
            match file_type(base, &entry)? {
                Some(FileType::Directory) => directories.push(entry),
                Some(_) if name == TEMPORARY => drop(durable::unlink_if_there(base, entry.as_str())?),
                Some(_) => return Err(Errno::NOTEMPTY.into()),
                None => {}
            }
        }
        index += 1;
    }
    // The deepest come last; a ref that was made meanwhile makes its directory's removal fail.
    for directory in directories.iter().rev() {
        unlinkat(base, directory.as_str(), AtFlags::REMOVEDIR)?;
        fault::point("ref-directory-removed")?;
    }
    Ok(())
}

fn entries(base: BorrowedFd<'_>, path: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::new(open_dir(base, path)?)? {
        let entry = entry?;
        // A name that is not UTF-8 is no ref, but an obstacle; any text that is no directory stands for it.
        match entry.file_name().to_string_lossy().into_owned() {
            name if name == "." || name == ".." => {}
            name => names.push(name),
        }
    }
    Ok(names)
}
