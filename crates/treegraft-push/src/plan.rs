//! Finding out what has to be sent.
//!
//! A thread reads every dirtree that can be reached here, breadth first, and hands its name on; it begins while the
//! connection is made. Questions about the dirtrees go to the server in large batches, several at a time, while the walk
//! goes on, and the first one together with the opening. A dirtree below which the server has everything is done with. Of
//! the others, files and dirmetas are asked for in the same way. What turns out to be missing goes to the senders at once:
//! they begin after the first answer, not after the walk.
//!
//! A dirtree that is missing here ends the walk there. That is no error as long as the server has it.
//!
//! Where each dirtree was found first is kept: the path of a missing file is where the server may have an older one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::ControlFlow,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, task::JoinHandle};
use treegraft_object::{CommitId, DirTree, DirTreeId, ObjectKind, ObjectName};
use treegraft_repo::{Find, ReadError};
use treegraft_wire::{ApiError, GraftMode, OpenAnswer, PushId, Verdict, chunks::Place, question::Presence};

use crate::{
    Client, ClientError, Event, PushError, PushOptions, Reporter, Source, source::read_metadata, transfer::Feed,
};

/// Names in one question. Large enough that a question's answer is not what takes its time, small enough that the first
/// one leaves soon.
const QUESTION_NAMES: usize = 8192;

/// Questions that wait for their answers at a time.
const MAX_OPEN_QUESTIONS: usize = 16;

/// Names in the first question, which goes along with the opening: no more than fit with it into the window that HTTP/2
/// has before the server has said how large its own is.
const FIRST_QUESTION_NAMES: usize = 1500;

/// Batches of names between the walk and the questions.
const WAITING_BATCHES: usize = 4;

/// An object that has to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedObject {
    /// The object.
    pub name: ObjectName,
    /// Its size as an archive repository stores it, if that is known before it is sent.
    pub bytes: Option<u64>,
}

/// A file in a tree that is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilePlace {
    pub(crate) directory: DirTreeId,
    pub(crate) name: Box<str>,
}

/// Where the walk has found each dirtree first.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<DirTreeId, DirPlace>>);

/// Where a dirtree is.
#[derive(Debug)]
struct DirPlace {
    /// The number of the ref in the order of the source.
    ref_index: u32,
    /// The directory above and the name there; nothing for a root.
    parent: Option<(DirTreeId, Box<str>)>,
}

impl Places {
    /// Returns the number of the ref and the path of a file.
    pub(crate) fn of(&self, file: &FilePlace) -> Option<Place> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = vec![&*file.name];
        let mut at = places.get(&file.directory)?;
        while let Some((above, name)) = &at.parent {
            names.push(name);
            at = places.get(above)?;
        }
        names.reverse();
        Some(Place { ref_index: at.ref_index, path: names.join("/") })
    }

    fn ref_of(&self, directory: DirTreeId) -> Option<usize> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&directory).map(|place| place.ref_index as usize)
    }

    fn add(&self, found: impl IntoIterator<Item = (DirTreeId, DirPlace)>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, place) in found {
            places.entry(id).or_insert(place);
        }
    }
}

/// A commit to walk from, and the number of the ref that it is for.
type Root = (CommitId, u32);

/// Totals of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Different objects that the pushed commits are made of, as far as they were looked at.
    pub(crate) objects: u64,
    /// Those of them that have to be sent.
    pub(crate) missing_objects: u64,
}

/// A walk under way. Dropping it ends it.
struct Walk {
    roots: Vec<Root>,
    places: Arc<Places>,
    names_per_batch: usize,
    batches: mpsc::Receiver<Batch>,
    thread: JoinHandle<Result<(), ReadError>>,
}

impl Walk {
    fn start(source: &Arc<Source>, roots: Vec<Root>, names_per_batch: usize) -> Self {
        let (sender, batches) = mpsc::channel(WAITING_BATCHES);
        let (source, from, places) = (Arc::clone(source), roots.clone(), Arc::<Places>::default());
        let found = Arc::clone(&places);
        let thread =
            tokio::task::spawn_blocking(move || walk(source.objects.find(), from, &found, names_per_batch, &sender));
        Self { roots, places, names_per_batch, batches, thread }
    }
}

/// What is done before the server has said anything: the walk, and the first question.
pub(crate) struct Ahead {
    walk: Walk,
    first: Option<First>,
}

/// The first question, and its answer if that is there.
struct First {
    names: Batch,
    push: PushId,
    asking: BoxFuture<'static, Result<Vec<Presence>, ClientError>>,
    answer: Option<Result<Vec<Presence>, ClientError>>,
}

impl Ahead {
    /// Starts to walk: nearly always the server wants all commits, and no others. The first names are waited for no longer
    /// than `patience`.
    pub(crate) async fn start(client: &Client, source: &Arc<Source>, patience: Duration) -> Self {
        let roots = (0..).zip(&source.commits).map(|(index, pushed)| (pushed.id, index)).collect();
        let mut walk = Walk::start(source, roots, QUESTION_NAMES);
        let names = tokio::time::timeout(patience, walk.batches.recv()).await;
        let first = names.ok().flatten().map(|names| {
            let (client, push, asked) = (client.clone(), client.next_push(), names.clone());
            let asking = {
                let push = push.clone();
                async move { client.missing(&push, &asked).await }.boxed()
            };
            First { names, push, asking, answer: None }
        });
        Self { walk, first }
    }

    /// Goes on if it is the walk that is wanted, or starts that one.
    fn over(self, source: &Arc<Source>, roots: Vec<Root>, names_per_batch: usize) -> Self {
        if self.walk.roots == roots && self.walk.names_per_batch == names_per_batch {
            return self;
        }
        drop(self.walk.batches);
        Self { walk: Walk::start(source, roots, names_per_batch), first: None }
    }

    /// Opens a push, and asks the first question right behind: it costs no round trip of its own.
    pub(crate) async fn beside<T>(&mut self, opening: impl Future<Output = T>) -> T {
        let Some(first) = &mut self.first else { return opening.await };
        let mut opening = pin!(opening);
        tokio::select! {
            // The opening is polled first, so that it is sent first.
            biased;
            opened = &mut opening => return opened,
            answer = &mut first.asking => first.answer = Some(answer),
        }
        opening.await
    }
}

impl First {
    /// Waits for the answer, and asks again if it was not about this push.
    async fn answer(self, client: Client, push: PushId) -> Answer {
        let answer = match self.answer {
            _ if self.push != push => None,
            Some(answer) => Some(answer),
            None => Some(self.asking.await),
        };
        let presence = match answer {
            Some(Ok(presence)) => presence,
            // A server that takes no question so early does not know the push.
            _ => client.missing(&push, &self.names).await?,
        };
        Ok((self.names.into_iter().map(|name| (name, None)).collect(), presence))
    }
}

/// Plans a push. Every object that has to be sent goes to `feed`, once.
pub(crate) async fn plan(
    client: &Client,
    source: &Arc<Source>,
    opened: &OpenAnswer,
    options: &PushOptions,
    ahead: Ahead,
    reporter: &dyn Reporter,
    feed: Feed,
) -> Result<Plan, PushError> {
    let names_per_question = QUESTION_NAMES.min(opened.limits.question_names.max(1) as usize);
    let Ahead { walk, first } = ahead.over(source, roots(source, opened, options)?, names_per_question);
    let Walk { batches: walked, thread: walk, places, .. } = walk;
    feed.know_places(&places);
    let planner = Planner {
        client,
        push: &opened.push,
        source,
        reporter,
        feed,
        has_basis: opened.refs.iter().map(|state| state.has_basis).collect(),
        places,
        names_per_question,
        seen: HashSet::new(),
        pending: Vec::new(),
        plan: Plan::default(),
    };
    let plan = planner.run(first, walked).await?;
    walk.await.map_err(|_| PushError::Worker)??;
    reporter.event(Event::Planned);
    Ok(plan)
}

/// Returns the commits whose objects are needed: those with something to publish, and with `exact` their new ancestors.
///
/// A history that ends by itself without the head is refused here, before anything is sent, or with `force` left behind.
fn roots(source: &Source, opened: &OpenAnswer, options: &PushOptions) -> Result<Vec<Root>, PushError> {
    let mut roots = Vec::new();
    for (index, (pushed, state)) in (0..).zip(source.commits.iter().zip(&opened.refs)) {
        if state.verdict == Verdict::Unchanged {
            continue;
        }
        roots.push((pushed.id, index));
        let Some(head) = state.head.filter(|_| options.mode == GraftMode::Exact) else { continue };
        match added_ancestors(source.objects.find(), pushed.commit.parent, head)? {
            Some(ancestors) => roots.extend(ancestors.into_iter().map(|id| (id, index))),
            None if options.force => {}
            None => {
                let error = ApiError::not_fast_forward(&pushed.target, head, pushed.id);
                return Err(ClientError::from(Box::new(error)).into());
            }
        }
    }
    Ok(roots)
}

/// Returns the commits from `parent` down to the head, or nothing when the head is not among them.
fn added_ancestors(
    find: &dyn Find,
    mut parent: Option<CommitId>,
    head: CommitId,
) -> Result<Option<Vec<CommitId>>, ReadError> {
    let mut ancestors = Vec::new();
    while let Some(id) = parent {
        if id == head {
            return Ok(Some(ancestors));
        }
        // Shallow history ends somewhere; whether it reaches the head is for the server to say.
        let Some(data) = read_metadata(find, id.into())? else { return Ok(Some(ancestors)) };
        let commit =
            treegraft_object::Commit::decode(&data).map_err(|source| ReadError::Invalid { name: id.into(), source })?;
        ancestors.push(id);
        parent = commit.parent;
    }
    Ok(None)
}

/// Names that the walk found, in batches.
type Batch = Vec<ObjectName>;

/// An object that the server is asked about; where it is, if the server may have an older file there.
type Asked = (ObjectName, Option<FilePlace>);

/// What was asked about, and what the server has of it.
type Answer = Result<(Vec<Asked>, Vec<Presence>), ClientError>;

/// Walks commits and dirtrees, each once, and sends their names in batches.
fn walk(
    find: &dyn Find,
    roots: Vec<Root>,
    places: &Places,
    names_per_batch: usize,
    batches: &mpsc::Sender<Batch>,
) -> Result<(), ReadError> {
    let mut batches = Batches::new(batches, names_per_batch);
    let (mut commits, mut metas, mut seen) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut trees = VecDeque::new();
    for (id, ref_index) in roots {
        // One commit may be pushed to several refs.
        if !commits.insert(id) {
            continue;
        }
        batches.add(id.into());
        let commit = find.commit(id)?;
        if metas.insert(commit.root_meta) {
            batches.add(commit.root_meta.into());
        }
        if seen.insert(commit.root_tree) {
            places.add([(commit.root_tree, DirPlace { ref_index, parent: None })]);
            trees.push_back((commit.root_tree, ref_index));
        }
        if batches.send_full().is_break() {
            return Ok(());
        }
    }
    while let Some((id, ref_index)) = trees.pop_front() {
        batches.add(id.into());
        if let Some(data) = read_metadata(find, id.into())? {
            let tree = treegraft_object::DirTreeRef::decode(&data)
                .map_err(|source| ReadError::Invalid { name: id.into(), source })?;
            let new: Vec<_> = tree.dirs.iter().filter(|(_, tree, _)| seen.insert(*tree)).collect();
            places.add(
                new.iter().map(|&&(name, tree, _)| (tree, DirPlace { ref_index, parent: Some((id, name.into())) })),
            );
            trees.extend(new.iter().map(|&&(_, tree, _)| (tree, ref_index)));
        }
        if batches.send_full().is_break() {
            return Ok(());
        }
    }
    batches.send_rest();
    Ok(())
}

/// Collects names that the walk finds, and sends them in batches.
struct Batches<'b> {
    sender: &'b mpsc::Sender<Batch>,
    names_per_batch: usize,
    /// Names in the next batch: fewer in the first one.
    enough: usize,
    names: Batch,
}

impl<'b> Batches<'b> {
    fn new(sender: &'b mpsc::Sender<Batch>, names_per_batch: usize) -> Self {
        Self { sender, names_per_batch, enough: FIRST_QUESTION_NAMES.min(names_per_batch), names: Batch::new() }
    }

    fn add(&mut self, name: ObjectName) {
        self.names.push(name);
    }

    /// Sends a batch if there are enough names. It breaks off when nobody takes them: the planner has failed and says why.
    fn send_full(&mut self) -> ControlFlow<()> {
        while self.names.len() >= self.enough {
            let rest = self.names.split_off(self.enough);
            let batch = std::mem::replace(&mut self.names, rest);
            self.enough = self.names_per_batch;
            if self.sender.blocking_send(batch).is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn send_rest(self) {
        if !self.names.is_empty() {
            // As above.
            let _ = self.sender.blocking_send(self.names);
        }
    }
}

struct Planner<'p> {
    client: &'p Client,
    push: &'p PushId,
    source: &'p Source,
    reporter: &'p dyn Reporter,
    feed: Feed,
    /// For each ref whether the server has an older tree of it.
    has_basis: Vec<bool>,
    places: Arc<Places>,
    names_per_question: usize,
    /// What was asked for, or is pending.
    seen: HashSet<ObjectName>,
    /// Files and dirmetas that will be asked for when there are enough of them.
    pending: Vec<Asked>,
    plan: Plan,
}

impl Planner<'_> {
    async fn run(mut self, first: Option<First>, mut walked: mpsc::Receiver<Batch>) -> Result<Plan, PushError> {
        let mut questions = FuturesUnordered::new();
        if let Some(first) = first {
            self.seen.extend(&first.names);
            self.count(first.names.len());
            questions.push(first.answer(self.client.clone(), self.push.clone()).boxed());
        }
        let mut is_walking = true;
        loop {
            tokio::select! {
                batch = walked.recv(), if is_walking && questions.len() < MAX_OPEN_QUESTIONS => match batch {
                    Some(mut batch) => {
                        batch.retain(|name| self.seen.insert(*name));
                        if !batch.is_empty() {
                            questions.push(self.ask(batch.into_iter().map(|name| (name, None)).collect()));
                        }
                    }
                    None => is_walking = false,
                },
                Some(answer) = questions.next(), if !questions.is_empty() => {
                    let (asked, presence) = answer?;
                    for ((name, place), presence) in asked.into_iter().zip(presence) {
                        self.take(name, place, presence)?;
                    }
                    self.feed.announce();
                    while self.pending.len() >= self.names_per_question && questions.len() < MAX_OPEN_QUESTIONS {
                        // From the end: what is split off has no room for more, what stays has.
                        let full = self.pending.split_off(self.pending.len() - self.names_per_question);
                        questions.push(self.ask(full));
                    }
                    // Nothing else will fill it soon: better a small question now than an idle link.
                    if !self.pending.is_empty() && questions.is_empty() {
                        let rest = std::mem::take(&mut self.pending);
                        questions.push(self.ask(rest));
                    }
                }
                else => {
                    if self.pending.is_empty() {
                        return Ok(self.plan);
                    }
                    let rest = std::mem::take(&mut self.pending);
                    questions.push(self.ask(rest));
                }
            }
        }
    }

    fn ask(&mut self, asked: Vec<Asked>) -> BoxFuture<'static, Answer> {
        self.count(asked.len());
        let (client, push) = (self.client.clone(), self.push.clone());
        async move {
            let presence = client.missing(&push, asked.iter().map(|(name, _)| name)).await?;
            Ok((asked, presence))
        }
        .boxed()
    }

    fn count(&mut self, asked: usize) {
        self.plan.objects += asked as u64;
        self.reporter.event(Event::Compared { objects: self.plan.objects });
    }

    /// Draws the consequences of one answer.
    fn take(&mut self, name: ObjectName, place: Option<FilePlace>, presence: Presence) -> Result<(), PushError> {
        if presence == Presence::Missing {
            self.enqueue(name, place)?;
        }
        if name.kind == ObjectKind::DirTree && presence != Presence::Complete {
            let data = read_metadata(self.source.objects.find(), name)?.ok_or(PushError::MissingHere { name })?;
            let tree = DirTree::decode(&data).map_err(|source| ReadError::Invalid { name, source })?;
            let directory = DirTreeId(name.checksum);
            let has_basis = self.places.ref_of(directory).and_then(|index| self.has_basis.get(index)) == Some(&true);
            let place = |name: &str| has_basis.then(|| FilePlace { directory, name: name.into() });
            let files = tree.files.iter().map(|(name, id)| (ObjectName::from(*id), Some(name)));
            let metas = tree.dirs.iter().map(|&(_, _, id)| (ObjectName::from(id), None));
            for (name, file) in files.chain(metas) {
                if self.seen.insert(name) {
                    self.pending.push((name, file.and_then(|file| place(file))));
                }
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, name: ObjectName, place: Option<FilePlace>) -> Result<(), PushError> {
        let bytes = self.source.objects.size(name);
        if bytes.is_none() && !self.source.objects.find().has(name)? {
            return Err(PushError::MissingHere { name });
        }
        self.plan.missing_objects += 1;
        self.reporter.event(Event::Found { objects: 1, bytes: bytes.unwrap_or(0) });
        self.feed.add(PlannedObject { name, bytes }, place);
        Ok(())
    }
}
