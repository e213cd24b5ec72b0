//! `POST /api/v1/pushes/{id}/objects`: takes a stream of objects into the staging area.

use std::{io::Read, sync::Arc};

use hyper::{StatusCode, body::Incoming};
use treegraft_object::limits::{MAX_DETACHED_METADATA_BYTES, MAX_METADATA_BYTES};
use treegraft_object::{ObjectKind, ObjectName};
use treegraft_wire::{
    ApiError, ErrorCode, ObjectsAnswer,
    stream::{self, StreamError},
};

use super::blocking;
use crate::{
    Receiver,
    body::{self, Answer, BlockingBody},
    error::from_staging,
    session::Session,
};

pub(super) async fn post(receiver: &Arc<Receiver>, session: Arc<Session>, body: Incoming) -> Result<Answer, ApiError> {
    let body = BlockingBody::new(body);
    let owned = Arc::clone(receiver);
    let answer = blocking(receiver, move || take(&owned, &session, body)).await?;
    Ok(body::json_answer(StatusCode::OK, &answer))
}

fn take(receiver: &Receiver, session: &Session, body: BlockingBody) -> Result<ObjectsAnswer, ApiError> {
    let staging = session.staging()?;
    let mut answer = ObjectsAnswer::default();
    let mut objects = stream::Reader::new(body);
    while let Some((name, mut object)) = objects.next_object().map_err(|error| from_stream(&error))? {
        let staged = if name.kind == ObjectKind::File {
            staging.stage_content(name, &mut object, receiver.settings.max_object_bytes).map_err(from_staging)?
        } else {
            let data = read_metadata(session, name, &mut object)?;
            staging.stage_metadata(name, &data).map_err(from_staging)?
        };
        if staged.is_new {
            answer.objects += 1;
            answer.bytes += staged.archived_bytes;
        } else {
            answer.already_there += 1;
        }
    }
    Ok(answer)
}

/// Reads a metadata object of a kind that may be pushed, up to the size that its kind may have.
fn read_metadata(session: &Session, name: ObjectName, object: &mut impl Read) -> Result<Vec<u8>, ApiError> {
    let limit_bytes = match name.kind {
        ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta => MAX_METADATA_BYTES,
        ObjectKind::CommitMeta if session.offers_commit(name.checksum) => MAX_DETACHED_METADATA_BYTES,
        _ => {
            let detail = format!("`{name}` does not belong to this push");
            return Err(ApiError::new(ErrorCode::BadRequest, detail).of_object(&name));
        }
    };
    let mut data = Vec::new();
    let read = object.take(limit_bytes + 1).read_to_end(&mut data).map_err(|error| from_stream(&error.into()))?;
    if read as u64 > limit_bytes {
        let detail = format!("`{name}` has more than {limit_bytes} bytes");
        return Err(ApiError::new(ErrorCode::TooLarge, detail).of_object(&name));
    }
    Ok(data)
}

fn from_stream(error: &StreamError) -> ApiError {
    let reason = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    ApiError::new(ErrorCode::BadRequest, format!("{error}{reason}"))
}
