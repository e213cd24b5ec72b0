//! Serving one connection.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use treegraft_wire::{ApiError, keep_alive, window};

use crate::{
    Receiver,
    body::{Answer, error_answer},
    handlers,
    pushes::Pushes,
};

/// Requests that may be open at a time on one connection: object streams, questions, and some room.
const MAX_CONCURRENT_REQUESTS: u32 = 64;

/// Bytes that an answer may buffer before its handler waits.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// The connection ended in disorder.
#[derive(Debug, thiserror::Error)]
#[error("The connection to the client broke")]
pub struct ServeError(#[from] hyper::Error);

/// One client: the repository that it pushes to, and its pushes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) receiver: Arc<Receiver>,
    pub(crate) pushes: Arc<Pushes>,
    /// Cancelled when the connection has ended.
    pub(crate) gone: CancellationToken,
}

/// Answers all requests of one connection with HTTP/2 until the client closes it.
///
/// The pushes of the connection end with it and give up their locks, and no lock is waited for any more; publications whose
/// turn has come go on. The runtime must have its timers enabled: a client that is gone without a word is noticed by them.
pub async fn serve_connection<I>(receiver: Arc<Receiver>, io: I) -> Result<(), ServeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(Connection { receiver, pushes: Arc::new(Pushes::new()), gone: CancellationToken::new() });
    let served = serve(io, window::CONNECTION_BYTES, answers(&connection)).await;
    // The task of a request may live a moment longer than the connection; locks must not wait for it.
    connection.gone.cancel();
    connection.pushes.end();
    served
}

/// Answers all requests of a further connection of the same client.
pub(crate) async fn serve_lane<I>(connection: &Arc<Connection>, io: I) -> Result<(), ServeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve(io, window::LANE_BYTES, answers(connection)).await
}

/// Answers all requests of one connection with `error`, until the client closes it.
///
/// This is for a repository that cannot be pushed to at all: the client hears why.
pub async fn serve_refusal<I>(error: ApiError, io: I) -> Result<(), ServeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve(io, window::CONNECTION_BYTES, move |_| std::future::ready(error_answer(&error))).await
}

fn answers(
    connection: &Arc<Connection>,
) -> impl Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + use<> {
    let connection = Arc::clone(connection);
    move |request| {
        let connection = Arc::clone(&connection);
        Box::pin(handlers::answer(connection, request))
    }
}

async fn serve<I, A>(io: I, window_bytes: u32, answer: impl Fn(Request<Incoming>) -> A) -> Result<(), ServeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    http2::Builder::new(TokioExecutor::new())
        .initial_connection_window_size(window_bytes)
        .initial_stream_window_size(window::STREAM_BYTES.min(window_bytes))
        .max_frame_size(window::FRAME_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_REQUESTS)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .timer(TokioTimer::new())
        .keep_alive_interval(keep_alive::INTERVAL)
        .keep_alive_timeout(keep_alive::TIMEOUT)
        .serve_connection(TokioIo::new(io), service)
        .await
        .map_err(ServeError)
}
