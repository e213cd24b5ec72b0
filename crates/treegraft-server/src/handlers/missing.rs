//! `POST /api/v1/pushes/{id}/missing`: tells which objects have to be sent.

use std::sync::Arc;

use hyper::body::Incoming;
use treegraft_object::{DirTreeId, ObjectKind, ObjectName};
use treegraft_repo::Find;
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
    let (session, deadline) = connection.pushes.get(id)?;
    let slot = connection.pushes.question_slot()?;
    let bytes = deadline.bound(body::collect(body, MAX_QUESTION_NAMES as usize * NAME_BYTES)).await?;
    let names = question::decode(&bytes).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    drop(bytes);
    let receiver = Arc::clone(&connection.receiver);
    let looking = move || {
        // It is held as long as the thread works, also for a client that does not wait for the answer.
        let _slot = slot;
        presence(&receiver, &session, &names)
    };
    let presence = blocking(&connection.receiver, looking).await?;
    Ok(body::binary_answer(question::encode_answer(&presence)))
}

/// Looks every object up. What is said to be complete below was looked at down to the last file, since a dirtree alone
/// proves nothing: an interrupted prune or a partial pull leaves dirtrees without their children.
fn presence(receiver: &Receiver, session: &Session, names: &[ObjectName]) -> Result<Vec<Presence>, ApiError> {
    let view = session.staging()?.view(&receiver.repo);
    let look = |name: ObjectName| {
        Ok(if !view.has(name)? {
            Presence::Missing
        } else if name.kind != ObjectKind::DirTree
            || session.knowledge.look(&receiver.repo, |published| published.check_dirtree(DirTreeId(name.checksum)))?
        {
            Presence::Complete
        } else {
            Presence::Here
        })
    };
    names.iter().map(|&name| look(name).map_err(from_read)).collect()
}
