//! Clients that never come to an end, and requests that are larger than anything: each is stopped, with its code.

mod support;

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{Method, body::Frame};
use serde_json::{Value, json};
use support::{
    Body, Place, Reply, Wire,
    objects::{Pushed, framed_object},
    open_request,
};
use treegraft_object::{Checksum, ObjectKind, ObjectName};
use treegraft_server::config::Settings;
use treegraft_wire::ErrorCode;

/// How long something may take that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a piece of an endless body has.
const PIECE_BYTES: usize = 64 << 10;

/// Makes a body that begins with `start` and goes on with `piece` for ever.
fn endless(start: Vec<u8>, piece: Vec<u8>) -> Body {
    let (start, piece) = (Bytes::from(start), Bytes::from(piece));
    let frames = stream::unfold(Some(start), move |start| {
        let piece = piece.clone();
        async move { Some((Ok::<_, io::Error>(Frame::data(start.unwrap_or(piece))), None)) }
    });
    BodyExt::boxed(StreamBody::new(Box::pin(frames)))
}

async fn answer(wire: &Wire, path: &str, body: Body) -> Reply {
    let sent = tokio::time::timeout(PATIENCE, wire.send(Method::POST, path, body)).await;
    sent.expect("an endless request is answered before its end").expect("the connection holds")
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_requests_come_to_an_end() {
    let place = Place::new();
    let settings = || Settings {
        max_object_bytes: 4 << 20,
        max_metadata_bytes: 4 << 20,
        max_push_bytes: 32 << 20,
        max_push_objects: 2_000,
        ..Settings::default()
    };
    let wire = Wire::connect(place.receiver(settings())).await;
    let pushed = Pushed::new("main", "x");

    let [spaces, brackets, letters] = [b' ', b'[', b'a'].map(|byte| vec![byte; PIECE_BYTES]);
    for (what, start, piece) in [
        ("a document of spaces", "", &spaces[..]),
        ("a document of brackets", "", &brackets),
        ("a list of refs", "{\"client\":\"x\",\"refs\":[", pushed_refs().as_bytes()),
        ("a name", "{\"client\":\"", &letters),
    ] {
        let reply = answer(&wire, "pushes", endless(start.into(), piece.into())).await;
        assert_eq!(reply.code(), ErrorCode::TooLarge, "{what} without an end");
    }

    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let question = treegraft_wire::question::encode(&[ObjectName::new(ObjectKind::File, Checksum::of(b"x"))]);
    let reply = answer(&wire, &format!("pushes/{push}/missing"), endless(Vec::new(), question.repeat(2_000))).await;
    assert_eq!(reply.code(), ErrorCode::TooLarge, "a question without an end");

    let objects = format!("pushes/{push}/objects");
    let begin = |kind: ObjectKind| [&[kind.number(), 0][..], Checksum::of(b"x").as_bytes()].concat();
    let chunk = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("a chunk is short").to_be_bytes(), bytes].concat();
    let random: Vec<u8> = (0..PIECE_BYTES).map(|n| u8::try_from(n * 7919 % 251).expect("it fits")).collect();
    for kind in [ObjectKind::Commit, ObjectKind::DirTree, ObjectKind::DirMeta] {
        let reply = answer(&wire, &objects, endless(begin(kind), chunk(&random))).await;
        assert_eq!(reply.code(), ErrorCode::TooLarge, "an object of the kind {kind:?} without an end");
    }
    let (_, filez) = &pushed.objects[0];
    let start = [begin(ObjectKind::File), chunk(&filez[..filez.len() - 1])].concat();
    let reply = answer(&wire, &objects, endless(start, chunk(&random))).await;
    let code = reply.code();
    assert!([ErrorCode::TooLarge, ErrorCode::InvalidObject].contains(&code), "a file without an end: {code:?}");

    // Sound objects, each of which is there already.
    let (name, data) = &pushed.objects[0];
    let reply = answer(&wire, &objects, endless(Vec::new(), framed_object(*name, data).repeat(50))).await;
    let error = reply.error();
    assert_eq!(error.code, ErrorCode::TooLarge, "the same object without an end: {error:?}");
    assert!(error.hint.unwrap_or_default().contains("max-push-objects"), "the limit is named");
    wire.close().await;
    assert!(place.gets_unlocked(), "nothing goes on after it");
}

fn pushed_refs() -> String {
    let offer = Pushed::new("main", "x").offer.to_string();
    format!("{offer},").repeat(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refs_are_refused_before_anything_is_done_for_them() {
    let place = Place::new();
    let wire = place.connect().await;
    let offer = Pushed::new("main", "x").offer;
    let named = |number: usize| {
        let mut offer = offer.clone();
        offer["name"] = json!(format!("ref/{number}"));
        offer
    };
    let many: Vec<Value> = (0..20_000).map(named).collect();
    let error = wire.open(&open_request(&many.iter().collect::<Vec<_>>())).await.error();
    assert_eq!(error.code, ErrorCode::TooLarge, "more than `max-refs`: {error:?}");
    // A million do not even fit into a document.
    let body = serde_json::to_vec(&many[0]).expect("it is JSON");
    let million = [&body[..], b","].concat().repeat(1_000);
    let million = endless(b"{\"client\":\"x\",\"refs\":[".to_vec(), million);
    assert_eq!(answer(&wire, "pushes", million).await.code(), ErrorCode::TooLarge, "a million refs");
    let deep = format!("{{\"client\":\"x\",\"refs\":{}", "[".repeat(100_000));
    assert_eq!(wire.post("pushes", deep).await.code(), ErrorCode::BadRequest, "lists in lists");
    assert_eq!(place.refs_of("repo").len(), 0, "nothing was published");
    wire.close().await;
    assert!(place.gets_unlocked(), "nothing goes on after it");
}

/// A push keeps the repository from being pruned, but not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_does_not_end_is_given_up() {
    let place = Place::new();
    let wire = Wire::connect(place.receiver(Settings { max_push_secs: 1, ..Settings::default() })).await;
    let pushed = Pushed::new("main", "x");
    let idle = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let busy = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let (sender, reply) = wire.begin_objects(&busy);
    let (name, data) = &pushed.objects[0];
    sender.send(framed_object(*name, data).into()).await.expect("the stream is open");
    let stalled = StreamBody::new(stream::pending::<Result<Frame<Bytes>, io::Error>>());
    let path = format!("pushes/{idle}/missing");
    let stalled = wire.send(Method::POST, &path, BodyExt::boxed(stalled));
    let question = tokio::time::timeout(PATIENCE, stalled).await.expect("it is ended").expect("the connection holds");
    assert_eq!(question.code(), ErrorCode::Expired, "a question that does not end is ended");

    let unlocked = async {
        while !place.is_unlocked() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unlocked).await.expect("the locks are free although the client is there");
    let reply = reply.await.expect("the request does not panic").expect("the connection holds");
    assert_eq!(reply.code(), ErrorCode::Expired, "a stream that goes on is ended");
    assert!(reply.error().code.is_temporary(), "the next try goes on from here");
    for push in [&idle, &busy] {
        assert_eq!(wire.missing(push, &[*name]).await.code(), ErrorCode::Expired, "a question comes too late");
        assert_eq!(wire.objects(push, &pushed.objects).await.code(), ErrorCode::Expired, "objects come too late");
        assert_eq!(wire.publish(push).await.code(), ErrorCode::Expired, "so does the publication");
    }
    assert_eq!(wire.missing("3", &[*name]).await.code(), ErrorCode::UnknownPush, "what was never open is not known");
    assert_eq!(place.head("main"), None, "nothing is published");
    drop(sender);
    wire.close().await;
    let again = place.connect().await;
    let push = again.opened(&open_request(&[&pushed.offer])).await;
    assert!(push.resumed.objects > 0, "what had arrived is kept: {push:?}");
    again.objects(&push.push.0, &pushed.objects).await;
    again.publish(&push.push.0).await.published().expect("the next try is published");
}
