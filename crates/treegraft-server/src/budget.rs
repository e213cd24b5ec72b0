//! How much a push may send.

use std::{
    io::{self, Read},
    sync::atomic::{AtomicU64, Ordering},
};

use treegraft_repo::Usage;
use treegraft_wire::{ApiError, ErrorCode};

use crate::{Receiver, error::chain, rights::PushLimits};

/// What a push has sent so far, over all its streams, against its limits.
///
/// Everything that is received counts, also what is thrown away because it is there already: a client that sends the same
/// for ever comes to an end, too.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: PushLimits,
    /// What may still be added to the repository, in bytes.
    quota_left_bytes: u64,
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Budget {
    pub(crate) const fn new(limits: PushLimits, quota_left_bytes: u64) -> Self {
        Self { limits, quota_left_bytes, objects: AtomicU64::new(0), bytes: AtomicU64::new(0) }
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
    pub(crate) const fn metered<R>(&self, object: R) -> Metered<'_, R> {
        Metered { budget: self, object }
    }

    /// Counts bytes that were made here of what was sent.
    pub(crate) fn take_made(&self, bytes: u64) -> Result<(), ApiError> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.refusal().map_or(Ok(()), Err)
    }

    /// Returns the error of a push that has sent too much.
    pub(crate) fn refusal(&self) -> Option<ApiError> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes > self.limits.push_bytes {
            return Some(self.too_many_bytes());
        }
        (bytes > self.quota_left_bytes).then(quota_exceeded)
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
    budget: &'b Budget,
    object: R,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.object.read(buffer)?;
        let before = self.budget.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if before.saturating_add(count as u64) > self.budget.limits.push_bytes.min(self.budget.quota_left_bytes) {
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

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let budget = budget(10, 2);
        let read = |text: &[u8]| io::copy(&mut budget.metered(text), &mut io::sink());
        assert!(read(b"12345").is_ok() && read(b"67890").is_ok(), "ten bytes are allowed");
        assert!(budget.refusal().is_none(), "nothing is wrong so far");
        assert!(read(b"1").is_err(), "the eleventh is not");
        assert_eq!(budget.refusal().map(|error| error.code), Some(ErrorCode::TooLarge), "it has its code");
        let taken: Vec<bool> = (0..3).map(|_| budget.take_object().is_ok()).collect();
        assert_eq!(taken, [true, true, false], "two objects are allowed");
        assert!(budget.check((2, 10)).is_ok(), "a publication up to the limits is allowed");
        for published in [(3, 10), (2, 11)] {
            let error = budget.check(published).expect_err("a larger one is not");
            assert_eq!(error.code, ErrorCode::TooLarge, "it has its code");
        }
    }
}
