//! A directory with the layout of `objects/`: that of a repository, or a staging area.

use std::{
    fs::File,
    io::Read,
    os::{fd::BorrowedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode as FileMode, OFlags, fstat, openat, statat},
    io::Errno,
};
use treegraft_object::{ContentId, DecodeError, ObjectName, limits::MAX_METADATA_BYTES};

use super::LoosePath;
use crate::{ArchivedFile, Mode, ReadError};

/// Where the mode is in a `.filez`: behind the frame (8 bytes), the size (8), the user id (4) and the group id (4).
const ARCHIVE_MODE_OFFSET: u64 = 24;

/// A directory of loose objects.
#[derive(Clone, Copy)]
pub(crate) struct LooseDir<'a> {
    dir: BorrowedFd<'a>,
    /// Its path, for messages.
    path: &'a Path,
    mode: Mode,
}

impl<'a> LooseDir<'a> {
    /// Wraps an open directory. `path` is for messages, `mode` says how content objects are stored.
    pub(crate) const fn new(dir: BorrowedFd<'a>, path: &'a Path, mode: Mode) -> Self {
        Self { dir, path, mode }
    }

    /// Returns the open directory.
    pub(crate) const fn dir(&self) -> BorrowedFd<'a> {
        self.dir
    }

    /// Returns the path that an object has here.
    pub(crate) fn path_of(&self, name: ObjectName) -> PathBuf {
        self.path.join(LoosePath::new(name, self.mode).as_str())
    }

    /// Tells whether the object is here.
    pub(crate) fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        match statat(self.dir, LoosePath::new(name, self.mode).as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.io_error(name, errno)),
        }
    }

    /// Opens an object that must be a regular file. Returns it with its size in bytes, or nothing when it is absent.
    pub(crate) fn open(&self, name: ObjectName) -> Result<Option<(File, u64)>, ReadError> {
        // Opening a pipe must not wait for somebody who writes into it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(self.dir, LoosePath::new(name, self.mode).as_c_str(), flags, FileMode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(ReadError::FileType { name }),
            Err(errno) => return Err(self.io_error(name, errno)),
        };
        let stat = fstat(&file).map_err(|errno| self.io_error(name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ReadError::FileType { name });
        }
        Ok(Some((File::from(file), u64::try_from(stat.st_size).unwrap_or(0))))
    }

    /// Reads a metadata object, or nothing when it is absent.
    pub(crate) fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
        let Some((file, size_bytes)) = self.open(name)? else { return Ok(None) };
        let too_large = |bytes| {
            let limit_bytes = MAX_METADATA_BYTES;
            ReadError::Invalid { name, source: DecodeError::TooLarge { what: "metadata object", bytes, limit_bytes } }
        };
        if size_bytes > MAX_METADATA_BYTES {
            return Err(too_large(size_bytes));
        }
        let mut data = Vec::with_capacity(usize::try_from(size_bytes).expect("at most 128 MiB"));
        // The file may grow while it is read.
        file.take(MAX_METADATA_BYTES + 1)
            .read_to_end(&mut data)
            .map_err(|source| ReadError::Io { path: self.path_of(name), source })?;
        if data.len() as u64 > MAX_METADATA_BYTES { Err(too_large(data.len() as u64)) } else { Ok(Some(data)) }
    }

    /// Looks at the size and the header of a `.filez`, or returns nothing when it is absent.
    pub(crate) fn archived_file(&self, id: ContentId) -> Result<Option<ArchivedFile>, ReadError> {
        let name = ObjectName::from(id);
        let Some((file, archived_bytes)) = self.open(name)? else { return Ok(None) };
        let mut mode = [0; 4];
        file.read_exact_at(&mut mode, ARCHIVE_MODE_OFFSET).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                ReadError::Invalid { name, source: DecodeError::HeaderFrame { reason: "it ends within the header" } }
            }
            _ => ReadError::Io { path: self.path_of(name), source },
        })?;
        let mode = u32::from_be_bytes(mode);
        let is_symlink = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => false,
            FileType::Symlink => true,
            _ => {
                return Err(ReadError::Invalid { name, source: DecodeError::Mode { what: "content object", mode } });
            }
        };
        Ok(Some(ArchivedFile { archived_bytes, is_symlink }))
    }

    pub(super) fn io_error(&self, name: ObjectName, errno: Errno) -> ReadError {
        ReadError::Io { path: self.path_of(name), source: errno.into() }
    }
}
