//! Why a tree cannot be committed.

use std::{io, path::PathBuf};

use treegraft_object::{DecodeError, limits};

/// Why a tree cannot be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The file system refused.
    #[error("Could not read `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A device, a socket or a named pipe.
    #[error("Could not commit `{path}`: it is neither a regular file nor a directory nor a symlink", path = path.display())]
    Special {
        /// The file.
        path: PathBuf,
    },
    /// A name or a symlink's target is not what OSTree can store.
    #[error("Could not commit `{path}`: {what} is not UTF-8", path = path.display())]
    NotUtf8 {
        /// The file or directory.
        path: PathBuf,
        /// What it is that is not UTF-8.
        what: &'static str,
    },
    /// Owner, mode, target or extended attributes are not what OSTree can store.
    #[error("Could not commit `{path}`", path = path.display())]
    Invalid {
        /// The file or directory.
        path: PathBuf,
        /// The broken rule.
        #[source]
        source: DecodeError,
    },
    /// One name would be a directory and a file.
    #[error("Could not commit `{path}`: it is a directory in one place and a file in another")]
    Conflict {
        /// The path in the tree.
        path: String,
    },
    /// A directory has nothing that says its owner and mode.
    #[error("Could not commit `{path}`: nothing says owner and mode of this directory")]
    NoMeta {
        /// The path in the tree.
        path: String,
    },
    /// The tree is nested too deeply.
    #[error("Could not commit `{path}`: it is nested deeper than {limit} directories", limit = limits::MAX_TREE_DEPTH)]
    TooDeep {
        /// The path in the tree.
        path: String,
    },
    /// One directory has so many entries that no client would fetch its dirtree.
    #[error("Could not commit `{path}`: its dirtree would have {bytes} bytes, and {limit} are allowed",
        limit = limits::MAX_METADATA_BYTES)]
    TooLarge {
        /// The path in the tree.
        path: String,
        /// How large the dirtree would be.
        bytes: u64,
    },
    /// An archive cannot be read.
    #[error("`{path}` is no valid tar archive: {reason}", path = path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The rule that it breaks.
        reason: String,
    },
    /// An archive is compressed in a way that is not read.
    #[error("`{path}` is compressed with {program}, which is not read", path = path.display())]
    Compressed {
        /// The archive.
        path: PathBuf,
        /// The program that decompresses it.
        program: &'static str,
    },
    /// A file does not stay as it is.
    #[error("`{path}` changed while it was read", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl TreeError {
    /// Tells whether the same call may succeed later without a change to the tree.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Changed { .. })
    }
}
