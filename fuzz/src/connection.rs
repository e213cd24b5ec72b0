//! Any bytes in the place of either side's HTTP/2.

use std::{
    io::Write as _,
    net::Shutdown,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    runtime::{self, Runtime},
};
use treegraft_push::{Client, PushOptions, PushRef, SilentReporter, Source, push};
use treegraft_server::{
    config::{FlatpakUpdate, Settings},
    relay_lane, serve_connection,
};
use treegraft_wire::{
    OpenRequest,
    lanes::{LANES, LaneSecret, may_be_lane},
};

use crate::{
    input::Input,
    place::{Asked, Template},
};

/// What is on the way between both sides.
const PIPE_BYTES: usize = 64 << 10;

/// How long the words are by which a client begins.
const PREFACE_BYTES: usize = 24;

/// What stands before the content of a frame, its length first.
const FRAME_HEAD_BYTES: usize = 9;

/// The kind of a frame by which a request or an answer begins.
const HEADERS: u8 = 1;

/// A moment is this often as long as a turn, in which everybody is asked this often.
const MOMENT_TURNS: usize = 8;

const MOMENT_TURN: Duration = Duration::from_micros(20);

/// Sends bytes to a server, and checks what they have left.
///
/// # Panics
///
/// When something is not as it has to be, which is what fuzzing looks for.
pub fn to_server(template: &mut Template, data: &[u8]) {
    let place = template.place();
    let receiver = place.receiver(Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() });
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::spawn(serve_connection(Arc::clone(&receiver), there));
        say(here, data.to_vec(), PREFACE_BYTES).await;
        // Bytes that are no HTTP/2 break the connection.
        let _ = server.await.expect("the server does not panic");
        receiver.finish().await;
    });
    drop(runtime);
    template.check(&place, &Asked::anything());
}

/// Refs of the push that has a lane, and the pool's commits that are offered to them: those of [`record`]'s push.
pub const LANE_REFS: [(&str, usize); 2] = [("new/ref", 0), ("main", 1)];

/// From here on the first byte says that the others come without the key.
const WITHOUT_KEY: u8 = 0xf0;

/// Sends bytes through a lane of an open push, and checks what they have left.
///
/// # Panics
///
/// When something is not as it has to be, which is what fuzzing looks for.
pub fn to_lane(template: &mut Template, data: &[u8]) {
    if let Ok(secret) = LaneSecret::of_line(data) {
        assert!(may_be_lane(data) && secret.line().as_bytes() == data, "a line is read as it is written");
    }
    let Some((&first, data)) = data.split_first() else { return };
    let place = template.place();
    let receiver = place.receiver(Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() });
    let request = lane_request(template);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::spawn(serve_connection(Arc::clone(&receiver), there));
        let client = Client::connect(here).await.expect("the server is there");
        let opened = client.open(&request, |_| ()).await.expect("a sound push is opened");
        let secret = opened.lane_secret.expect("there may be lanes");
        if first < WITHOUT_KEY {
            let (here, there) = tokio::io::duplex(PIPE_BYTES);
            let relaying = tokio::spawn(async move { relay_lane(&secret, there).await });
            say(here, data.to_vec(), PREFACE_BYTES).await;
            // It breaks where the receiver gives up first.
            let _ = relaying.await.expect("the relay does not panic");
        } else {
            say_as_stranger(&secret, data).await;
        }
        drop(client);
        // The lane is no matter of the first connection.
        server.await.expect("the server does not panic").expect("the client closes in order");
        receiver.finish().await;
    });
    drop(runtime);
    template.check(&place, &Asked::anything());
}

/// Makes the request that opens the push with a lane.
fn lane_request(template: &Template) -> OpenRequest {
    let pool = template.pool();
    let offers = LANE_REFS.map(|(name, number)| {
        let commit = &pool.commits[number];
        json!({
            "name": name,
            "commit": commit.id(),
            "root_tree": commit.root_tree,
            "root_meta": commit.root_meta,
            "timestamp_secs": commit.timestamp_secs,
        })
    });
    let request = json!({ "client": "fuzz", "features": [LANES], "refs": offers });
    serde_json::from_value(request).expect("it is a request")
}

/// Says bytes to the receiver of a push, in the place of the key.
async fn say_as_stranger(secret: &LaneSecret, data: &[u8]) {
    let address = SocketAddr::from_abstract_name(format!("treegraft-lane-{}", secret.address()));
    let stream = UnixStream::connect_addr(&address.expect("it is short")).expect("the receiver listens");
    // Whoever does not know the key is not listened to for long.
    let _ = (&stream).write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    wait_a_moment().await;
}

/// Answers a client's push with bytes.
pub fn to_client(template: &Template, data: &[u8]) {
    let runtime = idle_time_runtime();
    let source = Source::open(&template.path(), &[]).expect("the repository is sound");
    runtime.block_on(async {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let saying = tokio::spawn(say(there, data.to_vec(), 0));
        if let Ok(client) = Client::connect(here).await {
            let _ = push(&client, source, &PushOptions::default(), Arc::new(SilentReporter)).await;
        }
        saying.await.expect("it does not panic");
    });
}

/// Makes a runtime whose time passes when nothing else happens, not even on its blocking threads.
pub(crate) fn idle_time_runtime() -> Runtime {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().expect("a runtime can be made")
}

/// What both sides have said in a push that went well.
#[derive(Debug, Default)]
pub struct Recording {
    /// By the client.
    pub to_server: Vec<u8>,
    /// By the server.
    pub to_client: Vec<u8>,
}

/// Records a push of `refs` to a repository that has nothing.
///
/// # Panics
///
/// When the push fails.
pub fn record(template: &Template, refs: &[PushRef]) -> Recording {
    let place = template.empty_place();
    let receiver = place.receiver(Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() });
    let source = Source::open(&template.path(), refs).expect("the repository is sound");
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let (client_io, client_tap) = tokio::io::duplex(PIPE_BYTES);
        let (server_tap, server_io) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::spawn(serve_connection(Arc::clone(&receiver), server_io));
        let (from_client, into_client) = tokio::io::split(client_tap);
        let (from_server, into_server) = tokio::io::split(server_tap);
        let to_server = tokio::spawn(tap(from_client, into_server));
        let to_client = tokio::spawn(tap(from_server, into_client));
        let client = Client::connect(client_io).await.expect("the server is there");
        let options = PushOptions { streams: 1, ..PushOptions::default() };
        push(&client, source, &options, Arc::new(SilentReporter)).await.expect("a sound push is published");
        drop(client);
        server.await.expect("the server does not panic").expect("the client closes in order");
        receiver.finish().await;
        Recording {
            to_server: to_server.await.expect("it does not panic"),
            to_client: to_client.await.expect("it does not panic"),
        }
    })
}

/// Hands bytes on until they end, and returns all of them.
async fn tap(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) -> Vec<u8> {
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        seen.extend_from_slice(&chunk[..count]);
        if to.write_all(&chunk[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    seen
}

/// Lets all tasks and threads go on for some time, of which the runtime knows nothing.
async fn wait_a_moment() {
    for _ in 0..MOMENT_TURNS {
        std::thread::sleep(MOMENT_TURN);
        for _ in 0..MOMENT_TURNS {
            tokio::task::yield_now().await;
        }
    }
}

/// Says `data` and closes, while everything that comes back is read.
///
/// The other side gets some time before each frame of headers, as if the answer to what was said were waited for.
async fn say(io: DuplexStream, data: Vec<u8>, preface_bytes: usize) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        // Whoever is told nonsense closes.
        let _ = reader.read_to_end(&mut answer).await;
    });
    let mut input = Input::new(&data);
    let mut frame = input.take(preface_bytes).to_vec();
    loop {
        let head = input.take(FRAME_HEAD_BYTES);
        if let [length @ .., kind, _, _, _, _, _] = head {
            if *kind == HEADERS {
                wait_a_moment().await;
            }
            let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            frame.extend_from_slice(head);
            frame.extend_from_slice(input.take(length));
        }
        if frame.is_empty() || writer.write_all(&frame).await.is_err() {
            break;
        }
        frame.clear();
    }
    wait_a_moment().await;
    let _ = writer.shutdown().await;
    reading.await.expect("it does not panic");
}
