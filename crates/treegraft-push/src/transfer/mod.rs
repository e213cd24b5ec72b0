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

use tokio::task::JoinSet;
use treegraft_wire::{OpenAnswer, PushId};

pub(crate) use board::{Board, Feed, Way};

use self::{
    lanes::Lanes,
    stream::{Kind, Stream},
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

/// How files are compared.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    pub(crate) compare: Compare,
    pub(crate) basis: Option<Arc<BasisRepo>>,
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
}

impl Transferred {
    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.stored_bytes += other.stored_bytes;
        self.recipes += other.recipes;
    }
}

/// Streams at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    /// Those of objects as they are stored.
    pub(crate) whole: u32,
    /// All that the server takes.
    pub(crate) most: u32,
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
}

type Tasks = JoinSet<Result<Stream, PushError>>;

/// Sends everything that is and comes on the board, in streams of each kind.
pub(crate) async fn transfer(
    client: &Client,
    opened: &OpenAnswer,
    source: &Arc<Source>,
    reporter: &Arc<dyn Reporter>,
    board: &Arc<Board>,
    streams: Streams,
    Comparison { compare, basis }: Comparison,
) -> Result<Transferred, PushError> {
    let ends = Ends {
        client: client.clone(),
        lanes: Lanes::new(client.clone()),
        push: opened.push.clone(),
        source: Arc::clone(source),
        reporter: Arc::clone(reporter),
        board: Arc::clone(board),
        basis,
    };
    let mut tasks = Tasks::new();
    let Streams { whole, most } = streams;
    // One more is for the measurement.
    let recipes = if board.way() == Way::Recipes { whole.min(most.saturating_sub(whole + 1)) } else { 0 };
    for _ in 0..whole {
        tasks.spawn(stream::send_whole(ends.clone()));
    }
    if let Some(secret) = &opened.lane_secret {
        tasks.spawn(lanes::open(ends.clone(), secret.clone(), whole));
    }
    for _ in 0..recipes {
        tasks.spawn(stream::send(ends.clone(), Kind::Recipes, None));
    }
    if recipes > 0 {
        compare::spawn(&ends, compare, &mut tasks);
    }
    // Threads that wait for objects must not wait on when this fails, or is given up since something else has failed.
    let _ending = Ending(board);
    let mut total = Transferred::default();
    let wrongly_made = collect(&mut tasks, &mut total).await?;
    if wrongly_made.is_empty() {
        return Ok(total);
    }
    board.go(Way::Whole);
    board.send_whole(wrongly_made);
    for _ in 0..whole {
        tasks.spawn(stream::send_whole(ends.clone()));
    }
    collect(&mut tasks, &mut total).await?;
    Ok(total)
}

/// Gives the board up when it is dropped.
struct Ending<'b>(&'b Board);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Waits for all streams, and returns the objects that have to be sent again as a whole.
async fn collect(tasks: &mut Tasks, total: &mut Transferred) -> Result<Vec<PlannedObject>, PushError> {
    let mut again = HashMap::new();
    loop {
        match next_stream(tasks).await {
            Ok(Some(stream)) => {
                total.add(stream.transferred);
                again.extend(stream.to_be_sent_whole.into_iter().map(|object| (object.name, object)));
            }
            Ok(None) => return Ok(again.into_values().collect()),
            Err(error) => return Err(last_words(error, first_failure(tasks)).await),
        }
    }
}

async fn next_stream(tasks: &mut Tasks) -> Result<Option<Stream>, PushError> {
    tasks.join_next().await.map(|result| result.map_err(|_| PushError::Worker)?).transpose()
}

/// Waits for the first failure that is not only a broken connection.
async fn first_failure(tasks: &mut Tasks) -> Result<(), PushError> {
    loop {
        match next_stream(tasks).await {
            Ok(Some(_)) | Err(PushError::Client(ClientError::Connection(_))) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
