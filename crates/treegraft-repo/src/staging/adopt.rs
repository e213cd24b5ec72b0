//! Making staging areas, adopting dead ones, deleting them.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode as FileMode, OFlags, mkdirat, openat, statat, unlinkat},
    io::Errno,
};
use treegraft_object::{ObjectKind, ObjectName, verify};

use super::{Cleared, StagingError, index::Index};
use crate::{
    FileLock, LockError, LockKind, Mode, boot_id,
    durable::{self, TEMPORARY, names, open_dir, rename_new},
    fault, random,
    store::{LooseDir, LoosePath},
};

pub(super) const LOCK: &str = "lock";
const BOOT_ID: &str = "boot-id";

/// A boot id has 36 characters and a newline.
const MAX_BOOT_ID_BYTES: u64 = 64;

/// A staging area whose lock this process holds.
pub(super) struct Owned {
    pub(super) name: String,
    pub(super) dir: OwnedFd,
    pub(super) lock: FileLock,
}

/// Opens a staging area in `root` that holds all objects of dead ones.
///
/// The first dead one of the running boot is taken over as it is, which renames nothing.
pub(super) fn open(root: BorrowedFd<'_>, root_path: &Path, mode: Mode) -> Result<(Owned, Index), StagingError> {
    let fail = |source| StagingError::Io { path: root_path.to_owned(), source };
    let boot_id = boot_id::current().map_err(fail)?;
    let mut own: Option<Owned> = None;
    let index = Index::default();
    for name in names(root).map_err(fail)? {
        let Some(dead) = lock(root, root_path, &name)? else { continue };
        let is_same_boot = read_boot_id(dead.dir.as_fd()).map_err(fail)?.as_deref() == Some(&boot_id);
        let taken = match &own {
            None if is_same_boot => {
                let taken = take_over(&dead, mode, &index);
                own = Some(dead);
                taken
            }
            _ => {
                let into = match own.take() {
                    Some(own) => own,
                    None => create(root, root_path, &boot_id)?,
                };
                let into = own.insert(into);
                let path = root_path.join(&name);
                merge(root, &Dead { own: &dead, path: &path, is_same_boot, mode }, into, &index)
            }
        };
        taken.map_err(|source| StagingError::Io { path: root_path.join(&name), source })?;
    }
    let own = match own {
        Some(own) => own,
        None => create(root, root_path, &boot_id)?,
    };
    Ok((own, index))
}

/// Locks a staging area, or returns nothing when it is alive or gone.
fn lock(root: BorrowedFd<'_>, root_path: &Path, name: &str) -> Result<Option<Owned>, StagingError> {
    let is_gone = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let dir = match open_dir(root, name) {
        Ok(dir) => dir,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(source) => return Err(StagingError::Io { path: root_path.join(name), source }),
    };
    // A missing lock file is made: its creator may have died just before, or be about to lock it and will look again.
    let lock = match FileLock::try_acquire(&root_path.join(name).join(LOCK), LockKind::Exclusive) {
        Ok(lock) => lock,
        Err(LockError::Io { source, .. }) if is_gone(&source) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(lock.filter(|lock| lock.is_at(&dir, LOCK)).map(|lock| Owned { name: name.to_owned(), dir, lock }))
}

/// Whether dead areas are cleared, or only told what would be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clearing {
    Done,
    Told,
}

/// Deletes from dead areas the objects that are old, and what was being received; and areas in which nothing is left.
///
/// `is_old` is given when an object was written, in seconds since 1970 UTC.
pub(super) fn clear(
    root: BorrowedFd<'_>,
    root_path: &Path,
    mode: Mode,
    is_old: &dyn Fn(i64) -> bool,
    clearing: Clearing,
) -> Result<Cleared, StagingError> {
    let fail = |source| StagingError::Io { path: root_path.to_owned(), source };
    let mut cleared = Cleared::default();
    for name in names(root).map_err(fail)? {
        // As long as its lock is held here nobody adopts it, and it is no push's that is alive.
        let Some(dead) = lock(root, root_path, &name)? else { continue };
        let mut is_any_left = false;
        let mut clear = || {
            for_each_file(dead.dir.as_fd(), mode, &mut |directory, file| {
                if file.object.is_some() && !is_old(file.modified_secs) {
                    is_any_left = true;
                    return Ok(());
                }
                cleared.objects += u64::from(file.object.is_some());
                cleared.bytes += file.bytes;
                if clearing == Clearing::Told {
                    return Ok(());
                }
                unlinkat(directory, file.name, AtFlags::empty())?;
                fault::point("staging:cleared")
            })?;
            cleared.areas += u64::from(!is_any_left);
            if is_any_left || clearing == Clearing::Told { Ok(()) } else { delete(root, &dead.name, dead.dir.as_fd()) }
        };
        clear().map_err(|source| StagingError::Io { path: root_path.join(&dead.name), source })?;
    }
    Ok(cleared)
}

/// Makes an empty staging area.
fn create(root: BorrowedFd<'_>, root_path: &Path, boot_id: &str) -> Result<Owned, StagingError> {
    loop {
        let name = random::hex::<8>().map_err(|source| StagingError::Io { path: root_path.to_owned(), source })?;
        let path = root_path.join(&name);
        let fail = |source| StagingError::Io { path: path.clone(), source };
        match mkdirat(root, name.as_str(), FileMode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(fail(errno.into())),
        }
        fault::point("staging:made").map_err(fail)?;
        // Somebody who looks for dead areas may lock it first, and then clears it away.
        if let Some(own) = lock(root, root_path, &name)? {
            fault::point("staging:locked").map_err(fail)?;
            let write = || durable::create(&own.dir, BOOT_ID)?.write_all(format!("{boot_id}\n").as_bytes());
            write().map_err(fail)?;
            fault::point("staging:boot-id-written").map_err(fail)?;
            return Ok(own);
        }
    }
}

fn read_boot_id(dir: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let file = match openat(dir, BOOT_ID, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, FileMode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut text = Vec::new();
    file.take(MAX_BOOT_ID_BYTES).read_to_end(&mut text)?;
    Ok(std::str::from_utf8(text.trim_ascii_end()).ok().map(str::to_owned))
}

/// Lists the objects, and deletes everything else but the area's own files.
fn take_over(own: &Owned, mode: Mode, index: &Index) -> io::Result<()> {
    for_each_file(own.dir.as_fd(), mode, &mut |directory, file| {
        if let Some(name) = file.object {
            index.adopt(name, file.bytes);
            return Ok(());
        }
        unlinkat(directory, file.name, AtFlags::empty())?;
        fault::point("staging:unnamed-deleted")
    })
}

/// A dead area whose lock this process holds.
struct Dead<'a> {
    own: &'a Owned,
    path: &'a Path,
    is_same_boot: bool,
    mode: Mode,
}

/// Moves the objects of a dead area into ours, and deletes the area.
fn merge(root: BorrowedFd<'_>, dead: &Dead<'_>, own: &Owned, index: &Index) -> io::Result<()> {
    let Dead { own: Owned { name, dir, .. }, path, is_same_boot, mode } = *dead;
    let loose = LooseDir::new(dir.as_fd(), path, mode);
    for_each_file(dir.as_fd(), mode, &mut |_, file| {
        let Some(name) = file.object else { return Ok(()) };
        if !is_same_boot && !passes_again(loose, name, mode)? {
            return Ok(());
        }
        if move_object(dir.as_fd(), own, name, mode)? {
            index.adopt(name, file.bytes);
        }
        fault::point("staging:adopted")
    })?;
    delete(root, name, dir.as_fd())
}

/// Moves an object. Tells whether it was not in our area before.
fn move_object(dead: BorrowedFd<'_>, own: &Owned, name: ObjectName, mode: Mode) -> io::Result<bool> {
    let path = LoosePath::new(name, mode);
    let rename = || rename_new(dead, path.as_c_str(), &own.dir, path.as_c_str());
    match rename() {
        Err(Errno::NOENT) => {
            mkdirat(&own.dir, path.directory(), FileMode::from_raw_mode(0o777))?;
            Ok(rename()?)
        }
        result => Ok(result?),
    }
}

/// Verifies an object of another boot: its data may never have reached the disk.
fn passes_again(loose: LooseDir<'_>, name: ObjectName, mode: Mode) -> io::Result<bool> {
    if name.kind == ObjectKind::File {
        // Only pushes are resumed after a crash of the machine, and they are received by archive repositories.
        if mode != Mode::Archive {
            return Ok(false);
        }
        let Ok(Some((mut file, _))) = loose.open(name) else { return Ok(false) };
        return match verify::content(name, &mut file, &mut io::sink()) {
            Ok(_) => Ok(true),
            Err(verify::VerifyError::Read { source, .. }) => Err(source),
            Err(_) => Ok(false),
        };
    }
    match loose.metadata(name) {
        Ok(Some(data)) => Ok(verify::metadata(name, &data).is_ok()),
        Err(crate::ReadError::Io { source, .. }) => Err(source),
        Ok(None) | Err(_) => Ok(false),
    }
}

/// Deletes what `is_kept` does not want, given an object and when it was written (in seconds since 1970 UTC). Tells whether
/// anything is left.
pub(super) fn sweep(
    dir: BorrowedFd<'_>,
    mode: Mode,
    is_kept: &mut dyn FnMut(ObjectName, i64) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut is_any_left = false;
    for_each_file(dir, mode, &mut |directory, file| {
        if let Some(name) = file.object
            && is_kept(name, file.modified_secs)?
        {
            is_any_left = true;
            return Ok(());
        }
        unlinkat(directory, file.name, AtFlags::empty())?;
        fault::point("staging:swept")
    })?;
    Ok(is_any_left)
}

/// Deletes a staging area whose lock the caller holds; the lock's file goes last.
pub(super) fn delete(root: BorrowedFd<'_>, name: &str, dir: BorrowedFd<'_>) -> io::Result<()> {
    // Whatever it is, it goes.
    for_each_file(dir, Mode::Archive, &mut |directory, file| Ok(unlinkat(directory, file.name, AtFlags::empty())?))?;
    for directory in object_directories(dir)? {
        match unlinkat(dir, directory.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        fault::point("staging:directory-removed")?;
    }
    durable::unlink_if_there(dir, BOOT_ID)?;
    // Its owner was about to see which mode new files have.
    durable::unlink_if_there(dir, TEMPORARY)?;
    fault::point("staging:emptied")?;
    durable::unlink_if_there(dir, LOCK)?;
    fault::point("staging:lock-removed")?;
    match unlinkat(root, name, AtFlags::REMOVEDIR) {
        // Somebody who looks for dead areas may have made a new lock file in it; then they delete it.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A file in one of the directories `XX`.
struct FoundFile<'a> {
    name: &'a str,
    /// Nothing for what was being received.
    object: Option<ObjectName>,
    bytes: u64,
    modified_secs: i64,
}

fn for_each_file(
    dir: BorrowedFd<'_>,
    mode: Mode,
    each: &mut dyn FnMut(BorrowedFd<'_>, FoundFile<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for directory in object_directories(dir)? {
        let opened = open_dir(dir, &directory)?;
        // All names are read before any is deleted: what a listing shows of names that come and go is not defined.
        for name in names(&opened)? {
            let stat = statat(&opened, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let object = LoosePath::parse(&directory, &name, mode).filter(|_| is_file);
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            each(opened.as_fd(), FoundFile { name: &name, object, bytes, modified_secs: stat.st_mtime })?;
        }
    }
    Ok(())
}

/// Returns the directories `XX` of a staging area.
fn object_directories(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = names(dir)?;
    names.retain(|name| name.len() == 2);
    Ok(names)
}
