//! Trees of files on the way to a commit, without a repository in between.
//!
//! ```text
//! scan         a directory is listed into a Tree: names, owners, modes, extended attributes, symlink targets
//! read_tar     an archive is listed in the same way
//! TreeObjects  the files of a Tree are hashed on all cores, its dirtrees and dirmetas made: every object has its id
//! store        in a repository: what it lacks is compressed, or copied, on all cores
//! open         content is read again where somebody wants it
//! ```
//!
//! Nothing is compressed, copied or stored before somebody asks for it: of a build of which a server has the most, the most
//! is hashed and nothing else.
//!
//! # Memory
//!
//! Content stays where it is. A file costs some 200 bytes, its name included, and hashing a buffer for each thread.
//!
//! # Files that change
//!
//! A file must look before and after it is hashed as it did when it was listed. Who reads its content later compares the checksum: content is never sent or stored under a name that it does not have any more.
#![forbid(unsafe_code)]

mod commit_rules;
mod content;
mod error;
mod hash;
mod hash_cache;
mod objects;
mod scan;
mod shared;
mod store;
mod tar;
mod tree;

pub use commit_rules::{CommitRules, ModeRule, RuleError};
pub use content::{Container, Content};
pub use error::TreeError;
pub use hash::{HashOptions, Root};
pub use hash_cache::HashCache;
pub use objects::TreeObjects;
pub use scan::{Attributes, Rules, scan};
pub use store::{StoreError, Stored};
pub use tar::{TarOptions, read_tar};
pub use tree::{DirIndex, File, Header, Tree};
