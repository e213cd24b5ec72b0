//! Trying again when a push fails for a reason that passes.
//!
//! A push may be repeated at any point: what arrived is kept by the server, and what is published is not published twice,
//! because each try after the first one says which heads the first one was told ([`RetriedOffer`]). So all tries together
//! are one push, and what is said about it in the end holds for all of them: a tally adds up.
//!
//! Pauses grow exponentially and are jittered, so that many workers that lose the same server do not come back at once.
//! Clock, sleep and random numbers are the caller's ([`Surroundings`]).

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use treegraft_object::{CommitId, ObjectKind, ObjectName};
use treegraft_wire::{Resumed, RetriedOffer};

use crate::{Client, ClientError, Event, Outcome, PushError, PushOptions, Reporter, Source, push::push_once};

/// Factor between two pauses.
const GROWTH: u32 = 2;

/// How often and for how long a push is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most tries after the first one.
    pub max_retries: u32,
    /// No try begins later than this after the first failure. One that has begun may take as long as it needs.
    pub max_time: Duration,
    /// Longest pause after the first failure; each one after it may be twice as long.
    pub first_pause: Duration,
    /// Longest pause of all.
    pub max_pause: Duration,
}

impl RetryPolicy {
    /// Never tries again.
    pub const NEVER: Self =
        Self { max_retries: 0, max_time: Duration::ZERO, first_pause: Duration::ZERO, max_pause: Duration::ZERO };

    /// Returns the pause after a failure, counted from 1: at least half of what it may be, so that it is one.
    fn pause(&self, failure: u32, random: u32) -> Duration {
        let longest = GROWTH
            .checked_pow(failure.saturating_sub(1))
            .and_then(|factor| self.first_pause.checked_mul(factor))
            .map_or(self.max_pause, |pause| pause.min(self.max_pause));
        let half = longest / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

impl Default for RetryPolicy {
    /// Five retries within half an hour, and about a minute of pauses: a server that restarts is back by then, and a job
    /// of CI is not held up for nothing.
    fn default() -> Self {
        Self {
            max_retries: 5,
            max_time: Duration::from_secs(30 * 60),
            first_pause: Duration::from_secs(2),
            max_pause: Duration::from_secs(60),
        }
    }
}

/// What trying again needs of the world.
pub trait Surroundings: Send + Sync {
    /// Tells the time since a fixed moment. It never goes back.
    fn elapsed(&self) -> Duration;
    /// Sleeps.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Returns a random number, all equally likely.
    fn random(&self) -> u32;
}

/// The failure of a try.
pub trait Failure {
    /// Tells whether another try may succeed.
    fn is_temporary(&self) -> bool;
    /// Says in a few words what happened.
    fn reason(&self) -> String;
}

impl Failure for PushError {
    fn is_temporary(&self) -> bool {
        self.is_temporary()
    }

    fn reason(&self) -> String {
        self.to_string()
    }
}

/// The last try failed, and there is no other one.
#[derive(Debug)]
pub struct GaveUp<E> {
    /// Why it failed.
    pub error: E,
    /// How many tries there were.
    pub attempts: u32,
    /// Whether the server was asked to publish and its answer never came: the refs may have moved.
    pub may_be_published: bool,
}

/// One try of a push.
pub struct Attempt {
    tally: Arc<Tally>,
    reporter: Arc<dyn Reporter>,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl Attempt {
    /// The only try of a push.
    pub fn only(reporter: Arc<dyn Reporter>) -> Self {
        Self { tally: Arc::default(), reporter }
    }

    /// Pushes the source's commits to the server behind `client`, as [`push`](crate::push()) does.
    pub async fn push(
        &self,
        client: &Client,
        source: Arc<Source>,
        options: &PushOptions,
    ) -> Result<Outcome, PushError> {
        let retried = self.tally.totals().heads.clone();
        let reporter = Counting { tally: Arc::clone(&self.tally), reporter: Arc::clone(&self.reporter) };
        let result = push_once(client, source, options, Arc::new(reporter), retried.as_deref()).await;
        // What the server says about a publication ends it. Only silence leaves it open.
        if matches!(result, Ok(_) | Err(PushError::Client(ClientError::Api(_)))) {
            self.tally.totals().is_asked = false;
        }
        result
    }

    /// Returns who hears of this try.
    pub fn reporter(&self) -> &Arc<dyn Reporter> {
        &self.reporter
    }

    /// Tells whether the server has answered in this try.
    pub fn is_opened(&self) -> bool {
        self.tally.totals().is_opened
    }
}

/// Tries a push until it succeeds, cannot succeed, or `policy` has enough of it.
///
/// `attempt` connects anew and calls [`Attempt::push`]. The outcome is that of all tries together.
pub async fn persist<E: Failure>(
    policy: &RetryPolicy,
    surroundings: &dyn Surroundings,
    reporter: Arc<dyn Reporter>,
    mut attempt: impl AsyncFnMut(&Attempt) -> Result<Outcome, E>,
) -> Result<Outcome, GaveUp<E>> {
    let this = Attempt { tally: Arc::default(), reporter };
    let mut first_failure = None;
    let mut attempts = 1;
    loop {
        let error = match attempt(&this).await {
            Ok(outcome) => return Ok(this.tally.totals().outcome(outcome, attempts)),
            Err(error) => error,
        };
        let now = surroundings.elapsed();
        let lasting = now.saturating_sub(*first_failure.get_or_insert(now));
        let pause = policy.pause(attempts, surroundings.random());
        let is_enough = attempts > policy.max_retries || lasting + pause > policy.max_time;
        if is_enough || !error.is_temporary() {
            let may_be_published = this.tally.totals().may_be_published();
            return Err(GaveUp { error, attempts, may_be_published });
        }
        attempts += 1;
        let (reason, attempts, max_attempts) = (&*error.reason(), attempts, policy.max_retries.saturating_add(1));
        this.reporter.event(Event::Retrying { reason, pause, attempts, max_attempts });
        surroundings.sleep(pause).await;
        this.tally.totals().begin_again();
    }
}

/// What all tries of a push have done.
#[derive(Debug, Default)]
struct Tally(Mutex<Totals>);

#[derive(Debug, Default)]
struct Totals {
    /// The heads that the first try was told, in the order of the source.
    heads: Option<Vec<RetriedOffer>>,
    /// What the first try found of earlier pushes. What later ones find is this push's own.
    resumed: Resumed,
    notes: Vec<String>,
    /// Objects that were looked at, in the try that came farthest.
    compared_objects: u64,
    /// What has left for the server, each once, however often it was sent, and whether it went in parts the last time.
    sent: HashMap<ObjectName, bool>,
    /// The bytes of it, each time.
    sent_bytes: u64,
    /// The bytes of what is new on the server, as far as it has told.
    stored_bytes: u64,
    /// Whether the server has answered in this try.
    is_opened: bool,
    /// Whether this try has asked the server to publish.
    is_asked: bool,
    /// Whether an earlier one has, and did not hear how that ended.
    was_asked: bool,
}

impl Tally {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn begin_again(&mut self) {
        self.was_asked |= self.is_asked;
        self.is_asked = false;
        self.is_opened = false;
    }

    const fn may_be_published(&self) -> bool {
        self.is_asked || self.was_asked
    }

    fn hear(&mut self, event: &Event<'_>) {
        match event {
            Event::Opened(answer) => {
                self.is_opened = true;
                if self.heads.is_none() {
                    let head = |head: Option<CommitId>| RetriedOffer { head };
                    self.heads = Some(answer.refs.iter().map(|state| head(state.head)).collect());
                    self.resumed = answer.resumed;
                }
                // Of streams that broke off, it is told what has come of them only here. What was published is not told here.
                let own_bytes = answer.resumed.bytes.saturating_sub(self.resumed.bytes);
                self.stored_bytes = self.stored_bytes.max(own_bytes);
                for note in &answer.notes {
                    self.note(note);
                }
            }
            Event::Compared { objects } => self.compared_objects = self.compared_objects.max(*objects),
            Event::Sending { sent_bytes, .. } => self.sent_bytes += sent_bytes,
            Event::Sent { object, in_parts } => drop(self.sent.insert(*object, *in_parts)),
            Event::Arrived { stored_bytes } => self.stored_bytes += stored_bytes,
            Event::Departed => self.is_asked = true,
            _ => {}
        }
    }

    fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Makes the outcome of the last try that of all.
    fn outcome(&mut self, mut last: Outcome, attempts: u32) -> Outcome {
        last.attempts = attempts;
        if attempts == 1 {
            return last;
        }
        for note in std::mem::take(&mut last.notes) {
            self.note(&note);
        }
        if self.was_asked && last.is_found {
            self.note(
                "The connection broke during the publication, whose end was not heard of: the refs are as the server has \
                 told them since",
            );
        }
        let compared_objects = self.compared_objects.max(last.compared_objects);
        // What an earlier try has sent, the server had not. Detached metadata is never compared.
        let missing_objects = self.sent.keys().filter(|object| object.kind != ObjectKind::CommitMeta).count() as u64;
        Outcome {
            compared_objects,
            already_there_objects: compared_objects.saturating_sub(missing_objects),
            sent_objects: self.sent.len() as u64,
            sent_bytes: self.sent_bytes,
            stored_bytes: self.stored_bytes,
            sent_in_parts: self.sent.values().filter(|&&in_parts| in_parts).count() as u64,
            resumed: self.resumed,
            notes: std::mem::take(&mut self.notes),
            ..last
        }
    }
}

/// Adds up what a try reports, and passes it on.
struct Counting {
    tally: Arc<Tally>,
    reporter: Arc<dyn Reporter>,
}

impl Reporter for Counting {
    fn event(&self, event: Event<'_>) {
        self.tally.totals().hear(&event);
        self.reporter.event(event);
    }
}

#[cfg(test)]
mod tests {
    use treegraft_object::Checksum;

    use super::*;

    #[test]
    fn each_object_counts_once_as_it_was_sent_the_last_time() {
        let mut totals = Totals::default();
        let mut send = |number: u8, kind, in_parts| {
            let object = ObjectName { checksum: Checksum::from_bytes([number; Checksum::BYTES]), kind };
            totals.hear(&Event::Sent { object, in_parts });
        };
        send(1, ObjectKind::File, true);
        send(2, ObjectKind::File, true);
        send(3, ObjectKind::CommitMeta, false);
        send(2, ObjectKind::File, false);
        send(4, ObjectKind::File, true);
        send(3, ObjectKind::CommitMeta, false);
        totals.hear(&Event::Compared { objects: 10 });
        let last = Outcome {
            refs: Vec::new(),
            compared_objects: 10,
            already_there_objects: 9,
            sent_objects: 2,
            sent_bytes: 0,
            stored_bytes: 0,
            sent_in_parts: 1,
            resumed: Resumed::default(),
            notes: Vec::new(),
            planned: Vec::new(),
            attempts: 1,
            is_found: false,
        };
        let outcome = totals.outcome(last, 2);
        assert_eq!((outcome.sent_objects, outcome.sent_in_parts), (4, 2), "one went as a whole in the end");
        assert_eq!(outcome.already_there_objects, 7, "of those that were compared, three were sent");
    }
}
