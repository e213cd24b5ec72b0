//! How much a push may send.

use std::{
    io::{self, Read},
    sync::atomic::{AtomicU64, Ordering},
};

use treegraft_repo::Usage;
use treegraft_wire::{ApiError, ErrorCode, stream::Encoding};

use crate::{Receiver, error::chain, rights::PushLimits};

/// What a push has sent so far, over all its streams, against its limits.
///
/// Everything that is received counts, also what is thrown away because it is there already: a client that sends the same
/// for ever comes to an end, too. What is stored and what is not count apart, so that a push whose objects come as recipes
/// may be as large as one whose objects come as they are.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: PushLimits,
    /// What may still be added to the repository, in bytes.
    quota_left_bytes: u64,
    objects: AtomicU64,
    /// Bytes of objects as they are stored, whether they came so or were made of recipes.
    stored_bytes: AtomicU64,
    /// Bytes of which nothing stays: recipes, and what was made of them in vain.
    passing_bytes: AtomicU64,
}

impl Budget {
    pub(crate) const fn new(limits: PushLimits, quota_left_bytes: u64) -> Self {
        Self {
            limits,
            quota_left_bytes,
            objects: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
            passing_bytes: AtomicU64::new(0),
        }
    }

    /// Returns the largest object in bytes, as it is stored.
    pub(crate) const fn object_bytes(&self) -> u64 {
        self.limits.object_bytes
    }

    /// Counts one more object.
    pub(crate) fn take_object(&self) -> Result<(), ApiError> {
        let before = self.objects.fetch_add(1, Ordering::Relaxed);
        if before < self.limits.push_objects { Ok(()) } else { Err(self.too_many_objects()) }
    }

    /// Counts what is read of an object, and fails behind the limit; [`refusal`](Self::refusal) says so then.
    pub(crate) fn metered<R>(&self, encoding: Encoding, object: R) -> Metered<'_, R> {
        let (bytes, limit_bytes) = match encoding {
            Encoding::Archive => (&self.stored_bytes, self.limits.push_bytes.min(self.quota_left_bytes)),
            Encoding::Recipe | Encoding::Reference => (&self.passing_bytes, self.limits.push_bytes),
        };
        Metered { bytes, limit_bytes, object }
    }

    /// Counts bytes that were made here of what was sent, as they are stored.
    pub(crate) fn take_made(&self, bytes: u64) -> Result<(), ApiError> {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.refusal().map_or(Ok(()), Err)
    }

    /// Counts bytes that were made here and did not become what they should. A few bytes may ask for much work.
    pub(crate) fn take_made_in_vain(&self, bytes: u64) -> Result<(), ApiError> {
        self.passing_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.refusal().map_or(Ok(()), Err)
    }

    /// Returns the error of a push that has sent too much.
    pub(crate) fn refusal(&self) -> Option<ApiError> {
        let stored_bytes = self.stored_bytes.load(Ordering::Relaxed);
        if stored_bytes.max(self.passing_bytes.load(Ordering::Relaxed)) > self.limits.push_bytes {
            return Some(self.too_many_bytes());
        }
        (stored_bytes > self.quota_left_bytes).then(quota_exceeded)
    }

    /// Tests how many objects, and how many bytes, a publication would move into place: what earlier pushes have left counts
    /// there, too.
    pub(crate) fn check(&self, (objects, bytes): (u64, u64)) -> Result<(), ApiError> {
        if objects > self.limits.push_objects {
            return Err(self.too_many_objects());
        }
        if bytes > self.limits.push_bytes { Err(self.too_many_bytes()) } else { Ok(()) }
    }

    fn too_many_objects(&self) -> ApiError {
        too_large(&format!("{} objects", self.limits.push_objects), "max-push-objects")
    }

    fn too_many_bytes(&self) -> ApiError {
        too_large(&format!("{} bytes", self.limits.push_bytes), "max-push-bytes")
    }
}

/// Returns what may still be added to the repository in bytes.
///
/// When a push is opened, what all pushes have staged counts as well; at a publication that is what is about to be added.
pub(crate) fn quota_left(receiver: &Receiver, counts_staged: bool) -> Result<u64, ApiError> {
    let Some(limit) = receiver.settings.max_repository_bytes else { return Ok(u64::MAX) };
    let Usage { object_bytes, staged_bytes } =
        Usage::of(&receiver.repo).map_err(|error| ApiError::new(ErrorCode::Repository, chain(&error)))?;
    let used = if counts_staged { object_bytes + staged_bytes } else { object_bytes };
    limit.checked_sub(used).filter(|&left| left > 0).ok_or_else(quota_exceeded)
}

/// Says that the repository is full.
pub(crate) fn quota_exceeded() -> ApiError {
    ApiError::new(ErrorCode::Quota, "The repository would have more bytes than the server's configuration allows")
        .hint("the server's administrator can raise `max-repository-bytes`, or prune the repository")
}

fn too_large(limit: &str, key: &str) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("The push has more than the {limit} that are allowed"))
        .hint(format!("the server's administrator can raise `{key}`; or push fewer refs at a time"))
}

/// An object whose bytes are counted.
pub(crate) struct Metered<'b, R> {
    bytes: &'b AtomicU64,
    limit_bytes: u64,
    object: R,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.object.read(buffer)?;
        let before = self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if before.saturating_add(count as u64) > self.limit_bytes {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the push is larger than allowed"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(push_bytes: u64, push_objects: u64) -> Budget {
        Budget::new(PushLimits { push_bytes, push_objects, object_bytes: u64::MAX }, u64::MAX)
    }

    fn read(budget: &Budget, encoding: Encoding, text: &[u8]) -> io::Result<u64> {
        io::copy(&mut budget.metered(encoding, text), &mut io::sink())
    }

    fn refused(budget: &Budget) -> Option<ErrorCode> {
        budget.refusal().map(|error| error.code)
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let budget = budget(10, 2);
        let read = |text| read(&budget, Encoding::Archive, text);
        assert!(read(b"12345").is_ok() && read(b"67890").is_ok(), "ten bytes are allowed");
        assert_eq!(refused(&budget), None, "nothing is wrong so far");
        assert!(read(b"1").is_err(), "the eleventh is not");
        assert_eq!(refused(&budget), Some(ErrorCode::TooLarge), "it has its code");
        let taken: Vec<bool> = (0..3).map(|_| budget.take_object().is_ok()).collect();
        assert_eq!(taken, [true, true, false], "two objects are allowed");
        assert!(budget.check((2, 10)).is_ok(), "a publication up to the limits is allowed");
        for published in [(3, 10), (2, 11)] {
            let error = budget.check(published).expect_err("a larger one is not");
            assert_eq!(error.code, ErrorCode::TooLarge, "it has its code");
        }
    }

    #[test]
    fn what_comes_as_recipes_may_be_as_large_as_what_comes_as_it_is() {
        let limits = PushLimits { push_bytes: 10, push_objects: 9, object_bytes: u64::MAX };
        let budget = Budget::new(limits, 8);
        assert!(read(&budget, Encoding::Recipe, b"1234567890").is_ok(), "recipes take no room of the repository");
        assert!(budget.take_made(8).is_ok(), "and what is made of them takes what it needs");
        assert_eq!(budget.take_made(1).map_err(|error| error.code), Err(ErrorCode::Quota), "up to the quota");
        assert!(read(&budget, Encoding::Reference, b"1").is_err(), "and recipes have an end");
        assert_eq!(refused(&budget), Some(ErrorCode::TooLarge), "which is the push's");
        let budget = Budget::new(limits, 8);
        assert!(
            budget.take_made_in_vain(10).is_ok() && budget.take_made_in_vain(1).is_err(),
            "so has work for nothing"
        );
    }
}
