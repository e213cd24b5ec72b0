//! The exchange of chunks: sending of a file only what the server cannot take from a file that it has.
//!
//! ```text
//! client                                               server
//!   question: paths in the trees of the pushed refs      finds the file at each path in the ref's head: the basis
//!   answer:   which basis, checksums of its chunks  <-   cuts the basis into chunks
//!   cuts its own file, looks each chunk up
//!   recipe:   copy from the basis, or these bytes   ->   rebuilds the file, hashes it, stores it
//! ```
//!
//! Both sides cut by content ([`Cutter`]), so that an insertion moves the cuts behind it and changes no other chunk. The
//! names of chunks are short, and nothing depends on them: the object's checksum decides in the end, and what was rebuilt
//! wrongly is sent again as a whole.
//!
//! A recipe only copies forward, but for a [`WINDOW_BYTES`] window. So the basis, which is compressed on the server, is
//! inflated once, and neither side keeps more than the window of it in memory, however large the file is; the names of its
//! chunks are half a percent of it.

mod basis;
mod cut;
mod question;
mod recipe;
mod reference;
mod signature;

pub use basis::Basis;
pub use cut::{AVERAGE_CHUNK_BYTES, Cutter, Digest, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, digest};
pub use question::{Place, PlaceError, decode_places, encode_places};
pub use recipe::{RecipeError, RecipeReader, write_recipe};
pub use reference::write_reference;
pub use signature::{Signature, SignatureError, decode_signatures, encode_signature};

/// The feature of a server that takes what differs from a file that both sides have ([`write_reference`]).
pub const REFERENCES: &str = "references-1";

/// The feature of a server that has files to compare with, and of a client that sends recipes.
///
/// It stands for all that decides about bytes on the wire: cuts, digests, window and the form of recipes.
pub const CHUNKS: &str = "chunks-1";

/// How far before the furthest byte that was copied of a basis a copy may begin, in bytes.
///
/// What moved within a library from one week to the next has moved by less.
pub const WINDOW_BYTES: u64 = 4 << 20;
