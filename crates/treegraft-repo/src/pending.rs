//! Work that has to follow a publish, on record until it is done.
//!
//! ```text
//! .treegraft/pending/<name>      what has to be done, in the caller's own format
//! ```
//!
//! A record is written under the publish lock, after the refs have moved and before the journal is removed. So there is never
//! a publish of which neither a journal nor a record tells. Its owner holds a lock on the file for as long as it lives, and
//! needs no other lock. A record whose lock is free is of a dead process: whoever finds it does the work. The work may have
//! been done already, or in part.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, statat};

use crate::{
    FileLock, LockKind, PublishLock, Repo,
    durable::{self, Durability, TEMPORARY, open_dir_if_there},
    fault, private_dir,
};

/// The directory in `.treegraft`.
const PENDING: &str = "pending";

/// Largest record in bytes: that of a publish of 10,000 refs with a few KiB for each.
pub const MAX_PENDING_BYTES: u64 = 64 << 20;

/// Most records that are taken over at a time: each may cost the taker some time.
const MAX_ORPHANS: usize = 16;

/// A record of work that has to be done, owned by this process. Dropping it leaves the work to the next one who looks.
#[derive(Debug)]
pub struct Pending {
    dir: OwnedFd,
    name: String,
    _lock: FileLock,
}

impl Pending {
    /// Puts work on record; it is durable on return. `name` is made of letters and digits.
    ///
    /// Returns nothing when there is a record with that name already: its owner is dead, and it is an orphan.
    pub fn create(repo: &Repo, lock: &PublishLock, name: &str, data: &[u8]) -> io::Result<Option<Self>> {
        let durability = Durability::of(repo);
        let dir = durable::make_dirs(lock.private_dir(), PENDING, Mode::RWXU, durability)?;
        if statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(None);
        }
        let mut file = durable::create(&dir, TEMPORARY)?;
        file.write_all(data)?;
        durability.sync_file(&file)?;
        let path = private_dir::path(repo).join(PENDING).join(name);
        let locked = FileLock::try_acquire_open(file, &path, LockKind::Exclusive).map_err(io::Error::other)?;
        let lock = locked.map_err(|_| io::Error::other("somebody has locked a new file"))?;
        renameat(&dir, TEMPORARY, &dir, name)?;
        durability.sync_dir(&dir)?;
        fault::point("pending-recorded")?;
        Ok(Some(Self { dir, name: name.to_owned(), _lock: lock }))
    }

    /// Takes over what dead processes have left, in the order of its recording, some of it when there is much.
    pub fn orphans(repo: &Repo) -> io::Result<Vec<Self>> {
        let path = private_dir::path(repo).join(PENDING);
        let Some(dir) = open_dir_if_there(repo.dir(), &format!("{}/{PENDING}", private_dir::NAME))? else {
            return Ok(Vec::new());
        };
        let mut recorded = Vec::new();
        for name in durable::names(&dir)?.into_iter().filter(|name| !name.starts_with('.')) {
            if let Ok(stat) = statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                recorded.push(((stat.st_mtime, stat.st_mtime_nsec), name));
            }
        }
        recorded.sort_unstable();
        let mut found = Vec::new();
        for (_, name) in recorded {
            if found.len() == MAX_ORPHANS {
                break;
            }
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(file) = openat(&dir, name.as_str(), flags, Mode::empty()) else { continue };
            let locked = FileLock::try_acquire_open(File::from(file), &path.join(&name), LockKind::Exclusive);
            if let Ok(lock) = locked.map_err(io::Error::other)? {
                // Its owner may just have finished.
                if lock.is_at(&dir, &name) {
                    found.push(Self { dir: dir.try_clone()?, name, _lock: lock });
                }
            }
        }
        Ok(found)
    }

    /// Reads what was recorded.
    pub fn data(&self) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.dir, self.name.as_str(), flags, Mode::empty())?);
        let mut data = Vec::new();
        file.take(MAX_PENDING_BYTES).read_to_end(&mut data)?;
        Ok(data)
    }

    /// Takes the record away: the work is done. If a power loss brings it back, it is done again.
    pub fn finish(self) -> io::Result<()> {
        durable::unlink_if_there(&self.dir, self.name.as_str()).map(drop)
    }
}
