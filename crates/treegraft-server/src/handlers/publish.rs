//! `POST /api/v1/pushes/{id}/publish`: makes the pushed refs visible.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use treegraft_wire::{ApiError, ErrorCode, Phase, PublishEvent};

use crate::{
    Receiver,
    body::{self, Answer},
    connection::Connection,
    hooks,
    publish::{self, Done},
    session::Session,
};

/// Publishes on a blocking thread and answers with its events as they come.
///
/// A client that goes away meanwhile does not stop it: the refs are moved as a whole or not at all.
pub(super) fn post(connection: &Connection, id: &str) -> Result<Answer, ApiError> {
    let session = connection.pushes.take(id)?;
    let (lines, events) = mpsc::unbounded_channel();
    let receiver = Arc::clone(&connection.receiver);
    connection.receiver.work.spawn_blocking(move || {
        let mut report = |event: PublishEvent| {
            let mut line = serde_json::to_vec(&event).expect("events have no maps with odd keys");
            line.push(b'\n');
            // Nobody may be listening any more.
            let _ = lines.send(Bytes::from(line));
        };
        let last = run(&receiver, session, &mut report);
        report(last);
    });
    Ok(body::lines_answer(events))
}

/// Publishes and returns the last event. The push is over then, and its locks are free.
fn run(receiver: &Receiver, session: Arc<Session>, report: &mut dyn FnMut(PublishEvent)) -> PublishEvent {
    // The client must hear of a panic: an answer that only breaks off looks like a bad connection.
    let published = catch_unwind(AssertUnwindSafe(|| publish::run(receiver, &session, report)));
    match published {
        Ok(Ok(Done { mut published, hook })) => {
            // A question of the same push may still hold it; then the next push cleans up.
            let _ = Arc::into_inner(session).map_or(Ok(()), |session| session.clean_up(receiver));
            if hook.is_some() {
                report(PublishEvent::Phase { phase: Phase::Hook });
            }
            published.notes.extend(hooks::after(receiver, hook));
            PublishEvent::Done { published }
        }
        Ok(Err(error)) => PublishEvent::Failed { error },
        Err(_) => {
            let detail = "The publication panicked on the server: refs may have moved, the next push finishes it";
            PublishEvent::Failed { error: ApiError::new(ErrorCode::Internal, detail) }
        }
    }
}
