//! Which failures are tried again, when, and what all tries together have done. No real time passes.

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use support::{Called, Reply, STORED_BYTES, Worker, answer, connect, opened_with};
use tokio::sync::Notify;
use treegraft_push::{
    Attempt, Event, Outcome, PushError, PushOptions, Reporter, RetryPolicy, SilentReporter,
    retry::{Failure, GaveUp, Surroundings, persist},
};

/// A clock that stands still but for sleeping and for what a test adds.
struct Fake {
    now: Mutex<Duration>,
    slept: Mutex<Vec<Duration>>,
    random: u32,
}

impl Fake {
    fn new(random: u32) -> Self {
        Self { now: Mutex::default(), slept: Mutex::default(), random }
    }

    fn pass(&self, time: Duration) {
        *self.now.lock().expect("no panic") += time;
    }

    fn slept(&self) -> Vec<Duration> {
        self.slept.lock().expect("no panic").clone()
    }
}

impl Surroundings for Fake {
    fn elapsed(&self) -> Duration {
        *self.now.lock().expect("no panic")
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.slept.lock().expect("no panic").push(time);
        self.pass(time);
        Box::pin(std::future::ready(()))
    }

    fn random(&self) -> u32 {
        self.random
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    is_temporary: bool,
}

impl Failure for Wrong {
    fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    fn reason(&self) -> String {
        "it is wrong".to_owned()
    }
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        max_retries: 5,
        max_time: Duration::from_secs(1000),
        first_pause: Duration::from_secs(2),
        max_pause: Duration::from_secs(20),
    }
}

/// Fails with the failures in turn, the last one again and again; `took` is how long each try takes.
async fn fail_with(
    policy: &RetryPolicy,
    fake: &Fake,
    failures: &[bool],
    took: Duration,
    reporter: Arc<dyn Reporter>,
) -> GaveUp<Wrong> {
    let mut failures = failures.iter();
    let mut is_temporary = true;
    persist(policy, fake, reporter, async |_: &Attempt| {
        fake.pass(took);
        is_temporary = *failures.next().unwrap_or(&is_temporary);
        Err::<Outcome, _>(Wrong { is_temporary })
    })
    .await
    .expect_err("every try fails")
}

async fn fail(policy: &RetryPolicy, fake: &Fake, failures: &[bool], took: Duration) -> GaveUp<Wrong> {
    fail_with(policy, fake, failures, took, Arc::new(SilentReporter)).await
}

fn secs(pauses: &[u64]) -> Vec<Duration> {
    pauses.iter().copied().map(Duration::from_secs).collect()
}

#[tokio::test]
async fn pauses_double_up_to_the_longest_and_keep_at_least_a_half() {
    let longest = Fake::new(u32::MAX);
    let gave_up = fail(&policy(), &longest, &[true], Duration::ZERO).await;
    assert_eq!(longest.slept(), secs(&[2, 4, 8, 16, 20]), "each is twice the one before, up to the longest");
    assert_eq!(gave_up.attempts, 6, "five retries are six tries");
    let shortest = Fake::new(0);
    fail(&policy(), &shortest, &[true], Duration::ZERO).await;
    assert_eq!(shortest.slept(), secs(&[1, 2, 4, 8, 10]), "chance takes away a half at most");
    let many = RetryPolicy { max_retries: 100, ..policy() };
    let patient = Fake::new(u32::MAX);
    assert_eq!(fail(&many, &patient, &[true], Duration::ZERO).await.attempts, 53, "no power of two overflows");
}

#[tokio::test]
async fn a_refusal_ends_it_at_any_try() {
    let fake = Fake::new(0);
    let gave_up = fail(&policy(), &fake, &[false], Duration::ZERO).await;
    assert_eq!((gave_up.attempts, fake.slept().len()), (1, 0), "the first one is the last");
    let fake = Fake::new(0);
    let gave_up = fail(&policy(), &fake, &[true, true, false], Duration::ZERO).await;
    assert_eq!((gave_up.attempts, fake.slept().len()), (3, 2), "a later one, too");
    assert_eq!(gave_up.error, Wrong { is_temporary: false }, "and it is the one that is told");
}

#[tokio::test]
async fn no_retries_means_one_try() {
    for policy in [RetryPolicy::NEVER, RetryPolicy { max_retries: 0, ..policy() }] {
        let fake = Fake::new(0);
        assert_eq!(fail(&policy, &fake, &[true], Duration::ZERO).await.attempts, 1, "{policy:?}");
        assert_eq!(fake.slept(), [], "nothing is waited for");
    }
}

#[tokio::test]
async fn the_time_since_the_first_failure_is_limited() {
    let policy = RetryPolicy { max_time: Duration::from_secs(100), ..policy() };
    let fake = Fake::new(u32::MAX);
    let gave_up = fail(&policy, &fake, &[true], Duration::from_secs(60)).await;
    // The first failure is at 60 s, so the last moment is 160 s; the tries end at 60, 122 and 186 s.
    assert_eq!(gave_up.attempts, 3, "the third one begins in time, the fourth would not");
    assert_eq!(fake.slept(), secs(&[2, 4]), "a pause that leads nowhere is not made");
    let fake = Fake::new(u32::MAX);
    let gave_up = fail(&policy, &fake, &[true], Duration::from_secs(100_000)).await;
    assert_eq!(gave_up.attempts, 2, "how long the first try took does not count: it may have come far");
}

/// Notes what is told about retries.
#[derive(Default)]
struct Told(Mutex<Vec<(String, Duration, u32, u32)>>);

impl Reporter for Told {
    fn event(&self, event: Event<'_>) {
        if let Event::Retrying { reason, pause, attempts, max_attempts } = event {
            self.0.lock().expect("no panic").push((reason.to_owned(), pause, attempts, max_attempts));
        }
    }
}

#[tokio::test]
async fn every_retry_is_told_before_it_is_waited_for() {
    let told = Arc::new(Told::default());
    let fake = Fake::new(u32::MAX);
    let policy = RetryPolicy { max_retries: 2, ..policy() };
    fail_with(&policy, &fake, &[true], Duration::ZERO, Arc::clone(&told) as Arc<dyn Reporter>).await;
    let row = |pause, attempt| ("it is wrong".to_owned(), Duration::from_secs(pause), attempt, 3);
    assert_eq!(
        *told.0.lock().expect("no panic"),
        [row(2, 2), row(4, 3)],
        "the reason, the pause, which try of how many"
    );
}

type Answers = fn(u32, &Called) -> Result<Option<Reply>, &'static str>;

/// Pushes `main`; `answers` is asked what the server does in which try, and an error breaks the connection.
async fn push_in_tries(worker: &Worker, answers: Answers) -> (Result<Outcome, GaveUp<PushError>>, Vec<(u32, Called)>) {
    let source = Arc::new(worker.source());
    let fake = Fake::new(0);
    let called = Arc::new(Mutex::new(Vec::new()));
    let mut number = 0;
    let result = persist(&policy(), &fake, Arc::new(SilentReporter), async |attempt: &Attempt| {
        number += 1;
        let (this, called) = (number, Arc::clone(&called));
        let client = connect(move |request: Called| {
            called.lock().expect("no panic").push((this, request.clone()));
            let reply = answers(this, &request).map_err(Into::into);
            async move { reply }
        })
        .await;
        let options = PushOptions { streams: 1, ..PushOptions::default() };
        attempt.push(&client, Arc::clone(&source), &options).await
    })
    .await;
    let called = std::mem::take(&mut *called.lock().expect("no panic"));
    (result, called)
}

fn opened(head: Option<&str>, extra: &Value) -> Reply {
    let mut state = json!({ "name": "main", "head": head, "verdict": "publish" });
    for (key, value) in extra.as_object().expect("an object") {
        state[key] = value.clone();
    }
    answer(201, opened_with(&json!([state])))
}

fn retry_of(requests: &[(u32, Called)], number: u32) -> Value {
    let request = requests.iter().find(|(this, called)| *this == number && called.path == "pushes");
    let body: Value = serde_json::from_slice(&request.expect("each try opens").1.body).expect("JSON");
    body["refs"][0]["retry"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_made_good_by_the_next_opening() {
    let worker = Worker::new();
    worker.commit("main", &[b"one", b"two"], None);
    let (result, requests) = push_in_tries(&worker, |number, called| match (number, called.path.as_str()) {
        (1, "pushes") => Ok(Some(opened(Some(&"1".repeat(64)), &json!({})))),
        (1, path) if path.ends_with("publish") => Err("the answer is lost"),
        (2, "pushes") => Err("the next connection breaks at once"),
        (3, "pushes") => {
            let published = json!({ "old": "1".repeat(64), "new": "2".repeat(64) });
            Ok(Some(opened(Some(&"3".repeat(64)), &json!({ "verdict": "unchanged", "published": published }))))
        }
        _ => Ok(None),
    })
    .await;
    let outcome = result.expect("the server says what was published");
    let change = &outcome.refs[0];
    assert_eq!(change.old.map(|id| id.to_string()), Some("1".repeat(64)), "the head before the first try");
    assert_eq!(change.new.to_string(), "2".repeat(64), "what was published, not the head of today");
    assert_eq!((outcome.attempts, outcome.sent_objects), (3, 5), "what the first try has sent counts");
    assert_eq!(outcome.notes.len(), 1, "the pusher reads how it came to that: {:?}", outcome.notes);
    assert_eq!(retry_of(&requests, 1), Value::Null, "the first try is none of another");
    for number in [2, 3] {
        assert_eq!(retry_of(&requests, number), json!({ "head": "1".repeat(64) }), "later ones say what it was told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_try_that_was_not_answered_leaves_nothing_to_tell() {
    let worker = Worker::new();
    worker.commit("main", &[b"one"], None);
    let (result, requests) = push_in_tries(&worker, |number, called| match (number, called.path.as_str()) {
        (1 | 2, "pushes") => Err("no connection"),
        _ => Ok(None),
    })
    .await;
    let outcome = result.expect("the third one goes through");
    assert_eq!((outcome.attempts, outcome.sent_objects), (3, 4), "two failed, one sent everything");
    assert_eq!(retry_of(&requests, 3), Value::Null, "no head is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_twice_is_one_object() {
    let worker = Worker::new();
    worker.commit("main", &[b"one", b"two"], None);
    let (result, _) = push_in_tries(&worker, |number, called| {
        if number < 3 && called.path.ends_with("publish") { Err("it breaks when all is sent") } else { Ok(None) }
    })
    .await;
    let outcome = result.expect("the third one goes through");
    assert_eq!((outcome.sent_objects, outcome.compared_objects), (5, 5), "as many as there are");
    assert!(outcome.notes.is_empty(), "the last try has published itself: {:?}", outcome.notes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_earlier_tries_have_stored_counts() {
    let worker = Worker::new();
    worker.commit("main", &[b"one", b"two"], None);
    let (result, _) = push_in_tries(&worker, |number, called| match (number, called.path.as_str()) {
        (_, "pushes") => {
            let mut opened = opened_with(&json!([{ "name": "main", "verdict": "publish" }]));
            // Of an earlier push; then what the first try has sent; then what else the second one has, in streams that
            // broke off.
            let bytes = [7, 7 + STORED_BYTES, 7 + 5 * STORED_BYTES][number as usize - 1];
            opened["resumed"] = json!({ "objects": 1, "bytes": bytes });
            Ok(Some(answer(201, opened)))
        }
        (1, path) if path.ends_with("publish") => Err("it breaks when all is sent"),
        (2, path) if path.ends_with("objects") => Err("it breaks meanwhile"),
        _ => Ok(None),
    })
    .await;
    let outcome = result.expect("the third one goes through");
    assert_eq!(outcome.stored_bytes, 6 * STORED_BYTES, "what all tries have stored, each byte once");
    assert_eq!(outcome.resumed.bytes, 7, "and not what was there before them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_s_temporary_trouble_is_tried_again_and_its_refusal_is_not() {
    for (error, attempts) in [
        (json!({ "code": "locked", "detail": "busy" }), 6),
        (json!({ "code": "ref-moved", "detail": "moved" }), 6),
        (json!({ "code": "repository", "detail": "no memory", "temporary": true }), 6),
        (json!({ "code": "repository", "detail": "no disk" }), 1),
        (json!({ "code": "not-allowed", "detail": "no" }), 1),
        (json!({ "code": "no-space", "detail": "full" }), 1),
        (json!({ "code": "of-tomorrow", "detail": "unknown" }), 1),
    ] {
        let worker = Worker::new();
        worker.commit("main", &[b"one"], None);
        let line = format!("{}\n", json!({ "event": "failed", "error": error }));
        let fake = Fake::new(0);
        let source = Arc::new(worker.source());
        let gave_up = persist(&policy(), &fake, Arc::new(SilentReporter), async |attempt: &Attempt| {
            let line = line.clone();
            let client = connect(move |called: Called| {
                let reply = called.path.ends_with("publish").then(|| answer(200, line.clone()));
                async move { Ok(reply) }
            })
            .await;
            attempt.push(&client, Arc::clone(&source), &PushOptions::default()).await
        })
        .await
        .expect_err("it never goes through");
        assert_eq!(gave_up.attempts, attempts, "{error}");
        assert!(!gave_up.may_be_published, "the server has said that nothing was published: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_nobody_knows_the_end_of_is_told_as_such() {
    let worker = Worker::new();
    worker.commit("main", &[b"one"], None);
    let (result, _) = push_in_tries(&worker, |number, called| match (number, called.path.as_str()) {
        (1, path) if path.ends_with("publish") => Err("the answer is lost"),
        (2.., "pushes") => Ok(Some(answer(403, json!({ "code": "not-allowed", "detail": "no more" })))),
        _ => Ok(None),
    })
    .await;
    let gave_up = result.expect_err("the second one is refused");
    assert_eq!((gave_up.attempts, gave_up.may_be_published), (2, true), "the first one may have published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_before_all_is_known_to_have_come_may_have_published() {
    let worker = Worker::new();
    worker.commit("main", &[b"one"], None);
    let source = Arc::new(worker.source());
    let options = PushOptions { streams: 1, ..PushOptions::default() };
    let mut number = 0;
    let gave_up = persist(&policy(), &Fake::new(0), Arc::new(SilentReporter), async |attempt: &Attempt| {
        number += 1;
        let (is_first, publishing) = (number == 1, Arc::new(Notify::new()));
        let client = connect(move |called: Called| {
            let publishing = Arc::clone(&publishing);
            async move {
                match called.path.as_str() {
                    "pushes" if !is_first => {
                        Ok(Some(answer(403, json!({ "code": "not-allowed", "detail": "no more" }))))
                    }
                    "pushes/1/objects" => {
                        publishing.notified().await;
                        Err("it breaks".into())
                    }
                    "pushes/1/publish" => {
                        publishing.notify_one();
                        std::future::pending().await
                    }
                    _ => Ok(None),
                }
            }
        })
        .await;
        attempt.push(&client, Arc::clone(&source), &options).await
    })
    .await
    .expect_err("the second one is refused");
    let expected = (2, true);
    assert_eq!((gave_up.attempts, gave_up.may_be_published), expected, "the server was asked, and may have everything");
}
