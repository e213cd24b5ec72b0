//! Extended attributes of files on disk.

use std::{io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{fgetxattr, flistxattr, lgetxattr, llistxattr},
    io::Errno,
    path::Arg,
};
use treegraft_object::Xattrs;

/// Largest value and largest list of names that Linux gives (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_XATTR_BYTES: usize = 64 << 10;

/// Reads the extended attributes of a file, a directory or a symlink, which is not followed.
pub fn read_xattrs(path: &Path) -> io::Result<Xattrs> {
    Ok(path_xattrs(path)?)
}

pub(crate) fn path_xattrs(path: impl Arg + Copy) -> Result<Xattrs, Errno> {
    let names = xattr_value(|buffer| llistxattr(path, buffer));
    xattrs(names, |name| xattr_value(|buffer| lgetxattr(path, name, buffer)))
}

pub(crate) fn file_xattrs(file: impl AsFd) -> Result<Xattrs, Errno> {
    let names = xattr_value(|buffer| flistxattr(&file, buffer));
    xattrs(names, |name| xattr_value(|buffer| fgetxattr(&file, name, buffer)))
}

fn xattrs(names: Result<Vec<u8>, Errno>, value: impl Fn(&[u8]) -> Result<Vec<u8>, Errno>) -> Result<Xattrs, Errno> {
    let names = match names {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Xattrs::new()),
        Err(errno) => return Err(errno),
    };
    let mut entries = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match value(name) {
            Ok(value) => entries.push((name.to_vec(), value)),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Xattrs::canonical(entries))
}

/// Calls `read` with a larger buffer until the value fits.
pub(crate) fn xattr_value(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MAX_XATTR_BYTES => buffer = vec![0; MAX_XATTR_BYTES],
            Err(errno) => return Err(errno),
        }
    }
}
