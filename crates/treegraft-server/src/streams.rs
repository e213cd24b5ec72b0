//! The object streams of a push, and when nothing is on its way any more.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use treegraft_wire::{ApiError, ErrorCode};

/// The object streams of a push.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: u32,
    /// Those that were taken to their end.
    taken: u64,
    /// Whether one was not.
    is_any_broken: bool,
    /// Whether one has objects that must be sent again, since they could not be put together from older ones.
    is_any_unmade: bool,
    /// Set when the publication begins: what it has checked and signed must not be replaced.
    is_over: bool,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// All of it is stored.
    Stored,
    /// The client is told what it has to send again.
    Unmade,
    /// It broke off, or something in it was refused.
    Broken,
}

impl Streams {
    /// Notes that a stream begins.
    pub(crate) fn begin(&self) -> Result<(), ApiError> {
        let mut state = self.state();
        if state.is_over {
            return Err(ApiError::new(ErrorCode::UnknownPush, "The push is being published, it takes no more objects"));
        }
        state.running += 1;
        Ok(())
    }

    /// Notes that a stream has ended.
    pub(crate) fn end(&self, end: StreamEnd) {
        let mut state = self.state();
        state.running -= 1;
        match end {
            StreamEnd::Stored => state.taken += 1,
            StreamEnd::Unmade => {
                state.taken += 1;
                state.is_any_unmade = true;
            }
            StreamEnd::Broken => state.is_any_broken = true,
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until so many streams were taken. That some of their objects must be sent again is said once.
    pub(crate) async fn taken(&self, count: u64) -> Result<(), ApiError> {
        loop {
            let changed = self.changed.notified();
            if self.has_taken(count)? {
                return Ok(());
            }
            changed.await;
        }
    }

    fn has_taken(&self, count: u64) -> Result<bool, ApiError> {
        let mut state = self.state();
        if state.taken < count {
            return if state.is_any_broken {
                let detail = "The push cannot be published, since not all of its objects were taken";
                Err(ApiError::new(ErrorCode::Incomplete, detail).hint("the answers to its object streams say why"))
            } else {
                Ok(false)
            };
        }
        if count > 0 && std::mem::take(&mut state.is_any_unmade) {
            let detail = "The push cannot be published yet, since objects could not be put together from older ones";
            let hint = "send as a whole what the answers to its object streams list, and publish again";
            return Err(ApiError::new(ErrorCode::Incomplete, detail).hint(hint));
        }
        Ok(true)
    }

    /// Makes sure that no object comes any more.
    pub(crate) fn close(&self) -> Result<(), ApiError> {
        let mut state = self.state();
        if state.running > 0 {
            let detail = "The push cannot be published as long as objects are on their way";
            return Err(ApiError::new(ErrorCode::BadRequest, detail).hint("wait for the answers to all object streams"));
        }
        state.is_over = true;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
