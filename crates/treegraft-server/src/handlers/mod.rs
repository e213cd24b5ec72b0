//! One file per request of the protocol.

use std::sync::Arc;

use hyper::{Method, Request, body::Incoming};
use treegraft_wire::{API_ROOT, ApiError, ErrorCode};

use crate::{
    Receiver,
    body::{Answer, error_answer},
    connection::Connection,
};

mod missing;
mod objects;
mod open;
mod publish;
mod recipe;
mod signatures;

/// Answers one request.
///
/// A push is named before this returns, so that what follows right behind its opening finds it.
pub(crate) fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Answer> + Send + use<> {
    let opening = is_open(&request).then(|| connection.pushes.begin());
    async move {
        let answer = match opening {
            Some(opening) => open::post(&connection, opening, request.into_body()).await,
            None => route(&connection, request).await,
        };
        answer.unwrap_or_else(|error| error_answer(&error))
    }
}

fn is_open(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST && request.uri().path().strip_prefix(API_ROOT) == Some("/pushes")
}

async fn route(connection: &Arc<Connection>, request: Request<Incoming>) -> Result<Answer, ApiError> {
    let path = request.uri().path().to_owned();
    let not_found =
        || ApiError::new(ErrorCode::NotFound, format!("There is nothing at `{} {path}`", request.method().as_str()));
    let segments: Vec<&str> =
        path.strip_prefix(API_ROOT).map(|rest| rest.split('/').skip(1).collect()).unwrap_or_default();
    match (request.method(), &segments[..]) {
        (&Method::POST, ["pushes", id, "missing"]) => missing::post(connection, id, request.into_body()).await,
        (&Method::POST, ["pushes", id, "objects"]) => objects::post(connection, id, request).await,
        (&Method::POST, ["pushes", id, "signatures"]) => signatures::post(connection, id, request.into_body()).await,
        (&Method::POST, ["pushes", id, "publish"]) => publish::post(connection, id, request.into_body()).await,
        _ => Err(not_found()),
    }
}

/// Runs synchronous work on a blocking thread. It goes on when the request is given up.
async fn blocking<T: Send + 'static>(
    receiver: &Receiver,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    receiver
        .work
        .spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Internal, "A worker thread of the server panicked")))
}
