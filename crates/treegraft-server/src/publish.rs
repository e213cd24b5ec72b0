//! Making pushed refs visible: check, graft, sign, move, and the summary.
//!
//! The order is what makes it safe:
//!
//! 1. Every commit must be complete in staging area and repository together, and signed where the settings demand it.
//! 2. The publish lock is taken; the heads cannot move under other pushes from here on.
//! 3. New commits and their signatures are made and staged. A missing key stops the push here, with nothing visible.
//!    The administrator's hook may stop it as well.
//! 4. Objects become durable and move into place, commits last.
//! 5. The journal is written, the refs move. From the journal on, the publish is finished even after a crash.
//! 6. The summary is written and signed, the journal removed.
//! 7. The locks are free; the administrator's other hook hears of it.

use tokio_util::sync::CancellationToken;
use treegraft_object::CommitId;
use treegraft_repo::{Pending, Prepared, PublishLock, Recovered, RefEdit, RefTarget, Transaction, fault};
use treegraft_wire::{
    ApiError, ErrorCode, GraftMode, Phase, PublishEvent, Published, PublishedRef, RefChange, RefOffer, Verdict, Waiting,
};

use crate::{
    Receiver, budget,
    commits::Commits,
    earlier,
    error::{chain, from_io, from_publish, from_ref, from_transaction},
    holder, hooks, metadata,
    policy::{self, Judged},
    session::{Offer, Session},
};

type Report<'r> = dyn FnMut(PublishEvent) + 'r;

/// A ref that is about to move.
struct Move<'o> {
    offer: &'o RefOffer,
    head: Option<CommitId>,
    new: CommitId,
}

/// What was published, and what has to follow when the locks are free.
pub(crate) struct Done {
    pub(crate) published: Published,
    pub(crate) hook: Option<Pending>,
}

/// Publishes everything that a session offers, or nothing.
///
/// For its turn it waits until the client is gone; from then on nothing of the client's stops it.
pub(crate) fn run(
    receiver: &Receiver,
    session: &Session,
    client_gone: &CancellationToken,
    report: &mut Report<'_>,
) -> Result<Done, ApiError> {
    receiver.rights().check_publish()?;
    let staging = session.staging()?;
    let view = staging.view(&receiver.repo);
    report(PublishEvent::Phase { phase: Phase::Check });
    let mut commits = Commits::new(receiver, session, staging, &view);
    for Offer { asked, .. } in session.offers.iter().filter(|offer| offer.told == Verdict::Publish) {
        commits.complete(asked, asked.commit)?;
        commits.verify(asked)?;
    }

    fault::point("publish:checked").map_err(from_io)?;
    let (mut lock, notes) = acquire(receiver, session, client_gone, report)?;
    publish(receiver, session, &mut lock, commits, notes, report).inspect_err(|error| {
        // These two leave a journal, with which the next push writes the summary.
        if !matches!(error.code, ErrorCode::SummaryStale | ErrorCode::Unfinished) {
            session.release_lock();
            let _ = update_recovered(receiver, &mut lock, &mut Vec::new());
        }
    })
}

/// Publishes what was checked, in its turn. `notes` are those that there are already.
fn publish(
    receiver: &Receiver,
    session: &Session,
    lock: &mut PublishLock,
    mut commits: Commits<'_>,
    mut notes: Vec<String>,
    report: &mut Report<'_>,
) -> Result<Done, ApiError> {
    fault::point("publish:locked").map_err(from_io)?;
    report(PublishEvent::Phase { phase: Phase::Graft });
    let mut moves = Vec::new();
    let mut refs = Vec::new();
    for Offer { asked: offer, told, since } in &session.offers {
        // It is read again: those of all refs together may be larger than memory.
        let source = match told {
            Verdict::Publish => Some(commits.read(offer, offer.commit)?),
            Verdict::Unchanged => None,
        };
        let Judged { head, verdict, published } = policy::judge(receiver, offer, source.as_ref(), Some(*since))?;
        if let Some(change @ RefChange { old, new }) = published {
            notes.extend(earlier::moved_on(offer, change, head));
            refs.push(PublishedRef { name: offer.name.clone(), old, new });
            continue;
        }
        let new = match (verdict, &source, offer.mode) {
            (Verdict::Unchanged, ..) => head.unwrap_or(offer.commit),
            (Verdict::Publish, Some(source), GraftMode::Rebase) => commits.graft(offer, source, head)?,
            (Verdict::Publish, Some(_), GraftMode::Exact) => commits.keep(offer, head)?,
            (Verdict::Publish, None, _) => return Err(moved_meanwhile(offer)),
        };
        if verdict == Verdict::Publish {
            moves.push(Move { offer, head, new });
        }
        refs.push(PublishedRef { name: offer.name.clone(), old: head, new });
    }
    commits.sign()?;
    if moves.is_empty() {
        session.release_lock();
        update_recovered(receiver, lock, &mut notes)?;
        return Ok(Done { published: Published { refs, notes }, hook: None });
    }

    session.budget.check(commits.of_trees())?;
    if commits.of_trees().1 > budget::quota_left(receiver, false)? {
        return Err(budget::quota_exceeded());
    }
    let edits = edits(receiver, &moves)?;
    if !receiver.settings.pre_publish_hook.is_empty() {
        report(PublishEvent::Phase { phase: Phase::Hook });
        notes.extend(hooks::before(receiver, session, lock, &edits)?);
    }

    report(PublishEvent::Phase { phase: Phase::Publish });
    let mut transaction = Transaction::new(&receiver.repo, lock, session.staging()?);
    transaction.link(commits.objects());
    for edit in &edits {
        transaction.set_ref(edit.clone());
    }
    let committed = transaction.prepare().and_then(Prepared::commit).map_err(from_transaction)?;

    let hook = hooks::record(receiver, session, lock, &edits)?;
    session.release_lock();
    commits.record_sizes(lock);
    report(PublishEvent::Phase { phase: Phase::Summary });
    let names: Vec<_> = moves.iter().map(|Move { offer, .. }| &offer.name).collect();
    let updated = fault::point("publish:refs-moved").map_err(from_io);
    let updated = updated.and_then(|()| metadata::update_after(receiver, lock, &names));
    notes.extend(updated.map_err(|error| published_but_stale(error, &moves))?);
    committed
        .finish()
        .map_err(|error| ApiError::new(ErrorCode::Unfinished, chain(&error)).temporary(error.is_temporary()))
        .map_err(|error| error.hint("the refs have moved, and the summary is written; the next push ends this one"))?;
    Ok(Done { published: Published { refs, notes }, hook })
}

/// Says that a ref which had nothing to publish when the push was opened has now.
fn moved_meanwhile(offer: &RefOffer) -> ApiError {
    let detail = format!("The ref `{}` was up to date when the push began, and has been moved since", offer.name);
    ApiError::new(ErrorCode::RefMoved, detail)
        .of_ref(&offer.name)
        .hint("somebody else published to it meanwhile; push again")
}

/// Takes the publish lock, and with it a publish that was interrupted before. Returns notes about that one.
///
/// Where a command updates the repository, its summary is left to this push: the command may have to prune the repository,
/// which the push's own lock would not let it do.
fn acquire(
    receiver: &Receiver,
    session: &Session,
    client_gone: &CancellationToken,
    report: &mut Report<'_>,
) -> Result<(PublishLock, Vec<String>), ApiError> {
    let mut waiting = holder::notices(client_gone, |waited_secs| {
        let reason = "another push publishes to this repository".to_owned();
        report(PublishEvent::Waiting(Waiting { reason, waited_secs, holder: holder::read(&receiver.repo) }));
    });
    let mut lock = PublishLock::acquire_while(&receiver.repo, &mut waiting).map_err(from_publish)?;
    if client_gone.is_cancelled() {
        return Err(ApiError::new(ErrorCode::Locked, "The client left before its push had its turn"));
    }
    holder::say(session, &lock);
    let notes = if receiver.settings.update_command.is_empty() {
        finish_recovery(receiver, &mut lock)?
    } else {
        record_recovered(receiver, &lock)?
    };
    Ok((lock, notes))
}

/// Writes the summary anew after an interrupted publish was finished. Returns notes about it.
pub(crate) fn finish_recovery(receiver: &Receiver, lock: &mut PublishLock) -> Result<Vec<String>, ApiError> {
    let mut notes = record_recovered(receiver, lock)?;
    update_recovered(receiver, lock, &mut notes)?;
    Ok(notes)
}

/// Puts on record what has to follow an interrupted publish that was finished. Returns a note about it.
fn record_recovered(receiver: &Receiver, lock: &PublishLock) -> Result<Vec<String>, ApiError> {
    let Some(recovered) = lock.recovered().filter(|recovered| recovered.needs_summary()) else {
        return Ok(Vec::new());
    };
    let names: Vec<String> = recovered.refs.iter().map(|found| format!("`{}`", found.edit.target)).collect();
    hooks::record_recovered(receiver, lock, recovered)?;
    Ok(vec![format!("An interrupted publish of {} was found and finished", names.join(", "))])
}

/// Writes the summary that an interrupted publish needs.
fn update_recovered(receiver: &Receiver, lock: &mut PublishLock, notes: &mut Vec<String>) -> Result<(), ApiError> {
    if !lock.recovered().is_some_and(Recovered::needs_summary) {
        return Ok(());
    }
    notes.extend(metadata::update(receiver, lock)?);
    fault::point("publish:recovery-finished").map_err(from_io)?;
    lock.finish_recovery().map_err(from_publish)
}

/// Lists the refs to move: each offered one, and its mirrors under the extra collection ids.
fn edits(receiver: &Receiver, moves: &[Move<'_>]) -> Result<Vec<RefEdit>, ApiError> {
    let own_collection = receiver.repo.config().collection_id.as_ref();
    let mut edits = Vec::new();
    for Move { offer, head, new } in moves {
        edits.push(RefEdit { target: RefTarget::Head(offer.name.clone()), expected: *head, new: *new });
        for collection in offer.graft.extra_collection_ids.iter().filter(|&id| Some(id) != own_collection) {
            let target = RefTarget::Mirror(collection.clone(), offer.name.clone());
            let expected = receiver.repo.resolve(&target).map_err(from_ref)?;
            edits.push(RefEdit { target, expected, new: *new });
        }
    }
    Ok(edits)
}

/// Says of a failure after the refs moved what it is: the push succeeded, the summary did not.
fn published_but_stale(error: ApiError, moves: &[Move<'_>]) -> ApiError {
    let names: Vec<String> = moves.iter().map(|Move { offer, .. }| format!("`{}`", offer.name)).collect();
    let names = names.join(", ");
    let detail = format!("Published {names}, but the summary could not be updated: {}", error.detail);
    let hint = error.hint.unwrap_or_else(|| "the next push tries it again".to_owned());
    ApiError { code: ErrorCode::SummaryStale, detail, hint: Some(hint), ..error }
}
