//! What to push: commits, and where their objects are.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    str::FromStr,
};

use treegraft_flatpak::is_generated_ref;
use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, FileHeader, InvalidName, ObjectKind, ObjectName, RefName,
};
use treegraft_repo::{DEFAULT_ZLIB_LEVEL, Find, Mode, OpenError, ReadError, RefError, Repo};
use treegraft_tree::TreeObjects;

use crate::PlannedObject;

/// What to push: `REF`, or `REF:TARGET` to give it another name on the server. `REF` may be a commit's checksum then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRef {
    /// The ref here, or a commit.
    pub local: String,
    /// The ref on the server.
    pub target: RefName,
}

impl FromStr for PushRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (local, target) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { local: local.to_owned(), target: RefName::new(target)? })
    }
}

/// Commits to push, and where their objects are.
#[derive(Debug)]
pub struct Source {
    pub(crate) objects: SourceObjects,
    pub(crate) commits: Vec<SourceCommit>,
}

/// Where the objects of a push are.
#[derive(Debug)]
pub(crate) enum SourceObjects {
    /// In a repository.
    Repo(Repo),
    /// In directories that were never committed to one.
    Trees(TreeObjects),
}

/// A commit to push.
#[derive(Debug)]
pub(crate) struct SourceCommit {
    pub(crate) target: RefName,
    pub(crate) id: CommitId,
    pub(crate) commit: Commit,
}

/// What should be pushed cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The repository cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The refs cannot be read.
    #[error(transparent)]
    Refs(#[from] RefError),
    /// A ref does not exist.
    #[error("The repository `{repo}` has no ref `{name}`")]
    NoSuchRef {
        /// The repository.
        repo: String,
        /// The ref.
        name: String,
        /// Refs that it has, for a hint.
        existing: Vec<RefName>,
    },
    /// There is nothing to push.
    #[error("The repository `{repo}` has no refs to push")]
    NoRefs {
        /// The repository.
        repo: String,
    },
    /// A commit cannot be read.
    #[error("Could not read the commit of `{name}`")]
    Commit {
        /// The ref.
        name: String,
        /// The reason.
        #[source]
        source: ReadError,
    },
}

impl Source {
    /// Opens a repository and finds the commits of `refs`; when none is named, of all but those that repositories make by
    /// themselves.
    pub fn open(path: &Path, refs: &[PushRef]) -> Result<Self, SourceError> {
        let repo = Repo::open(path)?;
        let existing = repo.refs()?;
        let shown_path = path.display().to_string();
        let mut wanted: Vec<(String, RefName, CommitId)> = Vec::new();
        for PushRef { local, target } in refs {
            let id = existing.get(local.as_str()).copied().or_else(|| local.parse().ok());
            let id = id.ok_or_else(|| SourceError::NoSuchRef {
                repo: shown_path.clone(),
                name: local.clone(),
                existing: existing.keys().cloned().collect(),
            })?;
            wanted.push((local.clone(), target.clone(), id));
        }
        if refs.is_empty() {
            let pushed = existing.iter().filter(|(name, _)| !is_generated_ref(name));
            wanted.extend(pushed.map(|(name, id)| (name.to_string(), name.clone(), *id)));
        }
        if wanted.is_empty() {
            return Err(SourceError::NoRefs { repo: shown_path });
        }
        let mut commits = Vec::new();
        for (name, target, id) in wanted {
            let commit = read_commit(&repo, id).map_err(|source| SourceError::Commit { name, source })?;
            commits.push(SourceCommit { target, id, commit });
        }
        Ok(Self { objects: SourceObjects::Repo(repo), commits })
    }

    /// Takes commits whose objects are all among `objects`, each with its ref on the server.
    pub fn of_trees(
        objects: TreeObjects,
        commits: impl IntoIterator<Item = (RefName, CommitId)>,
    ) -> Result<Self, SourceError> {
        let read = |(target, id): (RefName, CommitId)| {
            let commit =
                read_commit(&objects, id).map_err(|source| SourceError::Commit { name: target.to_string(), source })?;
            Ok(SourceCommit { target, id, commit })
        };
        let commits = commits.into_iter().map(read).collect::<Result<_, SourceError>>()?;
        Ok(Self { objects: SourceObjects::Trees(objects), commits })
    }

    /// Returns the refs on the server and the commits here.
    pub fn refs(&self) -> impl Iterator<Item = (&RefName, CommitId)> {
        self.commits.iter().map(|source| (&source.target, source.id))
    }
}

impl SourceObjects {
    /// Returns where objects are looked up.
    pub(crate) fn find(&self) -> &dyn Find {
        match self {
            Self::Repo(repo) => repo,
            Self::Trees(trees) => trees,
        }
    }

    /// Returns the size of an object as it will be sent, if a look tells: for metadata always, for content in archive
    /// repositories.
    pub(crate) fn size(&self, name: ObjectName) -> Option<u64> {
        match self {
            Self::Repo(repo) if repo.mode() != Mode::Archive && name.kind == ObjectKind::File => None,
            Self::Repo(repo) => repo.path().join(name.loose_path("filez")).metadata().ok().map(|found| found.len()),
            Self::Trees(trees) => trees.metadata(name).ok()?.map(|data| data.len() as u64),
        }
    }

    /// Opens a content object that a repository stores as it will be sent.
    pub(crate) fn open_archived(&self, id: ContentId) -> Result<Option<(File, &Repo)>, ReadError> {
        match self {
            Self::Repo(repo) => match repo.open_archived(id) {
                Ok(found) => Ok(found.map(|(file, _)| (file, repo))),
                Err(ReadError::NotArchive { .. }) => Ok(None),
                Err(error) => Err(error),
            },
            Self::Trees(_) => Ok(None),
        }
    }

    /// Opens the plain content of a content object, and returns its header and its size in bytes.
    ///
    /// Nothing is verified: a file may be another one by now.
    pub(crate) fn open_plain(&self, id: ContentId) -> Result<(FileHeader, u64, Box<dyn Read + '_>), ReadError> {
        match self {
            Self::Repo(repo) => {
                let content = repo.open_content(id)?;
                Ok((content.header, content.content_bytes, content.reader))
            }
            Self::Trees(trees) => {
                let (header, bytes, content) = trees.open(id)?;
                Ok((header.clone(), bytes, content))
            }
        }
    }

    /// Makes the error of a content object that could not be read to its end.
    pub(crate) fn unreadable(&self, id: ContentId, source: io::Error) -> ReadError {
        let path = match self {
            Self::Repo(repo) => repo.path_of(id),
            Self::Trees(trees) => trees.path_of(id).unwrap_or_default(),
        };
        ReadError::Io { path, source }
    }

    /// Returns how large a content object is, compressed or not, to tell the large ones from the small ones.
    pub(crate) fn weight(&self, object: &PlannedObject) -> u64 {
        let plain_bytes = || match self {
            Self::Trees(trees) => trees.content_bytes(ContentId(object.name.checksum)),
            Self::Repo(repo) => repo.path_of(object.name).metadata().ok().map(|found| found.len()),
        };
        object.bytes.or_else(plain_bytes).unwrap_or(0)
    }

    /// Compresses a content object into what will be sent, and verifies it on the way.
    pub(crate) fn write_archived(&self, id: ContentId, archived: &mut dyn Write) -> Result<(), ReadError> {
        match self {
            Self::Repo(repo) => repo.write_archived(id, archived).map(drop),
            Self::Trees(trees) => trees.write_archived(id, DEFAULT_ZLIB_LEVEL, archived).map(drop),
        }
    }
}

/// Reads a metadata object, or nothing when it is absent. One that is damaged is an error.
///
/// What it refers to is looked for by name: a wrong bit would make objects missing that never were there.
pub(crate) fn read_metadata(find: &dyn Find, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(data) = find.metadata(name)? else { return Ok(None) };
    let actual = Checksum::of(&data);
    if actual == name.checksum { Ok(Some(data)) } else { Err(ReadError::Checksum { name, actual }) }
}

fn read_commit(find: &dyn Find, id: CommitId) -> Result<Commit, ReadError> {
    let name = ObjectName::from(id);
    let data = read_metadata(find, name)?.ok_or(ReadError::NotFound { name })?;
    Commit::decode(&data).map_err(|source| ReadError::Invalid { name, source })
}
