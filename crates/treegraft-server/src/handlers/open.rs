//! `POST /api/v1/pushes`: opens a push.

use std::{sync::Arc, time::Duration};

use hyper::{StatusCode, body::Incoming};
use treegraft_wire::{ApiError, OpenRequest, Purpose};

use super::blocking;
use crate::{
    body::{self, Answer},
    connection::Connection,
    session::Session,
};

pub(super) async fn post(connection: &Connection, body: Incoming) -> Result<Answer, ApiError> {
    // Before the body is read: it may be large.
    let slot = Arc::new(connection.pushes.push_slot()?);
    let request: OpenRequest = body::json(body).await?;
    let (receiver, id, purpose) = (Arc::clone(&connection.receiver), connection.pushes.new_id(), request.purpose);
    let session_slot = Arc::clone(&slot);
    let opening = move || Session::open(&receiver, id, session_slot, request);
    let (session, answer) = blocking(&connection.receiver, opening).await?;
    if session.has_something_to_publish() && purpose == Purpose::Push {
        let repo = Arc::clone(&connection.receiver.repo);
        let knowledge = Arc::clone(&session.knowledge);
        let refs: Vec<_> = session.offers.iter().map(|offer| offer.asked.name.clone()).collect();
        connection.receiver.work.spawn_blocking(move || {
            knowledge.look_ahead(&repo, &refs);
            // A client that opens and leaves pushes again and again must not pile up looks.
            drop(slot);
        });
    }
    let lifetime = Duration::from_secs(connection.receiver.settings.max_push_secs);
    connection.pushes.add(session, lifetime);
    Ok(body::json_answer(StatusCode::CREATED, &answer))
}
