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

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};
use treegraft_wire::{OpenAnswer, PushId};

pub(crate) use board::{Board, Feed, MIN_COMPARED_BYTES, Way};

use self::{
    lanes::Lanes,
    stream::{Arrived, Departed, Kind},
};
use crate::{BasisRepo, Client, ClientError, PlannedObject, PushError, Reporter, Source, push::last_words};

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
}

impl Ends {
    /// Leaves it at the connections that there are.
    fn settle(&self) {
        self.lanes.settle();
        self.board.settle();
    }
}

/// What fills streams, and returns them once their ends are on their way.
type Tasks = JoinSet<Result<Vec<Departed>, PushError>>;

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
    let ends = Ends {
        client: client.clone(),
        lanes: Lanes::new(client.clone()),
        push: opened.push.clone(),
        source: Arc::clone(source),
        reporter: Arc::clone(reporter),
        board: Arc::clone(board),
        basis,
        slots: Arc::new(Semaphore::new(most_streams as usize)),
    };
    let mut tasks = Tasks::new();
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
        compare::spawn(&ends, compare, &mut tasks);
    } else {
        board.go(Way::Whole);
    }
    // Threads that wait for objects must not wait on when this fails, or is given up since something else has failed.
    let _ending = Ending(board);
    let mut total = Transferred::default();
    let wrongly_made = collect(&mut tasks, &mut total, |streams| {
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
        tasks.spawn(stream::send_whole(ends.clone()));
    }
    collect(&mut tasks, &mut total, |_| ()).await?;
    Ok(total)
}

async fn send_recipes(ends: Ends) -> Result<Vec<Departed>, PushError> {
    Ok(stream::send(ends, Kind::Recipes, None).await?.into_iter().collect())
}

/// Gives the board up when it is dropped.
struct Ending<'b>(&'b Board);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Waits for all streams, and returns the objects that have to be sent again as a whole. `departed` is told the number of
/// streams when all of them have left.
async fn collect(
    tasks: &mut Tasks,
    total: &mut Transferred,
    departed: impl FnOnce(u64),
) -> Result<Vec<PlannedObject>, PushError> {
    let mut under_way = FuturesUnordered::new();
    let mut again = HashMap::new();
    let mut departed = Some(departed);
    loop {
        if tasks.is_empty()
            && let Some(departed) = departed.take()
        {
            departed(total.streams);
        }
        let result = tokio::select! {
            Some(left) = tasks.join_next() => left.map_err(|_| PushError::Worker).flatten().map(|streams| {
                total.streams += streams.len() as u64;
                under_way.extend(streams.into_iter().map(Departed::arrived));
            }),
            Some(arrived) = under_way.next() => arrived.map(|Arrived { transferred, to_be_sent_whole }| {
                total.add(transferred);
                again.extend(to_be_sent_whole.into_iter().map(|object| (object.name, object)));
            }),
            else => return Ok(again.into_values().collect()),
        };
        if let Err(error) = result {
            return Err(last_words(error, first_failure(tasks, under_way)).await);
        }
    }
}

/// Waits for the first failure that is not only a broken connection.
async fn first_failure(
    tasks: &mut Tasks,
    mut under_way: FuturesUnordered<impl Future<Output = Result<Arrived, PushError>>>,
) -> Result<(), PushError> {
    loop {
        let result = tokio::select! {
            Some(left) = tasks.join_next() => left.map_err(|_| PushError::Worker).flatten().map(drop),
            Some(arrived) = under_way.next() => arrived.map(drop),
            else => return Ok(()),
        };
        match result {
            Ok(()) | Err(PushError::Client(ClientError::Connection(_))) => {}
            Err(error) => return Err(error),
        }
    }
}
