//! The clock, which no library reads by itself.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time in seconds since 1970 UTC; zero on a machine whose clock is before that.
pub(crate) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
