//! What must stay free on the repository's file system (`core.min-free-space-size`, `core.min-free-space-percent`).

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{Mutex, PoisonError},
};

use rustix::fs::fstatvfs;

use crate::MinFreeSpace;

/// After this many bytes the file system is asked again: others fill it, too.
const SAMPLE_INTERVAL_BYTES: u64 = 64 << 20;

/// Counts what may still be written. Shared by all threads that write.
#[derive(Debug)]
pub(crate) struct FreeSpace {
    kept: MinFreeSpace,
    budget: Mutex<Budget>,
}

#[derive(Debug)]
struct Budget {
    block_bytes: u64,
    left_blocks: u64,
    until_sample_bytes: u64,
}

impl FreeSpace {
    /// Asks the file system of `dir`.
    pub(crate) fn sample(dir: BorrowedFd<'_>, kept: MinFreeSpace) -> io::Result<Self> {
        Ok(Self { kept, budget: Mutex::new(Budget::sample(dir, kept)?) })
    }

    /// Takes space for a new file or for more bytes of one. Tells whether there was enough.
    ///
    /// Like libostree it counts whole blocks; `inodes` adds one for each new file.
    pub(crate) fn reserve(&self, dir: BorrowedFd<'_>, bytes: u64, inodes: u64) -> io::Result<bool> {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.until_sample_bytes < bytes {
            *budget = Budget::sample(dir, self.kept)?;
        }
        budget.until_sample_bytes = budget.until_sample_bytes.saturating_sub(bytes);
        let blocks = bytes.div_ceil(budget.block_bytes).saturating_add(inodes);
        let left = budget.left_blocks.checked_sub(blocks);
        budget.left_blocks = left.unwrap_or(budget.left_blocks);
        Ok(left.is_some())
    }
}

impl Budget {
    fn sample(dir: BorrowedFd<'_>, kept: MinFreeSpace) -> io::Result<Self> {
        let stat = fstatvfs(dir)?;
        // The root user may use the blocks that are reserved for it.
        let free = if rustix::process::getuid().is_root() { stat.f_bfree } else { stat.f_bavail };
        Ok(Self::new(stat.f_frsize.max(1), stat.f_blocks, free, kept))
    }

    fn new(block_bytes: u64, all_blocks: u64, free_blocks: u64, kept: MinFreeSpace) -> Self {
        let kept_blocks = match kept {
            MinFreeSpace::Bytes(bytes) => bytes.div_ceil(block_bytes),
            MinFreeSpace::Percent(percent) => all_blocks.saturating_mul(percent.into()) / 100,
        };
        let left_blocks = free_blocks.saturating_sub(kept_blocks);
        Self { block_bytes, left_blocks, until_sample_bytes: SAMPLE_INTERVAL_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_stay_free_is_no_budget() {
        for (kept, left) in [
            (MinFreeSpace::Percent(0), 500),
            (MinFreeSpace::Percent(3), 470),
            (MinFreeSpace::Percent(99), 0),
            (MinFreeSpace::Bytes(0), 500),
            (MinFreeSpace::Bytes(4096 * 100), 400),
            (MinFreeSpace::Bytes(4096 * 100 + 1), 399),
            (MinFreeSpace::Bytes(u64::MAX), 0),
        ] {
            let budget = Budget::new(4096, 1000, 500, kept);
            assert_eq!(budget.left_blocks, left, "of 1000 blocks 500 are free, {kept:?} must stay so");
        }
    }

    #[test]
    fn space_is_taken_in_blocks() {
        let budget = Mutex::new(Budget { block_bytes: 4096, left_blocks: 5, until_sample_bytes: u64::MAX });
        let space = FreeSpace { kept: MinFreeSpace::Percent(0), budget };
        let dir = std::fs::File::open("/").expect("there is a root");
        let dir = std::os::fd::AsFd::as_fd(&dir);
        assert!(space.reserve(dir, 4097, 1).expect("no sample is taken"), "three of five blocks");
        assert!(!space.reserve(dir, 8193, 0).expect("no sample is taken"), "two blocks are left, not three");
        assert!(space.reserve(dir, 8192, 0).expect("no sample is taken"), "a refused request takes nothing");
    }
}
