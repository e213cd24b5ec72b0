//! Requests that come before what they depend on: each of them saves a round trip.

mod support;

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use support::{
    Place, Reply, Wire,
    objects::{Pushed, framed_object},
    open_request,
};
use treegraft_repo::{LockKind, RepoLock};
use treegraft_server::config::Settings;
use treegraft_wire::{ErrorCode, OpenAnswer};

/// Long enough for an answer that could be given: a test waits so long for one that must not come.
const MOMENT: Duration = Duration::from_millis(300);

async fn publish_after(wire: &Wire, push: &str, streams: u64) -> Reply {
    wire.post(&format!("pushes/{push}/publish"), json!({ "streams": streams }).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_may_come_right_behind_the_opening() {
    let place = Place::new();
    let pushed = Pushed::new("main", "one");
    for number in ["1", "2"] {
        let wire = place.connect().await;
        if number == "2" {
            wire.opened(&open_request(&[&pushed.offer])).await;
        }
        let request = open_request(&[&pushed.offer]);
        let names = [pushed.objects[0].0];
        let (opened, answer) = tokio::join!(biased; wire.open(&request), wire.missing(number, &names));
        assert_eq!(opened.json::<OpenAnswer>().push.0, number, "pushes are numbered");
        assert_eq!(answer.body, "-", "the question is answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_waits_as_long_as_its_opening_does() {
    let place = Place::with_refs().await;
    let repo = place.repo();
    let pushed = Pushed::new("main", "three");
    let wire = place.connect().await;
    let request = open_request(&[&pushed.offer]);
    let names = [pushed.objects[0].0];
    let prune = RepoLock::acquire(&repo, LockKind::Exclusive, &mut |_| ()).expect("nobody has it");
    let asking = async { tokio::join!(biased; wire.open(&request), wire.missing("1", &names)) };
    tokio::pin!(asking);
    tokio::time::timeout(MOMENT, &mut asking).await.expect_err("the repository is locked");
    drop(prune);
    let (opened, answer) = asking.await;
    assert_eq!((opened.status, answer.body), (201, Bytes::from_static(b"-")), "then both are answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_a_push_that_is_refused_is_answered() {
    let place = Place::new();
    let wire = place.connect().await;
    let nothing = open_request(&[]);
    let (opened, answer) = tokio::join!(biased; wire.open(&nothing), wire.missing("1", &[]));
    assert_eq!(opened.code(), ErrorCode::BadRequest, "a push needs a ref");
    assert_eq!(answer.code(), ErrorCode::UnknownPush, "and there is none");
    assert_eq!(wire.missing("2", &[]).await.code(), ErrorCode::UnknownPush, "nobody has asked for that one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_waits_for_the_streams_that_it_counts() {
    let place = Place::with_refs().await;
    let pushed = Pushed::new("fresh", "three");
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let (first, rest) = pushed.objects.split_first().expect("there are some");
    assert_eq!(wire.objects(&push, rest).await.status, 200, "sound objects are taken");
    let (sender, answer) = wire.begin_objects(&push);
    let publishing = publish_after(&wire, &push, 2);
    tokio::pin!(publishing);
    tokio::time::timeout(MOMENT, &mut publishing).await.expect_err("a stream is open");
    assert_eq!(place.head("fresh"), None, "nothing is published");
    sender.send(framed_object(first.0, &first.1).into()).await.expect("the stream goes on");
    drop(sender);
    publishing.await.published().expect("then it is published");
    assert_eq!(answer.await.expect("no panic").expect("there is an answer").status, 200, "and the stream is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_does_not_wait_for_what_broke() {
    let place = Place::with_refs().await;
    let pushed = Pushed::new("fresh", "three");
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let publishing = publish_after(&wire, &push, 2);
    let broken = async {
        assert_eq!(wire.objects(&push, &pushed.objects).await.status, 200, "sound objects are taken");
        wire.post(&format!("pushes/{push}/objects"), &b"no object"[..]).await
    };
    let (reply, broken) = tokio::join!(publishing, broken);
    assert_eq!(broken.code(), ErrorCode::BadRequest, "the second stream is none");
    assert_eq!(reply.code(), ErrorCode::Incomplete, "so there are no two");
    assert_eq!(place.head("fresh"), None, "nothing is published");
    wire.publish(&push).await.published().expect("who has not counted on it can publish");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_does_not_wait_for_streams_that_are_not_taken() {
    let place = Place::new();
    let wire = place.connect().await;
    let mut request = open_request(&[&Pushed::new("main", "one").offer]);
    request["purpose"] = json!("dry-run");
    let push = wire.opened(&request).await.push.0;
    assert_eq!(publish_after(&wire, &push, 1).await.code(), ErrorCode::BadRequest, "nothing comes in a dry run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_waits_no_longer_than_the_push_may_be_open() {
    let place = Place::new();
    let wire = Wire::connect(place.receiver(Settings { max_push_secs: 1, ..Settings::default() })).await;
    let push = wire.opened(&open_request(&[&Pushed::new("main", "one").offer])).await.push.0;
    assert_eq!(publish_after(&wire, &push, u64::MAX).await.code(), ErrorCode::Expired, "no stream comes");
    assert!(place.gets_unlocked(), "and the push is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_waits_holds_nothing_when_its_client_leaves() {
    let place = Place::new();
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&Pushed::new("main", "one").offer])).await.push.0;
    tokio::time::timeout(MOMENT, publish_after(&wire, &push, 1)).await.expect_err("no stream comes");
    wire.close().await;
    assert!(place.gets_unlocked(), "the push is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_says_nonsense_is_refused() {
    let place = Place::new();
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&Pushed::new("main", "one").offer])).await.push.0;
    let path = format!("pushes/{push}/publish");
    assert_eq!(wire.post(&path, "{\"streams\":-1}").await.code(), ErrorCode::BadRequest, "a number counts streams");
    assert_eq!(wire.post(&path, vec![b' '; 5000]).await.code(), ErrorCode::TooLarge, "it is one number");
    assert_eq!(wire.publish(&push).await.published().expect_err("it is open").code, ErrorCode::Incomplete);
}
