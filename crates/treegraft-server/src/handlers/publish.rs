//! `POST /api/v1/pushes/{id}/publish`: makes the pushed refs visible.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use treegraft_wire::PublishEvent;

use crate::{
    Receiver,
    body::{self, Answer},
    publish,
    session::Session,
};

/// Publishes on a blocking thread and answers with its events as they come.
///
/// A client that goes away meanwhile does not stop it: the refs are moved as a whole or not at all.
pub(super) fn post(receiver: &Arc<Receiver>, session: Arc<Session>) -> Answer {
    let (lines, events) = mpsc::unbounded_channel();
    let owned = Arc::clone(receiver);
    receiver.work.spawn_blocking(move || {
        let mut report = |event: PublishEvent| {
            let mut line = serde_json::to_vec(&event).expect("events have no maps with odd keys");
            line.push(b'\n');
            // Nobody may be listening any more.
            let _ = lines.send(Bytes::from(line));
        };
        let last = match publish::run(&owned, &session, &mut report) {
            Ok(published) => PublishEvent::Done { published },
            Err(error) => PublishEvent::Failed { error },
        };
        owned.remove_session(&session.id);
        // Another request of the same push may still hold it; then the next push cleans up.
        if let (PublishEvent::Done { .. }, Some(session)) = (&last, Arc::into_inner(session)) {
            let _ = session.clean_up();
        }
        report(last);
    });
    body::lines_answer(events)
}
