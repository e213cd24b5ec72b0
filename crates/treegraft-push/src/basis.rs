//! A repository on the worker with an earlier build, of which the server has the files as well.

use std::{io::Read, path::Path};

use treegraft_object::{ContentId, DirTreeId, RefName};
use treegraft_repo::{ByPath, Find, ReadError, Repo};

use crate::{SourceError, references::References};

/// An earlier build.
#[derive(Debug)]
pub struct BasisRepo {
    repo: Repo,
    /// The trees of its refs.
    roots: Vec<(RefName, DirTreeId)>,
    /// What is known already of files that have changed since then.
    pub(crate) references: References,
}

impl BasisRepo {
    /// Opens a repository of any mode. A ref whose commit is not there is passed over.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let repo = Repo::open(path)?;
        let refs = repo.refs()?;
        let root = |(name, commit)| Some((name, repo.commit(commit).ok()?.root_tree));
        let roots = refs.into_iter().filter_map(root).collect();
        Ok(Self { repo, roots, references: References::default() })
    }

    pub(crate) const fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Returns the tree that a pushed ref is likely to be made of: that of the same ref, or of another one.
    pub(crate) fn root(&self, target: &RefName) -> Option<DirTreeId> {
        self.roots_for(target).next()
    }

    fn roots_for(&self, target: &RefName) -> impl Iterator<Item = DirTreeId> {
        let roots = move |is_same| self.roots.iter().filter(move |(name, _)| (name == target) == is_same);
        roots(true).chain(roots(false)).map(|&(_, root)| root)
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
            let found = self.roots_for(target).find_map(|root| by_path.file(root, path).ok().flatten());
            found.filter(|&id| self.repo.has(id.into()).unwrap_or(false))
        };
        places.into_iter().map(&mut find).collect()
    }
}
