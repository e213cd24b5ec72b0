//! Opening a repository.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, Mode as FileMode, OFlags, accessat, open, openat};
use treegraft_object::CollectionId;

use crate::{
    Config, Mode,
    config::{ConfigError, MAX_CONFIG_BYTES},
};

/// How many repositories may be behind each other through `core.parent`; one is usual, a cycle is endless.
const MAX_PARENTS: usize = 8;

/// An OSTree repository on disk.
///
/// It holds directories open, so it goes on reading the same repository when its path is renamed. It may be shared
/// between threads. Its configuration is the one from when it was opened.
#[derive(Debug)]
pub struct Repo {
    path: PathBuf,
    dir: OwnedFd,
    objects: OwnedFd,
    objects_path: PathBuf,
    config: Config,
    is_writable: bool,
    parent: Option<Box<Self>>,
}

/// Why a repository could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("Could not find a repository at `{path}`: nothing is there", path = path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// There is something else at the path: it has no `config` or no `objects`.
    #[error("`{path}` is no OSTree repository: it has no `{missing}`", path = path.display())]
    NotARepository {
        /// The path.
        path: PathBuf,
        /// What every repository has.
        missing: &'static str,
    },
    /// The configuration is not usable.
    #[error("Could not use the configuration `{path}`", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: ConfigError,
    },
    /// The configuration is larger than anything sensible.
    #[error("Could not read `{path}`: it is larger than {limit_bytes} bytes", path = path.display())]
    ConfigTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// Parents lead to more parents, perhaps in a circle.
    #[error("Could not open the parent of `{path}`: there are more than {limit} behind each other", path = path.display())]
    TooManyParents {
        /// The last repository that was opened.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The parent could not be opened.
    #[error("Could not open the parent of `{path}`", path = path.display())]
    Parent {
        /// The repository that names the parent.
        path: PathBuf,
        /// The reason.
        #[source]
        source: Box<Self>,
    },
    /// The file system refused.
    #[error("Could not open `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::find::is_temporary(source),
            Self::Parent { source, .. } => source.is_temporary(),
            _ => false,
        }
    }
}

impl Repo {
    /// Opens the repository at `path`: reads its configuration and opens its parents.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_nested(path, 0)
    }

    fn open_nested(path: &Path, depth: usize) -> Result<Self, OpenError> {
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let io_error = |path: PathBuf| move |errno: rustix::io::Errno| OpenError::Io { path, source: errno.into() };
        let dir = open(path, directory, FileMode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOENT => OpenError::NotFound { path: path.to_owned() },
            _ => io_error(path.to_owned())(errno),
        })?;
        let missing = |missing| OpenError::NotARepository { path: path.to_owned(), missing };
        let objects = openat(&dir, "objects", directory, FileMode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => missing("objects"),
            _ => io_error(path.join("objects"))(errno),
        })?;
        let config_path = path.join("config");
        let config =
            openat(&dir, "config", OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty()).map_err(
                |errno| match errno {
                    rustix::io::Errno::NOENT => missing("config"),
                    _ => io_error(config_path.clone())(errno),
                },
            )?;
        let config = read_config(File::from(config), &config_path)?;
        // As libostree decides: who may write into `objects/` is a writer. The effective ids count, as they do on writing.
        let is_writable = accessat(&objects, ".", Access::WRITE_OK, AtFlags::EACCESS).is_ok();
        let parent = match &config.parent {
            None => None,
            Some(_) if depth == MAX_PARENTS => {
                return Err(OpenError::TooManyParents { path: path.to_owned(), limit: MAX_PARENTS });
            }
            Some(parent) => match Self::open_nested(parent, depth + 1) {
                Ok(parent) => Some(Box::new(parent)),
                Err(error @ OpenError::TooManyParents { .. }) => return Err(error),
                Err(source) => return Err(OpenError::Parent { path: path.to_owned(), source: Box::new(source) }),
            },
        };
        let objects_path = path.join("objects");
        Ok(Self { path: path.to_owned(), dir, objects, objects_path, config, is_writable, parent })
    }

    /// Returns the path that the repository was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how content objects are stored.
    pub const fn mode(&self) -> Mode {
        self.config.mode
    }

    /// Returns the settings.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the collection of the refs in `refs/heads`.
    pub const fn collection_id(&self) -> Option<&CollectionId> {
        self.config.collection_id.as_ref()
    }

    /// Tells whether this process may write into `objects/`, which is what makes it a writer for libostree.
    pub const fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Returns the repository that objects are looked up in as well (`core.parent`).
    pub fn parent(&self) -> Option<&Self> {
        self.parent.as_deref()
    }

    /// Returns the repository's directory.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Returns the path of the directory `objects`.
    pub(crate) fn objects_path(&self) -> &Path {
        &self.objects_path
    }

    /// Returns the directory `objects`.
    pub(crate) fn objects_dir(&self) -> BorrowedFd<'_> {
        self.objects.as_fd()
    }
}

fn read_config(file: File, path: &Path) -> Result<Config, OpenError> {
    let mut data = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1)
        .read_to_end(&mut data)
        .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    if data.len() as u64 > MAX_CONFIG_BYTES {
        return Err(OpenError::ConfigTooLarge { path: path.to_owned(), limit_bytes: MAX_CONFIG_BYTES });
    }
    Config::parse(&data).map_err(|source| OpenError::Config { path: path.to_owned(), source })
}
