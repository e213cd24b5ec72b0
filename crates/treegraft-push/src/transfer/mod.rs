//! Sending objects: several streams, each filled by a blocking thread.
//!
//! What the server lacks altogether goes as it is stored. Of what it has an older version of, only the new parts go
//! ([`chunks`](treegraft_wire::chunks)), as long as the link is slower than putting the parts together is; how fast it is,
//! is measured while it is used ([`compare`]).

mod board;
mod compare;
mod lanes;
mod stream;

use std::{collections::HashMap, sync::Arc};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};
use treegraft_wire::{OpenAnswer, PushId};

pub(crate) use board::{Board, Feed, MIN_COMPARED_BYTES, Way};

use self::{
    lanes::Lanes,
    stream::{Arrived, Departed, Kind},
};
use crate::{BasisRepo, Client, ClientError, Event, PlannedObject, PushError, Reporter, Source, error::last_words};

/// Whether files are compared with older ones that the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compare {
    /// As long as the link is slow enough for it.
    #[default]
    Auto,
    /// Always, when the server can do it.
    Always,
    /// Never: objects are sent as they are stored.
    Never,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Transferred {
    pub(crate) objects: u64,
    /// Bytes of objects as they were sent, without what is between them.
    pub(crate) bytes: u64,
    /// Bytes of the same objects as the server stores them.
    pub(crate) stored_bytes: u64,
    /// Objects of which parts were taken from older ones.
    pub(crate) recipes: u64,
    /// Streams of objects.
    pub(crate) streams: u64,
    /// Whether something had to be sent again, since what the server has made of its recipe was something else.
    pub(crate) is_sent_again: bool,
}

impl Transferred {
    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.stored_bytes += other.stored_bytes;
        self.recipes += other.recipes;
    }
}

/// How objects are sent.
#[derive(Debug, Clone)]
pub(crate) struct TransferOptions {
    /// Streams of objects as they are stored, at a time.
    pub(crate) streams: u32,
    /// All streams that the server takes at a time.
    pub(crate) most_streams: u32,
    pub(crate) compare: Compare,
    pub(crate) basis: Option<Arc<BasisRepo>>,
}

/// Where objects come from and go to.
#[derive(Clone)]
struct Ends {
    client: Client,
    lanes: Arc<Lanes>,
    push: PushId,
    source: Arc<Source>,
    reporter: Arc<dyn Reporter>,
    board: Arc<Board>,
    basis: Option<Arc<BasisRepo>>,
    /// The streams that the server takes at a time.
    slots: Arc<Semaphore>,
    /// Streams whose ends are on their way.
    departed: mpsc::UnboundedSender<Departed>,
}

impl Ends {
    /// Hands a stream on whose end is on its way, so that its answer is heard as soon as it comes.
    fn departed(&self, stream: Departed) {
        // When nobody waits for it, all of it has failed.
        let _ = self.departed.send(stream);
    }

    /// Makes no more references ahead, since objects go as they are.
    fn end_references(&self) {
        if let Some(basis) = &self.basis {
            basis.references.end();
        }
    }

    /// Leaves it at the connections that there are.
    fn settle(&self) {
        self.lanes.settle();
        self.board.settle();
    }
}

/// What fills streams, and hands each of them on once its end is on its way.
type Tasks = JoinSet<Result<(), PushError>>;

/// Sends everything that is and comes on the board, in streams of each kind.
///
/// `departed` is told the number of all streams when nothing is left here. That the server has taken them is known by then
/// of few: what the others need is waited for. The streams that are needed because something has to be sent again are not
/// counted there.
pub(crate) async fn transfer(
    client: &Client,
    opened: &OpenAnswer,
    source: &Arc<Source>,
    reporter: &Arc<dyn Reporter>,
    board: &Arc<Board>,
    options: TransferOptions,
    departed: oneshot::Sender<u64>,
) -> Result<Transferred, PushError> {
    let TransferOptions { streams, most_streams, compare, basis } = options;
    let (sender, receiver) = mpsc::unbounded_channel();
    let ends = Ends {
        client: client.clone(),
        lanes: Lanes::new(client.clone()),
        push: opened.push.clone(),
        source: Arc::clone(source),
        reporter: Arc::clone(reporter),
        board: Arc::clone(board),
        basis,
        slots: Arc::new(Semaphore::new(most_streams as usize)),
        departed: sender,
    };
    let mut under_way = UnderWay::new(receiver);
    let tasks = &mut under_way.tasks;
    // One more is for the measurement.
    let recipes = if board.way() == Way::Recipes { streams.min(most_streams.saturating_sub(streams + 1)) } else { 0 };
    for _ in 0..streams {
        tasks.spawn(stream::send_whole(ends.clone()));
    }
    match &opened.lane_secret {
        Some(secret) => {
            tasks.spawn(lanes::open(ends.clone(), secret.clone(), streams));
        }
        None => ends.settle(),
    }
    for _ in 0..recipes {
        tasks.spawn(send_recipes(ends.clone()));
    }
    if recipes > 0 {
        compare::spawn(&ends, compare, tasks);
    } else {
        board.go(Way::Whole);
        ends.end_references();
    }
    // Threads that wait for objects must not wait on when this fails, or is given up since something else has failed.
    let _ending = Ending(board);
    let mut total = Transferred::default();
    let wrongly_made = collect(&mut under_way, &mut total, &**reporter, |streams| {
        // Who does not want to know is not told.
        let _ = departed.send(streams);
    })
    .await?;
    if wrongly_made.is_empty() {
        return Ok(total);
    }
    total.is_sent_again = true;
    board.go(Way::Whole);
    board.send_whole(wrongly_made);
    for _ in 0..streams {
        under_way.tasks.spawn(stream::send_whole(ends.clone()));
    }
    collect(&mut under_way, &mut total, &**reporter, |_| ()).await?;
    Ok(total)
}

async fn send_recipes(ends: Ends) -> Result<(), PushError> {
    if let Some(stream) = stream::send(ends.clone(), Kind::Recipes, None).await? {
        ends.departed(stream);
    }
    Ok(())
}

/// Gives the board up when it is dropped.
struct Ending<'b>(&'b Board);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// All streams that are being filled, or wait for their answers.
struct UnderWay {
    tasks: Tasks,
    departed: mpsc::UnboundedReceiver<Departed>,
    arriving: FuturesUnordered<BoxFuture<'static, Result<Arrived, PushError>>>,
    /// Streams that have left, those that have arrived as well.
    streams: u64,
}

/// What happens to streams.
enum Progress {
    /// One has left, or there is nothing more to fill it with.
    Departed,
    Arrived(Arrived),
}

impl UnderWay {
    fn new(departed: mpsc::UnboundedReceiver<Departed>) -> Self {
        Self { tasks: Tasks::new(), departed, arriving: FuturesUnordered::new(), streams: 0 }
    }

    /// Tells whether nothing is left here.
    fn have_all_departed(&self) -> bool {
        self.tasks.is_empty() && self.departed.is_empty()
    }

    /// Waits for the next thing to happen; nothing when everything has arrived.
    async fn next(&mut self) -> Option<Result<Progress, PushError>> {
        tokio::select! {
            Some(stream) = self.departed.recv(), if !self.have_all_departed() => {
                self.streams += 1;
                self.arriving.push(stream.arrived().boxed());
                Some(Ok(Progress::Departed))
            }
            Some(ended) = self.tasks.join_next() => {
                Some(ended.map_err(|_| PushError::Worker).flatten().map(|()| Progress::Departed))
            }
            Some(arrived) = self.arriving.next() => Some(arrived.map(Progress::Arrived)),
            else => None,
        }
    }

    /// Waits for the first failure that is not only a broken connection.
    async fn first_failure(&mut self) -> Result<(), PushError> {
        while let Some(result) = self.next().await {
            match result {
                Ok(_) | Err(PushError::Client(ClientError::Connection(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits for all streams, and returns the objects that have to be sent again as a whole. `departed` is told the number of
/// streams when all of them have left.
async fn collect(
    under_way: &mut UnderWay,
    total: &mut Transferred,
    reporter: &dyn Reporter,
    departed: impl FnOnce(u64),
) -> Result<Vec<PlannedObject>, PushError> {
    let mut again = HashMap::new();
    let mut departed = Some(departed);
    loop {
        if under_way.have_all_departed()
            && let Some(departed) = departed.take()
        {
            departed(under_way.streams);
        }
        match under_way.next().await {
            Some(Ok(Progress::Departed)) => {}
            Some(Ok(Progress::Arrived(Arrived { transferred, to_be_sent_whole }))) => {
                total.add(transferred);
                reporter.event(Event::Arrived { stored_bytes: transferred.stored_bytes });
                again.extend(to_be_sent_whole.into_iter().map(|object| (object.name, object)));
            }
            Some(Err(error)) => return Err(last_words(error, under_way.first_failure()).await),
            None => {
                total.streams = under_way.streams;
                return Ok(again.into_values().collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use treegraft_wire::{ApiError, ErrorCode, ObjectsAnswer};

    use super::*;
    use crate::SilentReporter;

    /// Streams of which one is being filled for ever, and another one has been refused.
    fn refused() -> UnderWay {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut under_way = UnderWay::new(receiver);
        under_way.tasks.spawn(std::future::pending());
        let refusal = Box::new(ApiError::new(ErrorCode::InvalidObject, "It is not valid"));
        assert!(sender.send(Departed::answered(Err(refusal.into()))).is_ok(), "it is waited for");
        under_way
    }

    #[tokio::test]
    async fn a_stream_that_is_refused_ends_the_others() {
        let collected =
            collect(&mut refused(), &mut Transferred::default(), &SilentReporter, |_| panic!("not all have left"))
                .await;
        let error = collected.expect_err("the other one is still being filled");
        assert!(matches!(error, PushError::Client(ClientError::Api(_))), "it is told what the server said: {error:?}");
    }

    #[tokio::test]
    async fn streams_are_counted_when_the_last_one_has_left() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut under_way = UnderWay::new(receiver);
        for _ in 0..3 {
            let sender = sender.clone();
            under_way.tasks.spawn(async move {
                for _ in 0..2 {
                    assert!(sender.send(Departed::answered(Ok(ObjectsAnswer::default()))).is_ok(), "it is waited for");
                    tokio::task::yield_now().await;
                }
                Ok(())
            });
        }
        let (mut total, mut departed) = (Transferred::default(), None);
        collect(&mut under_way, &mut total, &SilentReporter, |streams| departed = Some(streams))
            .await
            .expect("nothing fails");
        assert_eq!((departed, total.streams), (Some(6), 6), "each stream of each task");
    }
}
