//! Writing detached metadata, the only objects that change.

use std::{io, os::fd::AsFd, path::PathBuf};

use rustix::fs::Mode as FileMode;
use treegraft_object::{CommitId, ObjectName, gvariant::Dict};

use crate::{Mode, PublishLock, Repo, durable, store::LoosePath};

/// Mode of the directories `objects/XX` before the umask, as libostree makes them.
const DIRECTORY_MODE: FileMode = FileMode::from_raw_mode(0o777);

/// Detached metadata could not be written.
#[derive(Debug, thiserror::Error)]
#[error("Could not write the detached metadata `{path}`", path = path.display())]
pub struct DetachedMetadataError {
    /// The `.commitmeta`.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub source: io::Error,
}

impl DetachedMetadataError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        crate::find::is_temporary(&self.source)
    }
}

/// Replaces a commit's detached metadata. An empty dictionary makes an empty file, as in libostree.
///
/// Durable on return; a crash leaves the old metadata or the new one. Who adds to what is there reads it after taking the
/// lock; libostree and flatpak write without any.
pub fn write_detached_metadata(
    repo: &Repo,
    lock: &PublishLock,
    commit: CommitId,
    metadata: &Dict,
) -> Result<(), DetachedMetadataError> {
    let path = LoosePath::new(ObjectName::commit_meta(commit), Mode::Archive);
    let durability = lock.durability();
    let write = || {
        let dir = durable::make_dirs(repo.objects_dir(), path.directory(), DIRECTORY_MODE, durability)?;
        durable::replace(&dir, path.file_name(), &metadata.encode(), durability)?;
        durability.sync_dir(dir.as_fd())
    };
    write().map_err(|source| DetachedMetadataError { path: repo.objects_path().join(path.as_str()), source })
}
