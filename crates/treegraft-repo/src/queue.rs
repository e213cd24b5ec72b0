//! The queue at the publish lock: who comes first publishes first.
//!
//! ```text
//! .treegraft/queue/<20 digits>     a ticket; whoever waits holds a lock on it
//! .treegraft/queue/.<random>       a ticket that has no number yet
//! ```
//!
//! A lock alone goes to whoever happens to ask next after it became free. Among many, one may wait without end, and the
//! longer its pauses have grown, the more likely. So those who wait stand in a queue, and only the first one asks for the
//! lock. The others look less often the more there are before them.
//!
//! # Invariants
//!
//! * A ticket is locked before it has its number. One whose lock is free is of a dead process; whoever sees it removes it.
//! * The publish lock alone decides who publishes. The queue is politeness: somebody who does not know it does no harm.
//!
//! # Who sleeps
//!
//! A process that was stopped keeps its place, and those behind it must not wait for it. When the publish lock is free for
//! [`MAX_FREE`] although somebody is first, anybody may take it.

use std::{
    fs::File,
    io,
    ops::ControlFlow,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};

use crate::{
    FileLock, LockError, LockKind, LockTimeout, Repo,
    durable::{self, Durability, names, open_dir_if_there, rename_new},
    lock::{is_free, open_lock_file},
    private_dir, random,
};

/// The directory in `.treegraft`.
const QUEUE: &str = "queue";

/// Digits of a ticket's number, so that names are in the order of numbers.
const NUMBER_DIGITS: usize = 20;

/// Numbers are below this, so that there is always a next one.
const MAX_NUMBER: u64 = u64::MAX / 2;

/// The pause of the first one between two looks, and how much longer it is for each one before: about as long as a
/// small publish takes.
const PAUSE_STEP: Duration = Duration::from_millis(10);

/// Longest pause between two looks.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// How long the publish lock may be free while others are before us. The first one looks a hundred times as often.
const MAX_FREE: Duration = Duration::from_secs(3);

/// Waits in the queue and takes the lock, at most for `timeout`, and as long as `waiting` says so.
///
/// `waiting` is called after each look with the time waited so far, the first time with zero.
pub(crate) fn acquire(
    repo: &Repo,
    private: impl AsFd,
    lock_path: &Path,
    timeout: LockTimeout,
    waiting: &mut dyn FnMut(Duration) -> ControlFlow<()>,
) -> Result<FileLock, LockError> {
    let path = private_dir::path(repo).join(QUEUE);
    let fail = |source| LockError::Io { path: path.clone(), source };
    let mut file = open_lock_file(lock_path)?;
    if is_empty(private.as_fd()).map_err(fail)? {
        file = match FileLock::try_acquire_open(file, lock_path, LockKind::Exclusive)? {
            Ok(lock) => return Ok(lock),
            Err(file) => file,
        };
    }
    let dir = durable::make_dirs(private.as_fd(), QUEUE, Mode::RWXU, Durability::None).map_err(fail)?;
    let ticket = Ticket::draw(dir, &path)?;
    let (mut waited, mut free) = (Duration::ZERO, Duration::ZERO);
    loop {
        let ahead = ticket.ahead(&path)?;
        if ahead == 0 || free >= MAX_FREE {
            file = match FileLock::try_acquire_open(file, lock_path, LockKind::Exclusive)? {
                Ok(lock) => return Ok(lock),
                Err(file) => file,
            };
            free = Duration::ZERO;
        }
        if waiting(waited).is_break() {
            return Err(LockError::given_up(lock_path, waited));
        }
        let left = match timeout {
            LockTimeout::Forever => MAX_PAUSE,
            LockTimeout::Secs(secs) => Duration::from_secs(secs.into()).saturating_sub(waited),
        };
        if left.is_zero() {
            return Err(LockError::timeout(lock_path, waited));
        }
        let factor = u32::try_from(ahead + 1).unwrap_or(u32::MAX);
        let step = PAUSE_STEP.saturating_mul(factor).min(MAX_PAUSE).min(left);
        thread::sleep(step);
        // As with every lock, the sum of the pauses stands for the time.
        waited += step;
        let is_free = is_free(&file).map_err(|source| LockError::Io { path: lock_path.to_owned(), source })?;
        free = if is_free { free + step } else { Duration::ZERO };
    }
}

/// Tells whether nobody waits.
fn is_empty(private: BorrowedFd<'_>) -> io::Result<bool> {
    match open_dir_if_there(private, QUEUE)? {
        Some(dir) => Ok(numbers(&dir)?.is_empty()),
        None => Ok(true),
    }
}

/// A place in the queue, given up on drop.
#[derive(Debug)]
struct Ticket {
    dir: OwnedFd,
    number: u64,
    _lock: FileLock,
}

impl Ticket {
    /// Takes the place behind everybody.
    fn draw(dir: OwnedFd, path: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::Io { path: path.to_owned(), source };
        remove_unnumbered(&dir, path)?;
        loop {
            let unnumbered = format!(".{}", random::hex::<8>().map_err(fail)?);
            let file = durable::create(&dir, &unnumbered).map_err(fail)?;
            // Nobody knows it yet, so nobody else can have locked it for longer than a look.
            let Ok(lock) = FileLock::try_acquire_open(file, &path.join(&unnumbered), LockKind::Exclusive)? else {
                continue;
            };
            let last = numbers(&dir).map_err(fail)?.last().copied();
            for number in last.map_or(0, |last| last + 1).. {
                match rename_new(&dir, unnumbered.as_str(), &dir, name(number).as_str()) {
                    Ok(true) => return Ok(Self { dir, number, _lock: lock }),
                    Ok(false) => {}
                    // Somebody took it for what a dead process has left.
                    Err(Errno::NOENT) => break,
                    Err(errno) => return Err(fail(errno.into())),
                }
            }
        }
    }

    /// Counts those who are before us, and removes the tickets of dead ones.
    ///
    /// Only the nearest ones are looked at: as soon as one is alive, the others do not matter.
    fn ahead(&self, path: &Path) -> Result<usize, LockError> {
        let fail = |source| LockError::Io { path: path.to_owned(), source };
        let numbers = numbers(&self.dir).map_err(fail)?;
        let before = numbers.partition_point(|&number| number < self.number);
        for (index, &number) in numbers[..before].iter().enumerate().rev() {
            let name = name(number);
            let file = match open_ticket(&self.dir, &name) {
                Ok(file) => file,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(fail(errno.into())),
            };
            match FileLock::try_acquire_open(file, &path.join(&name), LockKind::Exclusive)? {
                Err(_) => return Ok(index + 1),
                Ok(dead) if dead.is_at(&self.dir, &name) => {
                    durable::unlink_if_there(&self.dir, name.as_str()).map_err(fail)?;
                }
                Ok(_) => {}
            }
        }
        Ok(0)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // What stays is removed by the next one, since its lock is free.
        let _ = durable::unlink_if_there(&self.dir, name(self.number).as_str());
    }
}

fn name(number: u64) -> String {
    format!("{number:0NUMBER_DIGITS$}")
}

/// Lists the numbers of all tickets in their order.
fn numbers(dir: &OwnedFd) -> io::Result<Vec<u64>> {
    let number = |name: &String| name.parse().ok().filter(|&number| number < MAX_NUMBER);
    let mut numbers: Vec<u64> =
        names(dir)?.iter().filter(|name| name.len() == NUMBER_DIGITS).filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes tickets that never got a number because their owners died.
fn remove_unnumbered(dir: &OwnedFd, path: &Path) -> Result<(), LockError> {
    let fail = |source| LockError::Io { path: path.to_owned(), source };
    for name in names(dir).map_err(fail)?.iter().filter(|name| name.starts_with('.')) {
        let Ok(file) = open_ticket(dir, name) else { continue };
        if FileLock::try_acquire_open(file, path, LockKind::Exclusive)?.is_ok() {
            durable::unlink_if_there(dir, name.as_str()).map_err(fail)?;
        }
    }
    Ok(())
}

fn open_ticket(dir: &OwnedFd, name: &str) -> Result<File, Errno> {
    openat(dir, name, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}
