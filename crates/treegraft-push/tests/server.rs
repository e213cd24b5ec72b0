//! Servers that lie, refuse or break off: what the pusher is told, and what is sent to them.

mod support;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use support::{Called, Reply, Worker, answer, connect, opened_with, published, push_to, push_with};
use tokio::sync::Notify;
use treegraft_object::CommitId;
use treegraft_push::{ClientError, Event, PushError, PushOptions, Reporter, SilentReporter, push};
use treegraft_wire::{ErrorCode, GraftMode};

fn is_invalid_answer(error: &PushError) -> bool {
    matches!(error, PushError::Client(ClientError::Answer { .. })) && !error.is_temporary()
}

fn code(error: &PushError) -> Option<ErrorCode> {
    match error {
        PushError::Client(ClientError::Api(error)) => Some(error.code),
        _ => None,
    }
}

/// What a server does to which request.
type Lie = (&'static str, &'static str, fn(&Called) -> Reply);

const LIES: [Lie; 12] = [
    ("an opening about no refs", "pushes", |_| answer(201, opened_with(&json!([])))),
    ("an opening about another ref", "pushes", |_| {
        answer(201, opened_with(&json!([{ "name": "other", "verdict": "publish" }])))
    }),
    ("an opening that is no JSON", "pushes", |_| answer(201, "welcome")),
    ("an answer too short", "missing", |_| answer(200, "")),
    ("an answer too long", "missing", |called| answer(200, vec![b'-'; called.body.len() / 33 + 1])),
    ("an answer of unknown bytes", "missing", |called| answer(200, vec![b'?'; called.body.len() / 33])),
    ("a failure without a reason", "missing", |_| answer(500, "oops")),
    ("a stream's answer that is none", "objects", |_| answer(200, "{}]")),
    ("a publication that is no JSON", "publish", |_| answer(200, "done\n")),
    ("a line without end", "publish", |_| answer(200, vec![b' '; 17 << 20])),
    ("a publication of no refs", "publish", |_| answer(200, "{\"event\":\"done\",\"published\":{\"refs\":[]}}\n")),
    ("a publication of another ref", "publish", |_| {
        let new = "0".repeat(64);
        let line = json!({ "event": "done", "published": { "refs": [{ "name": "other", "new": new }] } });
        answer(200, format!("{line}\n"))
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_is_told_as_such() {
    for (lie, request, reply) in LIES {
        let worker = Worker::new();
        worker.commit("main", &[b"content"], None);
        let error = push_to(&worker, &PushOptions::default(), move |called| async move {
            Ok(called.path.ends_with(request).then(|| reply(&called)))
        })
        .await
        .expect_err(lie);
        assert!(is_invalid_answer(&error), "{lie} is no broken connection and no panic: {error:?}");
    }
}

/// Pushes that wait for their first question, however long the walk takes.
fn patient() -> PushOptions {
    PushOptions { patience: Duration::from_secs(600), ..PushOptions::default() }
}

/// Each answer that was waited for would cost a round trip.
#[tokio::test(flavor = "multi_thread")]
async fn what_need_not_be_waited_for_is_not() {
    let worker = Worker::new();
    worker.commit("main", &[b"content"], None);
    let (asked, publishing) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let options = PushOptions { streams: 1, ..patient() };
    let outcome = push_to(&worker, &options, move |called| {
        let (asked, publishing) = (Arc::clone(&asked), Arc::clone(&publishing));
        async move {
            match called.path.as_str() {
                "pushes" => asked.notified().await,
                "pushes/1/missing" => asked.notify_one(),
                "pushes/1/objects" => publishing.notified().await,
                "pushes/1/publish" => {
                    assert_eq!(called.body, "{\"streams\":1}", "it is said what the publication needs");
                    publishing.notify_one();
                }
                _ => {}
            }
            Ok(None)
        }
    })
    .await
    .expect("the push goes through");
    assert_eq!(outcome.sent_objects, 4, "a commit, a tree, a dirmeta and a file");
}

/// A server takes a bounded number of questions at a time, however many files there are.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_questions_are_asked_at_a_time_than_a_server_takes() {
    let worker = Worker::new();
    let files: Vec<Vec<u8>> = (0..400_u16).map(|index| index.to_be_bytes().to_vec()).collect();
    worker.commit("main", &files.iter().map(Vec::as_slice).collect::<Vec<_>>(), None);
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = Arc::clone(&most);
    let outcome = push_to(&worker, &PushOptions::default(), move |called| {
        let (open, most) = (Arc::clone(&open), Arc::clone(&highest));
        async move {
            if called.path == "pushes" {
                let mut opened = opened_with(&json!([{ "name": "main", "verdict": "publish" }]));
                opened["limits"]["question_names"] = 4.into();
                return Ok(Some(answer(201, opened)));
            }
            if called.path.ends_with("missing") {
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                open.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(None)
        }
    })
    .await
    .expect("the push goes through");
    assert_eq!(outcome.compared_objects, 403, "every object was asked for");
    let most = most.load(Ordering::SeqCst);
    assert!((2..=17).contains(&most), "several at a time, and not all of them: {most}");
}

/// The names in a question.
fn names(question: &Called) -> Vec<Vec<u8>> {
    question.body.chunks(33).map(<[u8]>::to_vec).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_for_several_refs_is_asked_for_and_sent_once() {
    let worker = Worker::new();
    worker.sign(worker.commit("main", &[b"content"], None));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let client = connect(move |called: Called| {
        if called.path.ends_with("missing") {
            log.lock().expect("no panic").extend(names(&called));
        }
        async move { Ok(called.path.ends_with("publish").then(|| published(["one", "two"]))) }
    })
    .await;
    let source = worker.source_of(&["main:one", "main:two"]);
    let outcome = push(&client, source, &PushOptions::default(), Arc::new(SilentReporter)).await;
    let outcome = outcome.expect("the push goes through");
    let asked = asked.lock().expect("no panic").clone();
    let different: HashSet<_> = asked.iter().collect();
    assert_eq!((asked.len(), different.len()), (4, 4), "a commit, a tree, a dirmeta and a file, each once");
    assert_eq!(outcome.compared_objects, 4, "each was counted once");
    assert_eq!(outcome.sent_objects, 5, "and sent once, the detached metadata as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refs_are_asked_for_in_questions_that_the_server_takes() {
    const REFS: usize = 10;
    const MOST_NAMES: usize = 4;
    let worker = Worker::new();
    let refs: Vec<String> = (0..REFS).map(|index| format!("ref{index}")).collect();
    let refs: Vec<&str> = refs.iter().map(String::as_str).collect();
    for name in &refs {
        worker.commit(name, &[name.as_bytes()], None);
    }
    let too_long = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&too_long);
    let targets: Vec<String> = refs.iter().map(|&name| name.to_owned()).collect();
    let client = connect(move |called: Called| {
        let reply = match called.path.as_str() {
            "pushes" => {
                let state = |name: &String| json!({ "name": name, "verdict": "publish" });
                let mut opened = opened_with(&targets.iter().map(state).collect());
                opened["limits"]["question_names"] = MOST_NAMES.into();
                Some(answer(201, opened))
            }
            "pushes/1/publish" => Some(published(&targets)),
            _ => None,
        };
        if called.path.ends_with("missing") && names(&called).len() > MOST_NAMES {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        async move { Ok(reply) }
    })
    .await;
    let outcome = push(&client, worker.source_of(&refs), &PushOptions::default(), Arc::new(SilentReporter)).await;
    let outcome = outcome.expect("the push goes through");
    assert_eq!(outcome.compared_objects, 3 * REFS as u64 + 1, "every object was asked for");
    let too_long = too_long.load(Ordering::SeqCst);
    assert!(too_long <= 1, "only the first question may be asked before the limit is known: {too_long}");
}

/// A server may not know the push before it is open, or give it another name.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_was_too_early_is_asked_again() {
    for name in ["1", "another"] {
        let worker = Worker::new();
        worker.commit("main", &[b"content"], None);
        let early = Arc::new(AtomicUsize::new(0));
        let outcome = push_to(&worker, &patient(), move |called| {
            let early = Arc::clone(&early);
            async move {
                if called.path == "pushes" && name != "1" {
                    let mut opened = opened_with(&json!([{ "name": "main", "verdict": "publish" }]));
                    opened["push"] = name.into();
                    return Ok(Some(answer(201, opened)));
                }
                let is_first = called.path == "pushes/1/missing" && early.fetch_add(1, Ordering::Relaxed) == 0;
                Ok(is_first.then(|| answer(404, json!({ "code": "unknown-push", "detail": "there is none" }))))
            }
        })
        .await
        .expect("the push goes through");
        assert_eq!(outcome.compared_objects, 4, "every object was asked for once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_breaks_off_is_not_taken_for_a_success() {
    let worker = Worker::new();
    worker.commit("main", &[b"content"], None);
    let error = push_to(&worker, &PushOptions::default(), |called| async move {
        let phase = "{\"event\":\"phase\",\"phase\":\"publish\"}\n";
        Ok(called.path.ends_with("publish").then(|| answer(200, phase)))
    })
    .await
    .expect_err("nobody said that it was published");
    assert!(matches!(error, PushError::Client(ClientError::Connection(_))), "{error:?}");
    assert!(error.is_temporary(), "pushing again shows what became of it");
}

/// Makes a commit that fills the windows, so that its streams are still being filled when they are answered.
fn commit_large_files(worker: &Worker) {
    let file = |index: u8| vec![index; 3 << 20];
    let files: Vec<Vec<u8>> = (0..6).map(file).collect();
    worker.commit("main", &files.iter().map(Vec::as_slice).collect::<Vec<_>>(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_a_stream_is_no_panic() {
    let worker = Worker::new();
    commit_large_files(&worker);
    let error = push_to(&worker, &PushOptions::default(), |called| async move {
        let early = json!({ "objects": 0, "bytes": 0, "already_there": 0 });
        Ok(called.path.ends_with("objects").then(|| answer(200, early)))
    })
    .await
    .expect_err("the server cannot have everything");
    assert!(is_invalid_answer(&error), "it is the server that is wrong: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_rather_than_the_streams_that_broke_with_it() {
    let worker = Worker::new();
    commit_large_files(&worker);
    let (streams, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let error = push_to(&worker, &PushOptions::default(), move |called| {
        let (streams, broken) = (Arc::clone(&streams), Arc::clone(&broken));
        async move {
            if !called.path.ends_with("objects") {
                return Ok(None);
            }
            if streams.fetch_add(1, Ordering::SeqCst) > 0 {
                broken.notify_one();
                return Err("this stream breaks".into());
            }
            broken.notified().await;
            // The broken stream is to be seen first; a client that gives up at once never hears the rest.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(Some(answer(422, json!({ "code": "invalid-object", "detail": "It is not valid", "rule": "mode" }))))
        }
    })
    .await
    .expect_err("the server refuses an object");
    assert_eq!(code(&error), Some(ErrorCode::InvalidObject), "what the server said wins: {error:?}");
}

/// Pushes `main` exactly to a server with a head. Returns what came of it, and the requests.
async fn push_exactly(worker: &Worker, force: bool, head: CommitId) -> (Result<(), PushError>, Vec<Called>) {
    let options = PushOptions { mode: GraftMode::Exact, force, ..PushOptions::default() };
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let result = push_to(worker, &options, move |called| {
        log.lock().expect("no panic").push(called.clone());
        async move { Ok(called.opened_with_head(head)) }
    })
    .await;
    let asked = asked.lock().expect("no panic").clone();
    (result.map(drop), asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_without_the_head_is_refused_before_anything_is_sent() {
    let worker = Worker::new();
    let first = worker.commit("main", &[b"one"], None);
    let second = worker.commit("main", &[b"two"], Some(first));
    let elsewhere: CommitId = "ab".repeat(32).parse().expect("a checksum");
    let asks_for = |requests: &[Called], id: CommitId| {
        let questions = requests.iter().filter(|called| called.path.ends_with("missing"));
        let is_it = |name: &[u8]| name[0] == 4 && name[1..] == id.0.as_bytes()[..];
        questions.flat_map(|called| called.body.chunks(33)).any(is_it)
    };

    let (result, requests) = push_exactly(&worker, false, elsewhere).await;
    let error = result.expect_err("the head is not an ancestor");
    assert_eq!(code(&error), Some(ErrorCode::NotFastForward), "the same code as from the server: {error:?}");
    let is_early = |called: &Called| ["pushes", "pushes/1/missing"].contains(&called.path.as_str());
    assert!(requests.iter().all(is_early), "nothing was sent after the push was opened: {requests:?}");

    let (result, requests) = push_exactly(&worker, false, first).await;
    result.expect("the head is the parent");
    assert!(asks_for(&requests, second) && !asks_for(&requests, first), "the head and what is before it stays here");

    let (result, requests) = push_exactly(&worker, true, elsewhere).await;
    result.expect("the server may allow it");
    assert!(asks_for(&requests, second) && !asks_for(&requests, first), "a history that is dropped is not sent");

    worker.remove(first.into());
    let (result, requests) = push_exactly(&worker, false, elsewhere).await;
    result.expect("a history that is cut off proves nothing");
    assert!(asks_for(&requests, second), "the server may know the rest of it");
}

/// Adds up what is reported.
#[derive(Default)]
struct Sum {
    found_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Reporter for Sum {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Found { bytes, .. } => self.found_bytes.fetch_add(bytes, Ordering::SeqCst),
            Event::Sending { bytes, .. } => self.sent_bytes.fetch_add(bytes, Ordering::SeqCst),
            _ => 0,
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_counts_the_bytes_of_objects() {
    let worker = Worker::new();
    worker.commit("main", &[b"one", b"two", b"three"], None);
    let sum = Arc::new(Sum::default());
    let reporter = Arc::clone(&sum) as Arc<dyn Reporter>;
    let options = PushOptions::default();
    let outcome = push_with(&worker, &options, reporter, |_| async { Ok(None) }).await.expect("an honest server");
    let (found, sent) = (sum.found_bytes.load(Ordering::SeqCst), sum.sent_bytes.load(Ordering::SeqCst));
    assert_eq!(sent, found, "what is sent adds up to what was found to be missing");
    assert_eq!(outcome.sent_bytes, found, "and to what is told in the end");
}
