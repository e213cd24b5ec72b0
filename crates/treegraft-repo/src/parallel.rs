//! The same work for many items, on all cores.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Does some work for each item on this many threads (0: as many as there are cores) and returns the results in any order.
///
/// The calling thread is one of them, and the only one when the system gives no others. Items are begun in their order. Each
/// thread has a `state` of its own. After a failure no other item is begun.
pub fn for_each<I, S, T, E>(
    threads: usize,
    items: &[I],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E>
where
    I: Sync,
    T: Send,
    E: Send,
{
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores() } else { threads };
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let do_some = || {
        let mut state = state();
        let mut done = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            match work(&mut state, item) {
                Ok(result) => done.push(result),
                Err(error) => {
                    next.store(items.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    break;
                }
            }
        }
        done
    };
    let done = thread::scope(|scope| {
        let others = threads.min(items.len()).saturating_sub(1);
        let start = |_| thread::Builder::new().spawn_scoped(scope, do_some).ok();
        let others: Vec<_> = (0..others).map_while(start).collect();
        let mut done = do_some();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done),
    }
}
