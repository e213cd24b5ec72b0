//! The pushes of one connection.
//!
//! They are known on the connection that opened them alone, and go with it: their locks are given up, what was received
//! waits for the next push. A connection has a bounded number of everything, so that one client's memory, threads, locks
//! and staging areas are bounded, too. What goes beyond is refused and not waited for: a body that waits unread fills the
//! connection's window, and with it those bodies could not go on that everything waits for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use treegraft_wire::{ApiError, ErrorCode, PushId};

use crate::session::{MAX_STREAMS, Session};

/// Most open pushes of a connection. One is the rule; each has a lock, a staging area and up to 16 MiB of request.
const MAX_OPEN_PUSHES: usize = 4;

/// Most questions that are answered at a time: each holds some 4 MB. `treegraft push` asks 16.
const MAX_QUESTIONS: usize = 32;

/// The right to something of which there is only so much. Given back on drop.
#[derive(Debug)]
pub(crate) struct Slot(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit);

/// The open pushes of a connection, and what they may do at a time.
#[derive(Debug)]
pub(crate) struct Pushes {
    open: Mutex<Open>,
    push_slots: Arc<Semaphore>,
    question_slots: Arc<Semaphore>,
    stream_slots: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Open {
    sessions: HashMap<PushId, Arc<Session>>,
    opened: u64,
    /// The connection is gone: whoever still answers a request of it must not leave a push behind.
    is_over: bool,
}

impl Pushes {
    pub(crate) fn new() -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Self {
            open: Mutex::default(),
            push_slots: slots(MAX_OPEN_PUSHES),
            question_slots: slots(MAX_QUESTIONS),
            stream_slots: slots(MAX_STREAMS as usize),
        }
    }

    /// Takes the right to open a push.
    pub(crate) fn push_slot(&self) -> Result<Slot, ApiError> {
        slot(&self.push_slots, MAX_OPEN_PUSHES, "pushes").map_err(|error| error.hint("publish one of them first"))
    }

    /// Takes the right to ask which objects are missing.
    pub(crate) fn question_slot(&self) -> Result<Slot, ApiError> {
        slot(&self.question_slots, MAX_QUESTIONS, "questions")
    }

    /// Takes the right to send a stream of objects.
    pub(crate) fn stream_slot(&self) -> Result<Slot, ApiError> {
        slot(&self.stream_slots, MAX_STREAMS as usize, "object streams")
    }

    /// Makes a name for a push.
    pub(crate) fn new_id(&self) -> PushId {
        let mut open = self.open();
        open.opened += 1;
        PushId(open.opened.to_string())
    }

    /// Adds a push, as long as the connection is there.
    pub(crate) fn add(&self, session: Session) {
        let mut open = self.open();
        if !open.is_over {
            open.sessions.insert(session.id.clone(), Arc::new(session));
        }
    }

    /// Gives up all pushes: their connection has ended. What is being done for them holds them until it is done.
    pub(crate) fn end(&self) {
        let mut open = self.open();
        open.is_over = true;
        let sessions = std::mem::take(&mut open.sessions);
        drop(open);
        drop(sessions);
    }

    /// Returns an open push.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Session>, ApiError> {
        self.open().sessions.get(&PushId(id.to_owned())).cloned().ok_or_else(|| unknown(id))
    }

    /// Takes a push out, to publish it. Nothing else can be asked of it from here on.
    pub(crate) fn take(&self, id: &str) -> Result<Arc<Session>, ApiError> {
        let mut open = self.open();
        let id = PushId(id.to_owned());
        let session = open.sessions.get(&id).ok_or_else(|| unknown(&id.0))?;
        session.end_streams()?;
        open.sessions.remove(&id).ok_or_else(|| unknown(&id.0))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownPush, format!("There is no open push `{}`", id.escape_debug()))
}

fn slot(slots: &Arc<Semaphore>, limit: usize, what: &str) -> Result<Slot, ApiError> {
    let permit = Arc::clone(slots).try_acquire_owned();
    permit.map(Slot).map_err(|_| {
        let detail = format!("The connection has {limit} {what} at a time already, more are not allowed");
        ApiError::new(ErrorCode::TooLarge, detail)
    })
}
