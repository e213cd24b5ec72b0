//! Ref names and collection ids, with their grammar.

use std::{borrow::Borrow, fmt, str::FromStr};

use crate::limits;

/// A name that breaks its grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid {what}: {reason}")]
pub struct InvalidName {
    /// What the name should have been: `ref` or `collection id`.
    pub what: &'static str,
    /// The refused name, escaped and shortened to what can be shown.
    pub name: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, name: &str, reason: &'static str) -> Self {
        Self { what, name: name.chars().take(200).flat_map(char::escape_debug).collect(), reason }
    }
}

/// The name of a ref: fragments of letters, digits, `-`, `.` and `_`, joined by `/`.
///
/// A fragment begins with a letter, a digit or `_`. libostree's grammar (`ostree_validate_rev`) takes the letters and
/// digits of all scripts, so this type does, too: a repository may hold such refs, and they belong into its summary.
/// What Unicode calls alphabetic is a little more than libostree's letters: some combining marks pass here only.
/// [`is_portable`](Self::is_portable) tells whether a name stays within ASCII; refs that are newly made must.
/// Refused beyond libostree's grammar: a trailing newline, and names that are not refs by other rules of libostree,
/// namely 64 hexadecimal digits (a checksum) and `tmp.` with six letters or digits (a ref that is being written).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(String);

impl RefName {
    /// Checks the grammar.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        match ref_problem(&name) {
            None => Ok(Self(name)),
            Some(reason) => Err(InvalidName::new("ref", &name, reason)),
        }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether the name stays within ASCII.
    pub fn is_portable(&self) -> bool {
        self.0.is_ascii()
    }
}

fn ref_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > limits::MAX_REF_NAME_BYTES {
        return Some("it is longer than 1024 bytes");
    }
    if name.parse::<crate::Checksum>().is_ok() {
        return Some("it is a checksum");
    }
    for fragment in name.split('/') {
        let Some(first) = fragment.chars().next() else {
            return Some("a part between `/` is empty");
        };
        if !(first.is_alphanumeric() || first == '_') {
            return Some("a part begins with something else than a letter, a digit or `_`");
        }
        if !fragment.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_')) {
            return Some("it has a character that is no letter, digit, `-`, `.`, `_` or `/`");
        }
        if fragment.len() > limits::MAX_REF_FRAGMENT_BYTES {
            return Some("a part is longer than 255 bytes");
        }
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.strip_prefix("tmp.").is_some_and(|t| t.len() == 6 && t.bytes().all(|b| b.is_ascii_alphanumeric())) {
        return Some("libostree gives such names to refs that are being written");
    }
    None
}

/// A collection id: two or more elements of `[A-Za-z0-9_]`, joined by `.`, none of which begins with a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionId(String);

impl CollectionId {
    /// Checks the grammar (`ostree_validate_collection_id`).
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidName> {
        let id = id.into();
        let element_ok = |element: &str| {
            element.bytes().next().is_some_and(|b| !b.is_ascii_digit())
                && element.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let reason = if id.len() > limits::MAX_COLLECTION_ID_BYTES {
            "it is longer than 255 bytes"
        } else if !id.contains('.') {
            "it has less than two parts joined by `.`"
        } else if !id.split('.').all(element_ok) {
            "each part must be of letters, digits and `_`, and not begin with a digit"
        } else {
            return Ok(Self(id));
        };
        Err(InvalidName::new("collection id", &id, reason))
    }

    /// Returns the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_name!(RefName);
text_name!(CollectionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_follow_libostrees_grammar() {
        for good in ["a", "a..b", "a.", "_a", "app/org.example.App/x86_64/master", "é", "tmp.abc", "1/2"] {
            assert!(RefName::new(good).is_ok(), "libostree takes `{good}`");
        }
        for bad in ["", ".a", "-a", "a//b", "a/", "/a", "a/.b", "a b", "a+b", "a@b", "..", "a\n", "x/tmp.AB12cd"] {
            assert!(RefName::new(bad).is_err(), "`{bad}` is refused");
        }
        assert!(RefName::new("0".repeat(64)).is_err(), "a checksum is no ref");
        assert!(RefName::new("a".repeat(255)).is_ok(), "255 bytes are a file name");
        assert!(RefName::new("a".repeat(256)).is_err(), "256 bytes are none");
    }

    #[test]
    fn collection_ids_follow_libostrees_grammar() {
        for good in ["org.example", "_a._b", "a.b.c"] {
            assert!(CollectionId::new(good).is_ok(), "libostree takes `{good}`");
        }
        for bad in ["", "org", "org.a-b", "org.", ".org", "org.1a", "org..a"] {
            assert!(CollectionId::new(bad).is_err(), "`{bad}` is refused");
        }
        assert!(CollectionId::new(format!("a.{}", "b".repeat(253))).is_ok(), "255 bytes are allowed");
        assert!(CollectionId::new(format!("a.{}", "b".repeat(254))).is_err(), "256 bytes are not");
    }
}
