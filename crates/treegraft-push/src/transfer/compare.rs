//! Whether it pays to compare: asking for signatures, and measuring the link.
//!
//! A recipe saves bytes and costs time of both processors. So it pays on a slow link only. How fast the link is, is seen
//! from a *probe*: some small objects go as they are in a stream of their own, and the server says in its answer how fast they
//! came. After that, how much goes over the link in a while on the way that was taken tells whether the other way would
//! have been faster: the server may be short of processors, or the link slower than it seemed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use treegraft_object::ObjectName;
use treegraft_wire::{Arrival, chunks::Place, question::Presence};

use super::{
    Compare, Ends, Tasks,
    board::{Candidate, Older, Way},
    stream::{self, Kind, Stream},
};
use crate::PushError;

/// Bytes of objects a second from which on a link is too fast for recipes, until it is known how fast these are: two cores
/// make about as many.
const FAST_LINK_BYTES_PER_SEC: f64 = 28e6;

/// Bytes of a probe: a slow link needs a tenth of a second for them, and a fast one long enough to be measured.
const PROBE_BYTES: u64 = 1 << 20;

/// How long a verdict holds: long enough that what waits in buffers does not count for much.
const INTERVAL: Duration = Duration::from_secs(2);

/// Questions that wait for their answers at a time.
const MAX_OPEN_QUESTIONS: usize = 6;

/// Begins to ask, and to measure unless it is decided how objects go.
pub(super) fn spawn(ends: &Ends, compare: Compare, tasks: &mut Tasks) {
    tasks.spawn(ask(ends.clone()));
    if compare == Compare::Auto {
        tasks.spawn(measure(ends.clone()));
    } else {
        ends.board.go(Way::Recipes);
    }
}

/// Asks for signatures as long as there are candidates.
async fn ask(ends: Ends) -> Result<Stream, PushError> {
    let mut questions = FuturesUnordered::new();
    let mut is_asking = true;
    loop {
        tokio::select! {
            question = ends.board.next_question(), if is_asking && questions.len() < MAX_OPEN_QUESTIONS => match question {
                Some(question) => questions.push(find_older(&ends, question)),
                None => is_asking = false,
            },
            Some(answer) = questions.next(), if !questions.is_empty() => {
                ends.board.answered(answer?);
            }
            else => return Ok(Stream::default()),
        }
    }
}

/// Finds older versions of files: in an earlier build, or by what the server tells of them.
async fn find_older(
    ends: &Ends,
    question: Vec<(Candidate, Place)>,
) -> Result<Vec<(Candidate, Option<Older>)>, PushError> {
    let (candidates, places): (Vec<_>, Vec<_>) = question.into_iter().unzip();
    let (places, here) = find_here(ends, places).await?;
    let unknown: Vec<_> = places.iter().zip(&here).filter(|(_, here)| here.is_none()).map(|(place, _)| place).collect();
    let signatures = if unknown.is_empty() { Vec::new() } else { ends.client.signatures(&ends.push, unknown).await? };
    let mut signatures = signatures.into_iter();
    let older = here.into_iter().map(|here| match here {
        Some(older) => Some(older),
        None => signatures.next().flatten().map(Older::Chunks),
    });
    Ok(candidates.into_iter().zip(older).collect())
}

/// Finds the files of an earlier build, and keeps those that the server has.
async fn find_here(ends: &Ends, places: Vec<Place>) -> Result<(Vec<Place>, Vec<Option<Older>>), PushError> {
    let Some(basis) = ends.basis.clone() else {
        let nothing = places.iter().map(|_| None).collect();
        return Ok((places, nothing));
    };
    let (source, looked_at) = (Arc::clone(&ends.source), Arc::clone(&basis));
    let looking = move || {
        let targets =
            places.iter().map(|place| (&source.commits[place.ref_index as usize].target, place.path.as_str()));
        let found = looked_at.find(targets);
        (places, found)
    };
    let (places, mut here) = tokio::task::spawn_blocking(looking).await.map_err(|_| PushError::Worker)?;
    let names: Vec<_> = here.iter().flatten().map(|&id| ObjectName::from(id)).collect();
    if !names.is_empty() {
        let presence = ends.client.missing(&ends.push, &names).await?;
        for (found, presence) in here.iter_mut().filter(|here| here.is_some()).zip(presence) {
            found.take_if(|_| presence == Presence::Missing);
        }
    }
    let older = |id| Older::File { basis: Arc::clone(&basis), id };
    Ok((places, here.into_iter().map(|found| found.map(older)).collect()))
}

/// Measures the link, and then what goes over it, and decides how objects go.
async fn measure(ends: Ends) -> Result<Stream, PushError> {
    let board = &ends.board;
    let probe = stream::send(ends.clone(), Kind::Probe { bytes: PROBE_BYTES }, None).await?;
    let Arrival { bytes, micros } = probe.arrival;
    let mut rates = Rates { whole: rate(bytes, Duration::from_micros(micros)), as_recipes: FAST_LINK_BYTES_PER_SEC };
    board.go(rates.better());
    let mut before = board.sent();
    loop {
        let begun = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = board.over() => return Ok(probe),
        }
        let sent = board.sent();
        match board.way() {
            Way::Recipes => rates.as_recipes = rate(sent.as_recipes_bytes - before.as_recipes_bytes, begun.elapsed()),
            Way::Whole => rates.whole = rate(sent.whole_bytes - before.whole_bytes, begun.elapsed()),
        }
        before = sent;
        if rates.better() != board.way() {
            board.go(rates.better());
        }
    }
}

/// How many bytes of objects as they are stored go in a second, on each way, as far as is known.
struct Rates {
    whole: f64,
    as_recipes: f64,
}

impl Rates {
    fn better(&self) -> Way {
        if self.whole < self.as_recipes { Way::Recipes } else { Way::Whole }
    }
}

fn rate(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    let bytes = bytes as f64;
    bytes / time.as_secs_f64().max(1e-3)
}
