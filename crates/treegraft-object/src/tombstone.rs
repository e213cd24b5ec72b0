//! Tombstones: `a{sv}` with the deleted commit's checksum, 64 digits and a NUL, under the key `commit`.

use crate::{
    CommitId, DecodeError,
    gvariant::{Dict, Variant},
};

/// Encodes the tombstone of a commit.
pub fn encode(commit: CommitId) -> Vec<u8> {
    let text = [commit.to_string().as_bytes(), &[0]].concat();
    Dict::from_iter([("commit", Variant::bytes(&text))]).encode()
}

/// Decodes a tombstone and returns the commit that was deleted.
pub fn decode(data: &[u8]) -> Result<CommitId, DecodeError> {
    let dict = Dict::decode(data)?;
    if let Some((key, _)) = dict.iter().find(|(key, _)| *key != "commit") {
        return Err(DecodeError::UnknownKey { key: key.to_owned(), what: "tombstone" });
    }
    let text = dict.get("commit").and_then(Variant::as_bytes).and_then(|bytes| bytes.strip_suffix(&[0]));
    text.and_then(|text| std::str::from_utf8(text).ok())
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| DecodeError::ValueType { key: "commit".to_owned(), expected: "ay" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checksum;

    #[test]
    fn a_tombstone_has_78_bytes() {
        let commit = CommitId(Checksum::of(b"x"));
        let bytes = encode(commit);
        assert_eq!(bytes.len(), 78, "key, padding, 64 digits with NUL, type, two end offsets");
        assert_eq!(decode(&bytes), Ok(commit));
    }
}
