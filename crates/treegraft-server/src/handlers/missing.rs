//! `POST /api/v1/pushes/{id}/missing`: tells which objects have to be sent.

use std::sync::Arc;

use hyper::body::Incoming;
use treegraft_object::{DirTreeId, ObjectKind, ObjectName};
use treegraft_repo::{Closure, Find};
use treegraft_wire::{
    ApiError, ErrorCode,
    question::{self, NAME_BYTES, Presence},
};

use super::blocking;
use crate::{
    Receiver,
    body::{self, Answer},
    connection::Connection,
    error::from_read,
    session::{MAX_QUESTION_NAMES, Session},
};

pub(super) async fn post(connection: &Connection, id: &str, body: Incoming) -> Result<Answer, ApiError> {
    let slot = connection.pushes.question_slot()?;
    // A question may come right behind the opening of its push. It is read first: what waits unread fills the connection's
    // window, and the opening may have to come through it.
    let reading = body::collect(body, MAX_QUESTION_NAMES as usize * NAME_BYTES);
    let bytes = match connection.pushes.get(id).map(|(_, deadline)| deadline) {
        Ok(deadline) => deadline.bound(reading).await?,
        Err(_) => reading.await?,
    };
    let (session, deadline) = connection.pushes.opened(id).await?;
    let names = question::decode(&bytes).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    drop(bytes);
    let receiver = Arc::clone(&connection.receiver);
    // The slot is held as long as the thread works, also for a client that does not wait for the answer.
    let looking = move || Ok((presence(&receiver, &session, &names)?, slot));
    let (presence, slot) = deadline.bound(blocking(&connection.receiver, looking)).await?;
    Ok(body::binary_answer(question::encode_answer(&presence), slot))
}

/// Looks every object up. What is said to be complete below was looked at down to the last file, since a dirtree alone
/// proves nothing: an interrupted prune or a partial pull leaves dirtrees without their children.
fn presence(receiver: &Receiver, session: &Session, names: &[ObjectName]) -> Result<Vec<Presence>, ApiError> {
    let view = session.staging()?.view(&receiver.repo);
    let look_at = |&name: &ObjectName| {
        session.check_wanted()?;
        Ok(if view.has(name).map_err(from_read)? { Presence::Complete } else { Presence::Missing })
    };
    let mut presence: Vec<_> = names.iter().map(look_at).collect::<Result<_, ApiError>>()?;
    let mut dirtrees: Vec<_> = names
        .iter()
        .zip(&mut presence)
        .filter(|(name, presence)| name.kind == ObjectKind::DirTree && **presence == Presence::Complete)
        .collect();
    if !dirtrees.is_empty() {
        let look_below = |published: &mut Closure<'_>| {
            dirtrees.iter_mut().try_for_each(|(name, presence)| {
                if !published.check_dirtree(DirTreeId(name.checksum))? {
                    **presence = Presence::Here;
                }
                Ok(())
            })
        };
        session.knowledge.look(&receiver.repo, look_below).map_err(from_read)?;
    }
    Ok(presence)
}
