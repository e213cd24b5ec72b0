//! Finding out what has to be sent.
//!
//! A thread reads every dirtree that can be reached here, breadth first, and hands its name on; it begins while the
//! connection is made. Questions about the dirtrees go to the server in large batches, several at a time, while the walk
//! goes on. A dirtree below which the server has
//! everything is done with. Of the others, files and dirmetas are asked for in the same way. What turns out to be missing
//! goes to the senders at once: they begin after the first answer, not after the walk.
//!
//! A dirtree that is missing here ends the walk there. That is no error as long as the server has it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, task::JoinHandle};
use treegraft_object::{CommitId, DirTree, ObjectKind, ObjectName};
use treegraft_repo::{Find, ReadError};
use treegraft_wire::{ApiError, GraftMode, OpenAnswer, PushId, Verdict, question::Presence};

use crate::{Client, ClientError, Event, PushError, PushOptions, Reporter, Source, source::read_metadata};

/// Names in one question. Large enough that a question's answer is not what takes its time, small enough that the first
/// one leaves soon.
const QUESTION_NAMES: usize = 8192;

/// Questions that wait for their answers at a time.
const MAX_OPEN_QUESTIONS: usize = 16;

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

/// Totals of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Different objects that the pushed commits are made of, as far as they were looked at.
    pub(crate) objects: u64,
    /// Those of them that have to be sent.
    pub(crate) missing_objects: u64,
}

/// A walk under way. Dropping it ends it.
pub(crate) struct Walk {
    roots: Vec<CommitId>,
    names_per_batch: usize,
    batches: mpsc::Receiver<Batch>,
    thread: JoinHandle<Result<(), ReadError>>,
}

impl Walk {
    /// Starts before the server has said anything: nearly always it wants all commits, and no others.
    pub(crate) fn ahead(source: &Arc<Source>) -> Self {
        Self::start(source, source.commits.iter().map(|pushed| pushed.id).collect(), QUESTION_NAMES)
    }

    fn start(source: &Arc<Source>, roots: Vec<CommitId>, names_per_batch: usize) -> Self {
        let (sender, batches) = mpsc::channel(WAITING_BATCHES);
        let (source, from) = (Arc::clone(source), roots.clone());
        let thread = tokio::task::spawn_blocking(move || walk(source.objects.find(), from, names_per_batch, &sender));
        Self { roots, names_per_batch, batches, thread }
    }

    /// Goes on if it is the walk that is wanted, or starts that one.
    fn over(self, source: &Arc<Source>, roots: Vec<CommitId>, names_per_batch: usize) -> Self {
        if self.roots == roots && self.names_per_batch == names_per_batch {
            return self;
        }
        drop(self.batches);
        Self::start(source, roots, names_per_batch)
    }
}

/// Plans a push. Every object that has to be sent goes to `queue`, once.
pub(crate) async fn plan(
    client: &Client,
    source: &Arc<Source>,
    opened: &OpenAnswer,
    options: &PushOptions,
    ahead: Walk,
    reporter: &dyn Reporter,
    queue: mpsc::UnboundedSender<PlannedObject>,
) -> Result<Plan, PushError> {
    let names_per_question = QUESTION_NAMES.min(opened.limits.question_names.max(1) as usize);
    let Walk { batches: walked, thread: walk, .. } =
        ahead.over(source, roots(source, opened, options)?, names_per_question);
    let asked = Arc::new(AtomicU64::new(0));
    let planner = Planner {
        client,
        push: &opened.push,
        source,
        reporter,
        queue,
        names_per_question,
        seen: HashSet::new(),
        pending: Vec::new(),
        plan: Plan::default(),
        asked,
    };
    let plan = planner.run(walked).await?;
    walk.await.map_err(|_| PushError::Worker)??;
    reporter.event(Event::Planned);
    Ok(plan)
}

/// Returns the commits whose objects are needed: those with something to publish, and with `exact` their new ancestors.
///
/// A history that ends by itself without the head is refused here, before anything is sent, or with `force` left behind.
fn roots(source: &Source, opened: &OpenAnswer, options: &PushOptions) -> Result<Vec<CommitId>, PushError> {
    let mut roots = Vec::new();
    for (pushed, state) in source.commits.iter().zip(&opened.refs) {
        if state.verdict == Verdict::Unchanged {
            continue;
        }
        roots.push(pushed.id);
        let Some(head) = state.head.filter(|_| options.mode == GraftMode::Exact) else { continue };
        match added_ancestors(source.objects.find(), pushed.commit.parent, head)? {
            Some(ancestors) => roots.extend(ancestors),
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

/// Walks commits and dirtrees, each once, and sends their names in batches.
fn walk(
    find: &dyn Find,
    roots: Vec<CommitId>,
    names_per_batch: usize,
    batches: &mpsc::Sender<Batch>,
) -> Result<(), ReadError> {
    let mut seen = HashSet::new();
    let mut trees = std::collections::VecDeque::new();
    let mut batch: Batch = Vec::new();
    let mut metas = HashSet::new();
    for id in roots {
        batch.push(id.into());
        let commit = find.commit(id)?;
        if metas.insert(commit.root_meta) {
            batch.push(commit.root_meta.into());
        }
        if seen.insert(commit.root_tree) {
            trees.push_back(commit.root_tree);
        }
    }
    while let Some(id) = trees.pop_front() {
        batch.push(id.into());
        if let Some(data) = read_metadata(find, id.into())? {
            let tree = treegraft_object::DirTreeRef::decode(&data)
                .map_err(|source| ReadError::Invalid { name: id.into(), source })?;
            trees.extend(tree.dirs.iter().map(|&(_, tree, _)| tree).filter(|tree| seen.insert(*tree)));
        }
        if batch.len() >= names_per_batch && batches.blocking_send(std::mem::take(&mut batch)).is_err() {
            // The planner has failed and says why.
            return Ok(());
        }
    }
    let _ = batches.blocking_send(batch);
    Ok(())
}

struct Planner<'p> {
    client: &'p Client,
    push: &'p PushId,
    source: &'p Source,
    reporter: &'p dyn Reporter,
    queue: mpsc::UnboundedSender<PlannedObject>,
    names_per_question: usize,
    /// What was asked for, or is pending.
    seen: HashSet<ObjectName>,
    /// Files and dirmetas that will be asked for when there are enough of them.
    pending: Batch,
    plan: Plan,
    asked: Arc<AtomicU64>,
}

impl Planner<'_> {
    async fn run(mut self, mut walked: mpsc::Receiver<Batch>) -> Result<Plan, PushError> {
        let mut questions = FuturesUnordered::new();
        let mut is_walking = true;
        loop {
            tokio::select! {
                batch = walked.recv(), if is_walking && questions.len() < MAX_OPEN_QUESTIONS => match batch {
                    Some(mut batch) => {
                        batch.retain(|name| self.seen.insert(*name));
                        if !batch.is_empty() {
                            questions.push(self.ask(batch));
                        }
                    }
                    None => is_walking = false,
                },
                Some(answer) = questions.next(), if !questions.is_empty() => {
                    let (names, presence): (Batch, Vec<Presence>) = answer?;
                    for (name, presence) in names.into_iter().zip(presence) {
                        self.take(name, presence)?;
                    }
                    while self.pending.len() >= self.names_per_question {
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

    fn ask(&mut self, names: Batch) -> impl Future<Output = Result<(Batch, Vec<Presence>), ClientError>> + use<> {
        self.plan.objects += names.len() as u64;
        let objects = self.asked.fetch_add(names.len() as u64, Ordering::Relaxed) + names.len() as u64;
        self.reporter.event(Event::Compared { objects });
        let (client, push) = (self.client.clone(), self.push.clone());
        async move {
            let presence = client.missing(&push, &names).await?;
            Ok((names, presence))
        }
    }

    /// Draws the consequences of one answer.
    fn take(&mut self, name: ObjectName, presence: Presence) -> Result<(), PushError> {
        if presence == Presence::Missing {
            self.enqueue(name)?;
        }
        if name.kind == ObjectKind::DirTree && presence != Presence::Complete {
            let data = read_metadata(self.source.objects.find(), name)?.ok_or(PushError::MissingHere { name })?;
            let tree = DirTree::decode(&data).map_err(|source| ReadError::Invalid { name, source })?;
            let files = tree.files.iter().map(|&(_, id)| ObjectName::from(id));
            let metas = tree.dirs.iter().map(|&(_, _, id)| ObjectName::from(id));
            for name in files.chain(metas) {
                if self.seen.insert(name) {
                    self.pending.push(name);
                }
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, name: ObjectName) -> Result<(), PushError> {
        let bytes = self.source.objects.size(name);
        if bytes.is_none() && !self.source.objects.find().has(name)? {
            return Err(PushError::MissingHere { name });
        }
        self.plan.missing_objects += 1;
        self.reporter.event(Event::Found { objects: 1, bytes: bytes.unwrap_or(0) });
        // A sender that failed says so itself.
        let _ = self.queue.send(PlannedObject { name, bytes });
        Ok(())
    }
}
