//! `POST /api/v1/pushes`: opens a push.

use std::{sync::Arc, time::Duration};

use hyper::{StatusCode, body::Incoming};
use treegraft_wire::{ApiError, OPEN_EVENTS, OpenAnswer, OpenEvent, OpenRequest, Purpose, Waiting, lanes::LANES};

use super::blocking;
use crate::{
    body::{self, Answer},
    connection::Connection,
    lanes,
    pushes::{Opening, Slot},
    session::Session,
};

pub(super) async fn post(connection: &Arc<Connection>, opening: Opening, body: Incoming) -> Result<Answer, ApiError> {
    // Before the body is read: it may be large.
    let slot = Arc::new(connection.pushes.push_slot()?);
    let request: OpenRequest = body::json(body).await?;
    if !request.has_feature(OPEN_EVENTS) {
        let answer = open(connection, opening, slot, request, |_| ()).await?;
        return Ok(body::json_answer(StatusCode::CREATED, &answer));
    }
    let (lines, answer) = body::lines_answer();
    let connection = Arc::clone(connection);
    tokio::spawn(async move {
        let waiting_lines = lines.clone();
        let waiting = move |waiting| waiting_lines.send(&OpenEvent::Waiting(waiting));
        let last = match open(&connection, opening, slot, request, waiting).await {
            Ok(answer) => OpenEvent::Opened { answer },
            Err(error) => OpenEvent::Failed { error },
        };
        lines.send(&last);
    });
    Ok(answer)
}

async fn open(
    connection: &Arc<Connection>,
    opening: Opening,
    slot: Arc<Slot>,
    request: OpenRequest,
    mut waiting: impl FnMut(Waiting) + Send + 'static,
) -> Result<OpenAnswer, ApiError> {
    let (receiver, id, purpose) = (Arc::clone(&connection.receiver), opening.id().clone(), request.purpose);
    let wants_lanes = request.has_feature(LANES);
    let session_slot = Arc::clone(&slot);
    let client_gone = connection.gone.clone();
    let work = move || Session::open(&receiver, id, session_slot, request, &client_gone, &mut waiting);
    let (session, mut answer) = blocking(&connection.receiver, work).await?;
    let mut lanes = None;
    if session.has_something_to_publish() && purpose == Purpose::Push {
        let repo = Arc::clone(&connection.receiver.repo);
        let knowledge = Arc::clone(&session.knowledge);
        let refs: Vec<_> = session.offers.iter().map(|offer| offer.asked.name.clone()).collect();
        let client_gone = connection.gone.clone();
        connection.receiver.work.spawn_blocking(move || {
            knowledge.look_ahead(&repo, &refs, &client_gone);
            // A client that opens and leaves pushes again and again must not pile up looks.
            drop(slot);
        });
        // Without them the push comes through the one connection.
        if wants_lanes && let Ok((secret, taking)) = lanes::listen(connection) {
            answer.features.push(LANES.to_owned());
            answer.lane_secret = Some(secret);
            lanes = Some(taking);
        }
    }
    let lifetime = Duration::from_secs(connection.receiver.settings.max_push_secs);
    opening.add(session, lifetime, lanes);
    Ok(answer)
}
