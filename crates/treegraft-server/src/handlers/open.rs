//! `POST /api/v1/pushes`: opens a push.

use std::sync::Arc;

use hyper::{StatusCode, body::Incoming};
use treegraft_wire::{ApiError, OpenRequest};

use super::blocking;
use crate::{
    Receiver,
    body::{self, Answer},
    session::Session,
};

pub(super) async fn post(receiver: &Arc<Receiver>, body: Incoming) -> Result<Answer, ApiError> {
    let request: OpenRequest = body::json(body).await?;
    let owned = Arc::clone(receiver);
    let (session, answer) = blocking(receiver, move || Session::open(&owned, request)).await?;
    receiver.add_session(session);
    Ok(body::json_answer(StatusCode::CREATED, &answer))
}
