//! Connections that are cut, stall, deliver a wrong bit, or the same frame twice.
//!
//! Client and receiver speak through a relay that sees what HTTP/2 sends, which ssh would hide from one outside of it. What
//! ssh and sshd make of a broken line is in `faults.rs`.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
    time::timeout,
};
use treegraft_push::{Client, Outcome, PushError, PushOptions, SilentReporter, Source, push};
use treegraft_server::{Receiver, config::ServerConfig, serve_connection};
use treegraft_testkit::{Direction, Image, SplitMix64, memory_folder};

use crate::{
    judge::{Case, Options, case},
    rounds::rounds,
};

const PIPE_BYTES: usize = 64 << 10;

/// What the client writes before its first frame.
const PREFACE_BYTES: usize = 24;

/// The header of a frame: its length in three bytes, and more.
const FRAME_HEADER_BYTES: usize = 9;

/// How long nothing may move before the relay gives up: a wrong length makes both sides wait.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a line that goes on later is silent. The result does not depend on it.
const STALL: Duration = Duration::from_millis(50);

/// Far more than a push takes.
const END_TIMEOUT: Duration = Duration::from_secs(120);

/// What happens to what is sent in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nothing.
    None,
    /// The connection ends after so many bytes.
    Cut(u64),
    /// Nothing comes after so many bytes, for a while.
    StallThenGo(u64),
    /// Nothing comes after so many bytes, and then the connection ends.
    StallThenCut(u64),
    /// The byte with this number has a wrong bit.
    Flip(u64, u8),
    /// The frame with this number comes twice.
    Repeat(u64),
}

/// What has gone through the relay.
#[derive(Debug, Default)]
struct Passed {
    bytes: AtomicU64,
    frames: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Relay<'h> {
    up: Passed,
    down: Passed,
    cut: Notify,
    /// What is done while the line stalls.
    at_stall: Option<&'h (dyn Fn() + Sync)>,
}

/// One direction of the relay.
struct Line<'r> {
    relay: &'r Relay<'r>,
    passed: &'r Passed,
    trouble: Trouble,
    /// What has come of a frame that is not complete.
    pending: Vec<u8>,
    /// Bytes that are no frame before the first one.
    preface_bytes: usize,
}

impl Line<'_> {
    /// Carries bytes until the end. Returns when the connection is to be cut.
    async fn carry(mut self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; PIPE_BYTES];
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else {
                to.shutdown().await.ok();
                return;
            };
            self.pending.extend_from_slice(&buffer[..count]);
            while let Some(length) = self.next_bytes() {
                let mut piece: Vec<u8> = self.pending.drain(..length).collect();
                let number = self.passed.frames.fetch_add(1, Ordering::Relaxed);
                if self.trouble == Trouble::Repeat(number) {
                    piece.extend_from_within(..);
                }
                if self.write(piece, &mut to).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Returns the length of the next frame if it is complete.
    fn next_bytes(&mut self) -> Option<usize> {
        let length = if self.preface_bytes > 0 {
            self.preface_bytes
        } else {
            let length = self.pending.get(..3)?;
            FRAME_HEADER_BYTES + usize::from(length[0]) * 65_536 + usize::from(length[1]) * 256 + usize::from(length[2])
        };
        (self.pending.len() >= length).then(|| {
            self.preface_bytes = 0;
            length
        })
    }

    /// Writes bytes with the trouble that lies in them.
    async fn write(&self, mut piece: Vec<u8>, to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let begin = self.passed.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        let offset = |at: u64| {
            let offset = usize::try_from(at.checked_sub(begin)?).ok()?;
            (offset < piece.len()).then_some(offset)
        };
        match self.trouble {
            Trouble::Flip(at, bit) => {
                if let Some(offset) = offset(at) {
                    piece[offset] ^= 1 << bit;
                }
            }
            Trouble::Cut(at) | Trouble::StallThenGo(at) | Trouble::StallThenCut(at) => {
                if let Some(offset) = offset(at) {
                    to.write_all(&piece[..offset]).await?;
                    if matches!(self.trouble, Trouble::StallThenGo(_) | Trouble::StallThenCut(_)) {
                        tokio::time::sleep(STALL).await;
                        self.relay.at_stall.inspect(|work| work());
                    }
                    if !matches!(self.trouble, Trouble::StallThenGo(_)) {
                        return Err(std::io::ErrorKind::ConnectionAborted.into());
                    }
                    piece.drain(..offset);
                }
            }
            Trouble::None | Trouble::Repeat(_) => {}
        }
        to.write_all(&piece).await
    }
}

impl Relay<'_> {
    async fn run<S: AsyncRead + AsyncWrite + Send>(&self, client: S, server: S, up: Trouble, down: Trouble) {
        let ((from_client, to_client), (from_server, to_server)) = (tokio::io::split(client), tokio::io::split(server));
        let line =
            |passed, trouble, preface_bytes| Line { relay: self, passed, trouble, pending: Vec::new(), preface_bytes };
        let up = line(&self.up, up, PREFACE_BYTES).carry(from_client, to_server);
        let down = line(&self.down, down, 0).carry(from_server, to_client);
        // The first end of a direction ends both: each side has closed, or the line is cut.
        tokio::select! {
            () = up => {}
            () = down => {}
            () = self.cut.notified() => {}
        }
    }

    fn moved(&self) -> u64 {
        self.up.bytes.load(Ordering::Relaxed) + self.down.bytes.load(Ordering::Relaxed)
    }

    /// Cuts a connection on which nothing moves.
    async fn watch(&self) {
        let mut before = self.moved();
        loop {
            tokio::time::sleep(SILENCE).await;
            let now = self.moved();
            if now == before {
                self.cut.notify_one();
            }
            before = now;
        }
    }
}

/// Pushes a case through a relay with trouble in one direction.
fn push_through(case: &Case, server: &Path, direction: Direction, trouble: Trouble) -> (Pushed, Relay<'static>) {
    let relay = Relay::default();
    let result = push_over(case, server, &relay, direction, trouble);
    (result, relay)
}

/// Pushes a case, and does something after so many bytes have gone to the receiver.
pub(crate) fn push_and_do(case: &Case, server: &Path, bytes: u64, work: &(dyn Fn() + Sync)) -> Pushed {
    let relay = Relay { at_stall: Some(work), ..Relay::default() };
    push_over(case, server, &relay, Direction::Up, Trouble::StallThenGo(bytes))
}

/// How a push has ended.
type Pushed = Result<Outcome, PushError>;

fn push_over(case: &Case, server: &Path, relay: &Relay<'_>, direction: Direction, trouble: Trouble) -> Pushed {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        let settings = ServerConfig::load(case.site.config()).expect("the configuration is valid").settings(server);
        let receiver = Arc::new(Receiver::open(server, settings, || 1_767_225_600).expect("it can be pushed to"));
        let (here, client) = tokio::io::duplex(PIPE_BYTES);
        let (relayed, there) = tokio::io::duplex(PIPE_BYTES);
        let serving = tokio::spawn(serve_connection(Arc::clone(&receiver), there));
        let refs: Vec<_> = case.names.iter().map(|name| name.parse().expect("a ref")).collect();
        let source = Source::open(&case.worker, &refs).expect("the worker has the refs");
        let (up, down) = match direction {
            Direction::Up => (trouble, Trouble::None),
            Direction::Down => (Trouble::None, trouble),
        };
        let pushing = async {
            let client = Client::connect(here).await?;
            push(&client, source, &PushOptions::default(), Arc::new(SilentReporter)).await
        };
        let relaying = async {
            relay.run(client, relayed, up, down).await;
            // Both sides see the end of the connection now; what the push makes of it is what is waited for.
            std::future::pending::<()>().await;
        };
        let result = timeout(END_TIMEOUT, async {
            tokio::select! {
                result = pushing => result,
                () = relaying => unreachable!("it waits for ever"),
                () = relay.watch() => unreachable!("it watches for ever"),
            }
        });
        let result = result.await.expect("a push ends when its connection does");
        timeout(END_TIMEOUT, serving)
            .await
            .expect("the receiver ends with the connection")
            .expect("it does not panic")
            .ok();
        receiver.finish().await;
        result
    })
}

fn trouble(random: &mut SplitMix64, passed: &Passed) -> Trouble {
    let bytes = usize::try_from(passed.bytes.load(Ordering::Relaxed)).expect("it is small");
    let frames = usize::try_from(passed.frames.load(Ordering::Relaxed)).expect("there are few");
    // Half of the positions lie where questions and answers are, not in the bytes of objects.
    let at = if random.one_in(2) { random.below(bytes.min(3_000)) } else { random.below(bytes) } as u64;
    match random.below(6) {
        0 => Trouble::Cut(at),
        1 => Trouble::StallThenGo(at),
        2 => Trouble::StallThenCut(at),
        3 | 4 => Trouble::Flip(at, u8::try_from(random.below(8)).expect("a byte has 8 bits")),
        _ => Trouble::Repeat(random.below(frames) as u64),
    }
}

#[test]
fn a_push_survives_every_trouble_of_its_connection() {
    let Some((mut case, _folder)) = case(Options::default()) else { return };
    let before = Image::read(&case.site.server);
    let (result, usual) = push_through(&case, &case.site.server, Direction::Up, Trouble::None);
    result.expect("an undisturbed push goes through the relay");
    let server = case.site.server.clone();
    case.expect(&server);
    rounds(60, |round| {
        let mut random = SplitMix64::new(round.seed);
        let folder = memory_folder();
        let server = folder.path().join("repo");
        before.write(&server);
        // Sometimes twice, so that what one has left is pushed on by a second that breaks as well.
        for _ in 0..=random.below(2) {
            let (direction, passed) = [(Direction::Up, &usual.up), (Direction::Down, &usual.down)][random.below(2)];
            let trouble = trouble(&mut random, passed);
            let (result, _) = push_through(&case, &server, direction, trouble);
            round.note(format!("{trouble:?} {direction:?}: {result:?}"));
            check_result(trouble, &result);
        }
        case.check(&server).unwrap_or_else(|error| panic!("{error}"));
    });
}

/// What the pusher is told.
fn check_result(trouble: Trouble, result: &Result<Outcome, PushError>) {
    match (trouble, result) {
        (Trouble::None | Trouble::StallThenGo(_), result) => {
            assert!(result.is_ok(), "a line that goes on costs nothing");
        }
        (_, Ok(_)) => {}
        (Trouble::Cut(_) | Trouble::StallThenCut(_), Err(error)) => {
            assert!(error.is_temporary(), "a connection that broke is worth another try: {error:?}");
        }
        (_, Err(error)) => {
            let text = format!("{error:?}");
            assert!(!text.contains("Internal"), "whatever comes is no mistake of the server: {text}");
        }
    }
}
