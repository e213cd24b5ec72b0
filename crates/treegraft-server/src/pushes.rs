//! The pushes of one connection.
//!
//! They are known on the connection that opened them alone, and go with it: their locks are given up, what was received
//! waits for the next push. A connection has a bounded number of everything, so that one client's memory, threads, locks
//! and staging areas are bounded, too. What goes beyond is refused and not waited for: a body that waits unread fills the
//! connection's window, and with it those bodies could not go on that everything waits for.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::DropGuard, task::AbortOnDropHandle};
use treegraft_wire::{ApiError, ErrorCode, PushId};

use crate::{
    lanes::Lanes,
    session::{MAX_STREAMS, Session},
};

/// Most open pushes of a connection. One is the rule; each has a lock, a staging area and up to 16 MiB of request.
const MAX_OPEN_PUSHES: usize = 4;

/// Most questions that are answered at a time, until the client has read the answers: each holds up to 6 MiB. `treegraft
/// push` asks 16.
const MAX_QUESTIONS: usize = 32;

/// The right to something of which there is only so much. Given back on drop.
#[derive(Debug)]
pub(crate) struct Slot(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit);

/// The open pushes of a connection, and what they may do at a time.
#[derive(Debug)]
pub(crate) struct Pushes {
    open: Mutex<Open>,
    /// Told when an opening ends.
    opened: Notify,
    push_slots: Arc<Semaphore>,
    question_slots: Arc<Semaphore>,
    stream_slots: Arc<Semaphore>,
}

/// An open push.
#[derive(Debug)]
struct OpenPush {
    session: Arc<Session>,
    deadline: Deadline,
    /// Ends what is being done for the push, if it is not done before.
    _over: DropGuard,
    /// Waits for the deadline as long as the push is open: a client may open one after the other for a day.
    _expiry: AbortOnDropHandle<()>,
    /// Takes further connections as long as the push is open.
    lanes: Option<Lanes>,
}

/// A push that is about to be published.
pub(crate) struct Taken {
    pub(crate) session: Arc<Session>,
    /// Its further connections, which come to their end with this.
    pub(crate) lanes: Option<Lanes>,
}

/// A push that is being opened, for whose end others may wait.
#[derive(Debug)]
pub(crate) struct Opening {
    pushes: Arc<Pushes>,
    id: PushId,
}

impl Opening {
    /// Returns the push's name.
    pub(crate) const fn id(&self) -> &PushId {
        &self.id
    }

    /// Adds the push, as long as the connection is there, and gives it up after `lifetime`.
    pub(crate) fn add(self, session: Session, lifetime: Duration, lanes: Option<Lanes>) {
        self.pushes.add(session, lifetime, lanes);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.pushes.open().opening.remove(&self.id);
        self.pushes.opened.notify_waiters();
    }
}

#[derive(Debug, Default)]
struct Open {
    sessions: HashMap<PushId, OpenPush>,
    /// Pushes that are being opened.
    opening: HashSet<PushId>,
    /// Pushes that were open for too long.
    expired: HashSet<PushId>,
    named: u64,
    /// The connection is gone: whoever still answers a request of it must not leave a push behind.
    is_over: bool,
}

impl Pushes {
    pub(crate) fn new() -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Self {
            open: Mutex::default(),
            opened: Notify::new(),
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

    /// Names a push that is to be opened.
    pub(crate) fn begin(self: &Arc<Self>) -> Opening {
        let mut open = self.open();
        open.named += 1;
        let id = PushId::of_connection(open.named);
        open.opening.insert(id.clone());
        Opening { pushes: Arc::clone(self), id }
    }

    fn add(self: &Arc<Self>, session: Session, lifetime: Duration, lanes: Option<Lanes>) {
        let mut open = self.open();
        if open.is_over {
            return;
        }
        let (id, deadline) = (session.id.clone(), Deadline::after(lifetime));
        let (pushes, expiring) = (Arc::downgrade(self), id.clone());
        let expiry = tokio::spawn(async move {
            deadline.reached().await;
            if let Some(pushes) = pushes.upgrade() {
                pushes.expire(expiring);
            }
        });
        let push = OpenPush {
            _over: session.over().clone().drop_guard(),
            session: Arc::new(session),
            deadline,
            _expiry: AbortOnDropHandle::new(expiry),
            lanes,
        };
        open.sessions.insert(id, push);
    }

    /// Gives up a push that was open for too long; what is being done for it comes to its end by the same deadline.
    fn expire(&self, id: PushId) {
        let mut open = self.open();
        let session = open.sessions.remove(&id);
        if session.is_some() {
            open.expired.insert(id);
        }
        drop(open);
        drop(session);
    }

    /// Gives up all pushes: their connection has ended. What is being done for them holds them until it is done.
    pub(crate) fn end(&self) {
        let mut open = self.open();
        open.is_over = true;
        let sessions = std::mem::take(&mut open.sessions);
        drop(open);
        drop(sessions);
    }

    /// Returns an open push, and until when it may be open.
    pub(crate) fn get(&self, id: &str) -> Result<(Arc<Session>, Deadline), ApiError> {
        let open = self.open();
        let id = PushId(id.to_owned());
        let push = open.sessions.get(&id).ok_or_else(|| open.no_push(&id))?;
        Ok((Arc::clone(&push.session), push.deadline))
    }

    /// Returns a push, which may still be about to be opened.
    pub(crate) async fn opened(&self, id: &str) -> Result<(Arc<Session>, Deadline), ApiError> {
        let id = PushId(id.to_owned());
        loop {
            let changed = self.opened.notified();
            {
                let open = self.open();
                match open.sessions.get(&id) {
                    Some(push) => return Ok((Arc::clone(&push.session), push.deadline)),
                    None if !open.opening.contains(&id) => return Err(open.no_push(&id)),
                    None => {}
                }
            }
            changed.await;
        }
    }

    /// Takes a push out, to publish it. Nothing else can be asked of it from here on.
    pub(crate) fn take(&self, id: &str) -> Result<Taken, ApiError> {
        let mut open = self.open();
        let id = PushId(id.to_owned());
        let push = open.sessions.get(&id).ok_or_else(|| open.no_push(&id))?;
        push.session.end_streams()?;
        let push = open.sessions.remove(&id).ok_or_else(|| open.no_push(&id))?;
        Ok(Taken { session: push.session, lanes: push.lanes })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Says why there is no such push.
    fn no_push(&self, PushId(id): &PushId) -> ApiError {
        if self.expired.contains(&PushId(id.clone())) {
            return expired();
        }
        ApiError::new(ErrorCode::UnknownPush, format!("There is no open push `{}`", id.escape_debug()))
    }
}

/// The moment until which a push may be open. A lifetime beyond the clock's range has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    fn after(lifetime: Duration) -> Self {
        Self(Instant::now().checked_add(lifetime))
    }

    /// Waits for it.
    pub(crate) async fn reached(self) {
        match self.0 {
            Some(moment) => tokio::time::sleep_until(moment).await,
            None => std::future::pending().await,
        }
    }

    fn is_reached(self) -> bool {
        self.0.is_some_and(|moment| Instant::now() >= moment)
    }

    /// Does something that must not take longer.
    pub(crate) async fn bound<T>(self, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        tokio::select! {
            // What fails because of the deadline says so.
            result = work => result.map_err(|error| if self.is_reached() { expired() } else { error }),
            () = self.reached() => Err(expired()),
        }
    }
}

/// Says that a push was open for too long.
pub(crate) fn expired() -> ApiError {
    ApiError::new(ErrorCode::Expired, "The push was open for longer than the server allows")
        .hint("push again: what has arrived is kept; the server's administrator can raise `max-push-secs`")
}

fn slot(slots: &Arc<Semaphore>, limit: usize, what: &str) -> Result<Slot, ApiError> {
    let permit = Arc::clone(slots).try_acquire_owned();
    permit.map(Slot).map_err(|_| {
        let detail = format!("The connection has {limit} {what} at a time already, more are not allowed");
        ApiError::new(ErrorCode::TooLarge, detail)
    })
}
