//! What a hostile connection costs. This file has one test, since it looks at the memory of its process.

mod support;

use std::{fs, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::{Method, body::Frame};
use support::{Body, Place, objects::Pushed, open_request};
use treegraft_object::{Checksum, ObjectKind};
use treegraft_wire::ErrorCode;

/// How long something may take that happens soon on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the documentation of the protocol says that a connection costs, with the client's own buffers in the same process.
const MAX_MEMORY_KIB: u64 = 700 << 10;

fn endless(start: Vec<u8>, piece: Vec<u8>) -> Body {
    let (start, piece) = (Bytes::from(start), Bytes::from(piece));
    let frames = stream::unfold(Some(start), move |start| {
        let piece = piece.clone();
        async move { Some((Ok::<_, io::Error>(Frame::data(start.unwrap_or(piece))), None)) }
    });
    BodyExt::boxed(StreamBody::new(Box::pin(frames)))
}

/// Returns the most memory that the process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has the peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("it is a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_requests_at_the_same_time_cost_a_bounded_amount_of_memory() {
    let place = Place::new();
    let wire = Arc::new(place.connect().await);
    let pushed = Pushed::new("main", "x");
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let large_chunk = [&(1_u32 << 20).to_be_bytes()[..], &vec![7; 1 << 20]].concat();
    let object = |kind: ObjectKind| [&[kind.number(), 0][..], Checksum::of(b"x").as_bytes()].concat();
    let offers = format!("{},", pushed.offer).repeat(100);
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.push(("pushes".to_owned(), endless(b"{\"client\":\"x\",\"refs\":[".to_vec(), offers.clone().into())));
    }
    for _ in 0..24 {
        requests.push((format!("pushes/{push}/missing"), endless(Vec::new(), vec![1; 33 * 1000])));
    }
    for _ in 0..8 {
        requests.push((format!("pushes/{push}/objects"), endless(object(ObjectKind::DirTree), large_chunk.clone())));
    }
    let sent = requests.into_iter().map(|(path, body)| {
        let wire = Arc::clone(&wire);
        async move { (path.clone(), wire.send(Method::POST, &path, body).await.expect("the connection holds")) }
    });
    for (path, reply) in tokio::time::timeout(PATIENCE, join_all(sent)).await.expect("all are answered") {
        assert_eq!(reply.code(), ErrorCode::TooLarge, "`{path}` has no end");
    }
    let peak = peak_kib();
    assert!(peak < MAX_MEMORY_KIB, "the process had {peak} KiB at most, {MAX_MEMORY_KIB} KiB are said to be enough");
}
