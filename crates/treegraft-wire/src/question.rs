//! Asking which objects are missing.
//!
//! The question is a list of object names without anything between them, 33 bytes each: one byte of kind (libostree's
//! number) and the checksum. The answer has one byte for each name, in the same order: a [`Presence`].

use treegraft_object::{Checksum, ObjectKind, ObjectName};

/// Size of a name in a question, in bytes.
pub const NAME_BYTES: usize = 1 + Checksum::BYTES;

/// What the server has of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Presence {
    /// Nothing: it must be sent.
    Missing = b'-',
    /// A dirtree is there, but what is below it has to be asked for.
    Here = b'o',
    /// It is there; of a dirtree, everything below it, too.
    Complete = b'+',
}

/// The bytes are no question or no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The length is not a multiple of 33.
    #[error("A question of {bytes} bytes is not made of names of 33 bytes")]
    Length {
        /// Length of the question.
        bytes: usize,
    },
    /// The kind of an object is unknown or cannot be asked for.
    #[error("{number} is no kind of object that can be asked for")]
    Kind {
        /// The number.
        number: u8,
    },
    /// An answer has an unknown byte or another length than its question.
    #[error("The answer does not fit the question")]
    Answer,
}

/// Encodes a question.
pub fn encode<'a>(names: impl IntoIterator<Item = &'a ObjectName>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        bytes.push(name.kind.number());
        bytes.extend_from_slice(name.checksum.as_bytes());
    }
    bytes
}

/// Decodes a question.
pub fn decode(bytes: &[u8]) -> Result<Vec<ObjectName>, QuestionError> {
    if !bytes.len().is_multiple_of(NAME_BYTES) {
        return Err(QuestionError::Length { bytes: bytes.len() });
    }
    bytes
        .chunks(NAME_BYTES)
        .map(|name| {
            let kind = ObjectKind::from_number(name[0]).filter(|kind| {
                matches!(kind, ObjectKind::File | ObjectKind::DirTree | ObjectKind::DirMeta | ObjectKind::Commit)
            });
            let checksum = Checksum::from_slice(&name[1..]).expect("chunks have 33 bytes");
            kind.map(|kind| ObjectName::new(kind, checksum)).ok_or(QuestionError::Kind { number: name[0] })
        })
        .collect()
}

/// Encodes an answer.
pub fn encode_answer(presence: &[Presence]) -> Vec<u8> {
    presence.iter().map(|&presence| presence as u8).collect()
}

/// Decodes the answer to a question of `names` names.
pub fn decode_answer(bytes: &[u8], names: usize) -> Result<Vec<Presence>, QuestionError> {
    if bytes.len() != names {
        return Err(QuestionError::Answer);
    }
    bytes
        .iter()
        .map(|byte| match byte {
            b'-' => Ok(Presence::Missing),
            b'o' => Ok(Presence::Here),
            b'+' => Ok(Presence::Complete),
            _ => Err(QuestionError::Answer),
        })
        .collect()
}
