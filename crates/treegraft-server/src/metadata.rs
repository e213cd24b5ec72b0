//! What a repository says about itself: the summary, and what Flatpak adds.

use treegraft_flatpak::{ReplacementCommand, UpdateRepo, UpdateRepoError, is_flatpak_ref};
use treegraft_object::{RefName, detached, gvariant::Dict};
use treegraft_repo::{Draft, PublishLock, deltas, fault, summary};
use treegraft_wire::{ApiError, ErrorCode};

use crate::{
    Receiver,
    config::FlatpakUpdate,
    error::{chain, from_deltas, from_io, from_ref, from_sign, from_summary},
    signing,
};

/// How often `flatpak build-update-repo` is run when it fails: it takes no lock for what it reads, so that whoever writes or
/// deletes refs and static deltas can come in its way.
const FLATPAK_TRIES: u32 = 3;

/// Brings the summary and what belongs to it up to date, with no ref in particular. Returns notes for the administrator.
pub(crate) fn update(receiver: &Receiver, lock: &PublishLock) -> Result<Vec<String>, ApiError> {
    update_after(receiver, lock, &[])
}

/// Brings the summary and what belongs to it up to date after `refs` have moved. Returns notes for the pusher.
///
/// A configured command comes first, then `flatpak build-update-repo` for a repository with Flatpak's refs, then
/// treegraft's own summary.
pub(crate) fn update_after(
    receiver: &Receiver,
    lock: &PublishLock,
    refs: &[&RefName],
) -> Result<Vec<String>, ApiError> {
    if let Some(command) = ReplacementCommand::new(&receiver.settings.update_command) {
        command.with_refs(refs).run(receiver.repo.path()).map_err(|error| stale(&error))?;
        return sign_foreign_summary(receiver, lock).map(|()| Vec::new());
    }
    let has_flatpak_refs = receiver.repo.refs().map_err(from_ref)?.keys().any(is_flatpak_ref);
    if !has_flatpak_refs || receiver.settings.flatpak_update == FlatpakUpdate::Never {
        return write_summary(receiver, lock).map(|()| Vec::new());
    }
    run_flatpak(receiver, lock)
}

/// Lets `flatpak` write index, summary and appstream branches. Clients see the first two when they have all their signatures.
fn run_flatpak(receiver: &Receiver, lock: &PublishLock) -> Result<Vec<String>, ApiError> {
    let flatpak = UpdateRepo {
        gpg_homedir: receiver.settings.gpg_homedir.clone(),
        gpg_keys: receiver.settings.gpg_keys.clone(),
        ..UpdateRepo::default()
    };
    let mut tries_left = FLATPAK_TRIES;
    loop {
        tries_left -= 1;
        let draft = Draft::make(&receiver.repo, lock).map_err(from_summary)?;
        match flatpak.run(draft.path(), receiver.repo.path()) {
            Ok(_) => {
                sign_draft(receiver, &draft)?;
                return draft.publish().map(|()| Vec::new()).map_err(from_summary);
            }
            Err(UpdateRepoError::Failed { .. }) if tries_left > 0 => {}
            Err(UpdateRepoError::NotFound { .. }) => {
                write_summary(receiver, lock)?;
                return Ok(vec![
                    "`flatpak` is not installed on the server: the summary was updated, but not the appstream branches \
                     and `summary.idx`, which Flatpak's clients read first"
                        .to_owned(),
                ]);
            }
            Err(error) => return Err(stale(&error)),
        }
    }
}

fn stale(error: &UpdateRepoError) -> ApiError {
    ApiError::new(ErrorCode::SummaryStale, chain(error)).temporary(error.is_temporary())
}

fn sign_draft(receiver: &Receiver, draft: &Draft<'_>) -> Result<(), ApiError> {
    let Some((data, mut signatures)) = draft.summary().map_err(from_summary)? else {
        return Ok(());
    };
    if add_missing_signatures(receiver, &data, &mut signatures)? {
        draft.sign(&signatures).map_err(from_summary)?;
    }
    Ok(())
}

/// Writes and signs treegraft's own summary.
fn write_summary(receiver: &Receiver, lock: &PublishLock) -> Result<(), ApiError> {
    let known_deltas = deltas::list(&receiver.repo).map_err(from_deltas)?;
    deltas::reindex(&receiver.repo, lock, &known_deltas).map_err(from_deltas)?;
    let data = summary::build(&receiver.repo, (receiver.clock)(), &Dict::new()).map_err(from_summary)?;
    let mut signatures = Dict::new();
    signing::sign_into(&mut signatures, &receiver.keys, &data).map_err(from_sign)?;
    fault::point("summary:signed").map_err(from_io)?;
    let signatures = Some(&signatures).filter(|signatures| !signatures.is_empty());
    summary::write(&receiver.repo, lock, &data, signatures).map_err(from_summary)
}

/// Makes durable what a configured command has written, and adds the signatures that it did not make.
fn sign_foreign_summary(receiver: &Receiver, lock: &PublishLock) -> Result<(), ApiError> {
    summary::sync_foreign(&receiver.repo, lock).map_err(from_summary)?;
    let Some((data, mut signatures)) = summary::read(&receiver.repo).map_err(from_summary)? else {
        return Ok(());
    };
    if add_missing_signatures(receiver, &data, &mut signatures)? {
        summary::write(&receiver.repo, lock, &data, Some(&signatures)).map_err(from_summary)?;
    }
    Ok(())
}

/// Signs with each key of which there is no signature. Tells whether there was one.
///
/// `flatpak` signs with OpenPGP only; a configured command may not sign at all.
fn add_missing_signatures(receiver: &Receiver, data: &[u8], signatures: &mut Dict) -> Result<bool, ApiError> {
    let missing: Vec<_> = receiver.keys.iter().filter(|key| signatures.get(key.metadata_key()).is_none()).collect();
    for key in &missing {
        let signature = key.sign(data).map_err(from_sign)?;
        detached::append_signature(signatures, key.metadata_key(), &signature);
        fault::point("foreign-summary:signed").map_err(from_io)?;
    }
    Ok(!missing.is_empty())
}
