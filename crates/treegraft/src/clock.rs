//! The clock and randomness, which no library reads by itself.

use std::{
    hash::{BuildHasher, RandomState},
    pin::Pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use treegraft_push::retry::Surroundings;

/// Returns the time in seconds since 1970 UTC; zero on a machine whose clock is before that.
pub(crate) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The real time, and real randomness.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RealTime {
    started: Instant,
}

impl RealTime {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }
}

impl Surroundings for RealTime {
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(time))
    }

    fn random(&self) -> u32 {
        // The standard library's keys for hash tables are random; for pauses that is random enough.
        let bytes = RandomState::new().hash_one(self.started.elapsed()).to_le_bytes();
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}
