//! Small files in `.treegraft` that save work. Any of them may be lost, old or torn at any time; that costs only the work.

use std::{
    fs::File,
    io::{self, Read},
};

use crate::{
    PublishLock, Repo,
    durable::{self, Durability},
    private_dir,
};

/// Largest cache in bytes; a larger file is taken for damaged.
pub const MAX_CACHE_BYTES: u64 = 16 << 20;

/// Reads the cache `name`, or nothing when it is not there or cannot be read.
pub fn read(repo: &Repo, name: &str) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    let file = File::open(private_dir::path(repo).join(name)).ok()?;
    file.take(MAX_CACHE_BYTES + 1).read_to_end(&mut data).ok()?;
    (data.len() as u64 <= MAX_CACHE_BYTES).then_some(data)
}

/// Replaces the cache `name`. It is not synced: after a power loss it may be the old one, empty or torn.
pub fn write(lock: &PublishLock, name: &str, data: &[u8]) -> io::Result<()> {
    durable::replace(lock.private_dir(), name, data, Durability::None)
}
