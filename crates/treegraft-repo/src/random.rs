//! Names that nobody else has.

use std::io;

use data_encoding::HEXLOWER;
use rustix::rand::{GetRandomFlags, getrandom};

/// Returns random bytes in hexadecimal digits. The kernel is asked directly: below a login's own root directory there may be
/// no `/dev`.
pub fn hex<const BYTES: usize>() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    // So few bytes come at once or not at all.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(HEXLOWER.encode(&bytes))
}
