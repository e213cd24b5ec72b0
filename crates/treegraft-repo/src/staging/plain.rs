//! Staging content objects that were never stored: from a header and plain content to the repository's own form.

use std::io::{self, Read, Write};

use rustix::fs::{Mode as FileMode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, fchmod, fsetxattr, futimens};
use treegraft_object::{
    ContentHasher, ContentId, DirMeta, FileHeader, FileKind, ObjectName,
    filez::{self, FilezError},
    verify::VerifyError,
};

use super::{
    Staged, Staging, StagingError,
    incoming::{Incoming, Temporary},
};
use crate::{
    Mode,
    store::{BARE_USER_XATTR, LoosePath},
};

/// Size in bytes of the buffer through which content is copied into a bare-user repository.
const BUFFER_BYTES: usize = 256 << 10;

/// The permissions of a bare-user repository's files: what is not in here is kept in an extended attribute only.
const BARE_USER_MODE_MASK: u32 = 0o775;

/// Whoever owns the repository reads its files.
const OWNER_READS: u32 = 0o400;

/// The permissions of the file that stands for a symlink.
const SYMLINK_FILE_MODE: u32 = 0o644;

impl Staging {
    /// Makes and keeps the content object that has this header and this plain content of `content_bytes` bytes.
    ///
    /// Content that has become another one since `id` was computed is refused, and nothing of it is left.
    pub fn stage_plain(
        &self,
        id: ContentId,
        header: &FileHeader,
        content_bytes: u64,
        content: &mut dyn Read,
    ) -> Result<Staged, StagingError> {
        let name = ObjectName::from(id);
        let is_symlink = header.kind != FileKind::Regular;
        let (is_new, archived_bytes) = match self.mode {
            Mode::Archive => {
                let mut incoming = Incoming::new(self, name);
                let info = filez::write(header, content_bytes, &mut &mut *content, self.zlib_level, &mut incoming)
                    .map_err(|error| self.filez_error(name, error))?;
                check(name, info.id)?;
                let is_new = incoming.keep().map_err(|source| self.write_error(name, source))?;
                (is_new, info.archived_bytes)
            }
            _ => self.stage_bare_user(name, header, content_bytes, content)?,
        };
        if is_new {
            self.index.receive(name, archived_bytes, is_symlink);
        }
        Ok(Staged { is_new, archived_bytes })
    }

    /// Keeps an object as a file of a bare-user repository. Tells whether it is new, and its size on disk in bytes.
    fn stage_bare_user(
        &self,
        name: ObjectName,
        header: &FileHeader,
        content_bytes: u64,
        content: &mut dyn Read,
    ) -> Result<(bool, u64), StagingError> {
        let write_error = |source| self.write_error(name, source);
        let path = LoosePath::new(name, self.mode);
        if !self.free_space.reserve(self.dir(), content_bytes, 1).map_err(write_error)? {
            return Err(StagingError::NoSpace { name, path: self.path.clone() });
        }
        let mut temporary = Temporary::create(self, &path).map_err(write_error)?;
        let mut hasher = ContentHasher::new(header);
        let mut bytes = 0;
        let mode = if let FileKind::Symlink(target) = &header.kind {
            let stored = [target.as_bytes(), &[0]].concat();
            temporary.file.write_all(&stored).map_err(write_error)?;
            bytes = stored.len() as u64;
            SYMLINK_FILE_MODE
        } else {
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                let count = match content.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    result => result.map_err(|source| VerifyError::Read { name, source })?,
                };
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                temporary.file.write_all(&buffer[..count]).map_err(write_error)?;
                bytes += count as u64;
            }
            header.mode & BARE_USER_MODE_MASK | OWNER_READS
        };
        check(name, hasher.finish())?;
        // The attribute has the form of a dirmeta.
        let FileHeader { uid, gid, mode: whole_mode, ref xattrs, .. } = *header;
        let meta = DirMeta { uid, gid, mode: whole_mode, xattrs: xattrs.clone() }.encode();
        let file = &temporary.file;
        fsetxattr(file, BARE_USER_XATTR, &meta, XattrFlags::empty())
            .and_then(|()| fchmod(file, FileMode::from_raw_mode(mode)))
            .and_then(|()| futimens(file, &TIMES))
            .map_err(|errno| write_error(errno.into()))?;
        let is_new = temporary.name_it(name, &path).map_err(write_error)?;
        Ok((is_new, bytes))
    }

    fn filez_error(&self, name: ObjectName, error: FilezError) -> StagingError {
        match error {
            FilezError::Invalid(source) => VerifyError::Invalid { name, source }.into(),
            FilezError::Read(source) => VerifyError::Read { name, source }.into(),
            FilezError::Write(source) => self.write_error(name, source),
        }
    }
}

/// Files of all bare repositories were changed in the first second of 1970, so that the same content is the same file.
const TIMES: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: 0 },
};

fn check(name: ObjectName, actual: ContentId) -> Result<(), StagingError> {
    if actual.0 == name.checksum { Ok(()) } else { Err(VerifyError::Checksum { name, actual: actual.0 }.into()) }
}
