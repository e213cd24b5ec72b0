//! Directories and archives as commits: what `push`, `commit` and `export` have in common.

pub(crate) mod build_dir;
pub(crate) mod local;
pub(crate) mod plain;

use treegraft_object::{Commit, CommitId, RefName};
use treegraft_push::Source;
use treegraft_tree::TreeObjects;

use crate::error::CommandError;

/// Commits that were made of files, with the objects of their trees.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) objects: TreeObjects,
    /// Each for a ref, and without a parent.
    pub(crate) commits: Vec<(RefName, Commit)>,
}

impl Made {
    /// Makes them something to push.
    pub(crate) fn into_source(mut self) -> Result<Source, CommandError> {
        let commits: Vec<(RefName, CommitId)> =
            self.commits.into_iter().map(|(name, commit)| (name, self.objects.add_commit(&commit))).collect();
        Ok(Source::of_trees(self.objects, commits)?)
    }
}
