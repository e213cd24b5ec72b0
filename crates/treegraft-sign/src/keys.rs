//! The keys that sign together.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{SignError, SigningKey};

/// Messages that are signed at a time, for each core: most of the time is waiting for `gpg-agent`.
const THREADS_PER_CORE: usize = 2;

/// The signatures of one message: pairs of the dictionary entry and one element of its array, in the order of the keys.
pub type Signatures = Vec<(&'static str, Vec<u8>)>;

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

    /// Signs `data` with every key.
    ///
    /// The first key that fails ends it, and no signature is returned: a commit is signed by all keys or not at all.
    pub fn sign_all(&self, data: &[u8]) -> Result<Signatures, SignError> {
        self.keys.iter().map(|key| Ok((key.metadata_key(), key.sign(data)?))).collect()
    }

    /// Signs each of `messages` with every key, several at a time: a signature of OpenPGP is a program that is waited for.
    ///
    /// The results are in the order of the messages. After the first failure no other signature is begun.
    pub fn sign_each<M: AsRef<[u8]> + Sync>(&self, messages: &[M]) -> Result<Vec<Signatures>, SignError> {
        let next = AtomicUsize::new(0);
        let sign_some = || {
            let mut signed = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(message) = messages.get(index) else { return Ok(signed) };
                match self.sign_all(message.as_ref()) {
                    Ok(signatures) => signed.push((index, signatures)),
                    Err(error) => {
                        next.store(messages.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from) * THREADS_PER_CORE;
        let mut signed = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads.min(messages.len())).map(|_| scope.spawn(sign_some)).collect();
            let mut signed = Vec::with_capacity(messages.len());
            for thread in threads {
                signed.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(signed)
        })?;
        signed.sort_unstable_by_key(|&(index, _)| index);
        Ok(signed.into_iter().map(|(_, signatures)| signatures).collect())
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
