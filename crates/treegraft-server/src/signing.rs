//! The signing keys of a repository, and signatures as detached metadata.

use treegraft_object::{detached, gvariant::Dict};
use treegraft_sign::{Ed25519Key, GpgKey, SignError, SigningKeys, ed25519::KeyFileError, openpgp::KeyIdError};

use crate::config::Settings;

/// A signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// An OpenPGP key id is not valid.
    #[error(transparent)]
    KeyId(#[from] KeyIdError),
    /// A file with ed25519 keys cannot be read.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
}

/// Loads the keys that the settings name.
pub(crate) fn load(settings: &Settings) -> Result<SigningKeys, KeyError> {
    let mut keys = SigningKeys::new();
    for id in &settings.gpg_keys {
        let key = GpgKey::new(id)?.with_program(&settings.gpg_program);
        keys.push(match &settings.gpg_homedir {
            Some(homedir) => key.with_homedir(homedir),
            None => key,
        });
    }
    for file in &settings.ed25519_key_files {
        for key in Ed25519Key::load_file(file)? {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Signs `data` with every key and adds the signatures to `metadata`.
pub(crate) fn sign_into(metadata: &mut Dict, keys: &SigningKeys, data: &[u8]) -> Result<(), SignError> {
    for (entry, signature) in keys.sign_all(data)? {
        detached::append_signature(metadata, entry, &signature);
    }
    Ok(())
}
