//! `POST /api/v1/pushes/{id}/publish`: makes the pushed refs visible.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use treegraft_wire::{ApiError, ErrorCode, Phase, PublishEvent, PublishRequest};

use crate::{
    Receiver,
    body::{self, Answer},
    connection::Connection,
    hooks,
    publish::{self, Done},
    pushes::Taken,
    session::Session,
};

/// Largest request in bytes: it has one number.
const MAX_REQUEST_BYTES: usize = 4096;

/// Publishes on a blocking thread and answers with its events as they come.
///
/// A client that goes away while its push waits for its turn takes it back. Later that stops nothing: the refs are moved as
/// a whole or not at all.
pub(super) async fn post(connection: &Connection, id: &str, body: Incoming) -> Result<Answer, ApiError> {
    let (streams, deadline) = {
        let (session, deadline) = connection.pushes.get(id)?;
        session.check_purpose()?;
        (Arc::clone(session.streams()), deadline)
    };
    let waiting = async {
        let PublishRequest { streams: awaited } = body::json_or_default(body, MAX_REQUEST_BYTES).await?;
        streams.taken(awaited).await
    };
    deadline.bound(waiting).await?;
    let Taken { session, lanes } = connection.pushes.take(id)?;
    let (lines, answer) = body::lines_answer();
    let (receiver, gone) = (Arc::clone(&connection.receiver), connection.gone.clone());
    connection.receiver.work.spawn_blocking(move || {
        let last = run(&receiver, session, &gone, &mut |event| lines.send(&event));
        lines.send(&last);
        drop(lanes);
    });
    Ok(answer)
}

/// Publishes and returns the last event. The push is over then, and its locks are free.
fn run(
    receiver: &Receiver,
    session: Arc<Session>,
    gone: &CancellationToken,
    report: &mut dyn FnMut(PublishEvent),
) -> PublishEvent {
    // The client must hear of a panic: an answer that only breaks off looks like a bad connection.
    let published = catch_unwind(AssertUnwindSafe(|| publish::run(receiver, &session, gone, report)));
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
