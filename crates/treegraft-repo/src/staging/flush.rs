//! Writing received objects to the disk while others are on their way.
//!
//! A publish makes everything durable at once. Without flushes before, nothing of a large push is on its way to the disk
//! then, and the last sync takes as long as the disk needs for all of it.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::durable::{Durability, open_dir};

/// Bytes that are received between two flushes: the disk's work of some tenths of a second, so that little is left for the
/// publish, and enough that a slow disk is not asked too often.
const FLUSH_BYTES: u64 = 32 << 20;

/// Counts what was received since the last flush.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    waiting_bytes: AtomicU64,
    is_running: Arc<AtomicBool>,
}

/// A flush that is due. It needs nothing of the staging area and may outlive it.
#[derive(Debug)]
pub struct Flush {
    /// Opened for the flush alone: each open file hears of a failed write once, and the publish must hear of it.
    dir: OwnedFd,
    _running: Running,
}

/// The one flush of a staging area that there is at a time.
#[derive(Debug)]
struct Running(Arc<AtomicBool>);

impl Flushes {
    /// Counts bytes that were written, and returns a flush when it is time for one.
    pub(super) fn count(&self, dir: BorrowedFd<'_>, bytes: u64, durability: Durability) -> Option<Flush> {
        let waiting_bytes = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if durability == Durability::None || waiting_bytes < FLUSH_BYTES || self.is_running.swap(true, Ordering::AcqRel)
        {
            return None;
        }
        let running = Running(Arc::clone(&self.is_running));
        self.waiting_bytes.store(0, Ordering::Relaxed);
        Some(Flush { dir: open_dir(dir, ".").ok()?, _running: running })
    }
}

impl Flush {
    /// Writes what is there to the disk. Whether that went well is found out by the publish.
    pub fn run(self) {
        let _ = rustix::fs::syncfs(self.dir.as_fd());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
