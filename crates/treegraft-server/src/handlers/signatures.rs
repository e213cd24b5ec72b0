//! `POST /api/v1/pushes/{id}/signatures`: tells what chunks the server has at paths of the pushed trees.

use std::{io::Read, sync::Arc};

use hyper::body::Incoming;
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
    session::Session,
};

/// Largest question in bytes: some ten thousand paths.
const MAX_QUESTION_BYTES: usize = 1 << 20;

/// Plain bytes that are cut into chunks for one question. What goes beyond has no signature.
const MAX_CUT_BYTES: u64 = 2 * bases::MAX_BASIS_BYTES;

/// Bytes of an answer. What goes beyond has no signature. The largest basis has room, unless its chunks are unusually short.
const MAX_ANSWER_BYTES: usize = 6 << 20;

pub(super) async fn post(connection: &Connection, id: &str, body: Incoming) -> Result<Answer, ApiError> {
    let (session, deadline) = connection.pushes.get(id)?;
    let slot = connection.pushes.question_slot()?;
    let bytes = deadline.bound(body::collect(body, MAX_QUESTION_BYTES)).await?;
    let places =
        chunks::decode_places(&bytes).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    drop(bytes);
    let receiver = Arc::clone(&connection.receiver);
    // The slot is held as long as the thread works, also for a client that does not wait for the answer.
    let cutting = move || Ok((answer(&receiver, &session, &places)?, slot));
    let (answer, slot) = deadline.bound(blocking(&connection.receiver, cutting)).await?;
    Ok(body::binary_answer(answer, slot))
}

fn answer(receiver: &Receiver, session: &Session, places: &[Place]) -> Result<Vec<u8>, ApiError> {
    session.staging()?;
    let mut answer = Vec::new();
    let mut finder = Finder::new(&receiver.repo, &session.bases);
    let mut left_bytes = MAX_CUT_BYTES;
    for place in places {
        session.check_wanted()?;
        let before = answer.len();
        let signature = sign(receiver, session, &mut finder, place, &mut left_bytes);
        chunks::encode_signature(signature.as_ref(), &mut answer);
        if answer.len() > MAX_ANSWER_BYTES {
            answer.truncate(before);
            chunks::encode_signature(None, &mut answer);
            left_bytes = 0;
        }
    }
    Ok(answer)
}

fn sign(
    receiver: &Receiver,
    session: &Session,
    finder: &mut Finder<'_>,
    place: &Place,
    left_bytes: &mut u64,
) -> Option<Signature> {
    if *left_bytes == 0 {
        return None;
    }
    let basis = finder.find(place)?;
    let mut content = session.wanted(bases::open(&receiver.repo, basis)?).take(*left_bytes);
    let signature = Signature::of(basis, &mut content);
    *left_bytes = content.limit();
    signature.ok().filter(|_| *left_bytes > 0)
}
