//! Content objects that are sent as recipes or by reference: made of what the server has and of what is new.

use std::io::{self, Read};

use treegraft_object::{ContentId, ObjectKind, ObjectName, verify::VerifyError};
use treegraft_repo::{Staged, Staging, StagingError};
use treegraft_wire::{
    ApiError, ErrorCode,
    chunks::{Basis, RecipeError, RecipeReader},
    stream::Encoding,
};

use crate::{
    Receiver, bases,
    error::{chain, from_staging},
    session::Session,
};

/// Makes an object and takes it, or returns nothing when it has to be sent as a whole: its basis is not there, or what was
/// made is not the object.
pub(super) fn stage(
    receiver: &Receiver,
    session: &Session,
    staging: &Staging,
    name: ObjectName,
    encoding: Encoding,
    mut object: &mut impl Read,
) -> Result<Option<Staged>, ApiError> {
    if !receiver.settings.offer_chunks {
        return Err(ApiError::new(ErrorCode::BadRequest, "Recipes are not offered by this server").of_object(&name));
    }
    if name.kind != ObjectKind::File {
        let error = ApiError::new(ErrorCode::BadRequest, format!("`{name}` is no content object and has no recipe"));
        return Err(error.of_object(&name));
    }
    let recipe = RecipeReader::new(&mut object).map_err(|error| refusal(name, &error))?;
    let (header, content_bytes) = (recipe.header.clone(), recipe.content_bytes);
    let basis = bases::open(&receiver.repo, recipe.basis);
    // Compressed it could be within the limits; that is for the object as a whole to show.
    let is_small_enough = content_bytes <= receiver.settings.max_content_bytes.min(session.budget.object_bytes());
    let made = match basis.filter(|_| is_small_enough) {
        Some(basis) => {
            let basis = session.wanted(basis);
            let id = ContentId(name.checksum);
            let made: Box<dyn Read> = match encoding {
                Encoding::Reference => Box::new(recipe.decompress(basis)),
                _ => Box::new(recipe.follow(Basis::new(basis))),
            };
            let mut made = Counted { made, bytes: 0 };
            let staged = staging.stage_plain(id, &header, content_bytes, &mut made);
            match &staged {
                Ok(staged) => session.budget.take_made(staged.archived_bytes)?,
                Err(_) => session.budget.take_made_in_vain(made.bytes)?,
            }
            outcome(name, staged)?
        }
        None => None,
    };
    // What is left of it is of no use, and the next object is behind it.
    io::copy(object, &mut io::sink()).map_err(|error| refusal(name, &error.into()))?;
    Ok(made)
}

/// Counts what was made of a recipe.
struct Counted<R> {
    made: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.made.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Draws the consequences of an object that could not be made.
fn outcome(name: ObjectName, staged: Result<Staged, StagingError>) -> Result<Option<Staged>, ApiError> {
    match staged {
        Ok(staged) => Ok(Some(staged)),
        Err(error) if error.is_other_content() => Ok(None),
        Err(StagingError::Verify(VerifyError::Read { name: of, source })) => {
            match source.get_ref().and_then(|error| error.downcast_ref::<RecipeError>()) {
                // A damaged basis is no reason to refuse what could replace it.
                Some(RecipeError::Basis(_)) => Ok(None),
                Some(error) => Err(refusal(name, error)),
                None => Err(from_staging(StagingError::Verify(VerifyError::Read { name: of, source }))),
            }
        }
        Err(error) => Err(from_staging(error)),
    }
}

/// Refuses a recipe.
pub(super) fn refusal(name: ObjectName, error: &RecipeError) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, format!("The recipe of `{name}` cannot be followed: {}", chain(error)))
        .of_object(&name)
}
