//! A repository as it will be after the publish.

use treegraft_object::{ContentId, ObjectName};

use super::Staging;
use crate::{ArchivedFile, Find, ReadError, Repo};

/// Looks objects up in a staging area first, then in the repository.
#[derive(Debug, Clone, Copy)]
pub struct StagedView<'a> {
    staging: &'a Staging,
    repo: &'a Repo,
}

impl<'a> StagedView<'a> {
    pub(super) const fn new(staging: &'a Staging, repo: &'a Repo) -> Self {
        Self { staging, repo }
    }
}

impl Find for StagedView<'_> {
    fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        Ok(self.staging.has(name) || self.repo.has(name)?)
    }

    fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
        match self.staging.metadata(name)? {
            None => self.repo.metadata(name),
            found => Ok(found),
        }
    }

    fn archived_file(&self, id: ContentId) -> Result<Option<ArchivedFile>, ReadError> {
        if let Some(known) = self.staging.index.archived_file(id) {
            return Ok(Some(known));
        }
        match self.staging.loose().archived_file(id)? {
            None => self.repo.archived_file(id),
            found => Ok(found),
        }
    }
}
