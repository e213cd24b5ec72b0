//! `POST /api/v1/pushes/{id}/objects`: takes a stream of objects into the staging area.

use std::{
    io::{self, Read},
    sync::{Arc, PoisonError},
};

use hyper::{Request, StatusCode, body::Incoming, header::CONTENT_ENCODING};
use treegraft_object::limits::{MAX_DETACHED_METADATA_BYTES, MAX_METADATA_BYTES};
use treegraft_object::{ContentId, ObjectKind, ObjectName};
use treegraft_repo::{Staged, Staging};
use treegraft_wire::{
    ApiError, ErrorCode, ObjectsAnswer,
    stream::{self, Encoding, StreamError},
};

use super::{blocking, recipe};
use crate::{
    Receiver,
    body::{self, Answer, BlockingBody},
    connection::Connection,
    error::from_staging,
    session::Session,
};

/// Where the size of the content is in a `.filez`: behind the frame of 8 bytes, in big-endian order.
const CONTENT_SIZE_OFFSET: usize = 8;
const CONTENT_SIZE_END: usize = CONTENT_SIZE_OFFSET + size_of::<u64>();

pub(super) async fn post(connection: &Connection, id: &str, request: Request<Incoming>) -> Result<Answer, ApiError> {
    let (session, deadline) = connection.pushes.get(id)?;
    let slot = connection.pushes.stream_slot()?;
    let stream = Session::begin_stream(session)?;
    let is_compressed = is_compressed(&connection.receiver, &request)?;
    let body = BlockingBody::new(request.into_body(), deadline);
    let arrival = body.arrival();
    let receiver = Arc::clone(&connection.receiver);
    let taking = move || {
        // Both are held as long as the thread works, also for a client that does not wait for the answer.
        let _slot = slot;
        if is_compressed {
            let body = stream::decompress(body).map_err(|error| from_stream(&error.into()))?;
            take(&receiver, &stream, body)
        } else {
            take(&receiver, &stream, body)
        }
    };
    let mut answer = deadline.bound(blocking(&connection.receiver, taking)).await?;
    answer.arrival = *arrival.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(body::json_answer(StatusCode::OK, &answer))
}

/// Tells whether the stream is compressed as a whole.
fn is_compressed(receiver: &Receiver, request: &Request<Incoming>) -> Result<bool, ApiError> {
    match request.headers().get(CONTENT_ENCODING) {
        None => Ok(false),
        Some(encoding) if encoding == stream::ZSTD && receiver.settings.offer_chunks => Ok(true),
        Some(encoding) => {
            let detail = format!("The content encoding {encoding:?} is not offered");
            Err(ApiError::new(ErrorCode::BadRequest, detail))
        }
    }
}

fn take(receiver: &Receiver, session: &Session, body: impl Read) -> Result<ObjectsAnswer, ApiError> {
    let staging = session.staging()?;
    let mut answer = ObjectsAnswer::default();
    let mut objects = stream::Reader::new(body);
    while let Some((name, encoding, object)) = objects.next_object().map_err(|error| from_stream(&error))? {
        session.budget.take_object()?;
        let mut object = session.budget.metered(object);
        let staged = match encoding {
            Encoding::Archive => stage(receiver, session, staging, name, &mut object).map(Some),
            Encoding::Recipe | Encoding::Reference => {
                recipe::stage(receiver, session, staging, name, encoding, &mut object)
            }
        };
        // An object that breaks off because the push is too large is no damaged object.
        let staged = staged.map_err(|error| session.budget.refusal().unwrap_or(error))?;
        let Some(staged) = staged else {
            answer.to_be_sent_whole.push(ContentId(name.checksum));
            continue;
        };
        if let Some(flush) = staging.due_flush(&staged) {
            receiver.work.spawn_blocking(|| flush.run());
        }
        if staged.is_new {
            answer.objects += 1;
            answer.bytes += staged.archived_bytes;
        } else {
            answer.already_there += 1;
        }
    }
    Ok(answer)
}

/// Takes one object.
fn stage(
    receiver: &Receiver,
    session: &Session,
    staging: &Staging,
    name: ObjectName,
    object: &mut impl Read,
) -> Result<Staged, ApiError> {
    if name.kind == ObjectKind::File {
        let mut object = within_content_limit(receiver, name, object)?;
        return staging.stage_content(name, &mut object, session.budget.object_bytes()).map_err(from_staging);
    }
    let data = read_metadata(receiver, session, name, object)?;
    staging.stage_metadata(name, &data).map_err(from_staging)
}

/// Looks at the size that a content object promises before anything of it is unpacked, and gives back the whole object.
///
/// A `.filez` never gives more than it promises; what is too short for a promise is refused when it is verified.
fn within_content_limit<'o, R: Read>(
    receiver: &Receiver,
    name: ObjectName,
    object: &'o mut R,
) -> Result<impl Read + use<'o, R>, ApiError> {
    let mut start = Vec::with_capacity(CONTENT_SIZE_END);
    object
        .take(CONTENT_SIZE_END as u64)
        .read_to_end(&mut start)
        .map_err(|error| from_stream(&error.into()).of_object(&name))?;
    let promised = start.get(CONTENT_SIZE_OFFSET..CONTENT_SIZE_END).and_then(|bytes| bytes.try_into().ok());
    let limit_bytes = receiver.settings.max_content_bytes;
    match promised.map(u64::from_be_bytes) {
        Some(bytes) if bytes > limit_bytes => {
            let detail = format!("`{name}` has {bytes} bytes unpacked, at most {limit_bytes} are allowed");
            Err(ApiError::new(ErrorCode::TooLarge, detail).of_object(&name).hint(administrators("max-content-bytes")))
        }
        _ => Ok(io::Cursor::new(start).chain(object)),
    }
}

/// Reads a metadata object of a kind that may be pushed, up to the size that its kind may have.
fn read_metadata(
    receiver: &Receiver,
    session: &Session,
    name: ObjectName,
    object: &mut impl Read,
) -> Result<Vec<u8>, ApiError> {
    let refuse = |rule: &str, reason: &str| {
        let detail = format!("The object `{name}` cannot be pushed: {reason}");
        ApiError { rule: Some(rule.to_owned()), ..ApiError::new(ErrorCode::BadRequest, detail).of_object(&name) }
    };
    let limit_bytes = match name.kind {
        ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta => {
            receiver.settings.max_metadata_bytes.min(MAX_METADATA_BYTES)
        }
        ObjectKind::CommitMeta if session.offers_commit(name.checksum) => MAX_DETACHED_METADATA_BYTES,
        ObjectKind::CommitMeta => return Err(refuse("foreign-commitmeta", "its commit is not offered by this push")),
        _ => return Err(refuse("object-kind", "only a repository itself makes such objects")),
    };
    let mut data = Vec::new();
    let read = object
        .take(limit_bytes + 1)
        .read_to_end(&mut data)
        .map_err(|error| from_stream(&error.into()).of_object(&name))?;
    if read as u64 > limit_bytes {
        let detail = format!("`{name}` has more than {limit_bytes} bytes");
        let error = ApiError::new(ErrorCode::TooLarge, detail).of_object(&name);
        let has_setting = name.kind != ObjectKind::CommitMeta && limit_bytes < MAX_METADATA_BYTES;
        return Err(if has_setting { error.hint(administrators("max-metadata-bytes")) } else { error });
    }
    Ok(data)
}

fn administrators(setting: &str) -> String {
    format!("the server's administrator can raise `{setting}` for this repository")
}

pub(super) fn from_stream(error: &StreamError) -> ApiError {
    let reason = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    ApiError::new(ErrorCode::BadRequest, format!("{error}{reason}"))
}
