//! Making a repository.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::libc;
use treegraft_object::CollectionId;

use crate::{
    Mode, OpenError, Repo,
    durable::{DIRECTORY_MODE, FILE_MODE},
};

/// The directories of a new repository in libostree's order. `objects` comes last: it makes the directory a repository.
const DIRECTORIES: [&str; 9] = [
    "tmp",
    "extensions",
    "state",
    "refs",
    "refs/heads",
    "refs/mirrors",
    "refs/remotes",
    // libostree makes it when it opens a repository, which its `init` does at the end.
    "tmp/cache",
    "objects",
];

/// Where `config` is written before it gets its name.
const TEMPORARY_CONFIG: &str = ".config.new";

/// Why a repository could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is a repository already.
    #[error("Could not make a repository at `{path}`: there is one already", path = path.display())]
    AlreadyExists {
        /// The path.
        path: PathBuf,
    },
    /// The directory holds something else.
    #[error("Could not make a repository at `{path}`: the directory holds `{entry}` already", path = path.display())]
    NotEmpty {
        /// The path.
        path: PathBuf,
        /// Something that it holds.
        entry: String,
    },
    /// The file system refused.
    #[error("Could not make `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The new repository could not be opened.
    #[error("Could not open the new repository")]
    Open(#[from] OpenError),
}

impl InitError {
    /// Tells whether a later try may succeed without a change to the directory.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::find::is_temporary(source),
            Self::Open(source) => source.is_temporary(),
            _ => false,
        }
    }
}

impl Repo {
    /// Makes an archive repository at `path` with libostree's layout, and opens it. The directory's parents are made, too.
    ///
    /// After a crash the path holds no repository, because `objects` comes last; the next call finishes what is there.
    pub fn init(path: &Path, collection_id: Option<&CollectionId>) -> Result<Self, InitError> {
        let fail = |path: &Path, source| InitError::Io { path: path.to_owned(), source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE.bits())
            .create(path)
            .map_err(|source| fail(path, source))?;
        check_empty(path)?;
        write_config(path, collection_id).map_err(|source| fail(&path.join("config"), source))?;
        for directory in DIRECTORIES {
            if directory == "objects" {
                // Everything else is durable before the directory is a repository.
                sync_directories(path).map_err(|source| fail(path, source))?;
            }
            if let Err(error) = fs::DirBuilder::new().mode(DIRECTORY_MODE.bits()).create(path.join(directory)) {
                if error.kind() != io::ErrorKind::AlreadyExists {
                    return Err(fail(&path.join(directory), error));
                }
                if directory == "objects" {
                    // Somebody else has made the repository meanwhile.
                    return Err(InitError::AlreadyExists { path: path.to_owned() });
                }
            }
        }
        File::open(path).and_then(|directory| directory.sync_all()).map_err(|source| fail(path, source))?;
        Ok(Self::open(path)?)
    }
}

/// Lets nothing pass but an empty directory or what an interrupted `init` leaves.
fn check_empty(path: &Path) -> Result<(), InitError> {
    let fail = |source| InitError::Io { path: path.to_owned(), source };
    if path.join("objects").symlink_metadata().is_ok() {
        return Err(InitError::AlreadyExists { path: path.to_owned() });
    }
    for entry in fs::read_dir(path).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let is_ours = name == "config"
            || name == TEMPORARY_CONFIG
            || DIRECTORIES.iter().any(|directory| name.to_str() == Some(directory));
        if !is_ours {
            return Err(InitError::NotEmpty { path: path.to_owned(), entry: name.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

fn write_config(path: &Path, collection_id: Option<&CollectionId>) -> io::Result<()> {
    let mode = Mode::Archive.config_value();
    let collection = collection_id.map_or_else(String::new, |id| format!("collection-id={id}\n"));
    let text = format!("[core]\nrepo_version=1\nmode={mode}\n{collection}");
    let temporary = path.join(TEMPORARY_CONFIG);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE.bits())
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    // Whatever the umask: every client of a server reads it.
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE.bits()))?;
    file.sync_all()?;
    fs::rename(&temporary, path.join("config"))
}

fn sync_directories(path: &Path) -> io::Result<()> {
    for directory in ["tmp", "refs", "."] {
        File::open(path.join(directory))?.sync_all()?;
    }
    Ok(())
}
