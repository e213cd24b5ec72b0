//! Which boot of the machine this is.

use std::{fs, io};

/// The kernel makes a random id at each boot.
const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// Reads the id of the running boot.
///
/// Data that was written without a sync in an earlier boot may never have reached the disk.
pub(crate) fn current() -> io::Result<String> {
    Ok(fs::read_to_string(PATH)?.trim_end().to_owned())
}
