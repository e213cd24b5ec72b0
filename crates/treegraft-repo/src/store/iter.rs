//! Listing objects.

use rustix::{
    fs::{Dir, Mode as FileMode, OFlags, openat},
    io::Errno,
};
use treegraft_object::{ObjectKind, ObjectName};

use super::LoosePath;
use crate::{ReadError, Repo};

/// Which objects are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// What libostree's own enumeration (prune, fsck) sees: commits, dirtrees, dirmetas, content objects.
    Objects,
    /// These, and detached metadata and tombstones.
    All,
}

/// The objects of a repository, without its parents'. In order of the first two digits, otherwise unordered.
#[derive(Debug)]
pub struct Objects<'r> {
    repo: &'r Repo,
    listing: Listing,
    /// The next directory to open, 0 to 256.
    next: u16,
    current: Option<(String, Dir)>,
}

impl Repo {
    /// Lists the objects that libostree's enumeration sees. Objects that come or go meanwhile may be listed or not.
    pub const fn objects(&self) -> Objects<'_> {
        self.objects_with(Listing::Objects)
    }

    /// Lists objects.
    pub const fn objects_with(&self, listing: Listing) -> Objects<'_> {
        Objects { repo: self, listing, next: 0, current: None }
    }
}

impl Objects<'_> {
    fn fail(&self, directory: &str, errno: Errno) -> ReadError {
        ReadError::Io { path: self.repo.objects_path().join(directory), source: errno.into() }
    }

    fn is_listed(&self, name: ObjectName) -> bool {
        self.listing == Listing::All || !matches!(name.kind, ObjectKind::CommitMeta | ObjectKind::TombstoneCommit)
    }

    /// Opens the next directory that exists; false when there are no more.
    fn open_next(&mut self) -> Result<bool, ReadError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        while self.next < 256 {
            let directory = format!("{:02x}", self.next);
            self.next += 1;
            match openat(self.repo.objects_dir(), &directory, flags, FileMode::empty()).and_then(Dir::new) {
                Ok(dir) => {
                    self.current = Some((directory, dir));
                    return Ok(true);
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(self.fail(&directory, errno)),
            }
        }
        Ok(false)
    }
}

impl Iterator for Objects<'_> {
    type Item = Result<ObjectName, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((directory, dir)) = &mut self.current else {
                match self.open_next() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                }
            };
            match dir.read() {
                None => self.current = None,
                Some(Err(errno)) => {
                    let directory = std::mem::take(directory);
                    self.current = None;
                    return Some(Err(self.fail(&directory, errno)));
                }
                Some(Ok(entry)) => {
                    let name = entry.file_name().to_str().ok();
                    let object = name.and_then(|name| LoosePath::parse(directory, name, self.repo.mode()));
                    if let Some(object) = object.filter(|&object| self.is_listed(object)) {
                        return Some(Ok(object));
                    }
                }
            }
        }
    }
}
