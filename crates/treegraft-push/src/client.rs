//! The protocol's requests over one HTTP/2 connection.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::http2,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use treegraft_object::ObjectName;
use treegraft_wire::{
    API_ROOT, ApiError, ObjectsAnswer, OpenAnswer, OpenEvent, OpenRequest, PublishEvent, PublishRequest, Published,
    PushId, Waiting,
    chunks::{self, Place, Signature},
    keep_alive,
    question::{self, Presence, QuestionError},
    window,
};

use crate::carrier::sharing::SshLanes;

/// Largest answer in bytes: the presence of a whole question, or the refs of a push of some ten thousand.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Largest line of a publish answer in bytes; the last one lists every ref.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// The content type of events.
const LINES: &str = "application/x-ndjson";

/// Bytes of a stream's body that wait for its window: a few batches of objects.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// A request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server says why.
    #[error(transparent)]
    Api(#[from] Box<ApiError>),
    /// The connection broke.
    #[error("The connection to the server broke")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what the protocol says.
    #[error("The server's answer is not valid: {reason}")]
    Answer {
        /// What is wrong.
        reason: String,
    },
}

impl ClientError {
    /// Tells whether another try may succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Api(error) => error.is_temporary(),
            Self::Connection(_) => true,
            Self::Answer { .. } => false,
        }
    }

    fn answer(reason: &impl ToString) -> Self {
        Self::Answer { reason: reason.to_string() }
    }
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        Self::Connection(Box::new(error))
    }
}

impl From<QuestionError> for ClientError {
    fn from(error: QuestionError) -> Self {
        Self::answer(&error)
    }
}

type RequestBody = BoxBody<Bytes, io::Error>;

/// One connection to a server. Cheap to clone; requests of all clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    requests: http2::SendRequest<RequestBody>,
    /// Pushes that were asked for.
    opened: Arc<AtomicU64>,
    lanes: Option<SshLanes>,
}

impl Client {
    /// Starts HTTP/2 on a byte stream. Nothing is waited for: the first request may go out at once.
    ///
    /// The runtime must have its timers enabled: a server that is gone without a word is noticed by them.
    pub async fn connect<I>(io: I) -> Result<Self, ClientError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(window::CONNECTION_BYTES)
            .initial_stream_window_size(window::STREAM_BYTES)
            .max_frame_size(window::FRAME_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .timer(TokioTimer::new())
            .keep_alive_interval(keep_alive::INTERVAL)
            .keep_alive_timeout(keep_alive::TIMEOUT)
            .handshake(TokioIo::new(io))
            .await?;
        // Its errors come back through the requests that are under way.
        tokio::spawn(connection);
        Ok(Self { requests, opened: Arc::default(), lanes: None })
    }

    /// Lets further connections be opened, if there is something to open them with.
    #[must_use]
    pub fn with_lanes(mut self, lanes: Option<SshLanes>) -> Self {
        self.lanes = lanes;
        self
    }

    /// Returns what opens further connections.
    pub(crate) const fn lanes(&self) -> Option<&SshLanes> {
        self.lanes.as_ref()
    }

    /// Returns the name that the server gives to the push that is opened next, unless another one is opened meanwhile.
    pub(crate) fn next_push(&self) -> PushId {
        PushId::of_connection(self.opened.load(Ordering::Relaxed) + 1)
    }

    /// Opens a push; `on_waiting` hears for whom the server waits, if the request asks for events.
    pub async fn open(
        &self,
        request: &OpenRequest,
        mut on_waiting: impl FnMut(&Waiting),
    ) -> Result<OpenAnswer, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::answer(&error))?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let response = self.post("pushes".to_owned(), full(body)).await?;
        // A server that does not know events answers with the document alone.
        if response.headers().get(CONTENT_TYPE).is_none_or(|value| value != LINES) {
            return json(response).await;
        }
        let opened = last_event(response, |event| match event {
            OpenEvent::Opened { answer } => Some(Ok(answer)),
            OpenEvent::Failed { error } => Some(Err(Box::new(error).into())),
            OpenEvent::Waiting(waiting) => {
                on_waiting(&waiting);
                None
            }
            OpenEvent::Unknown => None,
        });
        opened.await?.ok_or_else(|| ClientError::Connection("it ended before the push was opened".into()))
    }

    /// Asks which objects are missing.
    pub async fn missing<'a>(
        &self,
        push: &PushId,
        names: impl IntoIterator<Item = &'a ObjectName>,
    ) -> Result<Vec<Presence>, ClientError> {
        let question = question::encode(names);
        let names = question.len() / question::NAME_BYTES;
        let response = self.post(format!("pushes/{}/missing", push.0), full(question)).await?;
        let bytes = collect(response).await?;
        Ok(question::decode_answer(&bytes, names)?)
    }

    /// Waits for a round trip, by asking for nothing.
    pub(crate) async fn ping(&self, push: &PushId) -> Result<(), ClientError> {
        self.missing(push, []).await.map(drop)
    }

    /// Asks which chunks the server has at some places.
    pub async fn signatures(&self, push: &PushId, places: Vec<&Place>) -> Result<Vec<Option<Signature>>, ClientError> {
        let question = full(chunks::encode_places(places.iter().copied()));
        let response = self.post(format!("pushes/{}/signatures", push.0), question).await?;
        let bytes = collect(response).await?;
        chunks::decode_signatures(&bytes, places.len()).map_err(|error| ClientError::answer(&error))
    }

    /// Sends a stream of objects, which may have a content encoding.
    pub async fn objects<S>(
        &self,
        push: &PushId,
        content_encoding: Option<&'static str>,
        batches: S,
    ) -> Result<ObjectsAnswer, ClientError>
    where
        S: Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + Sync + 'static,
    {
        let body = BodyExt::boxed(StreamBody::new(batches));
        let mut request = request(&format!("pushes/{}/objects", push.0), body)?;
        if let Some(encoding) = content_encoding {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        json(self.send(request).await?).await
    }

    /// Publishes what was sent, once the server has taken so many streams of objects; `on_event` hears how it goes.
    pub async fn publish(
        &self,
        push: &PushId,
        streams: u64,
        mut on_event: impl FnMut(PublishEvent),
    ) -> Result<Published, ClientError> {
        let body = serde_json::to_vec(&PublishRequest { streams }).map_err(|error| ClientError::answer(&error))?;
        let response = self.post(format!("pushes/{}/publish", push.0), full(body)).await?;
        let published = last_event(response, |event| match event {
            PublishEvent::Done { published } => Some(Ok(published)),
            PublishEvent::Failed { error } => Some(Err(Box::new(error).into())),
            event => {
                on_event(event);
                None
            }
        });
        let broken = || ClientError::Connection("it ended before the server said what was published".into());
        published.await?.ok_or_else(broken)
    }

    async fn post(&self, path: String, body: RequestBody) -> Result<Response<Incoming>, ClientError> {
        self.send(request(&path, body)?).await
    }

    async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, ClientError> {
        Ok(self.requests.clone().send_request(request).await?)
    }
}

fn request(path: &str, body: RequestBody) -> Result<Request<RequestBody>, ClientError> {
    Request::builder()
        .method(Method::POST)
        // The authority says nothing: the connection itself leads to one repository.
        .uri(format!("http://treegraft{API_ROOT}/{path}"))
        .body(body)
        .map_err(|error| ClientError::answer(&error))
}

fn full(bytes: Vec<u8>) -> RequestBody {
    Full::new(Bytes::from(bytes)).map_err(|never: Infallible| match never {}).boxed()
}

/// Reads an answer of events, one JSON document a line, until `take` makes a result of one.
async fn last_event<E: DeserializeOwned, T>(
    response: Response<Incoming>,
    mut take: impl FnMut(E) -> Option<Result<T, ClientError>>,
) -> Result<Option<T>, ClientError> {
    let mut body = successful(response).await?.into_body();
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            buffer.extend_from_slice(&data);
        }
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let event = serde_json::from_slice(&line).map_err(|error| ClientError::answer(&error))?;
            if let Some(result) = take(event) {
                return result.map(Some);
            }
        }
        if buffer.len() > MAX_EVENT_BYTES {
            return Err(ClientError::answer(&"a line is too long"));
        }
    }
    Ok(None)
}

async fn json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let bytes = collect(response).await?;
    serde_json::from_slice(&bytes).map_err(|error| ClientError::answer(&error))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    read_limited(successful(response).await?).await
}

/// Turns an answer that is an error into one.
async fn successful(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = read_limited(response).await?;
    Err(match serde_json::from_slice::<ApiError>(&bytes) {
        Ok(error) => Box::new(error).into(),
        Err(_) => ClientError::answer(&unknown_failure(status)),
    })
}

fn unknown_failure(status: StatusCode) -> String {
    format!("status {status} without a reason")
}

async fn read_limited(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        // Another try would have the same answer.
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ClientError::answer(&format!("it has more than {MAX_ANSWER_BYTES} bytes")))
        }
        Err(error) => Err(ClientError::Connection(error)),
    }
}
