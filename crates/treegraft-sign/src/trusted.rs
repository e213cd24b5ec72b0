//! What a list of trusted keys can do, whatever its kind.

use std::fmt;
use std::path::Path;

use thiserror::Error;

use crate::openpgp::GpgError;

/// Most signatures of one kind that are looked at: a commit is signed by one key or two, and each costs a process.
pub const MAX_SIGNATURES: usize = 16;

/// A commit with its file.
#[derive(Debug, Clone, Copy)]
pub struct SignedData<'a> {
    /// The raw bytes.
    pub data: &'a [u8],
    /// A file with the same bytes, which nobody else can change.
    pub file: &'a Path,
}

/// Public keys of one kind; a signature by any of them is good.
pub trait TrustedKeys: Send + Sync + fmt::Debug {
    /// Returns the entry of the detached metadata that has signatures of this kind (`aay`).
    fn metadata_key(&self) -> &'static str;

    /// Returns the kind in words: `OpenPGP`, `ed25519`.
    fn kind(&self) -> &'static str;

    /// Looks at one signature. Returns the public name of the key that has made it.
    ///
    /// Only `Ok` means that it is good: made over these data by one of the keys, which may still be used.
    fn verify(&self, signed: SignedData<'_>, signature: &[u8]) -> Result<String, BadSignature>;

    /// Looks for one good signature among all. Returns the public name of the key that has made it.
    fn verify_any(&self, signed: SignedData<'_>, signatures: &[&[u8]]) -> Result<String, NotSigned> {
        if signatures.is_empty() {
            return Err(NotSigned::NoSignature);
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(NotSigned::TooMany { count: signatures.len() });
        }
        let mut reasons = Vec::new();
        for signature in signatures {
            match self.verify(signed, signature) {
                Ok(key) => return Ok(key),
                Err(BadSignature::Program(source)) => return Err(NotSigned::Program(source)),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(NotSigned::NoneGood { reasons })
    }
}

/// Says why one signature is not good.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BadSignature {
    /// Reports bytes that are no signature of this kind.
    #[error("it is no {kind} signature")]
    NotASignature {
        /// The kind.
        kind: &'static str,
    },
    /// Reports a key that is not among the trusted ones.
    #[error("the key {key} is not trusted")]
    UnknownKey {
        /// Its id or fingerprint.
        key: String,
    },
    /// Reports a key that is past its date.
    #[error("the key {key} has expired")]
    ExpiredKey {
        /// Its id or fingerprint.
        key: String,
    },
    /// Reports a key that was revoked.
    #[error("the key {key} is revoked")]
    RevokedKey {
        /// Its id or fingerprint.
        key: String,
    },
    /// Reports a signature that is past its date.
    #[error("the signature of the key {key} has expired")]
    Expired {
        /// Its id or fingerprint.
        key: String,
    },
    /// Reports a signature over other data, or a damaged one.
    #[error("it does not belong to this commit")]
    Mismatch,
    /// Reports a signature that does not cover the bytes as they are.
    #[error("the key {key} has signed a text, whose line ends do not count")]
    TextMode {
        /// Its id or fingerprint.
        key: String,
    },
    /// Reports that the program which looks at signatures did not work.
    #[error(transparent)]
    Program(GpgError),
}

/// Says why data do not count as signed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotSigned {
    /// Reports that there is no signature of this kind.
    #[error("there is no signature")]
    NoSignature,
    /// Reports more signatures than are looked at.
    #[error("there are {count} signatures, at most {MAX_SIGNATURES} are looked at")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Reports that no signature is good.
    #[error("no signature is good: {}", listed(reasons))]
    NoneGood {
        /// What is wrong with each.
        reasons: Vec<BadSignature>,
    },
    /// Reports that the program which looks at signatures did not work.
    #[error(transparent)]
    Program(GpgError),
}

fn listed(reasons: &[BadSignature]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
