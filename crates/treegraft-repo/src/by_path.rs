//! Finding files of a tree by their paths.

use std::collections::{HashMap, hash_map::Entry};

use treegraft_object::{ContentId, DirTree, DirTreeId};

use crate::{Find, ReadError};

/// Finds files by their paths, and remembers each dirtree that it has read.
pub struct ByPath<'f> {
    find: &'f dyn Find,
    trees: HashMap<DirTreeId, DirTree>,
}

impl<'f> ByPath<'f> {
    /// Looks into trees whose objects are there.
    pub fn new(find: &'f dyn Find) -> Self {
        Self { find, trees: HashMap::new() }
    }

    /// Returns the content object at a path below a root, as `usr/bin/env`, or nothing when there is none.
    pub fn file(&mut self, root: DirTreeId, path: &str) -> Result<Option<ContentId>, ReadError> {
        let (directories, file) = path.rsplit_once('/').unwrap_or(("", path));
        let mut tree = root;
        for name in directories.split('/').filter(|name| !name.is_empty()) {
            let Some(below) = self.tree(tree)?.dir(name) else { return Ok(None) };
            tree = below;
        }
        Ok(self.tree(tree)?.file(file))
    }

    fn tree(&mut self, id: DirTreeId) -> Result<&DirTree, ReadError> {
        match self.trees.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(self.find.dirtree(id)?)),
        }
    }
}
