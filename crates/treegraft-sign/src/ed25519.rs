//! Ed25519 keys as libostree keeps them.
//!
//! A secret key is 64 bytes, the 32-byte seed followed by the 32-byte public key, written as standard base64 with padding
//! (88 characters). A key file holds one key per line. A signature is 64 bytes of plain Ed25519 (RFC 8032) over the raw
//! bytes of the commit or the summary.
//!
//! libostree built with OpenSSL uses the seed only and never looks at the second half. Here the halves must belong
//! together: a damaged line would otherwise sign with a key that no client trusts.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, DecodeKind};
use ed25519_dalek::{
    KEYPAIR_LENGTH, PUBLIC_KEY_LENGTH, SECRET_KEY_LENGTH, SIGNATURE_LENGTH, Signature, Signer, VerifyingKey,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::key::ED25519_SIGNATURES;
use crate::trusted::{BadSignature, SignedData, TrustedKeys};
use crate::{SignError, SigningKey};

/// Limits a key file: room for over 700 keys, so that a wrong path is not read into memory.
pub const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// Permission bits that [`permissions_too_open`] objects to: anything for others, writing for the group.
///
/// Reading by the group is the usual way to hand a file of root's to a service.
const TOO_OPEN_MODE_BITS: u32 = 0o027;

/// Signs with an Ed25519 secret key held in memory, which is wiped on drop.
#[derive(Clone)]
pub struct Ed25519Key {
    signing: ed25519_dalek::SigningKey,
}

impl Ed25519Key {
    /// Makes the key that belongs to a seed; the seed must come from a cryptographic source of randomness.
    pub fn generate(seed_bytes: [u8; SECRET_KEY_LENGTH]) -> Self {
        let seed = Zeroizing::new(seed_bytes);
        Self { signing: ed25519_dalek::SigningKey::from_bytes(&seed) }
    }

    /// Reads one key from libostree's text form, with white space around it tolerated.
    ///
    /// A bare 32-byte seed is refused, as libostree does: it cannot be told from a public key, and a public key taken for
    /// a seed would make a secret that everyone knows.
    pub fn from_base64(text: &[u8]) -> Result<Self, KeyTextError> {
        let text = text.trim_ascii();
        let decoded_bytes = BASE64.decode_len(text.len()).map_err(|_| KeyTextError::Truncated)?;
        let mut buffer = Zeroizing::new(vec![0; decoded_bytes]);
        let length_bytes = BASE64.decode_mut(text, &mut buffer).map_err(|partial| match partial.error.kind {
            DecodeKind::Length => KeyTextError::Truncated,
            DecodeKind::Symbol | DecodeKind::Trailing | DecodeKind::Padding => {
                KeyTextError::NotBase64 { column: partial.error.position + 1 }
            }
        })?;
        let pair: &[u8; KEYPAIR_LENGTH] = match buffer[..length_bytes].try_into() {
            Ok(pair) => pair,
            Err(_) if length_bytes == SECRET_KEY_LENGTH => return Err(KeyTextError::SeedOrPublicKey),
            Err(_) => return Err(KeyTextError::WrongLength { length_bytes }),
        };
        let signing =
            ed25519_dalek::SigningKey::from_keypair_bytes(pair).map_err(|_| KeyTextError::MismatchedPublicHalf)?;
        Ok(Self { signing })
    }

    /// Reads a key file: one key per line, blank lines and surrounding white space tolerated.
    ///
    /// A file without any key is an error: it would silently mean unsigned.
    pub fn load_file(path: &Path) -> Result<Vec<Self>, KeyFileError> {
        let contents = read_secret_file(path)?;
        let mut keys = Vec::new();
        for (index, line) in contents.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let key = Self::from_base64(line).map_err(|source| KeyFileError::Line {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyFileError::Empty { path: path.to_owned() });
        }
        Ok(keys)
    }

    /// Returns the public key, 32 bytes.
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_LENGTH] {
        self.signing.verifying_key().to_bytes()
    }

    /// Returns the public key as clients want it in a `trusted.ed25519` file (44 characters).
    pub fn public_base64(&self) -> String {
        BASE64.encode(&self.public_key())
    }

    /// Returns the secret key as a line of a key file (88 characters, no line end), wiped on drop.
    pub fn secret_base64(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(self.signing.to_keypair_bytes());
        Zeroizing::new(BASE64.encode(pair.as_slice()))
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519Key").field("public", &self.public_base64()).finish_non_exhaustive()
    }
}

impl SigningKey for Ed25519Key {
    fn metadata_key(&self) -> &'static str {
        ED25519_SIGNATURES
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.signing.sign(data).to_vec())
    }

    fn describe(&self) -> String {
        format!("ed25519 key {}", self.public_base64())
    }
}

/// Trusts some Ed25519 public keys.
#[derive(Debug, Clone)]
pub struct Ed25519PublicKeys {
    keys: Vec<[u8; PUBLIC_KEY_LENGTH]>,
}

impl Ed25519PublicKeys {
    /// Reads files as clients have them (`trusted.ed25519`): one key per line in base64, blank lines tolerated.
    ///
    /// A file without any key is an error: nobody could push.
    pub fn load_files(paths: &[PathBuf]) -> Result<Self, KeyFileError> {
        let mut keys = Vec::new();
        for path in paths {
            let before = keys.len();
            let contents = read_secret_file(path)?;
            for (index, line) in contents.split(|&byte| byte == b'\n').enumerate() {
                let text = line.trim_ascii();
                if text.is_empty() {
                    continue;
                }
                let fail = |source| KeyFileError::Line { path: path.clone(), line: index + 1, source };
                keys.push(public_key(text).map_err(fail)?);
            }
            if keys.len() == before {
                return Err(KeyFileError::Empty { path: path.clone() });
            }
        }
        Ok(Self { keys })
    }
}

fn public_key(text: &[u8]) -> Result<[u8; PUBLIC_KEY_LENGTH], KeyTextError> {
    let decoded = BASE64.decode(text).map_err(|error| match error.kind {
        DecodeKind::Length => KeyTextError::Truncated,
        DecodeKind::Symbol | DecodeKind::Trailing | DecodeKind::Padding => {
            KeyTextError::NotBase64 { column: error.position + 1 }
        }
    })?;
    let length_bytes = decoded.len();
    let key = decoded.try_into().map_err(|_| KeyTextError::NotPublic { length_bytes })?;
    VerifyingKey::from_bytes(&key).map_err(|_| KeyTextError::NotOnCurve)?;
    Ok(key)
}

impl TrustedKeys for Ed25519PublicKeys {
    fn metadata_key(&self) -> &'static str {
        ED25519_SIGNATURES
    }

    fn kind(&self) -> &'static str {
        "ed25519"
    }

    fn verify(&self, signed: SignedData<'_>, signature: &[u8]) -> Result<String, BadSignature> {
        if signature.len() != SIGNATURE_LENGTH {
            return Err(BadSignature::NotASignature { kind: self.kind() });
        }
        let key = self.keys.iter().find(|key| verify(key, signed.data, signature).is_ok());
        key.map(|key| BASE64.encode(key)).ok_or(BadSignature::Mismatch)
    }
}

/// Verifies one signature, strictly: weak public keys and non-canonical signatures are refused.
///
/// Only `Ok` means that the signature is good.
pub fn verify(public_key: &[u8; PUBLIC_KEY_LENGTH], data: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
    let key = VerifyingKey::from_bytes(public_key).map_err(|_| VerifyError::NotAPublicKey)?;
    let signature: &[u8; SIGNATURE_LENGTH] =
        signature.try_into().map_err(|_| VerifyError::WrongLength { length_bytes: signature.len() })?;
    key.verify_strict(data, &Signature::from_bytes(signature)).map_err(|_| VerifyError::Mismatch)
}

/// Tells whether a key file can be read by more than its owner and its group, or written by more than its owner.
///
/// The library cannot warn; the caller should. A symbolic link is followed.
pub fn permissions_too_open(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & TOO_OPEN_MODE_BITS != 0)
}

fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let limit = usize::try_from(MAX_KEY_FILE_BYTES).expect("the limit is far below any machine's address space");
    // One allocation with room for the byte that proves the file too long: growing would leave copies of the secret behind.
    let mut contents = Zeroizing::new(vec![0; limit + 1]);
    let mut filled = 0;
    let read = File::open(path).and_then(|mut file| {
        while filled < contents.len() {
            match file.read(&mut contents[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    read.map_err(|source| KeyFileError::Read { path: path.to_owned(), source })?;
    if filled > limit {
        return Err(KeyFileError::TooLarge { path: path.to_owned() });
    }
    contents.truncate(filled);
    Ok(contents)
}

/// Says why a text is no Ed25519 secret key. It never holds any of the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyTextError {
    /// Reports a character that base64 does not have, or padding in the wrong place.
    #[error("The key is not base64 at column {column}")]
    NotBase64 {
        /// The place in the trimmed text, counted from 1.
        column: usize,
    },
    /// Reports text whose length is not a multiple of four characters.
    #[error("The key's base64 is cut short: its length is not a multiple of 4 characters")]
    Truncated,
    /// Reports 32 bytes: a public key, or a seed without its public half.
    #[error(
        "The key has 32 bytes, as a public key or a bare seed has; a secret key has {KEYPAIR_LENGTH}: seed and public key"
    )]
    SeedOrPublicKey,
    /// Reports a key that is neither a pair nor a half.
    #[error("The key has {length_bytes} bytes instead of {KEYPAIR_LENGTH}")]
    WrongLength {
        /// The length after decoding.
        length_bytes: usize,
    },
    /// Reports something else than the 32 bytes of a public key; a secret key has no place in a list of trusted ones.
    #[error("The key has {length_bytes} bytes, a public key has {PUBLIC_KEY_LENGTH}")]
    NotPublic {
        /// The length after decoding.
        length_bytes: usize,
    },
    /// Reports 32 bytes that are no public key.
    #[error("The key is no point of the curve, as a public key is")]
    NotOnCurve,
    /// Reports that the second half is not the public key of the first.
    #[error("The key's second half is not the public key that belongs to its first half")]
    MismatchedPublicHalf,
}

/// Says why a key file could not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Reports a file that could not be read.
    #[error("Could not read the key file `{}`", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Reports a file too large to be a list of keys.
    #[error("Could not use the key file `{}`: it is larger than {MAX_KEY_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// The key file.
        path: PathBuf,
    },
    /// Reports a line that holds no key.
    #[error("Could not read line {line} of the key file `{}`", path.display())]
    Line {
        /// The key file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: KeyTextError,
    },
    /// Reports a file with no key in it.
    #[error("Could not find any key in the key file `{}`", path.display())]
    Empty {
        /// The key file.
        path: PathBuf,
    },
}

/// Says why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Reports 32 bytes that are no point of the curve.
    #[error("Could not verify the signature: the public key is not a valid Ed25519 key")]
    NotAPublicKey,
    /// Reports a signature of the wrong length.
    #[error("Could not verify the signature: it has {length_bytes} bytes instead of {SIGNATURE_LENGTH}")]
    WrongLength {
        /// The length found.
        length_bytes: usize,
    },
    /// Reports that the signature was not made over these data with this key.
    #[error("Could not verify the signature: it does not belong to these data and this key")]
    Mismatch,
}
