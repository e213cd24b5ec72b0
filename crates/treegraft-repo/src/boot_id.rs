//! Which boot of the machine this is.

use std::{fs, io};

use crate::random;

/// The kernel makes a random id at each boot.
const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// Reads the id of the running boot.
///
/// Data that was written without a sync in an earlier boot may never have reached the disk. Where there is no `/proc`, as
/// below a login's own root directory, the id is one that no other call gives: nothing counts as of the same boot.
pub(crate) fn current() -> io::Result<String> {
    match fs::read_to_string(PATH) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => random::hex::<16>(),
        Err(error) => Err(error),
    }
}
