//! One object on its way into a staging area.

use std::{
    fs::File,
    io::{self, Write},
    sync::atomic::Ordering,
};

use rustix::{
    fs::{AtFlags, Mode as FileMode, OFlags, fchmod, mkdirat, openat, renameat, unlinkat},
    io::Errno,
};
use treegraft_object::{ObjectKind, ObjectName};

use super::Staging;
use crate::{
    durable::{FILE_MODE, rename_new},
    fault,
    store::LoosePath,
};

/// Objects up to this size are kept in memory until they are verified, so that a bad one makes no file and a good one is
/// written at once. Most objects of a Flatpak runtime are smaller.
const MEMORY_BYTES: usize = 64 << 10;

/// Mode of the directories `XX` before the umask, as libostree makes them in `objects/`.
const DIRECTORY_MODE: FileMode = FileMode::from_raw_mode(0o777);

/// Takes an object's bytes and gives them their name in the end; dropped before, nothing is left.
pub(super) struct Incoming<'s> {
    staging: &'s Staging,
    name: ObjectName,
    path: LoosePath,
    pending: Vec<u8>,
    file: Option<Temporary<'s>>,
    /// Set when the object turned out to be staged already: the bytes are only verified.
    is_known: bool,
}

/// A file without its final name, deleted on drop.
pub(super) struct Temporary<'s> {
    staging: &'s Staging,
    path: String,
    pub(super) file: File,
    is_named: bool,
}

impl<'s> Incoming<'s> {
    pub(super) fn new(staging: &'s Staging, name: ObjectName) -> Self {
        let path = LoosePath::new(name, staging.mode);
        Self { staging, name, path, pending: Vec::new(), file: None, is_known: false }
    }

    /// Keeps an object that is in memory. Tells whether it is new.
    pub(super) fn keep_all(mut self, data: &[u8]) -> io::Result<bool> {
        self.write_through(data)?;
        self.name_it()
    }

    /// Keeps the object. Tells whether it is new.
    pub(super) fn keep(mut self) -> io::Result<bool> {
        let pending = std::mem::take(&mut self.pending);
        // Without a file nothing was written yet, and everything is pending.
        if !pending.is_empty() || self.file.is_none() {
            self.write_through(&pending)?;
        }
        self.name_it()
    }

    fn write_through(&mut self, data: &[u8]) -> io::Result<()> {
        if self.is_known {
            return Ok(());
        }
        let is_content = self.name.kind == ObjectKind::File;
        let inodes = u64::from(self.file.is_none());
        // Like libostree, only content is refused: the small rest is needed to make use of what was sent.
        if is_content && !self.staging.free_space.reserve(self.staging.dir(), data.len() as u64, inodes)? {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "not enough space would stay free"));
        }
        let temporary = match &mut self.file {
            Some(temporary) => temporary,
            none => none.insert(Temporary::create(self.staging, &self.path)?),
        };
        temporary.file.write_all(data)
    }

    fn name_it(self) -> io::Result<bool> {
        let Some(temporary) = self.file else { return Ok(false) };
        fault::point("staging:received")?;
        if !self.staging.is_mode_kept {
            fchmod(&temporary.file, FILE_MODE)?;
        }
        temporary.name_it(self.name, &self.path)
    }
}

impl Write for Incoming<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.pending.len() + data.len() <= MEMORY_BYTES && self.file.is_none() {
            self.pending.extend_from_slice(data);
            return Ok(data.len());
        }
        if self.file.is_none() {
            // A large object that is known is not written again.
            self.is_known = self.staging.has(self.name);
        }
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            self.write_through(&pending)?;
        }
        self.write_through(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'s> Temporary<'s> {
    pub(super) fn create(staging: &'s Staging, object: &LoosePath) -> io::Result<Self> {
        let number = staging.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = format!("{}/.{number}", object.directory());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(&staging.dir, path.as_str(), flags, FILE_MODE);
        let file = match open() {
            Err(Errno::NOENT) => {
                match mkdirat(&staging.dir, object.directory(), DIRECTORY_MODE) {
                    // Another thread may have been faster.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                open()?
            }
            result => result?,
        };
        Ok(Self { staging, path, file: File::from(file), is_named: false })
    }
}

impl Temporary<'_> {
    /// Gives the file its name. Tells whether the object is new.
    pub(super) fn name_it(mut self, name: ObjectName, path: &LoosePath) -> io::Result<bool> {
        let dir = self.staging.dir();
        self.staging.per_object.sync_file(&self.file)?;
        fault::point("staging:written")?;
        let is_new = if name.kind == ObjectKind::CommitMeta {
            renameat(dir, self.path.as_str(), dir, path.as_c_str())?;
            true
        } else {
            rename_new(dir, self.path.as_str(), dir, path.as_c_str())?
        };
        self.is_named = is_new;
        fault::point("staging:named")?;
        Ok(is_new)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_named {
            // What cannot be deleted now is deleted with the staging area or when it is adopted.
            let _ = unlinkat(&self.staging.dir, self.path.as_str(), AtFlags::empty());
        }
    }
}
