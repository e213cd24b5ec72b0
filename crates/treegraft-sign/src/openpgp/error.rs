//! What can go wrong with `gpg`.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

/// Says why a text is not taken as a key id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyIdError {
    /// Reports a key id with nothing in it, which gpg would take for its default key.
    #[error("Could not use the OpenPGP key id: it is empty")]
    Empty,
    /// Reports a key id that begins with `-`, which gpg could take for an option.
    #[error("Could not use the OpenPGP key id `{key_id}`: it begins with `-`")]
    LooksLikeOption {
        /// The text given.
        key_id: String,
    },
    /// Reports a key id with a line end or another control character.
    #[error("Could not use the OpenPGP key id {key_id:?}: it contains a control character")]
    ControlCharacter {
        /// The text given.
        key_id: String,
    },
}

/// Names what is wrong with a secret key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// The key, or every one of its signing subkeys, is past its date.
    #[error("it has expired")]
    Expired,
    /// The key was revoked.
    #[error("it is revoked")]
    Revoked,
    /// The key is for encryption or authentication only.
    #[error("it is not made for signing")]
    NotForSigning,
    /// Only a stub is here: the secret part was taken out and kept elsewhere.
    #[error("its secret part is not on this machine")]
    SecretPartMissing,
    /// The key is invalid or disabled, or gpg did not say what is wrong.
    #[error("it may be expired, revoked or not made for signing")]
    Unspecified,
}

/// Says why `gpg` did not do its work.
///
/// `stderr` holds the end of gpg's messages without its status lines, at most 16 KiB.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GpgError {
    /// Reports that the program does not exist.
    #[error("Could not find the program `{}`", program.display())]
    ProgramNotFound {
        /// The program as configured.
        program: PathBuf,
    },
    /// Reports that the program exists but could not be started.
    #[error("Could not start the program `{}`", program.display())]
    Start {
        /// The program as configured.
        program: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Reports a home directory that does not exist; gpg itself would say that the key is missing.
    #[error("Could not find the home directory of gpg `{}`", homedir.display())]
    NoHomedir {
        /// The directory as configured.
        homedir: PathBuf,
    },
    /// Reports that the program's output could not be read.
    #[error("Could not read what `{}` wrote", program.display())]
    Pipe {
        /// The program as configured.
        program: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Reports that gpg has no secret key by this name.
    #[error("Could not find a secret key for `{key_id}`")]
    NoSecretKey {
        /// The key as configured.
        key_id: String,
        /// gpg's messages.
        stderr: String,
    },
    /// Reports several secret keys by this name, of which gpg would silently take one.
    #[error("Could not choose a secret key for `{key_id}`: it may be any of {}", fingerprints.join(", "))]
    Ambiguous {
        /// The key as configured.
        key_id: String,
        /// The fingerprints of the primary keys.
        fingerprints: Vec<String>,
    },
    /// Reports a secret key that cannot sign.
    #[error("Could not use the secret key `{key_id}`: {problem}")]
    KeyUnusable {
        /// The key as configured.
        key_id: String,
        /// What is wrong with it.
        problem: KeyProblem,
    },
    /// Reports that a passphrase or PIN would have to be asked for.
    #[error("Could not unlock the secret key `{key_id}`: it wants a passphrase or PIN that the agent does not hold")]
    Locked {
        /// The key as configured.
        key_id: String,
        /// gpg's messages.
        stderr: String,
    },
    /// Reports that the program was ended because it did not end by itself.
    #[error("Could not wait any longer for `{}`: it did not finish within {timeout:?}", program.display())]
    TimedOut {
        /// The program as configured.
        program: PathBuf,
        /// The time that it had.
        timeout: Duration,
    },
    /// Reports that the program wrote more than a signature or a listing can be.
    #[error("Could not take what `{}` wrote: it is more than {limit_bytes} bytes", program.display())]
    OutputTooLarge {
        /// The program as configured.
        program: PathBuf,
        /// The limit.
        limit_bytes: usize,
    },
    /// Reports that the program claimed success without having read all the data, so the signature cannot cover them.
    #[error("Could not hand all data to `{}`, and yet it reported success", program.display())]
    InputNotRead {
        /// The program as configured.
        program: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Reports that the program claimed success but wrote no OpenPGP signature.
    #[error("Could not find an OpenPGP signature in what `{}` wrote", program.display())]
    NotASignature {
        /// The program as configured.
        program: PathBuf,
        /// The program's messages.
        stderr: String,
    },
    /// Reports any other failure in gpg's own words.
    #[error("Could not run `{}` successfully: {status}: {stderr}", program.display())]
    Failed {
        /// The program as configured.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The program's messages.
        stderr: String,
    },
}

impl GpgError {
    /// Tells whether the same call may succeed later without anyone changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Start { source, .. } => {
                matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
            }
            _ => false,
        }
    }

    /// Returns the program's own messages where the error holds them and they are not part of its text.
    pub fn stderr(&self) -> Option<&str> {
        match self {
            Self::NoSecretKey { stderr, .. } | Self::Locked { stderr, .. } | Self::NotASignature { stderr, .. }
                if !stderr.is_empty() =>
            {
                Some(stderr)
            }
            _ => None,
        }
    }
}
