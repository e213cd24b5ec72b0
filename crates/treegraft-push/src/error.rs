//! Why a push failed.

use std::time::Duration;

use treegraft_object::ObjectName;
use treegraft_repo::ReadError;

use crate::{ClientError, SourceError};

/// How long the other requests have to say more than that the connection broke.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Returns the failure of `other` instead of one that only says that the connection broke.
pub(crate) async fn last_words<T>(error: PushError, other: impl Future<Output = Result<T, PushError>>) -> PushError {
    let is_broken = |error: &PushError| matches!(error, PushError::Client(ClientError::Connection(_)));
    if !is_broken(&error) {
        return error;
    }
    match tokio::time::timeout(LAST_WORDS_TIMEOUT, other).await {
        Ok(Err(other)) if !is_broken(&other) => other,
        _ => error,
    }
}
