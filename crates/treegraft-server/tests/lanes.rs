//! Further connections of a push: who may come, and until when.

mod support;

use std::{io, sync::Arc};

use serde_json::{Value, json};
use support::{Place, Wire, objects::Pushed, open_request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};
use treegraft_server::relay_lane;
use treegraft_wire::lanes::{LANES, LaneSecret};

const PIPE_BYTES: usize = 64 << 10;

fn request(pushed: &Pushed) -> Value {
    let mut request = open_request(&[&pushed.offer]);
    request["features"] = json!([LANES]);
    request
}

/// Begins a lane. Returns the client's end, and how handing on ends.
fn lane(secret: &LaneSecret) -> (DuplexStream, JoinHandle<io::Result<()>>) {
    let (here, there) = tokio::io::duplex(PIPE_BYTES);
    let secret = secret.clone();
    (here, tokio::spawn(async move { relay_lane(&secret, there).await }))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_through_lanes_until_the_push_is_published() {
    let (place, pushed) = (Place::with_refs().await, Pushed::new("main", "three"));
    let wire = place.connect().await;
    let open = wire.opened(&request(&pushed)).await;
    assert!(open.features.iter().any(|feature| feature == LANES), "the server can do it: {open:?}");
    let secret = open.lane_secret.expect("the client is told the secret");
    let push = open.push.0;

    let mut ends = Vec::new();
    for object in pushed.objects.chunks(2) {
        let (here, relaying) = lane(&secret);
        let lane = Wire::over(Arc::clone(&wire.receiver), here).await;
        let reply = lane.objects(&push, object).await;
        assert_eq!(reply.status, 200, "a lane takes objects: {reply:?}");
        ends.push((lane, relaying));
    }
    assert!(ends.len() > 1, "there are several lanes");
    let reply = wire.publish(&push).await;
    reply.published().expect("what came through lanes is the push's");
    for (lane, relaying) in ends {
        relaying.await.expect("it does not panic").expect("lanes end with the push");
        drop(lane);
    }
    let (_here, relaying) = lane(&secret);
    let error = relaying.await.expect("it does not panic").expect_err("nobody listens after the push");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "the socket is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_needs_the_key() {
    let (place, pushed) = (Place::with_refs().await, Pushed::new("main", "three"));
    let wire = place.connect().await;
    let secret = wire.opened(&request(&pushed)).await.lane_secret.expect("the client is told the secret");
    let last = if secret.key().ends_with('0') { "1" } else { "0" };
    let digits = format!("{}{}{last}", secret.address(), &secret.key()[..31]);
    let (mut here, relaying) = lane(&LaneSecret::new(digits).expect("it looks like a secret"));
    // It may be over before anything can be written.
    let _ = here.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    relaying.await.expect("it does not panic").ok();
    let mut answer = Vec::new();
    let _ = here.read_to_end(&mut answer).await;
    assert_eq!(answer, b"", "nobody answers who does not know the key");
    assert!(place.staged().is_empty(), "nothing was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_end_with_the_first_connection() {
    let (place, pushed) = (Place::with_refs().await, Pushed::new("main", "three"));
    let wire = place.connect().await;
    let open = wire.opened(&request(&pushed)).await;
    let secret = open.lane_secret.expect("the client is told the secret");
    let (here, relaying) = lane(&secret);
    let further = Wire::over(Arc::clone(&wire.receiver), here).await;
    assert_eq!(further.missing(&open.push.0, &[pushed.id.into()]).await.status, 200, "the lane is there");
    wire.close().await;
    relaying.await.expect("it does not panic").expect("lanes end with the connection");
    assert!(place.gets_unlocked(), "and hold no lock");
    drop(further);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_ask_for_lanes_gets_none() {
    let (place, pushed) = (Place::with_refs().await, Pushed::new("main", "three"));
    let wire = place.connect().await;
    let mut plain = request(&pushed);
    plain["features"] = json!([]);
    let open = wire.opened(&plain).await;
    assert!(open.lane_secret.is_none() && open.features.is_empty(), "nothing is offered: {open:?}");
    let mut asking = request(&pushed);
    asking["purpose"] = json!("dry-run");
    let open = wire.opened(&asking).await;
    assert!(open.lane_secret.is_none(), "a dry run sends nothing: {open:?}");
}
