//! The administrator's programs: one that may refuse a push, one that hears of it afterwards.
//!
//! ```text
//! check, publish lock, graft and sign
//!   pre-publish hook     may refuse: nothing is visible, nothing has moved
//! objects, journal, refs
//!   the work of the post-publish hook goes on record
//! summary, journal away, all locks free
//!   post-publish hook    its failure is told and changes nothing
//!   the record is removed
//! ```
//!
//! # What a crash leaves
//!
//! The hook after a publish runs *at least once*. Until it has ended there is a journal or a record ([`Pending`]); whoever
//! opens the next push finishes the publish and runs the hook. It may then have run already, in whole or in part.
//!
//! # Limits
//!
//! A hook has a time limit, a process group of its own that is killed as a whole, and an environment of which the client
//! decides nothing. The end of its output is kept ([`KEPT_OUTPUT_BYTES`](process::KEPT_OUTPUT_BYTES) of each stream), and
//! [`MAX_SHOWN_CHARS`] of that are shown. Standard input is bounded by the refs of a push and [`MAX_SUBJECT_CHARS`].

use std::{fs, path::Path, process::Command, time::Duration};

use serde::{Deserialize, Serialize};
use treegraft_flatpak::process::{self, Finished, RunError};
use treegraft_object::{Checksum, CollectionId, CommitId, DirMetaId, DirTreeId, RefName};
use treegraft_repo::{Find, FoundRef, Pending, Preview, PublishLock, Recovered, RefEdit, RefTarget};
use treegraft_wire::{ApiError, ErrorCode, GraftMode};

use crate::{
    Receiver,
    error::{chain, from_read},
    rights::KeyName,
    session::Session,
    text,
};

/// The search path of hooks, whatever that of the server is.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most of a hook's output that is told to the pusher, in characters.
const MAX_SHOWN_CHARS: usize = 4096;

/// Most of a commit's subject that a hook is told, in characters; the rest is in the commit.
const MAX_SUBJECT_CHARS: usize = 1000;

/// Digits of the checksum that a record is named by.
const NAME_DIGITS: usize = 32;

const PRE: &str = "pre-publish";
const POST: &str = "post-publish";

/// What a hook is told about a push, besides where it is.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    /// What the client calls itself; nothing for what was recovered.
    client: Option<String>,
    /// The key that pushed, as far as it has a name; nothing for what was recovered, nor in records of before there was it.
    #[serde(default)]
    key: Option<KeyName>,
    refs: Vec<ToldRef>,
}

impl Told {
    fn of(receiver: &Receiver, session: &Session, refs: Vec<ToldRef>) -> Self {
        Self { client: Some(session.client.clone()), key: receiver.caller.key.clone(), refs }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct ToldRef {
    name: RefName,
    /// Nothing for the repository's own refs.
    collection_id: Option<CollectionId>,
    old: Option<CommitId>,
    new: CommitId,
    /// The commit on the worker, and how it came onto the ref; nothing for what was recovered.
    pushed: Option<CommitId>,
    mode: Option<GraftMode>,
    commit: ToldCommit,
}

/// What the new commit says.
#[derive(Debug, Serialize, Deserialize)]
struct ToldCommit {
    parent: Option<CommitId>,
    timestamp_secs: u64,
    subject: String,
    root_tree: DirTreeId,
    root_meta: DirMetaId,
}

/// The document on a hook's standard input.
#[derive(Debug, Serialize)]
struct Input<'t> {
    hook: &'static str,
    repo: &'t Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    staged_repo: Option<&'t Path>,
    /// Whether the publish was interrupted: the hook may have run for it before.
    recovered: bool,
    #[serde(flatten)]
    told: &'t Told,
}

/// How a hook ended.
enum Ended {
    Well { said: String },
    Refused { status: String, said: String },
    Not { reason: String },
}

/// Asks the hook before a publish. Returns notes for the pusher.
pub(crate) fn before(
    receiver: &Receiver,
    session: &Session,
    lock: &PublishLock,
    edits: &[RefEdit],
) -> Result<Vec<String>, ApiError> {
    let hook = &receiver.settings.pre_publish_hook;
    if hook.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |reason: String| {
        ApiError::new(ErrorCode::HookFailed, format!("The server's pre-publish hook could not be asked: {reason}"))
            .hint("nothing was published; the server's administrator has to look after `pre-publish-hook`")
    };
    let staging = session.staging()?;
    let view = staging.view(&receiver.repo);
    let told = Told::of(receiver, session, told_refs(&view, edits, Some(session))?);
    let heads = edits.iter().filter_map(|edit| match &edit.target {
        RefTarget::Head(name) => Some((name, edit.new)),
        RefTarget::Mirror(..) => None,
    });
    let preview = Preview::make(&receiver.repo, lock, staging, heads).map_err(|error| failed(error.to_string()))?;
    match run(receiver, hook, PRE, Some(preview.path()), false, &told) {
        Ended::Well { said } => Ok(note(PRE, &said)),
        Ended::Refused { status, said } => {
            let said = if said.is_empty() { format!("it ended with {status} and said nothing") } else { said };
            Err(ApiError::new(
                ErrorCode::HookRefused,
                format!("The server's pre-publish hook refuses the push: {said}"),
            )
            .hint("nothing was published; the hook is the administrator's own program"))
        }
        Ended::Not { reason } => Err(failed(reason)),
    }
}

/// Puts on record that the hook after a publish has to run. The refs have moved, and the journal is still there.
pub(crate) fn record(
    receiver: &Receiver,
    session: &Session,
    lock: &PublishLock,
    edits: &[RefEdit],
) -> Result<Option<Pending>, ApiError> {
    if receiver.settings.post_publish_hook.is_empty() {
        return Ok(None);
    }
    let refs = told_refs(&*receiver.repo, edits, Some(session))
        .map_err(|error| unfinished(&error.detail).temporary(error.is_temporary()))?;
    put_on_record(receiver, lock, edits, &Told::of(receiver, session, refs))
}

/// Puts on record that the hook has to run for a publish that was interrupted and is finished now.
pub(crate) fn record_recovered(receiver: &Receiver, lock: &PublishLock, recovered: &Recovered) -> Result<(), ApiError> {
    if receiver.settings.post_publish_hook.is_empty() {
        return Ok(());
    }
    let is_published = |found: &FoundRef| matches!(found, FoundRef::Old | FoundRef::New);
    let all: Vec<RefEdit> = recovered.refs.iter().map(|found| found.edit.clone()).collect();
    let published = recovered.refs.iter().filter(|found| is_published(&found.found));
    let published: Vec<RefEdit> = published.map(|found| found.edit.clone()).collect();
    let refs = told_refs(&*receiver.repo, &published, None)?;
    // It is an orphan from the beginning: whoever looks next runs it, without the locks that are held here.
    put_on_record(receiver, lock, &all, &Told { client: None, key: None, refs }).map(drop)
}

fn put_on_record(
    receiver: &Receiver,
    lock: &PublishLock,
    edits: &[RefEdit],
    told: &Told,
) -> Result<Option<Pending>, ApiError> {
    let data = serde_json::to_vec(told).expect("it has no maps with odd keys");
    Pending::create(&receiver.repo, lock, &record_name(edits), &data).map_err(|error| unfinished(&error.to_string()))
}

fn unfinished(reason: &str) -> ApiError {
    let detail = format!("Could not put on record that the post-publish hook has to run: {reason}");
    ApiError::new(ErrorCode::Unfinished, detail).hint("the refs have moved; the next push finishes this one")
}

/// Names a record by what moved, so that a publish that is recovered does not get a second one.
fn record_name(edits: &[RefEdit]) -> String {
    let line = |edit: &RefEdit| {
        let old = edit.expected.map_or_else(|| "-".to_owned(), |old| old.to_string());
        format!("{} {old} {}\n", edit.target, edit.new)
    };
    let lines: String = edits.iter().map(line).collect();
    let mut name = Checksum::of(lines.as_bytes()).to_string();
    name.truncate(NAME_DIGITS);
    name
}

/// Runs the hook after a publish, and for others that were interrupted. No lock is held but that of the record. Returns
/// notes for the pusher.
pub(crate) fn after(receiver: &Receiver, pending: Option<Pending>) -> Vec<String> {
    let mut notes: Vec<String> =
        pending.into_iter().flat_map(|pending| run_recorded(receiver, pending, false)).collect();
    notes.extend(run_orphans(receiver));
    notes
}

/// Runs the hook for publishes that were interrupted. Returns notes for the pusher.
pub(crate) fn run_orphans(receiver: &Receiver) -> Vec<String> {
    // What cannot be looked at now is found the next time.
    let orphans = Pending::orphans(&receiver.repo).unwrap_or_default();
    orphans.into_iter().flat_map(|orphan| run_recorded(receiver, orphan, true)).collect()
}

fn run_recorded(receiver: &Receiver, pending: Pending, recovered: bool) -> Vec<String> {
    let hook = &receiver.settings.post_publish_hook;
    let told = pending.data().ok().and_then(|data| serde_json::from_slice::<Told>(&data).ok());
    let mut notes = Vec::new();
    match told {
        // The administrator has taken the hook away since.
        _ if hook.is_empty() => {}
        None => notes.push("A record for the post-publish hook was damaged, so the hook did not run for it".to_owned()),
        Some(told) => {
            if recovered {
                let names: Vec<_> = told.refs.iter().map(|told| format!("`{}`", told.name)).collect();
                let names = names.join(", ");
                notes.push(format!("The post-publish hook ran for an interrupted publish of {names}"));
            }
            notes.extend(match run(receiver, hook, POST, None, recovered, &told) {
                Ended::Well { said } => note(POST, &said),
                Ended::Refused { status, said } if said.is_empty() => vec![failure(&status)],
                Ended::Refused { status, said } => vec![failure(&format!("{status}: {said}"))],
                Ended::Not { reason } => vec![failure(&reason)],
            });
        }
    }
    // If it cannot be removed, the hook runs again, as after a crash.
    let _ = pending.finish();
    notes
}

fn failure(reason: &str) -> String {
    format!("The refs are published, but the server's post-publish hook failed ({reason})")
}

fn note(hook: &str, said: &str) -> Vec<String> {
    if said.is_empty() { Vec::new() } else { vec![format!("The server's {hook} hook says: {said}")] }
}

fn told_refs(find: &dyn Find, edits: &[RefEdit], session: Option<&Session>) -> Result<Vec<ToldRef>, ApiError> {
    let told = |edit: &RefEdit| {
        let (name, collection_id) = match &edit.target {
            RefTarget::Head(name) => (name, None),
            RefTarget::Mirror(collection_id, name) => (name, Some(collection_id.clone())),
        };
        let offers = session.into_iter().flat_map(|session| &session.offers);
        let offer = offers.map(|offer| &offer.asked).find(|offer| offer.name == *name);
        let commit = find.commit(edit.new).map_err(from_read)?;
        Ok(ToldRef {
            name: name.clone(),
            collection_id,
            old: edit.expected,
            new: edit.new,
            pushed: offer.map(|offer| offer.commit),
            mode: offer.map(|offer| offer.mode),
            commit: ToldCommit {
                parent: commit.parent,
                timestamp_secs: commit.timestamp_secs,
                subject: text::one_line(&commit.subject, MAX_SUBJECT_CHARS),
                root_tree: commit.root_tree,
                root_meta: commit.root_meta,
            },
        })
    };
    edits.iter().map(told).collect()
}

fn run(
    receiver: &Receiver,
    words: &[String],
    hook: &'static str,
    staged_repo: Option<&Path>,
    recovered: bool,
    told: &Told,
) -> Ended {
    let Some((program, args)) = words.split_first() else {
        return Ended::Not { reason: "it is not configured".to_owned() };
    };
    let repo = match fs::canonicalize(receiver.repo.path()) {
        Ok(repo) => repo,
        Err(error) => return Ended::Not { reason: error.to_string() },
    };
    let input = Input { hook, repo: &repo, staged_repo, recovered, told };
    let input = match serde_json::to_vec(&input) {
        Ok(input) => input,
        Err(error) => return Ended::Not { reason: chain(&error) },
    };
    let mut command = Command::new(program);
    command.args(args).current_dir(&repo).env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8");
    command.env("TREEGRAFT_HOOK", hook).env("TREEGRAFT_REPO", &repo);
    command.envs(staged_repo.map(|path| ("TREEGRAFT_STAGED_REPO", path)));
    command.envs(told.key.iter().map(|key| ("TREEGRAFT_KEY", key.to_string())));
    command.envs(receiver.account.home.iter().map(|home| ("HOME", home)));
    for variable in ["USER", "LOGNAME"] {
        command.envs(receiver.account.user.iter().map(|user| (variable, user)));
    }
    let timeout_secs = receiver.settings.hook_timeout_secs;
    match process::run(command, Some(input), Duration::from_secs(timeout_secs)) {
        Ok(finished) => judged(&finished),
        Err(error) => Ended::Not { reason: not_run(program, timeout_secs, error) },
    }
}

fn judged(Finished { status, stdout, stderr }: &Finished) -> Ended {
    let said = match (stdout.is_empty(), stderr.is_empty()) {
        (false, false) => format!("{stderr}\n{stdout}"),
        _ => format!("{stderr}{stdout}"),
    };
    let said = text::lines(&said, MAX_SHOWN_CHARS);
    match status.code() {
        Some(0) => Ended::Well { said },
        Some(_) => Ended::Refused { status: status.to_string(), said },
        None if said.is_empty() => Ended::Not { reason: format!("it was killed ({status})") },
        None => Ended::Not { reason: format!("it was killed ({status}): {said}") },
    }
}

fn not_run(program: &str, timeout_secs: u64, error: RunError) -> String {
    match error {
        RunError::NotFound => format!("there is no program `{program}`"),
        RunError::Start(error) => format!("`{program}` could not be started: {error}"),
        RunError::Wait(error) => format!("`{program}` was lost: {error}"),
        RunError::TimedOut { stderr } => {
            let said = text::lines(&stderr, MAX_SHOWN_CHARS);
            let said = if said.is_empty() { said } else { format!(": {said}") };
            format!("it did not end within {timeout_secs} s and was killed{said}")
        }
    }
}
