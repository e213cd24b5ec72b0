//! OSTree's object formats: identifiers, GVariant, and every object kind, read and written byte for byte.
//!
//! This crate knows bytes only. It opens no file, reads no clock and holds no state; streams go through
//! [`std::io::Read`] and [`std::io::Write`].
//!
//! * [`gvariant`]: the serialisation under all metadata, with a strict check for normal form.
//! * [`Checksum`], [`CommitId`], [`DirTreeId`], [`DirMetaId`], [`ContentId`], [`ObjectName`]: identifiers.
//! * [`RefName`], [`CollectionId`]: names with their grammar; [`RefPattern`]: which refs are meant.
//! * [`commit`], [`dirtree`], [`dirmeta`], [`file_header`], [`detached`], [`tombstone`], [`summary`]: one format each, as a
//!   borrowed form that is decoded without copying and an owned form that is built and encoded.
//! * [`filez`]: archive content objects (`.filez`), verified, read and written as streams.
//! * [`verify`]: what every object that comes from outside must pass before it gets its name.
//!
//! # Strictness
//!
//! Decoders accept what libostree writes and nothing else: normal form, the exact type, sorted and unique names, sane
//! modes. libostree itself is laxer (it takes unsorted or duplicate directory entries, for example); a server that keeps
//! such an object hands its clients a tree that different programs read differently. Each refusal has its own
//! [`DecodeError`] variant and a stable [`DecodeError::code`].
//!
//! # Limits
//!
//! All of them are constants in [`limits`]. Decoding allocates in proportion to its input, never to a number found in it.
#![forbid(unsafe_code)]

mod checksum;
pub mod commit;
mod content_hasher;
mod deflate;
pub mod detached;
pub mod dirmeta;
pub mod dirtree;
mod error;
pub mod file_header;
pub mod filez;
pub mod gvariant;
pub mod limits;
mod name;
mod object_name;
mod ref_pattern;
pub mod summary;
pub mod tombstone;
pub mod verify;
pub mod xattrs;

pub use checksum::{Checksum, CommitId, ContentId, DirMetaId, DirTreeId, ParseChecksumError};
pub use commit::{Commit, CommitRef};
pub use content_hasher::ContentHasher;
pub use dirmeta::DirMeta;
pub use dirtree::{DirTree, DirTreeRef};
pub use error::DecodeError;
pub use file_header::{FileHeader, FileKind};
pub use name::{CollectionId, InvalidName, RefName};
pub use object_name::{ObjectKind, ObjectName};
pub use ref_pattern::RefPattern;
pub use xattrs::Xattrs;
