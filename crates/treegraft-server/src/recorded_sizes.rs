//! The download sizes of published trees, kept from push to push.
//!
//! Flatpak's download size is a sum over every file of a tree, and to tell a file from a symlink its object has to be opened:
//! half a minute for a large runtime on a cold disk. With the size of the head's tree on record, only what has changed is
//! looked at. The record is a cache in `.treegraft`: a line for each tree, root dirtree and bytes. The sizes of stored objects
//! do not change as long as a ref keeps them.

use std::{collections::BTreeMap, fmt::Write as _};

use treegraft_object::DirTreeId;
use treegraft_repo::{Find, PublishLock, Repo, cache};

/// The cache's name.
const NAME: &str = "download-sizes";

/// Most trees on record, some megabytes of text; when there are more, it begins anew.
const MAX_TREES: usize = 50_000;

/// Download sizes in bytes by root dirtree.
#[derive(Debug, Default)]
pub(crate) struct RecordedSizes(BTreeMap<DirTreeId, u64>);

impl RecordedSizes {
    /// Reads the record. A line that is not valid ends it: the file was torn there.
    pub(crate) fn read(repo: &Repo) -> Self {
        let data = cache::read(repo, NAME).unwrap_or_default();
        let text = String::from_utf8(data).unwrap_or_default();
        let parse = |line: &str| {
            let (root, bytes) = line.strip_suffix('\n')?.split_once(' ')?;
            Some((root.parse().ok()?, bytes.parse().ok()?))
        };
        Self(text.split_inclusive('\n').map_while(parse).collect())
    }

    /// Returns the size of the tree below `root`.
    pub(crate) fn get(&self, root: DirTreeId) -> Option<u64> {
        self.0.get(&root).copied()
    }

    /// Puts trees on record that are published now, in the place of those that their refs had before.
    pub(crate) fn replace(lock: &PublishLock, repo: &Repo, trees: &[(Option<DirTreeId>, DirTreeId, u64)]) {
        // Another push may have written it since it was read.
        let mut record = Self::read(repo).0;
        for (old, _, _) in trees {
            old.map(|old| record.remove(&old));
        }
        if record.len() + trees.len() > MAX_TREES {
            record.clear();
        }
        record.extend(trees.iter().map(|&(_, new, bytes)| (new, bytes)));
        write(lock, &record);
    }

    /// Takes trees from the record that are not there any more.
    ///
    /// They may come back, compressed in another way and of another size.
    pub(crate) fn forget_deleted(lock: &PublishLock, repo: &Repo) {
        let mut record = Self::read(repo).0;
        let count = record.len();
        record.retain(|&root, _| repo.has(root.into()).unwrap_or(false));
        if record.len() < count {
            write(lock, &record);
        }
    }
}

fn write(lock: &PublishLock, record: &BTreeMap<DirTreeId, u64>) {
    let text = record.iter().fold(String::new(), |mut text, (root, bytes)| {
        let _ = writeln!(text, "{root} {bytes}");
        text
    });
    // Without it the next push only takes longer.
    let _ = cache::write(lock, NAME, text.as_bytes());
}
