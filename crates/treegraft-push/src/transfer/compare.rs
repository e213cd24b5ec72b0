//! Whether it pays to compare: asking for signatures, and measuring the link.
//!
//! A recipe saves bytes and costs time of both processors. So it pays on a slow link only. How fast the link is, is seen
//! from a *probe*: some objects, no large ones, go as they are in a stream of their own, and the server says in its answer
//! how fast they came, and everything else with them; another probe follows where that is not clear. A channel of ssh that
//! is full says nothing about the link: as long as there may be more channels, objects go as they are, and then there is
//! another probe. After that, how much goes over the link in a while on the way that was taken tells whether the other way
//! would have been faster: the server may be short of processors, or the link slower than it seemed.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use treegraft_object::ObjectName;
use treegraft_wire::{Arrival, chunks::Place, question::Presence};

use super::{
    Compare, Ends, Tasks,
    board::{Candidate, Older, Way},
    stream::{self, Kind},
};
use crate::PushError;

/// Bytes of objects a second from which on a link is too fast for recipes, until it is known how fast these are: two cores
/// make about as many.
const FAST_LINK_BYTES_PER_SEC: f64 = 28e6;

/// Bytes of a probe: a slow link needs some hundredths of a second for them, and a fast one long enough to be measured.
const PROBE_BYTES: u64 = 768 << 10;

/// Bytes of objects a second of a link that may be fast: on a busy machine, a probe of a fast one may take several times as
/// long as it should.
const PERHAPS_FAST_BYTES_PER_SEC: Range<f64> = FAST_LINK_BYTES_PER_SEC / 4.0..FAST_LINK_BYTES_PER_SEC;

/// How many times as fast as the first probe the second one must be for a third one to decide.
const DOUBTFUL_RATIO: f64 = 1.5;

/// How long a verdict holds: long enough that what waits in buffers does not count for much.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long nothing may leave, although there is something to send, before that counts.
const PATIENCE: Duration = Duration::from_secs(8);

/// Intervals of objects as they are before recipes are tried again for the first time.
const FIRST_PATIENCE: u32 = 4;

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
async fn ask(ends: Ends) -> Result<(), PushError> {
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
            else => return Ok(()),
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
async fn measure(ends: Ends) -> Result<(), PushError> {
    let mut rates = Rates { whole: 0.0, as_recipes: FAST_LINK_BYTES_PER_SEC };
    let Some(company) = probe(&ends, &mut rates).await? else { return Ok(()) };
    // A channel that was full has hidden what the link carries. That is seen when there are more connections, and these come
    // when objects go as they are.
    let is_hidden = company == Company::Others && ends.board.way() == Way::Recipes;
    if is_hidden && widened(&ends, rates.whole).await && probe(&ends, &mut rates).await?.is_none() {
        return Ok(());
    }
    tokio::select! {
        () = adjust(&ends, Pilot::new(rates)) => {}
        () = ends.board.over() => {}
    }
    Ok(())
}

/// What came to the server in the time of the first probe. By itself, a probe is too small to fill a channel of ssh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Nothing,
    Others,
}

/// Probes the link until it is clear how fast it is, and takes the better way. Returns nothing when all has been sent.
async fn probe(ends: &Ends, rates: &mut Rates) -> Result<Option<Company>, PushError> {
    let board = &ends.board;
    let mut seen = Vec::new();
    let mut company = Company::Nothing;
    while needs_probe(&seen) {
        let Some(mut probe) = stream::send(ends.clone(), Kind::Probe { bytes: PROBE_BYTES }, None).await? else {
            return Ok(None);
        };
        let arrival = tokio::select! {
            arrival = probe.arrival() => Some(arrival?),
            // Everything is on its way, and the publication shall not wait for what nobody needs to know.
            () = board.over() => None,
        };
        ends.departed(probe);
        let Some(Arrival { bytes, bytes_of_all, micros }) = arrival else { return Ok(None) };
        // Beside later ones there are recipes, which do not fill it.
        if seen.is_empty() && bytes_of_all > bytes {
            company = Company::Others;
        }
        // Another version of the server counts the probe alone.
        seen.push(rate(bytes_of_all.max(bytes), Duration::from_micros(micros)));
        // The first verdict holds until there is no doubt about another one.
        if seen.len() == 1 || !needs_probe(&seen) {
            rates.whole = verdict(&seen);
            board.go(rates.better());
        }
    }
    Ok(Some(company))
}

/// Waits for further connections, if a link over which so many bytes a second go may carry more with them. Tells whether it
/// was so.
async fn widened(ends: &Ends, bytes_per_sec: f64) -> bool {
    let may_widen = tokio::select! {
        may_widen = ends.lanes.may_widen(bytes_per_sec) => may_widen,
        () = ends.board.over() => false,
    };
    if may_widen {
        ends.board.go(Way::Whole);
        ends.lanes.settled().await;
    }
    may_widen
}

/// Tells whether there should be another probe, after what was seen in those before, in bytes a second.
///
/// What they send as it is could have been sent in parts.
fn needs_probe(seen: &[f64]) -> bool {
    match *seen {
        [] => true,
        [first] => PERHAPS_FAST_BYTES_PER_SEC.contains(&first),
        [first, second] => second > first * DOUBTFUL_RATIO,
        _ => false,
    }
}

/// Returns how fast the link is, in bytes a second: the faster one of two probes, since whatever holds one up says nothing about
/// the link, and the median of three. A busy server may find a whole probe at once, as if it had come at once.
fn verdict(seen: &[f64]) -> f64 {
    let mut sorted = seen.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Takes the other way whenever it would have been faster, again and again.
async fn adjust(ends: &Ends, mut pilot: Pilot) {
    let board = &ends.board;
    if board.way() == Way::Whole {
        ends.end_references();
    }
    let (mut begun, mut before) = (Instant::now(), board.sent().bytes());
    loop {
        let had_work = board.has_work();
        tokio::time::sleep(INTERVAL).await;
        let (way, sent_bytes) = (board.way(), board.sent().bytes());
        // While there is nothing to send, nothing is said about the way.
        if !had_work || !board.has_work() {
            (begun, before) = (Instant::now(), sent_bytes);
            continue;
        }
        // Answers may take a while, and a large object is made before it is sent.
        if sent_bytes == before && begun.elapsed() < PATIENCE {
            continue;
        }
        let better = pilot.after(way, rate(sent_bytes - before, begun.elapsed()));
        (begun, before) = (Instant::now(), sent_bytes);
        if better != way {
            board.go(better);
            if better == Way::Whole {
                ends.end_references();
            }
            // What waits in buffers goes first, and says nothing about the other way.
            tokio::time::sleep(INTERVAL).await;
            (begun, before) = (Instant::now(), board.sent().bytes());
        }
    }
}

/// Decides which way to go on, after each interval.
///
/// How fast a way is that is not taken, nobody sees: what it was once may have been held up. So recipes are tried again after
/// some intervals of objects as they are, each time after twice as many.
struct Pilot {
    rates: Rates,
    intervals_whole: u32,
    patience: u32,
}

impl Pilot {
    const fn new(rates: Rates) -> Self {
        Self { rates, intervals_whole: 0, patience: FIRST_PATIENCE }
    }

    /// Takes how many bytes a second went on the way in the last interval.
    fn after(&mut self, way: Way, rate: f64) -> Way {
        match way {
            Way::Recipes => {
                self.rates.as_recipes = rate;
                self.intervals_whole = 0;
            }
            Way::Whole => {
                self.rates.whole = rate;
                self.intervals_whole += 1;
            }
        }
        if self.intervals_whole == self.patience {
            self.patience = self.patience.saturating_mul(2);
            self.rates.as_recipes = FAST_LINK_BYTES_PER_SEC;
        }
        self.rates.better()
    }
}

/// How many bytes of objects as they are stored go in a second when each way is taken, as far as is known. What has no older
/// version goes beside recipes, and counts.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Probes as long as they are needed, and takes the verdict.
    fn probed(rates: [f64; 3]) -> (usize, f64) {
        let probes = (0..=3).find(|&probes| !needs_probe(&rates[..probes])).expect("three are enough");
        (probes, verdict(&rates[..probes]))
    }

    #[test]
    fn a_link_is_probed_again_where_it_may_be_faster() {
        assert_eq!(probed([3e6, 60e6, 60e6]), (1, 3e6), "it is slow, whatever had held the probe up");
        assert_eq!(probed([60e6, 3e6, 3e6]), (1, 60e6), "it is fast");
        assert_eq!(probed([12e6, 13e6, 60e6]), (2, 13e6), "both say the same");
        assert_eq!(probed([12e6, 4e6, 60e6]), (2, 12e6), "the second one was held up");
    }

    /// Returns the ways that are taken after intervals in which so many megabytes a second went.
    fn ways(begin: Way, (whole, as_recipes): (f64, f64), intervals: usize) -> Vec<Way> {
        let mut pilot = Pilot::new(Rates { whole: 1.0, as_recipes: FAST_LINK_BYTES_PER_SEC });
        let mut way = begin;
        let go_on = |_| {
            way = pilot.after(way, if way == Way::Whole { whole * 1e6 } else { as_recipes * 1e6 });
            way
        };
        (0..intervals).map(go_on).collect()
    }

    #[test]
    fn the_faster_way_is_taken() {
        use Way::{Recipes, Whole};
        assert_eq!(ways(Whole, (3.0, 9.0), 3), [Recipes; 3], "the link is slower than it seemed");
        assert_eq!(ways(Whole, (50.0, 9.0), 9), [Whole; 9], "it is as fast as it seemed");
        let mut pilot = Pilot::new(Rates { whole: 12e6, as_recipes: FAST_LINK_BYTES_PER_SEC });
        assert_eq!(pilot.after(Recipes, 5e6), Whole, "the server is short of processors");
    }

    #[test]
    fn a_way_that_was_slow_once_is_tried_again_and_again_but_ever_more_rarely() {
        let mut pilot = Pilot::new(Rates { whole: 12e6, as_recipes: FAST_LINK_BYTES_PER_SEC });
        let mut way = Way::Recipes;
        let mut tried = Vec::new();
        for interval in 0..40 {
            if way == Way::Recipes {
                tried.push(interval);
            }
            way = pilot.after(way, if way == Way::Whole { 12e6 } else { 3e6 });
        }
        assert_eq!(tried, [0, 5, 14, 31]);
    }

    #[test]
    fn a_probe_that_was_found_all_at_once_does_not_count() {
        assert_eq!(probed([12e6, 600e6, 13e6]), (3, 13e6), "the second one was found at once");
        assert_eq!(probed([12e6, 60e6, 58e6]), (3, 58e6), "the first one was held up");
    }
}
