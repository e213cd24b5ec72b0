//! `POST /api/v1/pushes`: opens a push.

use std::sync::Arc;

use hyper::{StatusCode, body::Incoming};
use treegraft_wire::{ApiError, OpenRequest, Purpose};

use super::blocking;
use crate::{
    Receiver,
    body::{self, Answer},
    session::Session,
};

pub(super) async fn post(receiver: &Arc<Receiver>, body: Incoming) -> Result<Answer, ApiError> {
    let request: OpenRequest = body::json(body).await?;
    let purpose = request.purpose;
    let owned = Arc::clone(receiver);
    let (session, answer) = blocking(receiver, move || Session::open(&owned, request)).await?;
    if session.has_something_to_publish() && purpose == Purpose::Push {
        let repo = Arc::clone(&receiver.repo);
        let knowledge = Arc::clone(&session.knowledge);
        let refs: Vec<_> = session.offers.iter().map(|offer| offer.asked.name.clone()).collect();
        receiver.work.spawn_blocking(move || knowledge.look_ahead(&repo, &refs));
    }
    receiver.add_session(session);
    Ok(body::json_answer(StatusCode::CREATED, &answer))
}
