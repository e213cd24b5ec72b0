//! Detached metadata of a commit (`.commitmeta`) and the signature file of a summary: an `a{sv}` of signatures and more.

use std::collections::HashSet;

use crate::{
    DecodeError,
    gvariant::{Dict, Variant},
    limits::MAX_DETACHED_METADATA_BYTES,
};

/// Keys under which libostree keeps signatures; each value is an `aay`.
pub const SIGNATURE_KEYS: [&str; 4] =
    ["ostree.gpgsigs", "ostree.sign.ed25519", "ostree.sign.spki", "ostree.sign.dummy"];

/// Decodes detached metadata that may come from outside. Signatures must be lists of byte strings.
pub fn decode(data: &[u8]) -> Result<Dict, DecodeError> {
    let bytes = data.len() as u64;
    if bytes > MAX_DETACHED_METADATA_BYTES {
        let limit_bytes = MAX_DETACHED_METADATA_BYTES;
        return Err(DecodeError::TooLarge { what: "detached metadata", bytes, limit_bytes });
    }
    let dict = Dict::decode(data)?;
    for key in SIGNATURE_KEYS {
        if dict.get(key).is_some_and(|value| value.type_string() != "aay") {
            return Err(DecodeError::ValueType { key: key.to_owned(), expected: "aay" });
        }
    }
    Ok(dict)
}

/// Appends a signature to the list under `key`. A signature that is there already is not added again.
pub fn append_signature(metadata: &mut Dict, key: &str, signature: &[u8]) {
    append_signatures(metadata, key, [signature]);
}

/// Appends signatures to the list under `key`, each once.
pub fn append_signatures<'s>(metadata: &mut Dict, key: &str, signatures: impl IntoIterator<Item = &'s [u8]>) {
    let mut all: Vec<&[u8]> = metadata.get(key).and_then(Variant::as_byte_arrays).unwrap_or_default();
    let mut known: HashSet<&[u8]> = all.iter().copied().collect();
    let before = all.len();
    for signature in signatures {
        if known.insert(signature) {
            all.push(signature);
        }
    }
    if all.len() > before {
        let list = Variant::byte_arrays(all);
        metadata.set(key, list);
    }
}

/// Removes all signatures: those of one commit say nothing about another.
pub fn remove_signatures(metadata: &mut Dict) {
    for key in SIGNATURE_KEYS {
        metadata.remove(key);
    }
}
