//! Content objects in the three bare modes.

use std::{io::Read, os::fd::AsRawFd};

use rustix::{
    fs::{AtFlags, FileType, Stat, fgetxattr, fstat, readlinkat, statat},
    io::Errno,
};
use treegraft_object::{
    ContentId, DecodeError, FileHeader, FileKind, ObjectName, Xattrs, limits::MAX_SYMLINK_TARGET_BYTES,
};

use super::{Content, LooseDir, LoosePath};
use crate::{
    Mode, ReadError,
    xattr::{file_xattrs, path_xattrs, xattr_value},
};

/// The extended attribute in which bare-user repositories keep owner, mode and extended attributes: `(uuua(ayay))` with
/// big-endian numbers.
pub(crate) const BARE_USER_XATTR: &str = "user.ostreemeta";

/// Bytes of `user.ostreemeta` before the extended attributes: user id, group id, mode.
const BARE_USER_FIXED_BYTES: usize = 12;

/// Opens an object of a bare repository: owner, mode and extended attributes are those of the file.
pub(super) fn open_bare(loose: LooseDir<'_>, id: ContentId, ignore_xattrs: bool) -> Result<Option<Content>, ReadError> {
    let name = ObjectName::from(id);
    let Some(stat) = stat_object(loose, name)? else { return Ok(None) };
    let fail = |errno| loose.io_error(name, errno);
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        let xattrs = if ignore_xattrs { Xattrs::new() } else { symlink_xattrs(loose, name).map_err(fail)? };
        let header =
            FileHeader { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode, kind: target(loose, name)?, xattrs };
        return checked(name, header).map(Content::symlink).map(Some);
    }
    let Some((file, content_bytes)) = loose.open(name)? else { return Ok(None) };
    // The file may have been replaced since it was looked at.
    let stat = fstat(&file).map_err(fail)?;
    let xattrs = if ignore_xattrs { Xattrs::new() } else { file_xattrs(&file).map_err(fail)? };
    let header = FileHeader { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode, kind: FileKind::Regular, xattrs };
    Ok(Some(Content { header: checked(name, header)?, content_bytes, reader: Box::new(file) }))
}

/// Opens an object of a bare-user-only repository: only the mode is kept, the rest is canonical.
pub(super) fn open_bare_user_only(loose: LooseDir<'_>, id: ContentId) -> Result<Option<Content>, ReadError> {
    let name = ObjectName::from(id);
    let Some(stat) = stat_object(loose, name)? else { return Ok(None) };
    let canonical = |mode, kind| FileHeader { uid: 0, gid: 0, mode, kind, xattrs: Xattrs::new() };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return checked(name, canonical(stat.st_mode, target(loose, name)?)).map(Content::symlink).map(Some);
    }
    let Some((file, content_bytes)) = loose.open(name)? else { return Ok(None) };
    let stat = fstat(&file).map_err(|errno| loose.io_error(name, errno))?;
    let header = checked(name, canonical(stat.st_mode, FileKind::Regular))?;
    Ok(Some(Content { header, content_bytes, reader: Box::new(file) }))
}

/// Opens an object of a bare-user repository: a regular file, also for a symlink, with the header beside its content.
pub(super) fn open_bare_user(loose: LooseDir<'_>, id: ContentId) -> Result<Option<Content>, ReadError> {
    let name = ObjectName::from(id);
    let invalid = |source| ReadError::Invalid { name, source };
    let Some((mut file, content_bytes)) = loose.open(name)? else { return Ok(None) };
    let stored = xattr_value(|buffer| fgetxattr(&file, BARE_USER_XATTR, buffer)).map_err(|errno| match errno {
        Errno::NODATA => invalid(DecodeError::HeaderFrame { reason: "the file has no `user.ostreemeta`" }),
        errno => loose.io_error(name, errno),
    })?;
    let Some((fixed, xattrs)) = stored.split_at_checked(BARE_USER_FIXED_BYTES) else {
        return Err(invalid(DecodeError::HeaderFrame { reason: "`user.ostreemeta` is too short" }));
    };
    let number = |index: usize| u32::from_be_bytes(fixed[4 * index..][..4].try_into().expect("four bytes"));
    let (uid, gid, mode) = (number(0), number(1), number(2));
    let xattrs = Xattrs::decode(xattrs).map_err(invalid)?;
    if FileType::from_raw_mode(mode) != FileType::Symlink {
        let header = checked(name, FileHeader { uid, gid, mode, kind: FileKind::Regular, xattrs })?;
        return Ok(Some(Content { header, content_bytes, reader: Box::new(file) }));
    }
    let mut bytes = Vec::new();
    // The target and its NUL, and one more byte to notice that it is too long.
    (&mut file)
        .take(MAX_SYMLINK_TARGET_BYTES as u64 + 2)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::Io { path: loose.path_of(name), source })?;
    let kind = symlink(bytes.strip_suffix(&[0]).unwrap_or(&bytes)).map_err(invalid)?;
    checked(name, FileHeader { uid, gid, mode, kind, xattrs }).map(Content::symlink).map(Some)
}

fn checked(name: ObjectName, header: FileHeader) -> Result<FileHeader, ReadError> {
    header.validate().map_err(|source| ReadError::Invalid { name, source })?;
    Ok(header)
}

fn stat_object(loose: LooseDir<'_>, name: ObjectName) -> Result<Option<Stat>, ReadError> {
    match statat(loose.dir(), LoosePath::new(name, Mode::Bare).as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(loose.io_error(name, errno)),
    }
}

fn target(loose: LooseDir<'_>, name: ObjectName) -> Result<FileKind, ReadError> {
    let target = readlinkat(loose.dir(), LoosePath::new(name, Mode::Bare).as_c_str(), Vec::new())
        .map_err(|errno| loose.io_error(name, errno))?;
    symlink(target.to_bytes()).map_err(|source| ReadError::Invalid { name, source })
}

fn symlink(target: &[u8]) -> Result<FileKind, DecodeError> {
    match std::str::from_utf8(target) {
        Err(_) => Err(DecodeError::SymlinkTarget { reason: "it is not UTF-8" }),
        Ok(target) if target.contains('\0') => Err(DecodeError::SymlinkTarget { reason: "it has a NUL" }),
        Ok(target) => Ok(FileKind::Symlink(target.to_owned())),
    }
}

/// Reads a symlink's extended attributes. No system call takes a directory and a name for it, so the path goes through
/// the open directory in `/proc`, as libostree does.
fn symlink_xattrs(loose: LooseDir<'_>, name: ObjectName) -> Result<Xattrs, Errno> {
    path_xattrs(&format!("/proc/self/fd/{}/{}", loose.dir().as_raw_fd(), LoosePath::new(name, Mode::Bare).as_str()))
}
