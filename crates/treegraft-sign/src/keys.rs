//! The keys that sign together.

use std::fmt;

use crate::{SignError, SigningKey};

/// Holds the keys that sign every commit or summary, in the order of the configuration.
///
/// An empty list means unsigned.
#[derive(Default)]
pub struct SigningKeys {
    keys: Vec<Box<dyn SigningKey>>,
}

impl SigningKeys {
    /// Makes an empty list: nothing will be signed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a key.
    pub fn push(&mut self, key: impl SigningKey + 'static) {
        self.keys.push(Box::new(key));
    }

    /// Tells whether nothing will be signed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Counts the keys, which is the number of signatures that [`sign_all`](Self::sign_all) makes.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Goes through the keys in their order.
    pub fn iter(&self) -> impl Iterator<Item = &dyn SigningKey> {
        self.keys.iter().map(|key| &**key)
    }

    /// Signs `data` with every key: pairs of the dictionary entry and one element of its array, in the order of the keys.
    ///
    /// The first key that fails ends it, and no signature is returned: a commit is signed by all keys or not at all.
    pub fn sign_all(&self, data: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>, SignError> {
        self.keys.iter().map(|key| Ok((key.metadata_key(), key.sign(data)?))).collect()
    }

    /// Tests every key with [`SigningKey::check`] and returns the first failure.
    pub fn check_all(&self) -> Result<(), SignError> {
        self.keys.iter().try_for_each(|key| key.check())
    }
}

impl FromIterator<Box<dyn SigningKey>> for SigningKeys {
    fn from_iter<I: IntoIterator<Item = Box<dyn SigningKey>>>(keys: I) -> Self {
        Self { keys: keys.into_iter().collect() }
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.describe())).finish()
    }
}
