//! Pruning a repository that is pushed to, with what belongs to it: interrupted publishes, staging areas, the summary.

use std::time::Duration;

use treegraft_object::{CommitId, RefName, summary::Summary};
use treegraft_repo::{
    Cleared, PublishLock, Repo, Staging, StagingError, deltas,
    prune::{self, Event, Pace, Report, Rules},
    summary,
};
use treegraft_wire::ApiError;

use crate::{
    Receiver,
    error::{from_deltas, from_publish, from_ref, from_summary},
    metadata, publish,
    recorded_sizes::RecordedSizes,
};

/// What a prune has done.
#[derive(Debug)]
pub struct Pruned {
    /// What it has deleted from the repository.
    pub report: Report,
    /// What it has deleted of what dead pushes had left.
    pub cleared: Cleared,
    /// Notes for the administrator.
    pub notes: Vec<String>,
}

/// Why a repository could not be pruned. What was deleted before stays deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The repository itself.
    #[error(transparent)]
    Repo(#[from] prune::PruneError),
    /// What dead pushes have left.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// An interrupted publish, or the summary.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Receiver {
    /// Deletes from the repository what the rules do not keep, and what pushes have left that died long ago.
    ///
    /// A publish that was interrupted is finished first. A summary that names other commits than the refs do is written before,
    /// so that no client is led to what is deleted, and one that names deleted static deltas afterwards.
    pub fn prune(&self, rules: &Rules, pace: Pace<'_>, events: &mut dyn FnMut(Event)) -> Result<Pruned, PruneError> {
        let mut notes = Vec::new();
        if PublishLock::is_recovery_needed(&self.repo).map_err(from_publish)? {
            let mut lock = self.publish_lock(events)?;
            notes.extend(publish::finish_recovery(self, &mut lock)?);
        }
        if is_summary_stale(&self.repo)? {
            notes.extend(self.update_summary(&mut |waited| events(Event::Waiting { waited }))?);
        }
        let cleared = Staging::clear_leftovers(&self.repo, (self.clock)())?;
        let report = prune::run(&self.repo, rules, pace, events)?;
        if report.deleted.all() > 0 || !report.deltas.is_empty() {
            notes.extend(self.forget_deleted(&report, events)?);
        }
        Ok(Pruned { report, cleared, notes })
    }

    /// Takes what was deleted out of what is written about the repository.
    fn forget_deleted(&self, report: &Report, events: &mut dyn FnMut(Event)) -> Result<Vec<String>, ApiError> {
        let mut lock = self.publish_lock(events)?;
        let mut notes = publish::finish_recovery(self, &mut lock)?;
        RecordedSizes::forget_deleted(&lock, &self.repo);
        if report.deltas.is_empty() {
            return Ok(notes);
        }
        let left = deltas::list(&self.repo).map_err(from_deltas)?;
        deltas::reindex(&self.repo, &lock, &left).map_err(from_deltas)?;
        if summary::read_unsigned(&self.repo).map_err(from_summary)?.is_some() {
            notes.extend(metadata::update(self, &lock)?);
        }
        Ok(notes)
    }

    fn publish_lock(&self, events: &mut dyn FnMut(Event)) -> Result<PublishLock, ApiError> {
        PublishLock::acquire(&self.repo, &mut |waited: Duration| events(Event::Waiting { waited }))
            .map_err(from_publish)
    }
}

/// Tells whether the summary leads clients to a commit that is not its ref's.
///
/// Refs that it does not name are no matter: Flatpak can be told to leave some out.
fn is_summary_stale(repo: &Repo) -> Result<bool, ApiError> {
    let Some(data) = summary::read_unsigned(repo).map_err(from_summary)? else { return Ok(false) };
    let Ok(summary) = Summary::decode(&data) else { return Ok(true) };
    let refs = repo.refs().map_err(from_ref)?;
    let is_current = |(name, commit): (&RefName, CommitId)| refs.get(name) == Some(&commit);
    Ok(!summary.refs.iter().map(|entry| (&entry.name, entry.commit)).all(is_current))
}
