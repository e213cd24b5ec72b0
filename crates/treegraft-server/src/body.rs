//! Bodies of requests and answers.

use std::{
    convert::Infallible,
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Response, StatusCode,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;
use treegraft_wire::{ApiError, Arrival, ErrorCode};

use crate::pushes::{Deadline, Slot};

pub(crate) type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Frames of a body that wait for the blocking thread: enough to keep it busy, few enough to bound memory.
const WAITING_FRAMES: usize = 8;

/// Reads a whole body of at most `limit_bytes`.
pub(crate) async fn collect(body: Incoming, limit_bytes: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, limit_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::new(ErrorCode::TooLarge, format!("The request has more than {limit_bytes} bytes")))
        }
        Err(error) => Err(ApiError::new(ErrorCode::BadRequest, format!("Could not read the request: {error}"))),
    }
}

/// Reads a body that is one JSON document.
pub(crate) async fn json<T: DeserializeOwned>(body: Incoming) -> Result<T, ApiError> {
    parse(&collect(body, treegraft_wire::MAX_JSON_BYTES).await?)
}

/// Reads a body that is one JSON document of at most `limit_bytes`, or empty.
pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(
    body: Incoming,
    limit_bytes: usize,
) -> Result<T, ApiError> {
    let bytes = collect(body, limit_bytes).await?;
    if bytes.is_empty() { Ok(T::default()) } else { parse(&bytes) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("The request is not valid: {error}")))
}

/// Makes an answer of one JSON document.
pub(crate) fn json_answer<T: Serialize>(status: StatusCode, document: &T) -> Answer {
    let bytes = serde_json::to_vec(document).expect("documents of the protocol have no maps with odd keys");
    answer(status, "application/json", Full::new(bytes.into()).boxed())
}

/// Makes an answer of raw bytes, which holds its slot until the client has taken it.
pub(crate) fn binary_answer(bytes: Vec<u8>, slot: Slot) -> Answer {
    let bytes = Bytes::from_owner(Held { bytes, _slot: slot });
    answer(StatusCode::OK, "application/octet-stream", Full::new(bytes).boxed())
}

struct Held {
    bytes: Vec<u8>,
    _slot: Slot,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes the events that become lines of an answer. It ends when the last clone of this is dropped.
#[derive(Clone)]
pub(crate) struct Lines(mpsc::UnboundedSender<Bytes>);

impl Lines {
    pub(crate) fn send(&self, event: &impl Serialize) {
        let mut line = serde_json::to_vec(event).expect("documents of the protocol have no maps with odd keys");
        line.push(b'\n');
        // Nobody may be listening any more.
        let _ = self.0.send(line.into());
    }
}

/// Makes an answer of lines that come one by one.
pub(crate) fn lines_answer() -> (Lines, Answer) {
    let (sender, lines) = mpsc::unbounded_channel();
    let stream = futures_util::stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok(Frame::data(line)), lines))
    });
    (Lines(sender), answer(StatusCode::OK, "application/x-ndjson", BodyExt::boxed(StreamBody::new(stream))))
}

/// Makes the answer to a request that failed.
pub(crate) fn error_answer(error: &ApiError) -> Answer {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, error)
}

fn answer(status: StatusCode, content_type: &'static str, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    answer
}

/// A body for a blocking thread: its frames come through a bounded channel, so that a slow disk slows the sender down.
pub(crate) struct BlockingBody {
    frames: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    arrival: Arc<Mutex<Arrival>>,
}

impl BlockingBody {
    /// Starts to forward the frames of `body`, which come until `deadline`. `arrived` counts the bytes of all streams of
    /// the push.
    pub(crate) fn new(mut body: Incoming, deadline: Deadline, arrived: Arc<AtomicU64>) -> Self {
        let (sender, frames) = mpsc::channel(WAITING_FRAMES);
        let arrival = Arc::new(Mutex::new(Arrival::default()));
        let noted = Arc::clone(&arrival);
        tokio::spawn(async move {
            let mut first = None;
            loop {
                let data = tokio::select! {
                    frame = body.frame() => match frame {
                        Some(frame) => frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(io::Error::other),
                        None => break,
                    },
                    () = deadline.reached() => Err(io::ErrorKind::TimedOut.into()),
                };
                let is_error = data.is_err();
                let bytes = data.as_ref().map_or(0, Bytes::len) as u64;
                let arrived_bytes = arrived.fetch_add(bytes, Ordering::Relaxed) + bytes;
                match first {
                    None => first = Some((Instant::now(), arrived_bytes)),
                    Some((begun, before)) => note(&noted, begun, bytes, arrived_bytes - before),
                }
                // A reader that is gone has answered already; the rest of the body is of no use.
                if sender.send(data).await.is_err() || is_error {
                    break;
                }
            }
        });
        Self { frames, current: Bytes::new(), arrival }
    }

    /// Returns how fast the body comes, to be looked at in the end.
    pub(crate) fn arrival(&self) -> Arc<Mutex<Arrival>> {
        Arc::clone(&self.arrival)
    }
}

fn note(arrival: &Mutex<Arrival>, begun: Instant, bytes: u64, bytes_of_all: u64) {
    let mut arrival = arrival.lock().unwrap_or_else(PoisonError::into_inner);
    arrival.bytes += bytes;
    arrival.bytes_of_all = bytes_of_all;
    arrival.micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
}

impl Read for BlockingBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.frames.blocking_recv() {
                Some(frame) => self.current = frame?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
