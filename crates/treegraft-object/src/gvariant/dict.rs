//! `a{sv}` dictionaries.

use std::sync::LazyLock;

use super::{ArrayWriter, TupleWriter, Type, Variant, check, check::text, elements, tuple};
use crate::DecodeError;

static DICT: LazyLock<Type> = LazyLock::new(|| Type::parse("a{sv}").expect("a valid type string"));

/// An `a{sv}` in its own order, with unique and non-empty keys.
///
/// Decoding and encoding again gives the same bytes, whatever types the values have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dict {
    entries: Vec<(String, Variant)>,
}

impl Dict {
    /// Makes an empty dictionary.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Decodes the serialised form, which must be normal and without empty or repeated keys.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let not_normal = |source| DecodeError::NotNormal { type_string: "a{sv}", source };
        check(&DICT, data).map_err(not_normal)?;
        let entry_type = Type::Tuple(vec![Type::Str, Type::Variant]);
        let Type::Tuple(members) = &entry_type else { unreachable!("it was just made") };
        let mut entries = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for entry in elements(&entry_type, data).map_err(not_normal)? {
            let children = tuple(members, entry).map_err(not_normal)?;
            let key = text(children[0]).map_err(not_normal)?.to_owned();
            if key.is_empty() {
                return Err(DecodeError::EmptyKey);
            }
            if !seen.insert(key.clone()) {
                return Err(DecodeError::DuplicateKey { key });
            }
            entries.push((key, Variant::from_checked_variant(children[1]).map_err(not_normal)?));
        }
        Ok(Self { entries })
    }

    /// Serialises the dictionary. Without entries it has no bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut array = ArrayWriter::new(8);
        for (key, value) in &self.entries {
            array.push(&TupleWriter::new().string(key).variable(8, &value.encode()).finish());
        }
        array.finish()
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Variant> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Returns the text of `key`, if it is there and an `s`.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Variant::as_str)
    }

    /// Sets `key`: in its place when it is there, at the end when it is not.
    pub fn set(&mut self, key: &str, value: Variant) {
        match self.entries.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key.to_owned(), value)),
        }
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Variant> {
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(index).1)
    }

    /// Returns the entries in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Variant)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<K: Into<String>> FromIterator<(K, Variant)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, Variant)>>(entries: I) -> Self {
        let mut dict = Self::new();
        for (key, value) in entries {
            dict.set(&key.into(), value);
        }
        dict
    }
}
