//! Clients that go away, come twice, or want too much at a time.

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{
    Place, Wire,
    objects::{Object, Pushed, framed_object},
    open_request,
};
use tokio::runtime::Handle;
use treegraft_object::{
    CommitId, ObjectName,
    gvariant::{Dict, Variant},
};
use treegraft_repo::{Find, LockKind, PublishLock, RepoLock};
use treegraft_server::{config::Settings, serve_connection};
use treegraft_testkit::Ostree;
use treegraft_wire::{ErrorCode, ObjectsAnswer, OpenAnswer};

/// Reads the objects of a commit as a stream.
fn stream(objects: &[Object]) -> Vec<u8> {
    objects.iter().flat_map(|(name, data)| framed_object(*name, data)).collect()
}

/// Returns the head of `main`, and a commit on top of it that is published as it is.
fn child_of_main(place: &Place) -> (CommitId, Pushed) {
    let head = place.head("main").expect("it was pushed");
    let tree = Pushed::new("main", "three");
    (head, Pushed::of_root("main", tree.commit.root_tree, tree.objects, Some(head)).exact())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_holds_no_lock_and_loses_nothing() {
    let pushed = Pushed::new("main", "three");
    let request = open_request(&[&pushed.offer]);
    for phase in ["open", "asked", "in an object", "between objects", "all sent"] {
        let place = Place::with_refs().await;
        let before = place.snapshot();
        // The receiver stays, as it does in a program that serves several connections.
        let receiver = place.receiver(Settings::default());
        let wire = Wire::connect(Arc::clone(&receiver)).await;
        let push = wire.opened(&request).await.push.0;
        assert!(!place.is_unlocked(), "a push that is open has its locks");
        // The dirmeta is in the repository already.
        let staged = match phase {
            "asked" => {
                wire.missing(&push, &[pushed.id.into()]).await;
                0
            }
            "in an object" | "between objects" => {
                let whole = stream(&pushed.objects[..3]);
                let cut = if phase == "in an object" { whole.len() - 5 } else { whole.len() };
                let (sender, answer) = wire.begin_objects(&push);
                sender.send(Bytes::copy_from_slice(&whole[..cut])).await.expect("it is taken");
                let complete = if phase == "in an object" { 2 } else { 3 };
                while place.staged().len() < complete {
                    tokio::task::yield_now().await;
                }
                answer.abort();
                complete
            }
            "all sent" => {
                wire.objects(&push, &pushed.objects).await;
                pushed.objects.len()
            }
            _ => 0,
        };
        wire.close().await;
        assert!(place.gets_unlocked(), "{phase}: the locks are free although the receiver is still there");
        assert_eq!(place.snapshot(), before, "{phase}: nothing is visible");

        let wire = place.connect().await;
        let opened = wire.opened(&request).await;
        assert_eq!(opened.resumed.objects, staged as u64, "{phase}: what had arrived is found");
        drop(receiver);
    }
}

/// After a power loss of the client, or behind a firewall that forgets, no word comes of the connection's end.
#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_loses_its_locks() {
    let place = Place::with_refs().await;
    let (here, mut near) = tokio::io::duplex(1 << 20);
    let (mut far, there) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(serve_connection(place.receiver(Settings::default()), there));
    let (mut requests, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(here)).await.expect("HTTP/2 begins");
    tokio::spawn(connection);
    let body = open_request(&[&Pushed::new("main", "three").offer]).to_string();
    let request = Request::post("http://treegraft/api/v1/pushes").body(Full::new(Bytes::from(body))).expect("valid");
    let mut link = std::pin::pin!(tokio::io::copy_bidirectional(&mut near, &mut far));
    let response = tokio::select! {
        response = requests.send_request(request) => response.expect("there is an answer"),
        _ = &mut link => panic!("the link holds"),
    };
    assert_eq!(response.status(), 201, "the push is open");
    assert!(!place.is_unlocked(), "and has its locks");
    // From here on nothing gets through the link, but neither of its ends is closed. The clock of the test goes on by itself.
    let result = tokio::time::timeout(Duration::from_secs(3600), server).await.expect("an hour is too long to wait");
    result.expect("no panic").expect_err("the connection is given up");
    assert!(place.gets_unlocked(), "nobody waits for a client that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_belongs_to_its_connection() {
    let place = Place::with_refs().await;
    let receiver = place.receiver(Settings::default());
    let (one, two) = (Wire::connect(Arc::clone(&receiver)).await, Wire::connect(receiver).await);
    let push = one.opened(&open_request(&[&Pushed::new("main", "three").offer])).await.push.0;
    assert_eq!(two.publish(&push).await.code(), ErrorCode::UnknownPush, "another connection does not know it");
    one.close().await;
    assert_eq!(two.publish(&push).await.code(), ErrorCode::UnknownPush, "nor when the first one is gone");
}

/// Once its turn has come, its events are lost, but the refs are moved as a whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_outlives_its_client() {
    let place = Place::with_refs().await;
    let (_, child) = child_of_main(&place);
    // It cannot end before the client is gone: the hook waits for that.
    let gone = place.path("gone");
    let hook = ["/bin/sh", "-c", r#"until [ -e "$0" ]; do sleep 0.01; done"#, gone.to_str().expect("UTF-8")];
    let settings = Settings { pre_publish_hook: hook.map(str::to_owned).to_vec(), ..Settings::default() };
    let wire = Wire::connect(place.receiver(settings)).await;
    let push = wire.opened(&open_request(&[&child.offer])).await.push.0;
    wire.objects(&push, &child.objects).await;
    wire.publish_until(&push, r#""phase":"hook""#).await;
    let receiver = Arc::clone(&wire.receiver);
    wire.disconnect().await;
    std::fs::write(&gone, "").expect("it can be written");
    receiver.finish().await;
    assert_eq!(place.head("main"), Some(child.id), "the ref has moved");
    assert!(place.gets_unlocked(), "and no lock is left");
    assert_eq!(place.staged(), Vec::<String>::new(), "nor anything staged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_waits_is_taken_back_with_its_client() {
    let place = Place::with_refs().await;
    let (head, child) = child_of_main(&place);
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&child.offer])).await.push.0;
    wire.objects(&push, &child.objects).await;
    let repo = place.repo();
    let lock = PublishLock::acquire(&repo, &mut |_| ()).expect("nobody else has it");
    wire.publish_until(&push, r#""event":"waiting""#).await;
    let receiver = Arc::clone(&wire.receiver);
    wire.disconnect().await;
    receiver.finish().await;
    drop(lock);
    assert_eq!(place.head("main"), Some(head), "the ref has not moved");
    assert!(place.gets_unlocked(), "no lock is left");
    let resumed = place.connect().await.opened(&open_request(&[&child.offer])).await.resumed;
    assert_eq!(resumed.objects, child.objects.len() as u64, "what had arrived is found by the next try");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_published_once() {
    let place = Place::with_refs().await;
    let pushed = Pushed::new("main", "three");
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    wire.objects(&push, &pushed.objects).await;
    let (one, two) = tokio::join!(wire.publish(&push), wire.publish(&push));
    let mut results = [one, two].map(|reply| reply.published().map_err(|error| error.code));
    results.sort_by_key(Result::is_err);
    assert!(results[0].is_ok(), "one of both publishes: {results:?}");
    assert_eq!(results[1], Err(ErrorCode::UnknownPush), "the other one comes too late");
    for path in ["missing", "objects", "publish"] {
        let reply = wire.post(&format!("pushes/{push}/{path}"), Vec::new()).await;
        assert_eq!(reply.code(), ErrorCode::UnknownPush, "a push that is published is over: {path}");
    }
}

/// A client whose answers get lost asks again; what it asked for is done once.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_may_come_twice() {
    let Some(ostree) = Ostree::find() else { return };
    let place = Place::with_refs().await;
    let before = place.head("main");
    let pushed = Pushed::new("main", "three");
    let names: Vec<_> = pushed.objects.iter().map(|(name, _)| *name).collect();
    let wire = place.connect().await;
    let request = open_request(&[&pushed.offer]);
    let (first, second) = (wire.opened(&request).await.push.0, wire.opened(&request).await.push.0);
    assert_ne!(first, second, "each has a staging area of its own");
    for push in [&first, &second] {
        let (one, two) = tokio::join!(wire.missing(push, &names), wire.missing(push, &names));
        assert_eq!((one.status, &one.body), (200, &two.body), "a question has one answer");
        let (one, two) = tokio::join!(wire.objects(push, &pushed.objects), wire.objects(push, &pushed.objects));
        let [one, two]: [ObjectsAnswer; 2] = [one.json(), two.json()];
        assert_eq!(one.objects + two.objects, names.len() as u64, "each object is new once: {one:?}, {two:?}");
        assert_eq!(one.already_there + two.already_there, names.len() as u64, "and was there once");
        let third: ObjectsAnswer = wire.objects(push, &pushed.objects).await.json();
        assert_eq!((third.objects, third.already_there), (0, names.len() as u64), "so it is later on");
    }
    wire.publish(&first).await.published().expect("the first one is published");
    let head = place.head("main").expect("the ref is there");
    assert_eq!(
        place.repo().commit(head).expect("it is there").parent,
        before,
        "the new commit is on top of the old one"
    );
    assert_eq!(wire.publish(&first).await.published().expect_err("it is over").code, ErrorCode::UnknownPush);
    let published = wire.publish(&second).await.published().expect("there is nothing to do");
    assert_eq!(published.refs[0].new, head, "the same push makes no second commit");
    assert_eq!(place.head("main"), Some(head), "the ref has moved once");
    wire.close().await;

    // Both at once on two connections, as two runs of one job are.
    let pushed = Pushed::new("main", "four");
    let (one, two) = (place.connect().await, place.connect().await);
    let (first, second) = tokio::join!(one.push(&pushed), two.push(&pushed));
    let heads = [first, second].map(|result| result.expect("both are told that it is published").refs[0].new);
    assert_eq!(heads[0], heads[1], "it is one commit");
    assert_eq!(place.repo().commit(heads[0]).expect("it is there").parent, Some(head), "on top of the one before");
    one.close().await;
    two.close().await;
    ostree.fsck(&place.path("repo"));
    assert_eq!(place.staged(), Vec::<String>::new(), "nothing is left");
}

/// Detached metadata has no checksum: coming late, it would replace what the server has signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_not_published_while_objects_are_on_their_way() {
    let place = Place::with_refs().await;
    let pushed = Pushed::new("fresh", "three").exact();
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    wire.objects(&push, &pushed.objects).await;
    let (sender, answer) = wire.begin_objects(&push);
    sender.send(Bytes::new()).await.expect("it is taken");
    wait_for_stream(&wire, &push).await;

    let reply = wire.publish(&push).await;
    assert_eq!(reply.code(), ErrorCode::BadRequest, "a stream is open: {reply:?}");
    let mut late = Dict::new();
    late.set("late", Variant::bool(true));
    let stream = framed_object(ObjectName::commit_meta(pushed.id), &late.encode());
    sender.send(Bytes::from(stream)).await.expect("the stream goes on");
    drop(sender);
    let reply = answer.await.expect("no panic").expect("there is an answer");
    assert_eq!(reply.status, 200, "the stream was not hurt: {reply:?}");
    wire.publish(&push).await.published().expect("then it is published");
    assert_eq!(place.head("fresh"), Some(pushed.id), "with everything that came");
}

/// Waits until a stream that was begun counts: until publishing is refused, or another stream.
async fn wait_for_stream(wire: &Wire, push: &str) {
    // A question that is sent later is answered later only if the stream's head was read before: HTTP/2 keeps the order of
    // frames, and handlers begin in that order.
    for _ in 0..3 {
        wire.missing(push, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_bounded_number_of_everything() {
    let place = Place::with_refs().await;
    let wire = place.connect().await;
    let request = open_request(&[&Pushed::new("main", "three").offer]);
    let mut pushes = Vec::new();
    let refusal = loop {
        let reply = wire.open(&request).await;
        if reply.status != 201 {
            break reply.error();
        }
        pushes.push(reply.json::<OpenAnswer>().push.0);
        assert!(pushes.len() <= 100, "the number of pushes must end somewhere");
    };
    assert_eq!((refusal.code, pushes.len()), (ErrorCode::TooLarge, 4), "four pushes are enough: {refusal:?}");
    let areas = std::fs::read_dir(place.path("repo/.treegraft/staging")).expect("it is there").count();
    assert_eq!(areas, 4, "a refused push has no staging area");

    let streams: Vec<_> = (0..8).map(|index| wire.begin_objects(&pushes[index % 4])).collect();
    wait_for_stream(&wire, &pushes[0]).await;
    let reply = wire.objects(&pushes[0], &[]).await;
    assert_eq!(reply.code(), ErrorCode::TooLarge, "eight streams are enough: {reply:?}");
    for (sender, answer) in streams {
        drop(sender);
        let reply = answer.await.expect("no panic").expect("there is an answer");
        assert_eq!(reply.status, 200, "the other streams go on: {reply:?}");
    }
    assert_eq!(wire.objects(&pushes[0], &[]).await.status, 200, "then there is room again");

    wire.publish(&pushes[3]).await.published().expect_err("nothing was sent");
    while wire.open(&request).await.status != 201 {
        // The look at the heads that the push had begun may take a moment longer.
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_nothing_to_publish_holds_no_lock() {
    let place = Place::new();
    let wire = place.connect().await;
    wire.push(&Pushed::new("main", "one")).await.expect("a sound push");
    let opened = wire.opened(&open_request(&[&Pushed::new("main", "one").offer])).await;
    assert_eq!(opened.refs[0].verdict, treegraft_wire::Verdict::Unchanged, "the same tree is there");
    assert!(place.gets_unlocked(), "nobody has to wait for a push that does nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_during_a_publication_is_told() {
    fn broken_clock() -> u64 {
        panic!("this clock is broken");
    }
    let place = Place::with_refs().await;
    let pushed = Pushed::new("main", "three");
    let wire = Wire::connect(place.receiver_with_clock(Settings::default(), broken_clock)).await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    wire.objects(&push, &pushed.objects).await;
    let reply = wire.publish(&push).await;
    let error = reply.published().expect_err("the clock is needed for the summary");
    assert_eq!(error.code, ErrorCode::Internal, "a mistake of the server is told as such: {error:?}");
    wire.close().await;
    assert!(place.gets_unlocked(), "a panic leaves no lock");

    // The refs had moved; the next push writes the summary.
    let opened = place.connect().await.opened(&open_request(&[&pushed.offer])).await;
    assert_eq!(opened.refs[0].verdict, treegraft_wire::Verdict::Unchanged, "it is published");
    assert_eq!(opened.notes.len(), 1, "and the interrupted publish is told of: {:?}", opened.notes);
}

/// What updates the repository after a publish may prune it, for which it needs the repository for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_does_not_keep_the_repository_from_being_pruned() {
    let Some(_ostree) = Ostree::find() else { return };
    let place = Place::with_refs().await;
    std::fs::write(place.path("repo/config"), "[core]\nrepo_version=1\nmode=archive-z2\nlock-timeout-secs=1\n")
        .expect("the configuration can be written");
    let broken = Settings { update_command: vec!["false".to_owned()], ..Settings::default() };
    let pushed = Pushed::new("main", "three");
    let error = Wire::connect(place.receiver(broken)).await.push(&pushed).await.expect_err("the command fails");
    assert_eq!(error.code, ErrorCode::SummaryStale, "{error:?}");

    let update_command = ["ostree", "prune", "--refs-only", "--repo"].map(str::to_owned).to_vec();
    let settings = Settings { update_command, ..Settings::default() };
    let wire = Wire::connect(place.receiver(settings)).await;
    let opened = wire.opened(&open_request(&[&Pushed::new("main", "four").offer])).await;
    assert_eq!(opened.notes.len(), 1, "the interrupted publish was finished: {:?}", opened.notes);
    assert!(RepoLock::acquire(&place.repo(), LockKind::Exclusive, &mut |_| ()).is_err(), "the new push has its lock");
}

/// The same for a push that was open already, and finds the interrupted publish when its turn has come.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_in_a_push_does_not_keep_the_repository_from_being_pruned() {
    let Some(_ostree) = Ostree::find() else { return };
    let place = Place::with_refs().await;
    std::fs::write(place.path("repo/config"), "[core]\nrepo_version=1\nmode=archive-z2\nlock-timeout-secs=1\n")
        .expect("the configuration can be written");
    let update_command = ["ostree", "prune", "--refs-only", "--repo"].map(str::to_owned).to_vec();
    let wire = Wire::connect(place.receiver(Settings { update_command, ..Settings::default() })).await;
    let pushed = Pushed::new("other", "four");
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    assert_eq!(wire.objects(&push, &pushed.objects).await.status, 200, "sound objects are taken");

    let broken = Settings { update_command: vec!["false".to_owned()], ..Settings::default() };
    let interrupted = Pushed::new("main", "three");
    let error = Wire::connect(place.receiver(broken)).await.push(&interrupted).await.expect_err("the command fails");
    assert_eq!(error.code, ErrorCode::SummaryStale, "{error:?}");

    let published = wire.publish(&push).await.published().expect("nobody has the repository's lock any more");
    assert_eq!(published.notes.len(), 1, "the interrupted publish is told of: {published:?}");
}

/// What keeps the summary from being written may be what the next push replaces.
#[tokio::test(flavor = "multi_thread")]
async fn a_summary_that_cannot_be_written_keeps_nobody_from_mending_it() {
    let place = Place::with_refs().await;
    let broken = Settings { update_command: vec!["false".to_owned()], ..Settings::default() };
    let wire = Wire::connect(place.receiver(broken)).await;
    let pushed = Pushed::new("main", "three");
    let error = wire.push(&pushed).await.expect_err("the command fails");
    assert_eq!(error.code, ErrorCode::SummaryStale, "{error:?}");
    let error = wire.open(&open_request(&[&pushed.offer])).await.error();
    assert_eq!(error.code, ErrorCode::SummaryStale, "who has nothing else to publish hears of it: {error:?}");
    let mending = Pushed::new("main", "four");
    let opened = wire.opened(&open_request(&[&mending.offer])).await;
    assert_eq!(opened.notes.len(), 1, "who has is told: {:?}", opened.notes);
    wire.close().await;

    place.connect().await.push(&mending).await.expect("the summary can be written again");
    assert!(!place.path("repo/.treegraft/journal").exists(), "that serves both");
}

/// A connection may last as long as its client likes, and a push may be open for a day.
#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_are_over_leave_no_tasks() {
    const PUSHES: usize = 100;
    let place = Place::with_refs().await;
    let wire = place.connect().await;
    let request = open_request(&[&Pushed::new("main", "three").offer]);
    let before = Handle::current().metrics().num_alive_tasks();
    for _ in 0..PUSHES {
        let push = wire.opened(&request).await.push.0;
        let error = wire.publish(&push).await.published().expect_err("nothing was sent");
        assert_eq!(error.code, ErrorCode::Incomplete, "{error:?}");
    }
    let after = Handle::current().metrics().num_alive_tasks();
    // The last ones may be about to end.
    assert!(after < before + PUSHES / 2, "tasks do not grow with the pushes that were: {before}, then {after}");
    wire.close().await;
}
