//! The queue at the publish lock: in the order of coming, past the dead and the sleeping.

use std::{
    fs,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use treegraft_repo::{FileLock, LockError, LockKind, PublishError, PublishLock, Repo};

const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    _dir: tempfile::TempDir,
    repo: Repo,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let repo = Repo::init(&dir.path().join("repo"), None).expect("a repository can be made");
        Self { _dir: dir, repo }
    }

    fn with_config(line: &str) -> Self {
        let place = Self::new();
        let config = place.repo.path().join("config");
        let text = fs::read_to_string(&config).expect("it is there");
        fs::write(&config, text.replace("[core]\n", &format!("[core]\n{line}\n"))).expect("it is ours");
        let repo = Repo::open(place.repo.path()).expect("it is a repository");
        Self { repo, ..place }
    }

    fn queue(&self) -> PathBuf {
        self.repo.path().join(".treegraft/queue")
    }

    /// Counts those who have their place, without those who are just taking one.
    fn waiting(&self) -> usize {
        let entries = fs::read_dir(self.queue()).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().len() == 20).count()
    }

    fn wait_for(&self, count: usize) {
        let begin = Instant::now();
        while self.waiting() != count {
            assert!(begin.elapsed() < PATIENCE, "{count} wait, not {}", self.waiting());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn acquire(&self) -> PublishLock {
        PublishLock::acquire(&self.repo, &mut |_| ()).expect("it is free at some time")
    }

    fn recover(&self) -> Option<PublishLock> {
        PublishLock::recover(&self.repo, &mut |_| ControlFlow::Continue(())).expect("it can be looked")
    }
}

#[test]
fn who_comes_first_publishes_first() {
    let place = Place::new();
    let order = Mutex::new(Vec::new());
    let first = place.acquire();
    assert_eq!(place.waiting(), 0, "who does not wait takes no ticket");
    thread::scope(|scope| {
        for number in 0..16 {
            let (place, order) = (&place, &order);
            scope.spawn(move || {
                let _lock = place.acquire();
                order.lock().expect("no panic").push(number);
            });
            // Everybody is in the queue before the next one comes.
            place.wait_for(number + 1);
        }
        drop(first);
    });
    assert_eq!(*order.lock().expect("no panic"), (0..16).collect::<Vec<_>>(), "in the order in which they came");
    assert_eq!(place.waiting(), 0, "all tickets are given back");
}

#[test]
fn nobody_overtakes_those_who_wait() {
    let place = Place::new();
    let first = place.acquire();
    let (told, order) = mpsc::channel();
    thread::scope(|scope| {
        let (early, late) = (told.clone(), told);
        let place = &place;
        scope.spawn(move || {
            let lock = place.acquire();
            early.send("early").expect("somebody hears");
            // It keeps the lock until the other one waits.
            place.wait_for(1);
            drop(lock);
        });
        place.wait_for(1);
        // From here on the lock is free for a moment at least, but not the queue.
        drop(first);
        scope.spawn(move || {
            drop(place.acquire());
            late.send("late").expect("somebody hears");
        });
    });
    assert_eq!(order.iter().collect::<Vec<_>>(), ["early", "late"]);
}

#[test]
fn the_dead_are_passed_over() {
    let place = Place::new();
    fs::create_dir_all(place.queue()).expect("it can be made");
    for name in [format!("{:020}", 0), format!("{:020}", 7), ".0123456789abcdef".to_owned()] {
        fs::write(place.queue().join(name), "").expect("a file can be written");
    }
    // What has no number of ours is none of ours.
    for name in ["99999999999999999999", "18446744073709551615", "note"] {
        fs::write(place.queue().join(name), "").expect("a file can be written");
    }
    drop(place.acquire());
    let mut left: Vec<_> = fs::read_dir(place.queue())
        .expect("it is there")
        .map(|entry| entry.expect("it is there").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["18446744073709551615", "99999999999999999999", "note"], "their tickets are cleared away");
}

#[test]
fn who_sleeps_is_passed_over_when_the_lock_is_free() {
    let place = Place::new();
    fs::create_dir_all(place.queue()).expect("it can be made");
    let ticket = place.queue().join(format!("{:020}", 3));
    let sleeper = FileLock::try_acquire(&ticket, LockKind::Exclusive).expect("it can be locked");
    assert!(sleeper.is_some(), "it stands in the queue and never asks for the lock");
    drop(place.acquire());
    assert!(ticket.exists(), "it keeps its place");
}

#[test]
fn waiting_has_an_end_and_tells_who_holds_the_lock() {
    let place = Place::with_config("lock-timeout-secs=1");
    let lock = place.acquire();
    lock.say_holder(b"somebody");
    assert_eq!(
        PublishLock::holder(&place.repo).map(|(text, _)| text),
        Some(b"somebody".to_vec()),
        "others read what it says"
    );
    let mut looks = Vec::new();
    let error = PublishLock::acquire(&place.repo, &mut |waited| looks.push(waited)).expect_err("it is held");
    let PublishError::Lock(LockError::Timeout { waited_secs, holders, .. }) = &error else {
        panic!("it waited in vain: {error:?}")
    };
    assert_eq!(*waited_secs, 1, "`core.lock-timeout-secs` holds");
    assert!(holders.iter().any(|holder| holder.contains(&format!("process {}", std::process::id()))), "{holders:?}");
    assert!(looks.len() > 10 && looks[0].is_zero(), "the first one in the queue looks often: {looks:?}");
    assert_eq!(place.waiting(), 0, "who gives up leaves the queue");
    lock.say_holder(&[b'x'; 5000]);
    assert_eq!(PublishLock::holder(&place.repo), None, "a text without end is not read");
    drop(lock);
    assert_eq!(PublishLock::holder(&place.repo), None, "what it said is gone with it");
}

#[test]
fn who_gives_up_leaves_the_queue() {
    let place = Place::with_config("lock-timeout-secs=-1");
    let held = place.acquire();
    let mut looks = 0;
    let error = PublishLock::acquire_while(&place.repo, &mut |_| {
        looks += 1;
        if looks < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(matches!(error, Err(PublishError::Lock(LockError::GivenUp { .. }))), "it did not get it: {error:?}");
    assert_eq!((looks, place.waiting()), (3, 0), "it is asked after each look, and its ticket is gone");
    drop(held);
    place.acquire();
}

#[test]
fn a_publish_under_way_is_no_interrupted_one() {
    let place = Place::new();
    assert!(place.recover().is_none(), "there is nothing to recover");
    let lock = place.acquire();
    fs::write(place.repo.path().join(".treegraft/journal"), "torn").expect("a file can be written");
    assert!(place.recover().is_none(), "somebody is at it");
    drop(lock);
    let lock = place.recover().expect("nobody is at it");
    assert!(lock.recovered().is_some(), "it was cut off");
}
