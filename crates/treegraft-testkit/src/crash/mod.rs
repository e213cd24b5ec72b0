//! Power losses and kills at every moment of a program: what it did to a directory is recorded, and played back in part.
//!
//! ```text
//! program under strace ──► its file system calls ──► Disk: names, bytes and syncs in order
//!                                                     └─► after(n, how the machine ended): an Image ──► a directory to look at
//! ```
//!
//! A program that syncs too little works in every test that merely kills it, since the kernel keeps what a process has
//! written. Here everything that was not synced may be missing: see [`Crash`]. A recording is checked against what the
//! program has really left, so that no change escapes it; a call that changes something and is not understood is an error.

mod disk;
mod image;
mod record;
mod strace;

pub use disk::{Crash, Disk};
pub use image::{Image, ImageEntry};
pub use record::{Recorder, Recording};
