//! Who publishes, told to those who wait for it.
//!
//! The holder of the publish lock leaves a text beside it ([`PublishLock::say_holder`]). It is made of what a client says about
//! itself and may have been written by anybody who may write to the repository, so it is cleaned on both ways and believed in
//! nothing.

use std::{ops::ControlFlow, time::Duration};

use tokio_util::sync::CancellationToken;
use treegraft_repo::{MAX_HOLDER_BYTES, PublishLock, Repo, RepoLock};
use treegraft_wire::Holder;

use crate::{session::Session, text};

/// Most refs that are named.
const MAX_REFS: usize = 3;

/// Most of a name that is shown, in characters.
const MAX_CHARS: usize = 200;

/// Seconds between two notices that a push still waits.
const NOTICE_SECS: u64 = 5;

/// Makes a callback for waiting out of one that gives notice every few seconds, the first time at once. When nobody is there
/// to hear it any more, the waiting ends.
pub(crate) fn notices(
    client_gone: &CancellationToken,
    mut notice: impl FnMut(u64),
) -> impl FnMut(Duration) -> ControlFlow<()> {
    let mut noticed_secs = None;
    move |waited| {
        let waited_secs = waited.as_secs();
        if noticed_secs.is_none_or(|noticed| waited_secs >= noticed + NOTICE_SECS) {
            noticed_secs = Some(waited_secs);
            notice(waited_secs);
        }
        if client_gone.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Looks who holds the repository's own lock.
pub(crate) fn of_repository(repo: &Repo) -> Option<Holder> {
    let names = RepoLock::holders(repo);
    let holder = Holder { who: names.join(", "), refs: Vec::new(), ref_count: 0, since_secs: 0 };
    (!names.is_empty()).then(|| cleaned(holder))
}

/// Leaves word who publishes.
pub(crate) fn say(session: &Session, lock: &PublishLock) {
    let names = session.offers.iter().map(|offer| offer.asked.name.to_string());
    let holder = cleaned(Holder {
        who: session.who.clone(),
        refs: names.collect(),
        ref_count: session.offers.len() as u64,
        // Whoever reads it sees when it was written.
        since_secs: 0,
    });
    let text = serde_json::to_vec(&holder).expect("it has no maps with odd keys");
    if text.len() as u64 <= MAX_HOLDER_BYTES {
        lock.say_holder(&text);
    }
}

/// Reads who publishes.
pub(crate) fn read(repo: &Repo) -> Option<Holder> {
    let (text, since_secs) = PublishLock::holder(repo)?;
    let holder: Holder = serde_json::from_slice(&text).ok()?;
    Some(cleaned(Holder { since_secs, ..holder }))
}

fn cleaned(mut holder: Holder) -> Holder {
    holder.who = text::one_line(&holder.who, MAX_CHARS);
    holder.refs.truncate(MAX_REFS);
    for name in &mut holder.refs {
        *name = text::one_line(name, MAX_CHARS);
    }
    holder
}
