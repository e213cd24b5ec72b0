//! What a signing key can do, whatever its kind.

use std::error::Error;

use thiserror::Error;

use crate::openpgp::GpgError;

/// Names the dictionary entry that holds OpenPGP signatures (`aay`).
pub const GPG_SIGNATURES: &str = "ostree.gpgsigs";

/// Names the dictionary entry that holds Ed25519 signatures (`aay`, 64 bytes each).
pub const ED25519_SIGNATURES: &str = "ostree.sign.ed25519";

/// Makes detached signatures with one key.
pub trait SigningKey: Send + Sync {
    /// Returns the entry of `.commitmeta` or `summary.sig` that this key's signatures belong to.
    ///
    /// The entry's GVariant type is `aay`.
    fn metadata_key(&self) -> &'static str;

    /// Signs `data`, the raw bytes of a commit or a summary, and returns one element of the entry's array.
    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError>;

    /// Describes the key for a log line: its kind and its public name, never the secret.
    fn describe(&self) -> String;

    /// Tests that the key can be used, as far as that is possible without making a signature.
    ///
    /// Meant for the start of a long-running program. The default is for keys that are held in memory.
    fn check(&self) -> Result<(), SignError> {
        Ok(())
    }
}

/// Says why a signature was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignError {
    /// Reports that `gpg` made no signature.
    #[error("Could not sign with the OpenPGP key `{key_id}`")]
    OpenPgp {
        /// The key as it was configured.
        key_id: String,
        /// What went wrong.
        source: GpgError,
    },
    /// Reports that the key would not be able to sign.
    #[error("Could not use the OpenPGP key `{key_id}` for signing")]
    CheckOpenPgp {
        /// The key as it was configured.
        key_id: String,
        /// What went wrong.
        source: GpgError,
    },
    /// Reports the failure of a key of another kind, implemented outside of this crate.
    #[error("Could not sign with the key `{key}`")]
    Other {
        /// The key's [`SigningKey::describe`].
        key: String,
        /// What went wrong.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl SignError {
    /// Tells whether the same call may succeed later without anyone changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::OpenPgp { source, .. } | Self::CheckOpenPgp { source, .. } => source.is_temporary(),
            Self::Other { .. } => false,
        }
    }
}
