//! SHA-256 checksums and the identifiers made of them.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// A SHA-256 digest: 32 bytes, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum([u8; Self::BYTES]);

/// The text is no checksum: it must be 64 digits of `0-9a-f`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no checksum, which has 64 hexadecimal digits in lower case")]
pub struct ParseChecksumError {
    /// The refused text, shortened to what can be shown.
    pub text: String,
}

impl Checksum {
    /// The number of bytes of a checksum.
    pub const BYTES: usize = 32;

    /// Wraps 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Wraps a slice, or returns nothing when it has not exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Computes the checksum of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }

    /// Returns the 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    pub(crate) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl FromStr for Checksum {
    type Err = ParseChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; Self::BYTES];
        // The length is tested first: the decoder asks for an output buffer of exactly the right size.
        let decoded = text.len() == 2 * Self::BYTES && HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok();
        if decoded { Ok(Self(bytes)) } else { Err(ParseChecksumError { text: text.chars().take(80).collect() }) }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_hex())
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for Checksum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> serde::Deserialize<'de> for Checksum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Checksum);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseChecksumError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

object_id! {
    /// The checksum of a commit object.
    CommitId
}
object_id! {
    /// The checksum of a dirtree object.
    DirTreeId
}
object_id! {
    /// The checksum of a dirmeta object.
    DirMetaId
}
object_id! {
    /// The checksum of a content object (`file`), computed over its header and its plain content.
    ContentId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_lower_case_and_exact() {
        let hex = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(Checksum::of(&[0]).to_hex(), hex, "the checksum of the empty dirtree");
        assert_eq!(hex.parse::<Checksum>().map(|c| c.to_hex()), Ok(hex.to_owned()), "hex parses back");
        assert!(hex.to_uppercase().parse::<Checksum>().is_err(), "upper case is no checksum");
        assert!(hex[1..].parse::<Checksum>().is_err(), "63 digits are no checksum");
        assert!(format!("{hex}0").parse::<Checksum>().is_err(), "65 digits are no checksum");
    }
}
