//! Storing the objects of trees in a repository, on all cores.

use treegraft_object::{ContentId, ObjectName};
use treegraft_repo::{Find, ReadError, Repo, Staging, StagingError, parallel};

use crate::{HashOptions, TreeObjects};

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// All objects of the trees and commits, for a [`Transaction`](treegraft_repo::Transaction).
    pub objects: Vec<ObjectName>,
    /// How many of them the repository did not have.
    pub new_objects: u64,
    /// What these take there, in bytes.
    pub new_bytes: u64,
}

/// Why objects could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The repository does not take them.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// They cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl TreeObjects {
    /// Stages all objects that the repository does not have. `options.progress` is told of plain bytes.
    pub fn store(&self, repo: &Repo, staging: &Staging, options: HashOptions<'_>) -> Result<Stored, StoreError> {
        let mut stored = Stored::default();
        for name in self.metadata_names() {
            stored.objects.push(name);
            if repo.has(name)? {
                continue;
            }
            let data = self.metadata(name)?.unwrap_or_default();
            let staged = staging.stage_metadata(name, &data)?;
            stored.new_objects += u64::from(staged.is_new);
            stored.new_bytes += if staged.is_new { staged.archived_bytes } else { 0 };
        }
        let mut files: Vec<(ContentId, u64)> = self.files().collect();
        stored.objects.extend(files.iter().map(|&(id, _)| ObjectName::from(id)));
        // The largest first, so that no thread begins with one when the others are done.
        files.sort_unstable_by_key(|&(id, bytes)| (std::cmp::Reverse(bytes), id));
        let store = |(): &mut (), &(id, bytes): &(ContentId, u64)| {
            let archived_bytes = self.store_file(repo, staging, id)?;
            (options.progress)(bytes);
            Ok::<_, StoreError>(archived_bytes)
        };
        for archived_bytes in parallel::for_each(options.threads, &files, || (), store)?.into_iter().flatten() {
            stored.new_objects += 1;
            stored.new_bytes += archived_bytes;
        }
        Ok(stored)
    }

    /// Stages a content object unless the repository has it. Returns what it takes there in bytes, if it is new.
    fn store_file(&self, repo: &Repo, staging: &Staging, id: ContentId) -> Result<Option<u64>, StoreError> {
        if staging.has(id) || repo.has(id.into())? {
            return Ok(None);
        }
        let (header, content_bytes, mut content) = self.open(id)?;
        let staged = staging.stage_plain(id, header, content_bytes, &mut content).map_err(|error| match error {
            // It cannot be anything else: what was hashed is not what was read now.
            error if error.is_other_content() => StoreError::Read(self.changed(id)),
            error => error.into(),
        })?;
        if let Some(flush) = staging.due_flush(&staged) {
            flush.run();
        }
        Ok(staged.is_new.then_some(staged.archived_bytes))
    }
}
