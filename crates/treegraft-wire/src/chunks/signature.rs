//! What chunks a basis has.
//!
//! ```text
//! answer    signature*          one for each place of the question, in the same order
//! signature found    1 byte     0: nothing to compare with, and nothing follows; 1: this
//!           basis    32 bytes   the checksum of the content object
//!           count    4 bytes    big-endian
//!           chunk*   2 bytes    big-endian, its length
//!                    8 bytes    its digest
//! ```

use std::io::{self, Read};

use treegraft_object::{Checksum, ContentId};

use super::{Cutter, Digest, MAX_CHUNK_BYTES, cut::digest};

const NOTHING: u8 = 0;
const FOUND: u8 = 1;

const CHUNK_BYTES: usize = 2 + size_of::<Digest>();

/// The chunks of a content object that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The object.
    pub basis: ContentId,
    /// Length in bytes and digest of each chunk of its plain content, in order.
    pub chunks: Vec<(u16, Digest)>,
}

/// The bytes are no answer to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The chunks of the server's files are not what was asked for")]
pub struct SignatureError;

impl Signature {
    /// Cuts the plain content of an object into chunks.
    pub fn of(basis: ContentId, content: impl Read) -> io::Result<Self> {
        let mut cutter = Cutter::new(content);
        let mut chunks = Vec::new();
        while let Some(chunk) = cutter.next_chunk()? {
            chunks.push((length(chunk), digest(chunk)));
        }
        Ok(Self { basis, chunks })
    }
}

fn length(chunk: &[u8]) -> u16 {
    const { assert!(MAX_CHUNK_BYTES <= u16::MAX as usize) };
    u16::try_from(chunk.len()).expect("chunks are bounded")
}

/// Adds one signature to an answer.
pub fn encode_signature(signature: Option<&Signature>, answer: &mut Vec<u8>) {
    let Some(Signature { basis, chunks }) = signature else {
        answer.push(NOTHING);
        return;
    };
    answer.push(FOUND);
    answer.extend_from_slice(basis.0.as_bytes());
    answer.extend_from_slice(&u32::try_from(chunks.len()).expect("files are smaller than 2 TB").to_be_bytes());
    for (length, digest) in chunks {
        answer.extend_from_slice(&length.to_be_bytes());
        answer.extend_from_slice(digest);
    }
}

/// Decodes the answer to a question of `places` places.
pub fn decode_signatures(mut bytes: &[u8], places: usize) -> Result<Vec<Option<Signature>>, SignatureError> {
    let mut signatures = Vec::with_capacity(places.min(bytes.len()));
    for _ in 0..places {
        let (&found, rest) = bytes.split_first().ok_or(SignatureError)?;
        bytes = rest;
        signatures.push(match found {
            NOTHING => None,
            FOUND => {
                let (basis, rest) = bytes.split_first_chunk::<{ Checksum::BYTES }>().ok_or(SignatureError)?;
                let (count, rest) = rest.split_first_chunk().ok_or(SignatureError)?;
                let chunks_bytes = (u32::from_be_bytes(*count) as usize).checked_mul(CHUNK_BYTES);
                let (chunks, rest) =
                    chunks_bytes.and_then(|bytes| rest.split_at_checked(bytes)).ok_or(SignatureError)?;
                bytes = rest;
                let basis = ContentId(Checksum::from_slice(basis).ok_or(SignatureError)?);
                Some(Signature { basis, chunks: chunks.chunks_exact(CHUNK_BYTES).map(decode_chunk).collect() })
            }
            _ => return Err(SignatureError),
        });
    }
    if bytes.is_empty() { Ok(signatures) } else { Err(SignatureError) }
}

fn decode_chunk(chunk: &[u8]) -> (u16, Digest) {
    let (length, digest) = chunk.split_first_chunk().expect("chunks of an answer have ten bytes");
    (u16::from_be_bytes(*length), digest.try_into().expect("chunks of an answer have ten bytes"))
}
