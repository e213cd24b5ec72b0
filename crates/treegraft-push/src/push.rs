//! A push from its opening to what was published.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use tokio::sync::oneshot;
use treegraft_flatpak::GraftOptions;
use treegraft_object::{ObjectName, RefName};
use treegraft_wire::{
    GraftMode, OPEN_EVENTS, OpenAnswer, OpenRequest, Published, PublishedRef, Purpose, PushId, RefChange, RefOffer,
    Resumed, RetriedOffer, Verdict,
    chunks::{CHUNKS, REFERENCES},
    lanes::LANES,
};

use crate::{
    BasisRepo, Client, ClientError, Event, PlannedObject, PushError, Reporter, Source,
    error::last_words,
    plan::{Ahead, Plan, plan},
    transfer::{Board, Compare, Feed, TransferOptions, Transferred, Way, transfer},
};

/// Object streams when nothing else is said: reading, framing and HTTP/2 overlap, and each keeps a thread of the server
/// busy with inflating and hashing.
const DEFAULT_STREAMS: u32 = 4;

/// How long the opening waits for the first names when nothing else is said. An ssh login takes longer.
const DEFAULT_PATIENCE: Duration = Duration::from_millis(150);

/// What a push shall do.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// How the commits get onto their refs.
    pub mode: GraftMode,
    /// Whether an exact push may drop commits from a ref.
    pub force: bool,
    /// Whether commits may be older than the heads.
    pub allow_older: bool,
    /// What the new commits say differently.
    pub graft: GraftOptions,
    /// Whether anything is changed.
    pub purpose: Purpose,
    /// Object streams at a time.
    pub streams: u32,
    /// Whether of files that the server has an older version of only the new parts go.
    pub compare: Compare,
    /// An earlier build: what differs from its files is less than what differs from the server's chunks.
    pub basis: Option<Arc<BasisRepo>>,
    /// Who pushes from where, `user@host` for example: those who wait for this push are told.
    pub who: Option<String>,
    /// How long the opening waits for the first question, which goes along with it.
    pub patience: Duration,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            mode: GraftMode::default(),
            force: false,
            allow_older: false,
            graft: GraftOptions::default(),
            purpose: Purpose::Push,
            streams: DEFAULT_STREAMS,
            compare: Compare::default(),
            basis: None,
            who: None,
            patience: DEFAULT_PATIENCE,
        }
    }
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The refs in the order of the source; for a dry run with the heads as they are.
    pub refs: Vec<PublishedRef>,
    /// Different objects that were compared with the server's.
    pub compared_objects: u64,
    /// Those of them that the server had before the push.
    pub already_there_objects: u64,
    /// Objects sent; detached metadata is among them, and is not compared.
    pub sent_objects: u64,
    /// Their bytes as they were sent.
    pub sent_bytes: u64,
    /// The bytes of those that are new on the server, as it stores them.
    pub stored_bytes: u64,
    /// Those of them of which only parts were sent.
    pub sent_in_parts: u64,
    /// What was there of earlier pushes that did not end.
    pub resumed: Resumed,
    /// Sentences of the server for the pusher.
    pub notes: Vec<String>,
    /// For a dry run: what would be sent.
    pub planned: Vec<PlannedObject>,
    /// How many tries it took.
    pub attempts: u32,
    /// Whether there was nothing to publish when the last try was opened.
    pub(crate) is_found: bool,
}

/// Pushes the source's commits to the server behind `client`.
///
/// When it fails, nothing was published, unless the error says so; what the server has received stays there and is not
/// sent again by the next push.
pub async fn push(
    client: &Client,
    source: Source,
    options: &PushOptions,
    reporter: Arc<dyn Reporter>,
) -> Result<Outcome, PushError> {
    push_once(client, Arc::new(source), options, reporter, None).await
}

/// Pushes once. `retried` is what an earlier try was told about each ref.
pub(crate) async fn push_once(
    client: &Client,
    source: Arc<Source>,
    options: &PushOptions,
    reporter: Arc<dyn Reporter>,
    retried: Option<&[RetriedOffer]>,
) -> Result<Outcome, PushError> {
    let request = request(client, &source, options, retried);
    let mut ahead = Ahead::start(client, &source, options.patience).await;
    let opened = ahead.beside(client.open(&request, |waiting| reporter.event(Event::Waiting(waiting)))).await?;
    check_refs(&source, opened.refs.iter().map(|state| &state.name))?;
    reporter.event(Event::Opened(&opened));
    if opened.refs.iter().all(|state| state.verdict == Verdict::Unchanged) {
        return Ok(outcome(&source, opened, Plan::default(), Transferred::default()));
    }

    let is_comparing = options.compare != Compare::Never && opened.has_feature(CHUNKS);
    let board = Board::new(&source, if is_comparing { Way::Recipes } else { Way::Whole });
    let feed = Feed::new(&board);
    feed_detached_metadata(&source, options, &opened, &feed)?;
    // On the heap, as the transfer: both keep much.
    let planning = Box::pin(plan(client, &source, &opened, options, ahead, &*reporter, feed));
    if options.purpose == Purpose::DryRun {
        let plan = planning.await?;
        let mut outcome = outcome(&source, opened, plan, Transferred::default());
        outcome.planned = board.drain();
        return Ok(outcome);
    }
    let most_streams = opened.limits.streams.max(1);
    let how = TransferOptions {
        streams: options.streams.clamp(1, most_streams),
        most_streams,
        compare: options.compare,
        basis: options.basis.clone().filter(|_| opened.has_feature(REFERENCES)),
    };
    if let (None, Some(basis)) = (&how.basis, &options.basis) {
        // The server takes no references.
        basis.references.end();
    }
    let (departed, all_departed) = oneshot::channel();
    let transferring = Box::pin(transfer(client, &opened, &source, &reporter, &board, how, departed));
    let publication = Publication { client, push: &opened.push, reporter: &*reporter };
    let (plan, transferred, Published { refs, notes }) =
        publication.beside(both(planning, transferring), all_departed).await?;
    let mut outcome = outcome(&source, opened, plan, transferred);
    check_refs(&source, refs.iter().map(|published| &published.name))?;
    outcome.refs = refs;
    outcome.is_found = false;
    outcome.notes.extend(notes);
    Ok(outcome)
}

/// The publication of a push, which is asked for before it is known that everything has arrived: that is for the server to
/// wait for, and saves a round trip.
struct Publication<'p> {
    client: &'p Client,
    push: &'p PushId,
    reporter: &'p dyn Reporter,
}

impl Publication<'_> {
    /// Publishes when everything has left, and returns when everything has arrived and is published.
    async fn beside(
        &self,
        moving: impl Future<Output = Result<(Plan, Transferred), PushError>>,
        all_departed: oneshot::Receiver<u64>,
    ) -> Result<(Plan, Transferred, Published), PushError> {
        let publishing = async {
            match all_departed.await {
                // What the streams are told explains a failure, so it is waited for.
                Ok(streams) => Ok(self.run(streams).await),
                Err(_) => std::future::pending().await,
            }
        };
        let ((plan, transferred), published) = tokio::try_join!(moving, publishing)?;
        let published = match published {
            Err(_) if transferred.is_sent_again => self.run(transferred.streams).await?,
            published => published?,
        };
        Ok((plan, transferred, published))
    }

    async fn run(&self, streams: u64) -> Result<Published, ClientError> {
        // From here on the server may publish, whether its answer comes or not.
        self.reporter.event(Event::Departed);
        self.client.publish(self.push, streams, |event| self.reporter.event(Event::Publishing(&event))).await
    }
}

fn request(client: &Client, source: &Source, options: &PushOptions, retried: Option<&[RetriedOffer]>) -> OpenRequest {
    let offer = |(index, pushed): (usize, &crate::source::SourceCommit)| RefOffer {
        name: pushed.target.clone(),
        commit: pushed.id,
        root_tree: pushed.commit.root_tree,
        root_meta: pushed.commit.root_meta,
        timestamp_secs: pushed.commit.timestamp_secs,
        mode: options.mode,
        force: options.force,
        allow_older: options.allow_older,
        graft: options.graft.clone(),
        retry: retried.and_then(|retried| retried.get(index)).copied(),
    };
    OpenRequest {
        client: concat!("treegraft ", env!("CARGO_PKG_VERSION")).to_owned(),
        who: options.who.clone(),
        purpose: options.purpose,
        refs: source.commits.iter().enumerate().map(offer).collect(),
        features: features(client, options),
    }
}

fn features(client: &Client, options: &PushOptions) -> Vec<String> {
    let mut features = vec![OPEN_EVENTS.to_owned()];
    if options.compare != Compare::Never {
        features.push(CHUNKS.to_owned());
    }
    if client.lanes().is_some() && options.purpose == Purpose::Push {
        features.push(LANES.to_owned());
    }
    features
}

/// Waits until both are done, or for the first failure.
///
/// A connection that breaks fails everything that goes on at once. If one of both can say more than that, it is heard.
async fn both<A, B>(
    planning: impl Future<Output = Result<A, PushError>>,
    transferring: impl Future<Output = Result<B, PushError>>,
) -> Result<(A, B), PushError> {
    let (mut planning, mut transferring) = (pin!(planning), pin!(transferring));
    tokio::select! {
        plan = &mut planning => match plan {
            Ok(plan) => Ok((plan, transferring.await?)),
            Err(error) => Err(last_words(error, transferring).await),
        },
        transferred = &mut transferring => match transferred {
            Ok(transferred) => Ok((planning.await?, transferred)),
            Err(error) => Err(last_words(error, planning).await),
        },
    }
}

/// An answer must be about the refs that were asked for.
fn check_refs<'r>(source: &Source, answered: impl Iterator<Item = &'r RefName>) -> Result<(), PushError> {
    if source.commits.iter().map(|pushed| &pushed.target).eq(answered) {
        return Ok(());
    }
    let reason = "it is about other refs than were asked for".to_owned();
    Err(ClientError::Answer { reason }.into())
}

/// Offers the detached metadata of every pushed commit; whether it is kept is the server's policy.
fn feed_detached_metadata(
    source: &Source,
    options: &PushOptions,
    opened: &OpenAnswer,
    feed: &Feed,
) -> Result<(), PushError> {
    let mut commits = HashSet::new();
    for (pushed, state) in source.commits.iter().zip(&opened.refs) {
        if state.verdict == Verdict::Unchanged || options.purpose == Purpose::DryRun {
            continue;
        }
        // One commit may be pushed to several refs.
        if !commits.insert(pushed.id) {
            continue;
        }
        let name = ObjectName::commit_meta(pushed.id);
        let metadata = source.objects.find().metadata(name)?;
        if let Some(data) = metadata.filter(|data| !data.is_empty()) {
            feed.add(PlannedObject { name, bytes: Some(data.len() as u64) }, None);
        }
    }
    Ok(())
}

fn outcome(source: &Source, opened: OpenAnswer, plan: Plan, transferred: Transferred) -> Outcome {
    let state = |(pushed, state): (&crate::source::SourceCommit, &treegraft_wire::RefState)| {
        let new = state.head.filter(|_| state.verdict == Verdict::Unchanged).unwrap_or(pushed.id);
        let change = state.published.unwrap_or(RefChange { old: state.head, new });
        PublishedRef { name: pushed.target.clone(), old: change.old, new: change.new }
    };
    Outcome {
        refs: source.commits.iter().zip(&opened.refs).map(state).collect(),
        compared_objects: plan.objects,
        already_there_objects: plan.objects - plan.missing_objects,
        sent_objects: transferred.objects,
        sent_bytes: transferred.bytes,
        stored_bytes: transferred.stored_bytes,
        sent_in_parts: transferred.recipes,
        resumed: opened.resumed,
        notes: opened.notes,
        planned: Vec::new(),
        attempts: 1,
        is_found: true,
    }
}
