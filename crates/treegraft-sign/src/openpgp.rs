//! OpenPGP signatures through the `gpg` program, and a look at them through `gpgv` ([`GpgKeyrings`]).
//!
//! The program is used rather than a library because the keys are the operator's: in an agent, on a smartcard, behind a
//! passphrase cache. It inherits the environment (`GNUPGHOME`, `GPG_TTY`, …) and finds them as it does for the user.
//!
//! Nobody sits at a server, so a passphrase is never asked for: `--pinentry-mode error` turns the question into
//! [`GpgError::Locked`]. A passphrase or PIN that the agent holds already keeps working. What may still take long is a
//! smartcard that waits for a touch; a time limit ends that.
//!
//! Whether and why signing failed is read from gpg's status lines, not from its messages, which are translated.

mod error;
mod keyring;
mod listing;
mod packets;
mod program;
mod status;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use error::{GpgError, KeyIdError, KeyProblem};
pub use keyring::{GpgKeyrings, KeyringError};

use crate::key::GPG_SIGNATURES;
use crate::{SignError, SigningKey};
use listing::Choice;
use program::{Finished, RunError};
use status::Failure;

/// Limits a signature: one of RSA 4096 has 600 bytes, the largest post-quantum ones about 50 KiB.
pub const MAX_SIGNATURE_BYTES: usize = 64 * 1024;

/// Limits the listing of the secret keys that a key id matches; one key with its user ids takes about 1 KiB.
const MAX_LISTING_BYTES: usize = 1024 * 1024;

/// Ends a `gpg` that does not: long enough for a smartcard that waits for a touch (15 s) or a slow start of the agent.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Signs with a secret key that the `gpg` program has.
#[derive(Debug, Clone)]
pub struct GpgKey {
    program: PathBuf,
    homedir: Option<PathBuf>,
    key_id: String,
    timeout: Duration,
}

/// Describes the secret key that a key id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKeyInfo {
    /// The primary key's fingerprint in upper-case hexadecimal.
    pub fingerprint: String,
    /// The first user id, where there is one.
    pub user_id: Option<String>,
}

impl GpgKey {
    /// Makes a key from what `gpg --local-user` takes: best a fingerprint, or a key id or (part of) a user id.
    ///
    /// It runs `gpg` from the search path with its usual home and [`DEFAULT_TIMEOUT`] until told otherwise. Whether the key
    /// exists is not looked at: see [`find`](Self::find).
    pub fn new(key_id: impl Into<String>) -> Result<Self, KeyIdError> {
        let key_id = key_id.into();
        if key_id.trim().is_empty() {
            return Err(KeyIdError::Empty);
        }
        if key_id.starts_with('-') {
            return Err(KeyIdError::LooksLikeOption { key_id });
        }
        if key_id.chars().any(char::is_control) {
            return Err(KeyIdError::ControlCharacter { key_id });
        }
        Ok(Self { program: PathBuf::from("gpg"), homedir: None, key_id, timeout: DEFAULT_TIMEOUT })
    }

    /// Runs another program instead of `gpg`; a name without a slash is looked for in the search path.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Uses the keys of another home directory (`gpg --homedir`).
    #[must_use]
    pub fn with_homedir(mut self, homedir: impl Into<PathBuf>) -> Self {
        self.homedir = Some(homedir.into());
        self
    }

    /// Sets how long one run of `gpg` may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns the key id as it was given.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Returns the home directory, where one was set.
    pub fn homedir(&self) -> Option<&Path> {
        self.homedir.as_deref()
    }

    /// Makes a detached binary signature over `data`.
    ///
    /// The bytes are those of `gpg --detach-sign --no-armor`, at most [`MAX_SIGNATURE_BYTES`].
    pub fn detach_sign(&self, data: &[u8]) -> Result<Vec<u8>, GpgError> {
        let mut command = self.command();
        // A gpg.conf may ask for armor or for text mode, which would change what is signed.
        command.args(["--no-armor", "--no-textmode", "--pinentry-mode", "error"]);
        command.args(["--local-user", &self.key_id, "--output", "-", "--detach-sign"]);
        let finished = self.run(command, Some(data), MAX_SIGNATURE_BYTES)?;
        if !finished.status.success() {
            return Err(self.failure(finished));
        }
        if let Some(source) = finished.input_error {
            return Err(GpgError::InputNotRead { program: self.program.clone(), source });
        }
        if !is_signature_packet(&finished.output) {
            return Err(GpgError::NotASignature { program: self.program.clone(), stderr: finished.messages.text });
        }
        Ok(finished.output)
    }

    /// Finds the secret key and tests that it can sign: it exists, is the only match, and is neither expired nor revoked.
    ///
    /// No signature is made, so neither a locked passphrase nor an absent smartcard is noticed.
    pub fn find(&self) -> Result<SecretKeyInfo, GpgError> {
        let mut command = self.command();
        command.args(["--list-secret-keys", "--with-colons", "--", &self.key_id]);
        let finished = self.run(command, None, MAX_LISTING_BYTES)?;
        if !finished.status.success() {
            return Err(self.failure(finished));
        }
        let key_id = self.key_id.clone();
        match listing::choose(&String::from_utf8_lossy(&finished.output)) {
            Choice::None => Err(GpgError::NoSecretKey { key_id, stderr: finished.messages.text }),
            Choice::One(key) => Ok(key),
            Choice::Unusable(problem) => Err(GpgError::KeyUnusable { key_id, problem }),
            Choice::Many(fingerprints) => Err(GpgError::Ambiguous { key_id, fingerprints }),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--batch", "--no-tty", "--utf8-strings", "--status-fd", "2"]);
        if let Some(homedir) = &self.homedir {
            command.arg("--homedir").arg(homedir);
        }
        command
    }

    fn run(&self, command: Command, input: Option<&[u8]>, output_limit_bytes: usize) -> Result<Finished, GpgError> {
        if let Some(homedir) = self.homedir.as_ref().filter(|homedir| !homedir.is_dir()) {
            return Err(GpgError::NoHomedir { homedir: homedir.clone() });
        }
        let program = self.program.clone();
        program::run(command, input, output_limit_bytes, self.timeout).map_err(|error| match error {
            RunError::NotFound => GpgError::ProgramNotFound { program },
            RunError::Start(source) => GpgError::Start { program, source },
            RunError::Pipe(source) => GpgError::Pipe { program, source },
            RunError::TimedOut => GpgError::TimedOut { program, timeout: self.timeout },
            RunError::OutputTooLarge => GpgError::OutputTooLarge { program, limit_bytes: output_limit_bytes },
        })
    }

    fn failure(&self, finished: Finished) -> GpgError {
        let key_id = self.key_id.clone();
        let stderr = finished.messages.text;
        match finished.messages.failure {
            Some(Failure::NoSuchKey) => GpgError::NoSecretKey { key_id, stderr },
            Some(Failure::Unusable) => GpgError::KeyUnusable { key_id, problem: KeyProblem::Unspecified },
            Some(Failure::Locked) => GpgError::Locked { key_id, stderr },
            None => GpgError::Failed { program: self.program.clone(), status: finished.status, stderr },
        }
    }
}

impl SigningKey for GpgKey {
    fn metadata_key(&self) -> &'static str {
        GPG_SIGNATURES
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        self.detach_sign(data).map_err(|source| SignError::OpenPgp { key_id: self.key_id.clone(), source })
    }

    fn describe(&self) -> String {
        format!("OpenPGP key {}", self.key_id)
    }

    fn check(&self) -> Result<(), SignError> {
        match self.find() {
            Ok(_) => Ok(()),
            Err(source) => Err(SignError::CheckOpenPgp { key_id: self.key_id.clone(), source }),
        }
    }
}

/// Tells whether the bytes begin with an OpenPGP signature packet (RFC 9580, 4.2: tag 2 in either form of the header).
fn is_signature_packet(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x88..=0x8b | 0xc2))
}
