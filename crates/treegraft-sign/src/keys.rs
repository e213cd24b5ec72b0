//! The keys that sign together.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{SignError, SigningKey};

/// Most messages that are signed at a time. All wait for one `gpg-agent`, whose memory for secrets is small.
const MAX_THREADS: usize = 4;

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
    /// The results are in the order of the messages. What fails beside others is tried once more alone, since `gpg-agent` may
    /// lack memory for several at a time; then the first failure ends it.
    pub fn sign_each<M: AsRef<[u8]> + Sync>(&self, messages: &[M]) -> Result<Vec<Signatures>, SignError> {
        if let [message] = messages {
            return Ok(vec![self.sign_all(message.as_ref())?]);
        }
        let next = AtomicUsize::new(0);
        let sign_some = || {
            let mut signed = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(message) = messages.get(index) else { return signed };
                let Ok(signatures) = self.sign_all(message.as_ref()) else {
                    next.store(messages.len(), Ordering::Relaxed);
                    return signed;
                };
                signed.push((index, signatures));
            }
        };
        let mut signed: Vec<Option<Signatures>> = messages.iter().map(|_| None).collect();
        thread::scope(|scope| {
            let start = |_| thread::Builder::new().spawn_scoped(scope, sign_some).ok();
            let threads: Vec<_> = (0..MAX_THREADS.min(messages.len())).map_while(start).collect();
            for thread in threads {
                for (index, signatures) in thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                    signed[index] = Some(signatures);
                }
            }
        });
        let alone = |(message, signed): (&M, Option<Signatures>)| match signed {
            Some(signatures) => Ok(signatures),
            None => self.sign_all(message.as_ref()),
        };
        messages.iter().zip(signed).map(alone).collect()
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
