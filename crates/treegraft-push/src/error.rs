//! Why a push failed.

use treegraft_object::ObjectName;
use treegraft_repo::ReadError;

use crate::{ClientError, SourceError};

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The repository or a ref to push cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An object that has to be sent cannot be read.
    #[error("Could not read an object that has to be pushed")]
    Read(#[from] ReadError),
    /// Neither side has an object.
    #[error("The object `{name}` is missing here, and the server does not have it either")]
    MissingHere {
        /// The object.
        name: ObjectName,
    },
    /// The server refused, or the connection broke.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A thread of this program ended in disorder.
    #[error("A worker thread panicked")]
    Worker,
}

impl PushError {
    /// Tells whether another try may succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Client(error) => error.is_temporary(),
            Self::Read(error) => error.is_temporary(),
            Self::Source(_) | Self::MissingHere { .. } | Self::Worker => false,
        }
    }
}
