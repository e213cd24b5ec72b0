//! How much a repository holds.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Repo, private_dir, staging};

/// The size of a repository could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("Could not look at the size of `{path}`", path = path.display())]
pub struct UsageError {
    /// The file or directory.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub source: io::Error,
}

/// Bytes of files, as long as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Those of published objects.
    pub object_bytes: u64,
    /// Those of objects that wait for their publication, of all pushes.
    pub staged_bytes: u64,
}

impl Usage {
    /// Looks at every file. It takes some seconds for a million objects; nothing is remembered, since other programs add and
    /// remove objects as they like.
    pub fn of(repo: &Repo) -> Result<Self, UsageError> {
        let object_bytes = size(repo.objects_path())?;
        let staged_bytes = size(&private_dir::path(repo).join(staging::STAGING))?;
        Ok(Self { object_bytes, staged_bytes })
    }
}

/// Adds up the files below a directory, whose depth is known. What goes away meanwhile counts for nothing.
fn size(path: &Path) -> Result<u64, UsageError> {
    let fail = |source| UsageError { path: path.to_owned(), source };
    let Some(entries) = if_there(fs::read_dir(path)).map_err(fail)? else { return Ok(0) };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry.map_err(fail)?;
        // A symlink is not followed.
        let Some(metadata) = if_there(entry.metadata()).map_err(fail)? else { continue };
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
