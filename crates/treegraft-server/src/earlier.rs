//! What of a push is published already: by an earlier try whose answer was lost, or by another push of the same build.
//!
//! A client whose connection breaks during the publication cannot know how it ended, and tries again. Meanwhile somebody
//! else may have put a commit on top. To publish the same tree again would take that back, so the ref's history is looked
//! at: all that came onto the ref since the push was first opened. The history is the only record there is, so nothing
//! can be lost in a crash that the refs themselves survive.

use treegraft_flatpak::{DOWNLOAD_SIZE, GraftTarget, graft};
use treegraft_object::{Commit, CommitId};
use treegraft_repo::{Find, ReadError, Repo};
use treegraft_wire::{ApiError, ErrorCode, GraftMode, RefChange, RefOffer};

use crate::error::{chain, from_read};

/// Most commits that are looked at: more do not come onto a ref between two tries of a push.
const MAX_NEW_COMMITS: usize = 1000;

/// Looks for the offered commit, or its graft, among the commits from the head down to `base`, which is not one of them.
///
/// A history that does not lead to `base` says nothing.
pub(crate) fn published_since(
    repo: &Repo,
    offer: &RefOffer,
    source: Option<&Commit>,
    base: Option<CommitId>,
    head: CommitId,
) -> Result<Option<RefChange>, ApiError> {
    let mut found = None;
    let mut current = Some(head);
    for _ in 0..MAX_NEW_COMMITS {
        let id = match current {
            id if id == base => return Ok(found),
            Some(id) => id,
            None => return Ok(None),
        };
        let commit = match repo.commit(id) {
            Ok(commit) => commit,
            Err(ReadError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(from_read(error)),
        };
        match offer.mode {
            // The oldest one is this push, a later one would be somebody's way back to it.
            GraftMode::Rebase if is_graft(repo, offer, source, &commit)? => {
                found = Some(RefChange { old: commit.parent, new: id });
            }
            GraftMode::Exact if id == offer.commit => return Ok(Some(RefChange { old: base, new: id })),
            _ => {}
        }
        current = commit.parent;
    }
    Ok(None)
}

/// Says that the ref is not where this push has brought it any more.
pub(crate) fn moved_on(offer: &RefOffer, change: RefChange, head: Option<CommitId>) -> Option<String> {
    let head = head.filter(|&head| head != change.new)?;
    let (name, new) = (&offer.name, change.new);
    Some(format!("`{name}` was published as {new}, and by now somebody else has put {head} on top of it"))
}

/// Tells whether a commit is what the server makes of an offer.
fn is_graft(repo: &Repo, offer: &RefOffer, source: Option<&Commit>, commit: &Commit) -> Result<bool, ApiError> {
    let (root_tree, root_meta, timestamp_secs) = match source {
        Some(source) => (source.root_tree, source.root_meta, source.timestamp_secs),
        None => (offer.root_tree, offer.root_meta, offer.timestamp_secs),
    };
    let timestamp_secs = offer.graft.timestamp_secs.unwrap_or(timestamp_secs);
    if (root_tree, root_meta, timestamp_secs) != (commit.root_tree, commit.root_meta, commit.timestamp_secs) {
        return Ok(false);
    }
    if !offer.graft.forces_commit() {
        return Ok(true);
    }
    // It may be that only the metadata changes: without the pushed commit itself there is nothing to compare.
    let Some(source) = source else { return Ok(false) };
    let target = GraftTarget {
        ref_name: offer.name.clone(),
        collection_id: repo.config().collection_id.clone(),
        parent: commit.parent,
        download_bytes: None,
    };
    let grafted = graft(source, offer.commit, &target, &offer.graft)
        .map_err(|error| ApiError::new(ErrorCode::GraftOption, chain(&error)).of_ref(&offer.name))?;
    Ok(comparable(grafted) == comparable(commit.clone()))
}

/// Takes out of a commit what depends on what was in the repository at that time.
fn comparable(mut commit: Commit) -> Commit {
    // The size of the download is the server's own, and no part of what was asked for.
    commit.metadata.remove(DOWNLOAD_SIZE);
    commit
}
