//! What is staged, known without a look at the disk.
//!
//! Nobody but the holder of a staging area changes it, so what was counted once stays true. A push looks each of its
//! objects up four times between the last byte and the publication; for a first push that was as much work as moving the
//! objects into place.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use treegraft_object::{ContentId, ObjectName};

use crate::ArchivedFile;

/// Where a staged object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This push.
    Received,
    /// A push that was interrupted.
    Adopted,
}

/// What is known of a staged object. Some dozen bytes each.
#[derive(Debug, Clone, Copy)]
struct Entry {
    origin: Origin,
    archived_bytes: u64,
    /// Not known of adopted objects.
    is_symlink: Option<bool>,
}

/// The objects of a staging area.
#[derive(Debug, Default)]
pub(super) struct Index(Mutex<HashMap<ObjectName, Entry>>);

impl Index {
    /// Adds an object of an interrupted push.
    pub(super) fn adopt(&self, name: ObjectName, archived_bytes: u64) {
        let entry = Entry { origin: Origin::Adopted, archived_bytes, is_symlink: None };
        self.entries().insert(name, entry);
    }

    /// Adds an object that was received and not there before, or detached metadata that replaces what was there.
    pub(super) fn receive(&self, name: ObjectName, archived_bytes: u64, is_symlink: bool) {
        let entry = Entry { origin: Origin::Received, archived_bytes, is_symlink: Some(is_symlink) };
        self.entries().insert(name, entry);
    }

    pub(super) fn remove(&self, name: ObjectName) {
        self.entries().remove(&name);
    }

    pub(super) fn has(&self, name: ObjectName) -> bool {
        self.entries().contains_key(&name)
    }

    pub(super) fn size(&self, name: ObjectName) -> Option<u64> {
        self.entries().get(&name).map(|entry| entry.archived_bytes)
    }

    pub(super) fn is_adopted(&self, name: ObjectName) -> bool {
        self.entries().get(&name).is_some_and(|entry| entry.origin == Origin::Adopted)
    }

    /// Returns what a look at a `.filez` would tell, if that is known.
    pub(super) fn archived_file(&self, id: ContentId) -> Option<ArchivedFile> {
        let Entry { archived_bytes, is_symlink, .. } = self.entries().get(&id.into()).copied()?;
        Some(ArchivedFile { archived_bytes, is_symlink: is_symlink? })
    }

    /// Returns how many objects there are, and their size on disk in bytes.
    pub(super) fn total(&self) -> (u64, u64) {
        let entries = self.entries();
        (entries.len() as u64, entries.values().map(|entry| entry.archived_bytes).sum())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ObjectName, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
