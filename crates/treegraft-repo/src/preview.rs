//! A repository as it will be after a publish, for other programs to look at.
//!
//! ```text
//! .treegraft/preview/
//!   config                mode archive; core.parent is the repository itself
//!   objects               leads to the staging area's objects
//!   refs/heads/<ref>      the refs that will move, with their new commits
//! ```
//!
//! It takes nothing but names: `ostree` and `treegraft` find staged objects in `objects`, published ones through the parent.
//! Whoever holds the publish lock makes and removes it, so that there is one at most; what a crash leaves is replaced by the
//! next one.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
};

use treegraft_object::{CommitId, RefName};

use crate::{PublishLock, Repo, Staging, private_dir};

/// The directory in `.treegraft`.
const PREVIEW: &str = "preview";

/// Directories that libostree expects in a repository.
const DIRECTORIES: [&str; 6] = ["refs", "refs/heads", "refs/mirrors", "refs/remotes", "state", "tmp"];

/// A repository with staged objects and the refs that will lead to them. Removed on drop.
#[derive(Debug)]
pub struct Preview<'l> {
    path: PathBuf,
    _lock: &'l PublishLock,
}

impl<'l> Preview<'l> {
    /// Makes the preview of refs that will move.
    pub fn make<'r>(
        repo: &Repo,
        lock: &'l PublishLock,
        staging: &Staging,
        refs: impl IntoIterator<Item = (&'r RefName, CommitId)>,
    ) -> io::Result<Self> {
        let repo_path = fs::canonicalize(repo.path())?;
        let path = repo_path.join(private_dir::NAME).join(PREVIEW);
        private_dir::remove_tree(&path)?;
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(&path)?;
        let preview = Self { path, _lock: lock };
        let path = preview.path();
        for directory in DIRECTORIES {
            make(&path.join(directory))?;
        }
        for (name, commit) in refs {
            let file = path.join("refs/heads").join(name.as_str());
            if let Some(directory) = file.parent() {
                make(directory)?;
            }
            fs::write(file, format!("{commit}\n"))?;
        }
        symlink(fs::canonicalize(staging.path())?, path.join("objects"))?;
        let unfit = || io::Error::other("the repository's path cannot be written into a configuration file");
        let parent = parent_value(&repo_path).ok_or_else(unfit)?;
        let mut config = fs::File::create(path.join("config"))?;
        write!(config, "[core]\nrepo_version=1\nmode=archive\nparent={parent}\n")?;
        Ok(preview)
    }

    /// Returns the path, which is absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Preview<'_> {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        let _ = private_dir::remove_tree(&self.path);
    }
}

/// Returns a path as a value of the configuration. libostree takes `core.parent` as it stands there, without unquoting.
fn parent_value(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.trim() == *text && !text.contains(char::is_control))
}
