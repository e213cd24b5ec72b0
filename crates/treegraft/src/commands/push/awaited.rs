//! What is pushed, made ready while the connection is made.

use std::{mem, sync::Arc};

use tokio::{sync::Mutex, task::JoinHandle};
use treegraft_push::Source;

use crate::error::CommandError;

type Make = dyn Fn() -> Result<Source, CommandError> + Send + Sync;

/// A source that is there, or will be: hashing a directory takes as long as logging in, and needs nothing of it.
pub(crate) struct Awaited {
    make: Option<Arc<Make>>,
    state: Mutex<State>,
}

enum State {
    Nothing,
    Running(JoinHandle<Result<Source, CommandError>>),
    Ready(Arc<Source>),
}

impl Awaited {
    /// Takes a source that is there.
    pub(crate) fn ready(source: Source) -> Self {
        Self { make: None, state: Mutex::new(State::Ready(Arc::new(source))) }
    }

    /// Begins to make a source. It is made again when a try has found that its files have changed.
    pub(crate) fn start(make: impl Fn() -> Result<Source, CommandError> + Send + Sync + 'static) -> Self {
        let make: Arc<Make> = Arc::new(make);
        let running = Self::run(&make);
        Self { make: Some(make), state: Mutex::new(running) }
    }

    fn run(make: &Arc<Make>) -> State {
        let make = Arc::clone(make);
        State::Running(tokio::task::spawn_blocking(move || make()))
    }

    /// Waits for the source.
    pub(crate) async fn get(&self) -> Result<Arc<Source>, CommandError> {
        let mut state = self.state.lock().await;
        if let (State::Nothing, Some(make)) = (&*state, &self.make) {
            *state = Self::run(make);
        }
        // What fails is made anew when it is asked for again.
        let source = match mem::replace(&mut *state, State::Nothing) {
            State::Ready(source) => source,
            State::Running(running) => Arc::new(running.await.map_err(CommandError::internal)??),
            State::Nothing => return Err(CommandError::internal("there is nothing to push")),
        };
        *state = State::Ready(Arc::clone(&source));
        Ok(source)
    }

    /// Lets the source be made anew: its files have changed.
    pub(crate) async fn forget(&self) {
        if self.make.is_some() {
            *self.state.lock().await = State::Nothing;
        }
    }
}
