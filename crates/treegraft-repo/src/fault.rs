//! Named points at which a test can stop the program, to see what a crash there leaves behind.
//!
//! The points are compiled in always, so that what is tested is what runs; each costs one relaxed load of an atomic. A test
//! first runs the work with [`watch`] to learn which points it passes, then once for each with [`stop_at`]. These see the
//! points of their own thread; what other threads do as well, as a server does, is seen by a [`Watch`].

use std::{
    cell::RefCell,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How many plans there are; the points look no further while it is zero.
static PLANS: AtomicUsize = AtomicUsize::new(0);

/// The plan for all threads.
static EVERYWHERE: Mutex<Option<Plan>> = Mutex::new(None);

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Plan {
    passed: Vec<&'static str>,
    stops: Vec<(At, Stop)>,
}

/// Which point is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// The one with this number of all that are passed.
    Number(usize),
    /// The one with this number of those with a name.
    Name(String, usize),
}

/// What happens at the chosen point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The operation fails there with an I/O error, and cleans up after itself.
    Fail,
    /// The process ends at once without any cleaning up, as with `kill -9`.
    Abort,
}

/// Does `work` and returns its result with the names of the points that it passed on this thread.
pub fn watch<T>(work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    stop_at_each(&[], work)
}

/// Does `work` and stops at the point with this number, counted from 0 in the order of [`watch`].
pub fn stop_at<T>(number: usize, stop: Stop, work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    stop_at_each(&[(number, stop)], work)
}

/// Does `work` and stops at several points: at a later one while it cleans up after an earlier one.
pub fn stop_at_each<T>(stops: &[(usize, Stop)], work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    /// Ends the plan even when `work` panics.
    struct Armed;
    impl Drop for Armed {
        fn drop(&mut self) {
            PLANS.fetch_sub(1, Ordering::Relaxed);
            PLAN.take();
        }
    }
    let stops = stops.iter().map(|&(number, stop)| (At::Number(number), stop)).collect();
    PLAN.set(Some(Plan { passed: Vec::new(), stops }));
    PLANS.fetch_add(1, Ordering::Relaxed);
    let _armed = Armed;
    let result = work();
    let passed = PLAN.with_borrow_mut(|plan| plan.take().map(|plan| plan.passed).unwrap_or_default());
    (result, passed)
}

/// Watches the points that all threads pass, as long as it lives. There is at most one.
#[derive(Debug)]
#[must_use = "it watches as long as it lives"]
pub struct Watch(());

impl Watch {
    /// Watches without stopping anything.
    pub fn begin() -> Self {
        Self::begin_with(Vec::new())
    }

    /// Stops at a point the time with this number, counted from 0.
    pub fn stop_at(name: &str, number: usize, stop: Stop) -> Self {
        Self::begin_with(vec![(At::Name(name.to_owned(), number), stop)])
    }

    fn begin_with(stops: Vec<(At, Stop)>) -> Self {
        let before = everywhere().replace(Plan { passed: Vec::new(), stops });
        assert!(before.is_none(), "only one test of a process watches all threads");
        PLANS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// Returns the names of the points that were passed so far.
    pub fn passed(&self) -> Vec<&'static str> {
        everywhere().as_ref().map(|plan| plan.passed.clone()).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        PLANS.fetch_sub(1, Ordering::Relaxed);
        everywhere().take();
    }
}

fn everywhere() -> MutexGuard<'static, Option<Plan>> {
    EVERYWHERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks a point.
pub fn point(name: &'static str) -> io::Result<()> {
    if PLANS.load(Ordering::Relaxed) == 0 { Ok(()) } else { planned(name) }
}

#[cold]
fn planned(name: &'static str) -> io::Result<()> {
    PLAN.with_borrow_mut(|plan| plan.as_mut().map_or(Ok(()), |plan| plan.pass(name)))?;
    everywhere().as_mut().map_or(Ok(()), |plan| plan.pass(name))
}

impl Plan {
    fn pass(&mut self, name: &'static str) -> io::Result<()> {
        let number = At::Number(self.passed.len());
        let named = At::Name(name.to_owned(), self.passed.iter().filter(|&&passed| passed == name).count());
        self.passed.push(name);
        match self.stops.iter().find(|(at, _)| *at == number || *at == named) {
            Some((_, Stop::Fail)) => Err(io::Error::other(format!("a test stops at `{name}`"))),
            Some((_, Stop::Abort)) => std::process::abort(),
            None => Ok(()),
        }
    }
}
