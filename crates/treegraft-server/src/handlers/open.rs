//! `POST /api/v1/pushes`: opens a push.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{StatusCode, body::Incoming};
use tokio::sync::mpsc;
use treegraft_wire::{ApiError, OPEN_EVENTS, OpenAnswer, OpenEvent, OpenRequest, Purpose, Waiting, lanes::LANES};

use super::blocking;
use crate::{
    body::{self, Answer},
    connection::Connection,
    lanes,
    pushes::Slot,
    session::Session,
};

pub(super) async fn post(connection: &Arc<Connection>, body: Incoming) -> Result<Answer, ApiError> {
    // Before the body is read: it may be large.
    let slot = Arc::new(connection.pushes.push_slot()?);
    let request: OpenRequest = body::json(body).await?;
    if !request.has_feature(OPEN_EVENTS) {
        let answer = open(connection, slot, request, |_| ()).await?;
        return Ok(body::json_answer(StatusCode::CREATED, &answer));
    }
    let (lines, events) = mpsc::unbounded_channel();
    let connection = Arc::clone(connection);
    tokio::spawn(async move {
        let waiting_lines = lines.clone();
        let waiting = move |waiting| send(&waiting_lines, &OpenEvent::Waiting(waiting));
        let last = match open(&connection, slot, request, waiting).await {
            Ok(answer) => OpenEvent::Opened { answer },
            Err(error) => OpenEvent::Failed { error },
        };
        send(&lines, &last);
    });
    Ok(body::lines_answer(events))
}

fn send(lines: &mpsc::UnboundedSender<Bytes>, event: &OpenEvent) {
    let mut line = serde_json::to_vec(event).expect("events have no maps with odd keys");
    line.push(b'\n');
    // Nobody may be listening any more.
    let _ = lines.send(Bytes::from(line));
}

async fn open(
    connection: &Arc<Connection>,
    slot: Arc<Slot>,
    request: OpenRequest,
    mut waiting: impl FnMut(Waiting) + Send + 'static,
) -> Result<OpenAnswer, ApiError> {
    let (receiver, id, purpose) = (Arc::clone(&connection.receiver), connection.pushes.new_id(), request.purpose);
    let wants_lanes = request.has_feature(LANES);
    let session_slot = Arc::clone(&slot);
    let opening = move || Session::open(&receiver, id, session_slot, request, &mut waiting);
    let (session, mut answer) = blocking(&connection.receiver, opening).await?;
    let mut lanes = None;
    if session.has_something_to_publish() && purpose == Purpose::Push {
        let repo = Arc::clone(&connection.receiver.repo);
        let knowledge = Arc::clone(&session.knowledge);
        let refs: Vec<_> = session.offers.iter().map(|offer| offer.asked.name.clone()).collect();
        connection.receiver.work.spawn_blocking(move || {
            knowledge.look_ahead(&repo, &refs);
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
    connection.pushes.add(session, lifetime, lanes);
    Ok(answer)
}
