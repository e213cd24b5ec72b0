//! The keys of a repository: those that sign, and those that must have signed what is pushed.

use treegraft_object::{
    CommitId, detached,
    gvariant::{Dict, Variant},
};
use treegraft_sign::{
    Ed25519Key, Ed25519PublicKeys, GpgKey, GpgKeyrings, NotSigned, SignError, Signatures, SignedData, SigningKeys,
    TrustedKeys,
    ed25519::KeyFileError,
    openpgp::{KeyIdError, KeyringError},
};
use treegraft_wire::{ApiError, ErrorCode, RefOffer};

use crate::{config::Settings, error::chain};

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// An OpenPGP key id is not valid.
    #[error(transparent)]
    KeyId(#[from] KeyIdError),
    /// A file with ed25519 keys cannot be read.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A keyring cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
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
    append(metadata, &keys.sign_all(data)?);
    Ok(())
}

/// Adds signatures to `metadata`.
pub(crate) fn append(metadata: &mut Dict, signatures: &Signatures) {
    for (entry, signature) in signatures {
        detached::append_signature(metadata, entry, signature);
    }
}

/// Loads the keys of which one of each kind must have signed what is pushed.
pub(crate) fn load_trusted(settings: &Settings) -> Result<Vec<Box<dyn TrustedKeys>>, KeyError> {
    let mut trusted: Vec<Box<dyn TrustedKeys>> = Vec::new();
    if !settings.verify_gpg_keyrings.is_empty() {
        let keyrings = GpgKeyrings::new(&settings.verify_gpg_keyrings)?;
        trusted.push(Box::new(keyrings.with_program(&settings.gpgv_program)));
    }
    if !settings.verify_ed25519_files.is_empty() {
        trusted.push(Box::new(Ed25519PublicKeys::load_files(&settings.verify_ed25519_files)?));
    }
    Ok(trusted)
}

/// Demands that a pushed commit has a good signature of each kind in the detached metadata that came with it.
pub(crate) fn verify(
    trusted: &[Box<dyn TrustedKeys>],
    offer: &RefOffer,
    signed: SignedData<'_>,
    metadata: &Dict,
) -> Result<(), ApiError> {
    for keys in trusted {
        let signatures = metadata.get(keys.metadata_key()).and_then(Variant::as_byte_arrays).unwrap_or_default();
        keys.verify_any(signed, &signatures).map_err(|error| refusal(&error, offer, keys.kind()))?;
    }
    Ok(())
}

fn refusal(error: &NotSigned, offer: &RefOffer, kind: &str) -> ApiError {
    let (name, commit) = (&offer.name, CommitId(offer.commit.0));
    let (code, hint) = match error {
        NotSigned::NoSignature => {
            let how = if kind == "OpenPGP" { "`ostree gpg-sign`" } else { "`ostree sign`" };
            let hint = format!("sign the commit on the machine that pushes, with {how} or when it is made");
            (ErrorCode::UnsignedCommit, hint)
        }
        NotSigned::Program(_) => {
            let detail = format!("Could not verify the signatures of the commit for `{name}`: {}", chain(error));
            let error = ApiError::new(ErrorCode::Signing, detail).of_ref(name).of_object(&commit);
            return error.hint("the server's administrator has to look at it");
        }
        _ => {
            let hint = "the keys that the server trusts are in its configuration; its administrator can change that";
            (ErrorCode::BadSignature, hint.to_owned())
        }
    };
    let detail =
        format!("The commit for `{name}` must have a good {kind} signature of a key that the server trusts: {error}");
    ApiError::new(code, detail).of_ref(name).of_object(&commit).hint(hint)
}
