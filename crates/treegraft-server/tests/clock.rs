//! A server whose clock is set back, or ahead, between pushes and in the middle of one.

mod support;

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use support::{Place, Wire, objects::Pushed, open_request};
use treegraft_object::{CommitId, gvariant::Variant, summary::Summary};
use treegraft_repo::Find;
use treegraft_server::{Clock, config::Settings};
use treegraft_testkit::Ostree;

const DAY_SECS: u64 = 24 * 60 * 60;

/// Files have the time of the system, which no test can set.
fn system_secs() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

async fn connect(place: &Place, clock: Clock) -> Wire {
    Wire::connect(place.receiver_with_clock(Settings::default(), clock)).await
}

/// Opens a push and sends its objects. Returns its number.
async fn begin(wire: &Wire, pushed: &Pushed) -> String {
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    assert_eq!(wire.objects(&push, &pushed.objects).await.status, 200, "sound objects are taken");
    push
}

/// What is published is sound, and the summary has it with the time of `now_secs`. Returns the head and its parent.
fn check(place: &Place, name: &str, pushed: &Pushed, now_secs: u64) -> (CommitId, Option<CommitId>) {
    let head = place.head(name).expect("it is published");
    let commit = place.repo().commit(head).expect("it can be read");
    assert_eq!(commit.timestamp_secs, pushed.commit.timestamp_secs, "a commit keeps the time of its build");
    let data = fs::read(place.path("repo/summary")).expect("there is a summary");
    let summary = Summary::decode(&data).expect("it is whole");
    let listed = summary.refs.iter().find(|row| row.name.as_str() == name).map(|row| row.commit);
    assert_eq!(listed, Some(head), "the summary has the new commit");
    let modified = summary.metadata.get("ostree.summary.last-modified").and_then(Variant::as_uint64_be);
    assert_eq!(modified, Some(now_secs), "the summary's time is that of the clock, whatever it was before");
    if let Some(ostree) = Ostree::find() {
        ostree.fsck(&place.path("repo"));
    }
    (head, commit.parent)
}

#[tokio::test]
async fn a_clock_that_is_set_back_stops_no_push() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let (clock, now_secs): (Clock, _) = (|| NOW.load(Ordering::Relaxed), system_secs());
    NOW.store(now_secs, Ordering::Relaxed);
    let place = Place::new();
    let mut last = None;
    // Each push begins at the time to which the one before has set the clock back.
    for (days, content) in [(10, "one"), (20, "two"), (30, "three")] {
        let pushed = Pushed::new("main", content);
        let wire = connect(&place, clock).await;
        let push = begin(&wire, &pushed).await;
        NOW.store(now_secs - days * DAY_SECS, Ordering::Relaxed);
        wire.publish(&push).await.published().expect("it is published");
        wire.close().await;
        let (head, parent) = check(&place, "main", &pushed, now_secs - days * DAY_SECS);
        assert_eq!(parent, last, "it is on top of the one before");
        last = Some(head);
        assert_eq!(place.staged(), Vec::<String>::new(), "nothing is left in staging");
    }
}

#[tokio::test]
async fn staged_objects_wait_for_a_clock_that_is_set_back_and_go_in_the_end() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let (clock, now_secs): (Clock, _) = (|| NOW.load(Ordering::Relaxed), system_secs());
    let set = |secs| NOW.store(secs, Ordering::Relaxed);
    let push = async |place: &Place, content: &str| {
        let wire = connect(place, clock).await;
        wire.push(&Pushed::new("main", content)).await.expect("a sound push is published");
        wire.close().await;
    };
    set(now_secs);
    let place = Place::new();
    let (dead, live) = (Pushed::new("dead", "of a push that dies"), Pushed::new("live", "of one that takes its time"));
    let interrupted = connect(&place, clock).await;
    begin(&interrupted, &dead).await;
    interrupted.close().await;
    assert!(place.gets_unlocked(), "nobody owns what it has left");
    let is_left = || place.staged().contains(&format!("{}.commit", dead.id));
    assert!(is_left(), "it has left its objects");

    set(now_secs - 10 * DAY_SECS);
    push(&place, "one").await;
    assert!(is_left(), "what was written in the future is not old");

    let slow = connect(&place, clock).await;
    let open = begin(&slow, &live).await;
    set(now_secs + 10 * DAY_SECS);
    push(&place, "two").await;
    set(now_secs - 10 * DAY_SECS);
    push(&place, "three").await;
    slow.publish(&open).await.published().expect("nobody has taken its objects away");
    slow.close().await;
    check(&place, "live", &live, now_secs - 10 * DAY_SECS);

    set(now_secs + 2 * DAY_SECS);
    push(&place, "four").await;
    assert_eq!(place.staged(), Vec::<String>::new(), "a day after the push has died its objects go");
    check(&place, "main", &Pushed::new("main", "four"), now_secs + 2 * DAY_SECS);
}
