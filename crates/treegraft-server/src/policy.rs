//! What may become of a ref: the caller's rights and the server's settings against what a push asks for.

use jiff::Timestamp;
use treegraft_flatpak::{
    FlatpakRef, GraftOptions, REF_BINDING, SUBSETS, TOKEN_TYPE, check_subsets, is_flatpak_ref, is_generated_ref,
};
use treegraft_object::{Commit, CommitId, RefName, gvariant::Variant};
use treegraft_repo::{Find, ReadError};
use treegraft_wire::{ApiError, ErrorCode, GraftMode, RefChange, RefOffer, RetriedOffer, Verdict};

use crate::{
    Receiver, earlier,
    error::{chain, from_read, from_ref},
    rights::Action,
};

/// Most commits that are walked to find the head among a pushed commit's ancestors.
const MAX_ANCESTRY: usize = 100_000;

/// What a push means for a ref.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged {
    /// The ref's head now.
    pub(crate) head: Option<CommitId>,
    pub(crate) verdict: Verdict,
    /// What makes it unchanged when it is not the head itself.
    pub(crate) published: Option<RefChange>,
}

/// Judges an offer against the ref's head now.
///
/// When a push is opened, only the client's word is there about the commit; `commit` is the commit itself once it has
/// arrived, and then its word counts. `since` is the head at an earlier moment of the same push: what has come onto the ref
/// since then may be this push already.
pub(crate) fn judge(
    receiver: &Receiver,
    offer: &RefOffer,
    commit: Option<&Commit>,
    since: Option<RetriedOffer>,
) -> Result<Judged, ApiError> {
    // First of all: of what somebody may not write, nothing is told either.
    check_rights(receiver, offer)?;
    check_name(receiver, &offer.name)?;
    check_options(offer)?;
    let judged = |head, verdict, published| Ok(Judged { head, verdict, published });
    let Some(head_id) = receiver.repo.resolve_ref(&offer.name).map_err(from_ref)? else {
        check_kept_metadata(receiver, offer, None, commit)?;
        return judged(None, Verdict::Publish, None);
    };
    if let Some(since) = since
        && let Some(change) = earlier::published_since(&receiver.repo, offer, commit, since.head, head_id)?
    {
        return judged(Some(head_id), Verdict::Unchanged, Some(change));
    }
    let head = receiver.repo.commit(head_id).map_err(from_read)?;
    let (root_tree, root_meta, commit_timestamp_secs) = match commit {
        Some(commit) => (commit.root_tree, commit.root_meta, commit.timestamp_secs),
        None => (offer.root_tree, offer.root_meta, offer.timestamp_secs),
    };
    let is_unchanged = match offer.mode {
        GraftMode::Rebase => (root_tree, root_meta) == (head.root_tree, head.root_meta) && !offer.graft.forces_commit(),
        GraftMode::Exact => offer.commit == head_id,
    };
    if is_unchanged {
        return judged(Some(head_id), Verdict::Unchanged, None);
    }
    let timestamp_secs = offer.graft.timestamp_secs.unwrap_or(commit_timestamp_secs);
    if timestamp_secs < head.timestamp_secs {
        check_older(receiver, offer, timestamp_secs, head.timestamp_secs)?;
    }
    check_kept_metadata(receiver, offer, Some(&head), commit)?;
    judged(Some(head_id), Verdict::Publish, None)
}

fn check_name(receiver: &Receiver, name: &RefName) -> Result<(), ApiError> {
    let refuse = |reason: String| {
        Err(ApiError::new(ErrorCode::RefName, format!("The ref `{name}` cannot be pushed: {reason}")).of_ref(name))
    };
    if is_generated_ref(name) {
        return refuse("the server makes it by itself".to_owned());
    }
    for parent in parents(name) {
        if receiver.repo.resolve_ref(&parent).map_err(from_ref)?.is_some() {
            return refuse(format!("`{parent}` is a ref itself, so that none can be below it"));
        }
    }
    // A name that is there already may stay; a new one must be writable and readable everywhere.
    if !name.is_portable() && receiver.repo.resolve_ref(name).map_err(from_ref)?.is_none() {
        return refuse("a new ref's name must stay within ASCII".to_owned());
    }
    if is_flatpak_ref(name)
        && let Err(error) = FlatpakRef::parse(name)
    {
        return refuse(error.to_string());
    }
    Ok(())
}

/// Returns the names above a ref's, each of which is a directory on disk.
pub(crate) fn parents(name: &RefName) -> impl Iterator<Item = RefName> {
    let name = name.as_str();
    name.match_indices('/').filter_map(|(at, _)| RefName::new(&name[..at]).ok())
}

/// Refuses what the caller has no right to ask for.
fn check_rights(receiver: &Receiver, offer: &RefOffer) -> Result<(), ApiError> {
    let own_collection = receiver.repo.config().collection_id.as_ref();
    let RefOffer { mode, force, graft, .. } = offer;
    let asked = [
        (Action::Rebase, *mode == GraftMode::Rebase),
        (Action::Exact, *mode == GraftMode::Exact),
        (Action::Force, *force),
        (Action::Mirrors, graft.extra_collection_ids.iter().any(|id| Some(id) != own_collection)),
        (Action::Subsets, !graft.subsets.is_empty()),
        (Action::TokenType, graft.token_type.is_some()),
    ];
    let rights = receiver.rights();
    asked.iter().filter(|(_, is_asked)| *is_asked).try_for_each(|(action, _)| rights.demand(&offer.name, *action))?;
    // A commit that is bound to a ref passes for it wherever a client meets it.
    graft.bind_refs.iter().try_for_each(|name| check_bound(receiver, name, Action::Rebase))
}

/// Refuses a binding to a ref that is not the caller's.
fn check_bound(receiver: &Receiver, name: &RefName, action: Action) -> Result<(), ApiError> {
    if is_generated_ref(name) {
        let detail = format!("No commit that is pushed can be bound to `{name}`: the server makes it by itself");
        return Err(ApiError::new(ErrorCode::RefName, detail).of_ref(name));
    }
    receiver.rights().demand(name, action)
}

/// Refuses a commit that keeps its bindings and passes for a ref that its pusher may not write.
pub(crate) fn check_kept_bindings(
    receiver: &Receiver,
    offer: &RefOffer,
    id: CommitId,
    commit: &Commit,
) -> Result<(), ApiError> {
    let rights = receiver.rights();
    let Some(bound) = commit.metadata.get(REF_BINDING).and_then(Variant::as_strings) else {
        return if rights.are_for_some_refs() { Err(unbound(offer, id)) } else { Ok(()) };
    };
    for name in bound.into_iter().filter(|name| *name != offer.name.as_str()) {
        // What is no name is nobody's ref.
        let Ok(name) = RefName::new(name) else { continue };
        check_bound(receiver, &name, Action::Exact)?;
    }
    Ok(())
}

/// Refuses a commit that says nothing of the ref that it is for.
fn unbound(offer: &RefOffer, id: CommitId) -> ApiError {
    let name = &offer.name;
    let detail = format!("The commit `{id}` for `{name}` is bound to no ref, so that clients would take it for any");
    let error =
        ApiError { rule: Some(Action::Exact.word().to_owned()), ..ApiError::new(ErrorCode::NotAllowed, detail) };
    error.of_ref(name).hint("push it without `--exact`: the server's commit is bound to its ref")
}

/// Refuses a commit that would change what its pusher has no right to change: it could say itself what the options say.
///
/// Before the commit has arrived there is nothing to look at.
fn check_kept_metadata(
    receiver: &Receiver,
    offer: &RefOffer,
    head: Option<&Commit>,
    commit: Option<&Commit>,
) -> Result<(), ApiError> {
    let Some(commit) = commit else { return Ok(()) };
    if !is_flatpak_ref(&offer.name) {
        return Ok(());
    }
    let options = &offer.graft;
    let kept = [
        (Action::Subsets, SUBSETS, options.subsets.is_empty()),
        (Action::TokenType, TOKEN_TYPE, options.token_type.is_none()),
    ];
    for (action, key, _) in kept.iter().filter(|(.., is_kept)| *is_kept) {
        if commit.metadata.get(key) != head.and_then(|head| head.metadata.get(key)) {
            receiver.rights().demand(&offer.name, *action)?;
        }
    }
    let kept_subsets =
        commit.metadata.get(SUBSETS).and_then(Variant::as_strings).filter(|_| options.subsets.is_empty());
    check_subsets(kept_subsets.into_iter().flatten()).map_err(|error| {
        let detail = format!("The commit `{}` cannot be published: {}", offer.commit, chain(&error));
        let error = ApiError::new(ErrorCode::GraftOption, detail).of_ref(&offer.name);
        error.hint("with it, no summary could be written; export it again with another `--subset`")
    })
}

fn check_options(offer: &RefOffer) -> Result<(), ApiError> {
    if offer.mode == GraftMode::Exact && offer.graft != GraftOptions::default() {
        let detail = format!(
            "An exact push keeps the commit of `{}` as it is, so that nothing in it can be changed",
            offer.name
        );
        return Err(ApiError::new(ErrorCode::GraftOption, detail).of_ref(&offer.name));
    }
    offer
        .graft
        .check(&offer.name)
        .map_err(|error| ApiError::new(ErrorCode::GraftOption, chain(&error)).of_ref(&offer.name))
}

fn check_older(receiver: &Receiver, offer: &RefOffer, pushed_secs: u64, head_secs: u64) -> Result<(), ApiError> {
    if offer.allow_older {
        return receiver.rights().demand(&offer.name, Action::Older);
    }
    let (pushed, head) = (date(pushed_secs), date(head_secs));
    let detail =
        format!("The commit for `{}` is of {pushed}, but the ref already has a newer one of {head}", offer.name);
    Err(ApiError::new(ErrorCode::OlderThanHead, detail).of_ref(&offer.name).conflict(&head, &pushed).hint(
        "clients refuse to update to an older commit; push a newer build, or use `--allow-older` if this is meant",
    ))
}

/// Writes a time as users read it.
fn date(secs: u64) -> String {
    i64::try_from(secs)
        .ok()
        .and_then(|secs| Timestamp::from_second(secs).ok())
        .map_or_else(|| format!("second {secs}"), |timestamp| timestamp.to_string())
}

/// Finds the commits that an exact push adds to a ref, newest first: the pushed one and its ancestors down to the head.
///
/// Without a head, or when the history may be dropped by force, the commit is added alone, with whatever history of it
/// is already known. That a parent is not there is no error then: readers of OSTree repositories expect shallow history.
pub(crate) fn added_commits(
    find: &dyn Find,
    offer: &RefOffer,
    head: Option<CommitId>,
) -> Result<Vec<CommitId>, ApiError> {
    let Some(head) = head else {
        return Ok(vec![offer.commit]);
    };
    let mut added = vec![offer.commit];
    let mut current = offer.commit;
    while added.len() < MAX_ANCESTRY {
        let parent = match find.commit(current) {
            Ok(commit) => commit.parent,
            Err(ReadError::NotFound { .. }) => None,
            Err(error) => return Err(from_read(error)),
        };
        match parent {
            Some(parent) if parent == head => return Ok(added),
            Some(parent) => {
                added.push(parent);
                current = parent;
            }
            None => break,
        }
    }
    if offer.force {
        return Ok(vec![offer.commit]);
    }
    Err(ApiError::not_fast_forward(&offer.name, head, offer.commit))
}
