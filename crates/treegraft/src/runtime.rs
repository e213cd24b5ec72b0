//! The asynchronous runtime, which only the commands start that need one.

use std::{num::NonZero, thread};

use tokio::runtime::{Builder, Runtime};

use crate::error::CommandError;

/// Fewest threads that drive connections: with one alone, both ends of a local push would take turns.
const MIN_WORKERS: usize = 2;

/// Most threads for blocking work: those of a local push with the most streams and open questions on both sides are about
/// forty, and one that has to wait for another must never wait for a thread.
const MAX_BLOCKING_THREADS: usize = 128;

/// Starts the runtime.
pub(crate) fn start() -> Result<Runtime, CommandError> {
    let workers = thread::available_parallelism().map_or(MIN_WORKERS, NonZero::get).max(MIN_WORKERS);
    Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| CommandError::temporary(StartError(error)))
}

/// The runtime could not be started.
#[derive(Debug, thiserror::Error)]
#[error("Could not start threads")]
struct StartError(#[source] std::io::Error);
