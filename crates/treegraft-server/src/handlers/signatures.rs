//! `POST /api/v1/pushes/{id}/signatures`: tells what chunks the server has at paths of the pushed trees.

use std::{io::Read, sync::Arc};

use hyper::body::Incoming;
use treegraft_repo::ReadError;
use treegraft_wire::{
    ApiError, ErrorCode,
    chunks::{self, Place, Signature},
};

use super::blocking;
use crate::{
    Receiver,
    bases::{self, Finder},
    body::{self, Answer},
    connection::Connection,
    error::from_read,
    session::Session,
};

/// Largest question in bytes: some ten thousand paths.
const MAX_QUESTION_BYTES: usize = 1 << 20;

/// Plain bytes that are cut into chunks for one question. What goes beyond has no signature.
const MAX_CUT_BYTES: u64 = 2 * bases::MAX_BASIS_BYTES;

pub(super) async fn post(connection: &Connection, id: &str, body: Incoming) -> Result<Answer, ApiError> {
    let (session, deadline) = connection.pushes.get(id)?;
    let slot = connection.pushes.question_slot()?;
    let bytes = deadline.bound(body::collect(body, MAX_QUESTION_BYTES)).await?;
    let places =
        chunks::decode_places(&bytes).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    drop(bytes);
    let receiver = Arc::clone(&connection.receiver);
    let cutting = move || {
        // It is held as long as the thread works, also for a client that does not wait for the answer.
        let _slot = slot;
        answer(&receiver, &session, &places)
    };
    let answer = deadline.bound(blocking(&connection.receiver, cutting)).await?;
    Ok(body::binary_answer(answer))
}

fn answer(receiver: &Receiver, session: &Session, places: &[Place]) -> Result<Vec<u8>, ApiError> {
    session.staging()?;
    let mut answer = Vec::new();
    let mut finder = Finder::new(&receiver.repo, &session.bases);
    let mut left_bytes = MAX_CUT_BYTES;
    for place in places {
        let signature = sign(receiver, &mut finder, place, &mut left_bytes).map_err(from_read)?;
        chunks::encode_signature(signature.as_ref(), &mut answer);
    }
    Ok(answer)
}

fn sign(
    receiver: &Receiver,
    finder: &mut Finder<'_>,
    place: &Place,
    left_bytes: &mut u64,
) -> Result<Option<Signature>, ReadError> {
    let Some(basis) = finder.find(place)? else { return Ok(None) };
    let Some(content) = bases::open(&receiver.repo, basis)? else { return Ok(None) };
    let mut content = content.take(*left_bytes);
    // What cannot be read is not compared; if it is damaged, the new object is what heals it.
    let Ok(signature) = Signature::of(basis, &mut content) else { return Ok(None) };
    *left_bytes = content.limit();
    Ok(Some(signature).filter(|_| *left_bytes > 0))
}
