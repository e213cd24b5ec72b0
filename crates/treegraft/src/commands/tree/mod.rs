//! Directories and archives as commits: what `push`, `commit` and `export` have in common.

pub(crate) mod build_dir;
pub(crate) mod plain;

use treegraft_object::{Commit, CommitId, RefName};
use treegraft_tree::TreeObjects;

/// Commits that were made of files, with all their objects.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) objects: TreeObjects,
    /// Each with the ref that it is for.
    pub(crate) commits: Vec<(RefName, CommitId)>,
}

impl Made {
    fn add(&mut self, name: RefName, commit: &Commit) {
        let id = self.objects.add_commit(commit);
        self.commits.push((name, id));
    }
}
