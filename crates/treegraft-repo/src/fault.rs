//! Named points at which a test can stop the program, to see what a crash there leaves behind.
//!
//! The points are compiled in always, so that what is tested is what runs; each costs one relaxed load of an atomic. They
//! are counted per thread: a test first runs the work with [`watch`] to learn which points it passes, then once for each
//! with [`stop_at`].

use std::{
    cell::RefCell,
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

/// How many threads have a plan; the points look no further while it is zero.
static PLANS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
}

struct Plan {
    passed: Vec<&'static str>,
    stop: Option<(usize, Stop)>,
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
    with_plan(None, work)
}

/// Does `work` and stops at the point with this number, counted from 0 in the order of [`watch`].
pub fn stop_at<T>(number: usize, stop: Stop, work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    with_plan(Some((number, stop)), work)
}

fn with_plan<T>(stop: Option<(usize, Stop)>, work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    /// Ends the plan even when `work` panics.
    struct Armed;
    impl Drop for Armed {
        fn drop(&mut self) {
            PLANS.fetch_sub(1, Ordering::Relaxed);
            PLAN.take();
        }
    }
    PLAN.set(Some(Plan { passed: Vec::new(), stop }));
    PLANS.fetch_add(1, Ordering::Relaxed);
    let _armed = Armed;
    let result = work();
    let passed = PLAN.with_borrow_mut(|plan| plan.take().map(|plan| plan.passed).unwrap_or_default());
    (result, passed)
}

/// Marks a point.
pub(crate) fn point(name: &'static str) -> io::Result<()> {
    if PLANS.load(Ordering::Relaxed) == 0 { Ok(()) } else { planned(name) }
}

#[cold]
fn planned(name: &'static str) -> io::Result<()> {
    PLAN.with_borrow_mut(|plan| {
        let Some(plan) = plan else { return Ok(()) };
        let number = plan.passed.len();
        plan.passed.push(name);
        match plan.stop {
            Some((at, Stop::Fail)) if at == number => Err(io::Error::other(format!("a test stops at `{name}`"))),
            Some((at, Stop::Abort)) if at == number => std::process::abort(),
            _ => Ok(()),
        }
    })
}
