//! One push: its locks, its staging area, and what is known about its refs.

use std::{
    collections::HashSet,
    io::{self, Read},
    ops::{ControlFlow, Deref},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use treegraft_object::{Checksum, CommitId};
use treegraft_repo::{LockKind, PublishLock, RepoLock, Staging, StagingError, fault};
use treegraft_wire::{
    ApiError, ErrorCode, Limits, ObjectsAnswer, OpenAnswer, OpenRequest, Purpose, PushId, RefOffer, RefState,
    Repository, Resumed, RetriedOffer, Verdict, Waiting,
    chunks::{CHUNKS, REFERENCES},
};

use crate::{
    Receiver,
    bases::Relatives,
    budget::{self, Budget},
    earlier,
    error::{from_io, from_lock, from_publish, from_staging},
    holder, hooks,
    knowledge::Knowledge,
    policy::{self, Judged},
    publish,
    pushes::Slot,
    rights::PushLimits,
    streams::{StreamEnd, Streams},
    text,
};

/// Most names in one question: a quarter of a million files in four questions, two megabytes each.
pub(crate) const MAX_QUESTION_NAMES: u32 = 65_536;

/// Most object streams of one connection at a time. Each has a blocking thread that inflates and hashes.
pub(crate) const MAX_STREAMS: u32 = 8;

/// Most of a client's name for itself that is kept, in characters.
const MAX_CLIENT_CHARS: usize = 200;

/// What a push offers to a ref, and what the client was told about it when the push was opened.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) asked: RefOffer,
    /// The ref's head when the push was first opened, which may have been an earlier try.
    pub(crate) since: RetriedOffer,
    /// Of a ref that is unchanged the client sends nothing, not even the commit.
    pub(crate) told: Verdict,
}

/// One push, from its opening to the end of its publication or its connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: PushId,
    /// What the client calls itself. It is nothing but a text.
    pub(crate) client: String,
    /// Who and where it says that it is; what it calls itself when it does not.
    pub(crate) who: String,
    pub(crate) offers: Vec<Offer>,
    purpose: Purpose,
    /// Nothing to publish needs no staging area.
    staging: Option<Staging>,
    /// Held until the refs have moved, so that no prune removes what the client was told to be there.
    lock: Mutex<Option<RepoLock>>,
    pub(crate) knowledge: Arc<Knowledge>,
    /// For each offer the commits whose files are compared with the pushed ones.
    pub(crate) bases: Vec<Vec<CommitId>>,
    pub(crate) budget: Budget,
    /// Waiting for them holds nothing else of the push.
    streams: Arc<Streams>,
    /// Bytes that have come in object streams.
    arrived_bytes: Arc<AtomicU64>,
    /// Threads that make objects of recipes at the moment.
    pub(crate) makers: AtomicUsize,
    /// Cancelled when nothing more is asked of the push: it was taken to be published, was open for too long, or its
    /// connection is gone.
    over: CancellationToken,
    /// One of the connection's pushes, until this one and everything that it has begun is over.
    _slot: Arc<Slot>,
}

/// An object stream under way, of a push that cannot be published meanwhile.
#[derive(Debug)]
pub(crate) struct RunningStream {
    session: Arc<Session>,
    /// Dropped after the session: a publication that waits for the end has the session for itself.
    ending: Ending,
}

impl RunningStream {
    /// Ends a stream that has come to its end.
    pub(crate) fn finish(mut self, answer: &ObjectsAnswer) {
        self.ending.end = if answer.to_be_sent_whole.is_empty() { StreamEnd::Stored } else { StreamEnd::Unmade };
    }
}

impl Deref for RunningStream {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// Tells the end of a stream when it is dropped.
#[derive(Debug)]
struct Ending {
    streams: Arc<Streams>,
    end: StreamEnd,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.streams.end(self.end);
    }
}

impl Session {
    /// Opens a push: checks what is asked against the settings, and takes locks and staging area. A lock is waited for until
    /// the client is gone.
    pub(crate) fn open(
        receiver: &Receiver,
        id: PushId,
        slot: Arc<Slot>,
        request: OpenRequest,
        client_gone: &CancellationToken,
        waiting: &mut dyn FnMut(Waiting),
    ) -> Result<(Self, OpenAnswer), ApiError> {
        check_refs(receiver, &request.refs)?;
        if request.purpose == Purpose::Push {
            receiver.rights().check_publish()?;
        }
        let mut notes = receiver.notes.clone();
        let mut waiting = holder::notices(client_gone, |waited_secs| {
            let reason = "another process has locked the repository".to_owned();
            waiting(Waiting { reason, waited_secs, holder: holder::of_repository(&receiver.repo) });
        });
        let (found, stale_summary) = finish_interrupted_publish(receiver, &mut waiting)?;
        notes.extend(found);
        if request.purpose == Purpose::Push {
            notes.extend(hooks::run_orphans(receiver));
        }
        let lock = RepoLock::acquire_while(&receiver.repo, LockKind::Shared, &mut waiting).map_err(from_lock)?;
        let is_compared = receiver.settings.offer_chunks && request.has_feature(CHUNKS);
        let relatives = Relatives::new(receiver);
        let mut refs = Vec::new();
        let mut bases = Vec::new();
        for offer in &request.refs {
            let Judged { head, verdict, published } = policy::judge(receiver, offer, None, offer.retry)?;
            notes.extend(published.and_then(|change| earlier::moved_on(offer, change, head)));
            let compared = if is_compared && verdict == Verdict::Publish {
                relatives.commits(&offer.name, head)
            } else {
                Vec::new()
            };
            refs.push(RefState { name: offer.name.clone(), head, verdict, published, has_basis: !compared.is_empty() });
            bases.push(compared);
        }
        let is_needed = refs.iter().any(|state| state.verdict == Verdict::Publish);
        if let Some(error) = stale_summary {
            // What this push publishes may be what mends it.
            if !is_needed && request.purpose == Purpose::Push {
                return Err(error);
            }
            notes.push(format!("The summary of an interrupted publish could not be written: {}", error.detail));
        }
        if Staging::is_any_there(&receiver.repo) {
            // What cannot be deleted now is deleted a later time.
            let _ = Staging::clear_leftovers(&receiver.repo, (receiver.clock)());
        }
        let (staging, resumed) = if is_needed {
            let (staging, resumed) = Staging::open(&receiver.repo).map_err(from_staging)?;
            fault::point("push:staging-open").map_err(from_io)?;
            // Detached metadata has no checksum: that of an earlier push is not this one's, and is sent again.
            for offer in &request.refs {
                staging.forget_commit_meta(offer.commit).map_err(from_staging)?;
            }
            (Some(staging), Resumed { objects: resumed.objects, bytes: resumed.bytes })
        } else {
            if request.purpose == Purpose::Push && Staging::is_any_there(&receiver.repo) {
                clear_leftovers(receiver, &request.refs);
            }
            (None, Resumed::default())
        };
        let quota_left_bytes = if is_needed { budget::quota_left(receiver, true)? } else { u64::MAX };
        let budget = Budget::new(limits(receiver, &request.refs), quota_left_bytes);
        let answer = OpenAnswer {
            server: concat!("treegraft ", env!("CARGO_PKG_VERSION")).to_owned(),
            push: id.clone(),
            repository: Repository { collection_id: receiver.repo.config().collection_id.clone() },
            refs,
            limits: Limits {
                object_bytes: budget.object_bytes(),
                question_names: MAX_QUESTION_NAMES,
                streams: MAX_STREAMS,
            },
            resumed,
            features: if is_compared { vec![CHUNKS.to_owned(), REFERENCES.to_owned()] } else { Vec::new() },
            lane_secret: None,
            notes,
        };
        let lock = Mutex::new(Some(lock).filter(|_| is_needed));
        let client = text::one_line(&request.client, MAX_CLIENT_CHARS);
        let who = request.who.as_deref().map(|who| text::one_line(who, MAX_CLIENT_CHARS));
        let who = who.filter(|who| !who.is_empty()).unwrap_or_else(|| client.clone());
        let offers = request.refs.into_iter().zip(&answer.refs);
        let offer = |(asked, state): (RefOffer, &RefState)| Offer {
            since: asked.retry.unwrap_or(RetriedOffer { head: state.head }),
            asked,
            told: state.verdict,
        };
        let offers = offers.map(offer).collect();
        let (purpose, knowledge, streams) = (request.purpose, Arc::default(), Arc::default());
        let session = Self {
            id,
            client,
            who,
            offers,
            purpose,
            staging,
            lock,
            knowledge,
            bases,
            budget,
            streams,
            arrived_bytes: Arc::default(),
            makers: AtomicUsize::new(0),
            over: CancellationToken::new(),
            _slot: slot,
        };
        Ok((session, answer))
    }

    /// Tells whether there is anything to publish.
    pub(crate) const fn has_something_to_publish(&self) -> bool {
        self.staging.is_some()
    }

    /// Returns the staging area of a push that has something to publish.
    pub(crate) fn staging(&self) -> Result<&Staging, ApiError> {
        self.staging.as_ref().ok_or_else(|| {
            ApiError::new(ErrorCode::BadRequest, "This push has nothing to publish, so it takes no objects")
        })
    }

    /// Notes that a stream of objects begins.
    pub(crate) fn begin_stream(session: Arc<Self>) -> Result<RunningStream, ApiError> {
        session.check_purpose()?;
        session.streams.begin()?;
        let ending = Ending { streams: Arc::clone(&session.streams), end: StreamEnd::Broken };
        Ok(RunningStream { session, ending })
    }

    /// Returns the object streams of the push.
    pub(crate) const fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Returns what is cancelled when nothing more is asked of the push.
    pub(crate) const fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Fails when nobody waits any more for what is being done.
    pub(crate) fn check_wanted(&self) -> Result<(), ApiError> {
        if self.over.is_cancelled() {
            return Err(ApiError::new(ErrorCode::UnknownPush, "The push is over, or being published"));
        }
        Ok(())
    }

    /// Reads as long as somebody waits for it: a few bytes may ask for a lot of reading.
    pub(crate) const fn wanted<R>(&self, source: R) -> Wanted<'_, R> {
        Wanted { over: &self.over, source }
    }

    /// Returns the count of bytes that have come in object streams.
    pub(crate) const fn arrived_bytes(&self) -> &Arc<AtomicU64> {
        &self.arrived_bytes
    }

    /// Makes sure that no object comes any more.
    pub(crate) fn end_streams(&self) -> Result<(), ApiError> {
        self.check_purpose()?;
        self.streams.close()
    }

    /// Refuses what would change anything for a client that only wanted to ask.
    pub(crate) fn check_purpose(&self) -> Result<(), ApiError> {
        match self.purpose {
            Purpose::Push => Ok(()),
            Purpose::DryRun => {
                let detail = "The push was opened as a dry run, so it takes no objects and cannot be published";
                Err(ApiError::new(ErrorCode::BadRequest, detail))
            }
        }
    }

    /// Gives up the repository's lock once the refs keep what was published.
    ///
    /// A command that updates the repository afterwards may have to prune it.
    pub(crate) fn release_lock(&self) {
        lock(&self.lock).take();
    }

    /// Throws away what the push has staged and not published; what other pushes wait to resume stays.
    pub(crate) fn clean_up(self, receiver: &Receiver) -> Result<(), StagingError> {
        let pushed: Vec<_> = self.offers.iter().map(|offer| offer.asked.commit).collect();
        self.staging.map_or(Ok(()), |staging| staging.retire(&receiver.repo, &pushed, (receiver.clock)()))
    }

    /// Tells whether the commit is one that a ref is offered.
    pub(crate) fn offers_commit(&self, commit: Checksum) -> bool {
        self.offers.iter().any(|offer| offer.asked.commit == CommitId(commit))
    }
}

/// Reads as long as somebody waits for it.
pub(crate) struct Wanted<'s, R> {
    over: &'s CancellationToken,
    source: R,
}

impl<R: Read> Read for Wanted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.over.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody waits for it any more"));
        }
        self.source.read(buffer)
    }
}

/// Checks the list of refs by itself.
fn check_refs(receiver: &Receiver, offers: &[RefOffer]) -> Result<(), ApiError> {
    if offers.is_empty() {
        return Err(ApiError::new(ErrorCode::BadRequest, "The push names no ref"));
    }
    let limit = receiver.settings.max_refs;
    if offers.len() > limit {
        let detail = format!("The push has {} refs, at most {limit} are allowed", offers.len());
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    let mut seen = HashSet::new();
    if let Some(offer) = offers.iter().find(|offer| !seen.insert(&offer.name)) {
        return Err(ApiError::new(ErrorCode::BadRequest, format!("The ref `{}` is there twice", offer.name)));
    }
    for name in offers.iter().map(|offer| &offer.name) {
        if let Some(parent) = policy::parents(name).find(|parent| seen.contains(parent)) {
            let detail = format!("The ref `{name}` cannot be pushed beside `{parent}`: no ref can be below another");
            return Err(ApiError::new(ErrorCode::RefName, detail).of_ref(name));
        }
    }
    Ok(())
}

/// Returns how large the push may be: as its ref with the lowest limits may. To name more refs never helps.
fn limits(receiver: &Receiver, offers: &[RefOffer]) -> PushLimits {
    let rights = receiver.rights();
    offers.iter().map(|offer| rights.limits(&offer.name)).fold(PushLimits::NONE, PushLimits::lowest)
}

/// Throws away what an earlier try of this push has left that was interrupted after its refs had moved.
fn clear_leftovers(receiver: &Receiver, offers: &[RefOffer]) {
    let pushed: Vec<_> = offers.iter().map(|offer| offer.commit).collect();
    // What cannot be deleted now is deleted a later time.
    let _ = Staging::open(&receiver.repo)
        .and_then(|(staging, _)| staging.retire(&receiver.repo, &pushed, (receiver.clock)()));
}

/// Finishes what a publish left that was interrupted, by this push or another, before anything is said about the refs.
///
/// Returns notes about it, and why its summary could not be written. A publish that is under way is none: nobody waits for it
/// here. The push's own lock comes after it: a command that updates
/// the repository may have to prune it.
fn finish_interrupted_publish(
    receiver: &Receiver,
    waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
) -> Result<(Vec<String>, Option<ApiError>), ApiError> {
    let Some(mut lock) = PublishLock::recover(&receiver.repo, waiting).map_err(from_publish)? else {
        return Ok((Vec::new(), None));
    };
    match publish::finish_recovery(receiver, &mut lock) {
        Ok(notes) => Ok((notes, None)),
        Err(error) if error.code == ErrorCode::SummaryStale => Ok((Vec::new(), Some(error))),
        Err(error) => Err(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
