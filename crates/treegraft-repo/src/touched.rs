//! Which directories of objects were changed, until they are durable.

use std::io;

use crate::{
    Repo,
    durable::{Durability, MAX_DIRECTORY_SYNCS, open_dir},
};

/// A set of directories `objects/XX`.
#[derive(Debug)]
pub(crate) struct Touched {
    directories: [bool; 256],
    is_any_new: bool,
}

impl Default for Touched {
    fn default() -> Self {
        Self { directories: [false; 256], is_any_new: false }
    }
}

impl Touched {
    /// Adds the directory of objects whose checksums begin with this byte. Tells whether it was not in the set before.
    pub(crate) fn add(&mut self, byte: u8) -> bool {
        !std::mem::replace(&mut self.directories[usize::from(byte)], true)
    }

    /// Notes that a directory was made: `objects` itself was changed.
    pub(crate) fn note_new(&mut self) {
        self.is_any_new = true;
    }

    /// Makes the names in the directories durable.
    pub(crate) fn sync(&self, repo: &Repo, durability: Durability) -> io::Result<()> {
        let touched = || (0..=u8::MAX).filter(|&byte| self.directories[usize::from(byte)]);
        if durability == Durability::None || touched().next().is_none() {
            return Ok(());
        }
        if touched().count() > MAX_DIRECTORY_SYNCS {
            return durability.sync_fs(repo.objects_dir());
        }
        for byte in touched() {
            durability.sync_dir(open_dir(repo.objects_dir(), &format!("{byte:02x}"))?)?;
        }
        if self.is_any_new { durability.sync_dir(repo.objects_dir()) } else { Ok(()) }
    }
}
