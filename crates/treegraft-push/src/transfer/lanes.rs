//! The connections that streams of objects go through: one, or several where one is too slow.
//!
//! A channel of OpenSSH carries at most its window in a round trip. How long that is, is measured while nothing else is on
//! its way. When it is long and much is sent, further channels are opened, and streams move there between two objects.
//! What fails then fails silently: there is the first connection.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;
use treegraft_wire::lanes::LaneSecret;

use super::Ends;
use crate::{Client, PushError, carrier::ssh::SshCarrier};

/// The window of a channel of OpenSSH in bytes.
const WINDOW_BYTES: u64 = 2 << 20;

/// Bytes a second that channels shall be enough for: about as many as two cores store.
const WANTED_BYTES_PER_SEC: u64 = 80_000_000;

/// Most connections of a push. More cost more processes, and gain little.
const MAX_CONNECTIONS: usize = 4;

/// Bytes that have left before lanes are opened: what is over soon gains nothing by them.
const WORTH_BYTES: u64 = 4 << 20;

/// How often it is looked whether so much has left.
const POLL: Duration = Duration::from_millis(50);

/// How often a round trip is measured: the shortest one counts.
const PINGS: usize = 2;

/// The part of its window a round trip that a channel which is full carries at least, in hundredths.
const FULL_PERCENT: u64 = 80;

/// The connections of a push.
#[derive(Debug)]
pub(super) struct Lanes {
    open: Mutex<Vec<Lane>>,
    outlook: watch::Sender<Outlook>,
}

/// What is known of connections that are not open yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlook {
    /// How long a round trip is, is being measured.
    Unknown,
    /// There will be further ones, since one channel carries so little.
    More { channel_bytes_per_sec: u64 },
    /// There are those that there are.
    Settled,
}

#[derive(Debug)]
struct Lane {
    client: Client,
    /// Streams that it has or is about to have.
    streams: usize,
    /// Its ssh, which ends with it.
    _carrier: Option<SshCarrier>,
}

impl Lanes {
    /// Begins with the connection that the push was opened on.
    pub(super) fn new(client: Client) -> Arc<Self> {
        let open = Mutex::new(vec![Lane { client, streams: 0, _carrier: None }]);
        Arc::new(Self { open, outlook: watch::Sender::new(Outlook::Unknown) })
    }

    /// Tells whether a link over which so many bytes a second go may carry more as soon as there are further connections.
    pub(super) async fn may_widen(&self, bytes_per_sec: f64) -> bool {
        let mut outlook = self.outlook.subscribe();
        let known = outlook.wait_for(|&outlook| outlook != Outlook::Unknown).await;
        known.is_ok_and(|outlook| outlook.is_narrow_for(bytes_per_sec))
    }

    /// Waits until there are all connections that there will be.
    pub(super) async fn settled(&self) {
        // It is an error that nobody could settle it any more.
        let _ = self.outlook.subscribe().wait_for(|&outlook| outlook == Outlook::Settled).await;
    }

    /// Leaves it at the connections that there are.
    pub(super) fn settle(&self) {
        self.outlook.send_replace(Outlook::Settled);
    }

    /// Returns a place for a stream, where there are the fewest.
    pub(super) fn seat(self: &Arc<Self>) -> Seat {
        let mut lanes = self.lock();
        let lane = emptiest(&lanes);
        lanes[lane].streams += 1;
        drop(lanes);
        Seat { lanes: Arc::clone(self), lane }
    }

    fn add(&self, client: Client, carrier: SshCarrier) {
        self.lock().push(Lane { client, streams: 0, _carrier: Some(carrier) });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlook {
    /// Tells whether what carries so many bytes a second at present is as full as it can be, and will carry more.
    fn is_narrow_for(self, bytes_per_sec: f64) -> bool {
        match self {
            Self::More { channel_bytes_per_sec } => {
                #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
                let full = (channel_bytes_per_sec * FULL_PERCENT / 100) as f64;
                bytes_per_sec >= full
            }
            Self::Unknown | Self::Settled => false,
        }
    }
}

fn emptiest(lanes: &[Lane]) -> usize {
    (0..lanes.len()).min_by_key(|&lane| lanes[lane].streams).expect("there is the first connection")
}

/// The place of a stream on a connection.
#[derive(Debug)]
pub(super) struct Seat {
    lanes: Arc<Lanes>,
    lane: usize,
}

impl Seat {
    /// Returns the connection.
    pub(super) fn client(&self) -> Client {
        self.lanes.lock()[self.lane].client.clone()
    }

    /// Takes a place on another connection if there is one with fewer streams, and tells whether it was so.
    pub(super) fn move_on(&mut self) -> bool {
        let mut lanes = self.lanes.lock();
        let lane = emptiest(&lanes);
        let is_better = lanes[lane].streams + 1 < lanes[self.lane].streams;
        if is_better {
            lanes[self.lane].streams -= 1;
            lanes[lane].streams += 1;
            self.lane = lane;
        }
        is_better
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lanes.lock()[self.lane].streams -= 1;
    }
}

/// Opens as many lanes as pay, up to one connection for each of `streams`.
pub(super) async fn open(ends: Ends, secret: LaneSecret, streams: u32) -> Result<(), PushError> {
    tokio::select! {
        () = open_all(&ends, &secret, streams as usize) => {}
        // Everything is on its way.
        () = ends.board.over() => {}
    }
    ends.settle();
    Ok(())
}

async fn open_all(ends: &Ends, secret: &LaneSecret, streams: usize) {
    let Some(opener) = ends.client.lanes() else { return };
    let mut round_trip = Duration::MAX;
    for _ in 0..PINGS {
        let begun = Instant::now();
        // A connection that breaks is noticed by all else that uses it.
        let Ok(()) = ends.client.ping(&ends.push).await else { return };
        round_trip = round_trip.min(begun.elapsed());
    }
    let connections = wanted_connections(round_trip).min(streams);
    if connections < 2 {
        return;
    }
    ends.lanes
        .outlook
        .send_replace(Outlook::More { channel_bytes_per_sec: carried_a_second(WINDOW_BYTES, round_trip) });
    while ends.board.sent().whole_bytes < WORTH_BYTES {
        tokio::time::sleep(POLL).await;
    }
    let mut opening: FuturesUnordered<_> = (1..connections).map(|_| opener.open(secret, &ends.push)).collect();
    while let Some(opened) = opening.next().await {
        // Sharing may be forbidden, by `MaxSessions` for example.
        if let Ok((carrier, client)) = opened {
            ends.lanes.add(client, carrier);
        }
    }
}

/// Returns how many bytes a second go when so many go in each round trip.
fn carried_a_second(bytes: u64, round_trip: Duration) -> u64 {
    bytes.saturating_mul(1000) / u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Returns how many channels carry what is wanted.
fn wanted_connections(round_trip: Duration) -> usize {
    let wanted_bytes =
        WANTED_BYTES_PER_SEC.saturating_mul(u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX)) / 1000;
    let connections = usize::try_from(wanted_bytes.div_ceil(WINDOW_BYTES)).unwrap_or(usize::MAX);
    connections.clamp(1, MAX_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_link_wants_more_channels_and_a_short_one_a_single_one() {
        for (millis, connections) in [(0, 1), (1, 1), (20, 1), (26, 1), (30, 2), (70, 3), (100, 4), (100_000, 4)] {
            assert_eq!(wanted_connections(Duration::from_millis(millis)), connections, "{millis} ms");
        }
    }

    #[test]
    fn a_channel_that_is_full_may_be_too_narrow() {
        let channel_bytes_per_sec = carried_a_second(WINDOW_BYTES, Duration::from_millis(100));
        assert_eq!(channel_bytes_per_sec, 20 << 20, "a window in each round trip");
        let outlook = Outlook::More { channel_bytes_per_sec };
        assert!(outlook.is_narrow_for(20e6), "it carries what it can");
        assert!(!outlook.is_narrow_for(12e6), "the link carries less");
        assert!(!Outlook::Settled.is_narrow_for(20e6), "no more channels will come");
    }
}
