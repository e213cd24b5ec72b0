//! Directories and archives as commits: what `push`, `commit` and `export` have in common.

pub(crate) mod build_dir;
pub(crate) mod local;
pub(crate) mod plain;

use std::{io, path::PathBuf};

use clap::Args;
use treegraft_object::{Commit, CommitId, RefName};
use treegraft_push::Source;
use treegraft_tree::{HashCache, TreeObjects};

use crate::{clock, error::CommandError};

/// How files are hashed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Hashing")]
pub(crate) struct HashArgs {
    /// Keep what files were hashed to in this file, for a worker that keeps its build directory
    #[arg(long, value_name = "FILE")]
    hash_cache: Option<PathBuf>,
}

impl HashArgs {
    pub(crate) const fn is_given(&self) -> bool {
        self.hash_cache.is_some()
    }

    /// Opens the cache, if there is one.
    pub(crate) fn open(&self) -> Result<Option<HashCache>, CommandError> {
        let open = |path: &PathBuf| {
            HashCache::open(path, clock::now_secs()).map_err(|source| CacheError { path: path.clone(), source })
        };
        self.hash_cache.as_ref().map(open).transpose().map_err(CommandError::user)
    }

    /// Writes the cache, if there is one.
    pub(crate) fn save(&self, cache: Option<&HashCache>) -> Result<(), CommandError> {
        let Some((path, cache)) = self.hash_cache.as_ref().zip(cache) else { return Ok(()) };
        cache.save().map_err(|source| CommandError::user(CacheError { path: path.clone(), source }))
    }
}

/// The cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("Could not use the cache `{path}`", path = path.display())]
struct CacheError {
    path: PathBuf,
    source: io::Error,
}

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
