//! Writing files so that a crash leaves the old one or the new one, never a part.
//!
//! [`replace`] writes a temporary file in the same directory, makes its data durable, and renames it over the old one. The
//! new *name* is durable only after [`Durability::sync_dir`] of the directory, which callers do once for many files. A crash before
//! that can bring the old file back; it can never leave a torn one.
//!
//! The temporary file always has the same name, [`TEMPORARY`]: whoever writes here holds the publish lock, so nobody else
//! writes in the same directory, and what a crash leaves is overwritten by the next write instead of piling up. Nothing of
//! OSTree reads a file with that name: a ref's name cannot begin with a dot, an object's has a checksum.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Dir, Mode, OFlags, RenameFlags, fchmod, fstat, linkat, mkdirat, openat, renameat, renameat_with,
        statat, unlinkat,
    },
    io::Errno,
};

use crate::{Repo, fault};

/// The name of the temporary file.
pub(crate) const TEMPORARY: &str = ".treegraft-new";

/// Mode of every file in a repository, whatever the umask, as libostree has it: web servers read them.
pub(crate) const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// Up to this many directories are made durable one by one; above it, one `syncfs` is cheaper.
pub(crate) const MAX_DIRECTORY_SYNCS: usize = 16;

/// Whether data is made durable at all (`core.fsync`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Everything is synced before something else relies on it.
    Full,
    /// Nothing is: a crash of the machine may lose or tear files, a crash of the process may not.
    None,
}

impl Durability {
    /// Returns what the repository's configuration asks for.
    pub(crate) const fn of(repo: &Repo) -> Self {
        if repo.config().fsync { Self::Full } else { Self::None }
    }

    /// Makes a file's data durable.
    pub(crate) fn sync_file(self, file: impl AsFd) -> io::Result<()> {
        self.when_full(|| rustix::fs::fsync(file))
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_dir(self, dir: impl AsFd) -> io::Result<()> {
        self.when_full(|| rustix::fs::fsync(dir))
    }

    /// Makes everything durable that is on the file system of this directory.
    pub(crate) fn sync_fs(self, dir: impl AsFd) -> io::Result<()> {
        self.when_full(|| rustix::fs::syncfs(dir))
    }

    fn when_full(self, sync: impl FnOnce() -> Result<(), Errno>) -> io::Result<()> {
        match self {
            Self::Full => sync().map_err(io::Error::from),
            Self::None => Ok(()),
        }
    }
}

/// Opens a directory for reading it, or for names in it.
pub(crate) fn open_dir(base: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(base, path, flags, Mode::empty())?)
}

/// Opens a directory as [`open_dir`] does, or returns nothing when it is absent.
pub(crate) fn open_dir_if_there(base: impl AsFd, path: &str) -> io::Result<Option<OwnedFd>> {
    match open_dir(base, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// The mode of directories in the repository, before the umask, as libostree and Flatpak have it.
pub(crate) const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o775);

/// Opens a directory below `base` and makes it and the ones above it when they are missing.
///
/// New directories are durable on return. `mode` is before the umask.
pub(crate) fn make_dirs(base: BorrowedFd<'_>, path: &str, mode: Mode, durability: Durability) -> io::Result<OwnedFd> {
    match open_dir(base, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut current = base.try_clone_to_owned()?;
    for part in path.split('/') {
        let was_there = open_dir(&current, part).is_ok();
        let is_made = match mkdirat(&current, part, mode) {
            Ok(()) => fault::point("directory-made").map(|()| true)?,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        // Also when somebody else was first, who may not care whether it is durable.
        if is_made || !was_there {
            durability.sync_dir(&current)?;
        }
        current = open_dir(&current, part)?;
    }
    Ok(current)
}

/// Lists the names in a directory that are UTF-8; nobody makes others in a repository.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        match entry?.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Makes a new file with mode 0644; one that is left over under this name is removed before.
pub(crate) fn create(dir: impl AsFd, name: &str) -> io::Result<File> {
    let file = create_with_any_mode(dir.as_fd(), name)?;
    fchmod(&file, FILE_MODE)?;
    Ok(file)
}

fn create_with_any_mode(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    unlink_if_there(dir, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, FILE_MODE)?.into())
}

/// Tells whether new files get the mode 0644 without being asked again: neither the umask nor the directory's default ACL
/// changes it.
pub(crate) fn is_mode_kept(dir: impl AsFd) -> io::Result<bool> {
    let file = create_with_any_mode(dir.as_fd(), TEMPORARY)?;
    fault::point("staging:mode-probed")?;
    let is_kept = Mode::from_raw_mode(fstat(&file)?.st_mode & 0o7777) == FILE_MODE;
    unlink_if_there(&dir, TEMPORARY)?;
    Ok(is_kept)
}

/// Replaces a file, or makes it. The data is durable on return, the name after `sync_dir` of the directory.
pub(crate) fn replace(dir: impl AsFd, name: &str, data: &[u8], durability: Durability) -> io::Result<()> {
    let result = write_and_rename(dir.as_fd(), name, data, durability);
    if result.is_err() {
        // The first error is the one to report; what stays is overwritten by the next write.
        let _ = unlinkat(&dir, TEMPORARY, AtFlags::empty());
    }
    result
}

fn write_and_rename(dir: BorrowedFd<'_>, name: &str, data: &[u8], durability: Durability) -> io::Result<()> {
    let mut file = create(dir, TEMPORARY)?;
    fault::point("file-made")?;
    file.write_all(data)?;
    durability.sync_file(&file)?;
    fault::point("file-written")?;
    renameat(dir, TEMPORARY, dir, name)?;
    fault::point("file-renamed")
}

/// Gives a file another name unless there is a file with that name already. Tells whether it has the name now.
pub(crate) fn rename_new(
    from_dir: impl AsFd,
    from: impl rustix::path::Arg + Copy,
    to_dir: impl AsFd,
    to: impl rustix::path::Arg + Copy,
) -> Result<bool, Errno> {
    match renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // The file system does not know the flag (NFS, old FUSE); a hard link does not replace anything, either.
        Err(Errno::INVAL | Errno::NOSYS) => match linkat(&from_dir, from, &to_dir, to, AtFlags::empty()) {
            Ok(()) => unlinkat(&from_dir, from, AtFlags::empty()).map(|()| true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        },
        Err(errno) => Err(errno),
    }
}

/// Removes a file, and returns its size in bytes; nothing when there was none.
pub(crate) fn unlink_sized(dir: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<Option<u64>> {
    let bytes = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => u64::try_from(stat.st_size).unwrap_or(0),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(unlink_if_there(dir, name)?.then_some(bytes))
}

/// Removes a file. Tells whether there was one.
pub(crate) fn unlink_if_there(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<bool> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
