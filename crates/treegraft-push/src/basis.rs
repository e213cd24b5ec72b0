//! A repository on the worker with an earlier build, of which the server has the files as well.

use std::{io::Read, path::Path};

use treegraft_object::{ContentId, DirTreeId, RefName};
use treegraft_repo::{ByPath, Find, ReadError, Repo};

use crate::SourceError;

/// An earlier build.
#[derive(Debug)]
pub struct BasisRepo {
    repo: Repo,
    /// The trees of its refs.
    roots: Vec<(RefName, DirTreeId)>,
}

impl BasisRepo {
    /// Opens a repository of any mode. A ref whose commit is not there is passed over.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let repo = Repo::open(path)?;
        let refs = repo.refs()?;
        let root = |(name, commit)| Some((name, repo.commit(commit).ok()?.root_tree));
        let roots = refs.into_iter().filter_map(root).collect();
        Ok(Self { repo, roots })
    }

    /// Opens the plain content of a file, and returns its size in bytes.
    pub(crate) fn open_file(&self, id: ContentId) -> Result<(u64, impl Read + use<>), ReadError> {
        let content = self.repo.open_content(id)?;
        Ok((content.content_bytes, content.reader))
    }

    /// Finds files by the refs that they are pushed to and their paths, those of the same ref first. What is not there is
    /// nothing, and so is what cannot be read.
    pub(crate) fn find<'p>(&self, places: impl IntoIterator<Item = (&'p RefName, &'p str)>) -> Vec<Option<ContentId>> {
        let mut by_path = ByPath::new(&self.repo);
        let mut find = |(target, path): (&RefName, &str)| {
            let roots = |is_same| self.roots.iter().filter(move |(name, _)| (name == target) == is_same);
            let found = roots(true).chain(roots(false)).find_map(|&(_, root)| by_path.file(root, path).ok().flatten());
            found.filter(|&id| self.repo.has(id.into()).unwrap_or(false))
        };
        places.into_iter().map(&mut find).collect()
    }
}
