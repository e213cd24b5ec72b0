//! What has to be sent, and in which way: between the planner, who finds it, and the streams, which take it.
//!
//! ```text
//! planner ──> whole ──────────────────────────────> streams of objects as they are stored
//!        └──> candidates ──> asked ──> comparable ─> streams of recipes
//!                  └──────────────────────┴────────> streams of objects, when the link is fast
//! ```

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::Notify;
use treegraft_object::ContentId;
use treegraft_wire::chunks::{Place, Signature};

use crate::{
    BasisRepo, PlannedObject, Source,
    plan::{FilePlace, Places},
};

/// Smallest content object that is compared with an older one, in bytes: of a smaller one, the question costs as much.
const MIN_COMPARED_BYTES: u64 = 1 << 10;

/// Objects in one question for signatures, and their bytes: the first answer shall come soon, and be put to use while the
/// server works on the next.
const QUESTION_OBJECTS: usize = 128;
const QUESTION_BYTES: u64 = 8 << 20;

/// In which way objects go that could be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As recipes.
    Recipes,
    /// As they are stored.
    Whole,
}

/// A file that may be there in an older version.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) object: PlannedObject,
    place: FilePlace,
    weight: u64,
}

/// A file of which the server has an older version.
#[derive(Debug)]
pub(crate) struct Comparable {
    pub(crate) object: PlannedObject,
    pub(crate) older: Older,
}

/// What is known of the older version.
#[derive(Debug)]
pub(crate) enum Older {
    /// The digests of its chunks.
    Chunks(Signature),
    /// All of it: it is in the worker's repository of an earlier build.
    File {
        /// The repository.
        basis: Arc<BasisRepo>,
        /// The object there and on the server.
        id: ContentId,
    },
}

/// What has left for the server, in bytes of the objects as they are stored.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) whole_bytes: u64,
    pub(crate) as_recipes_bytes: u64,
}

/// Objects by their weight, and in the order in which they came.
type ByWeight<T> = BTreeMap<(u64, Reverse<u64>), T>;

/// All that a push has to send and has not sent yet.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    /// Something came, or nothing more comes.
    changed: Condvar,
    /// There may be something to ask.
    questions: Notify,
    places: OnceLock<Arc<Places>>,
    source: Arc<Source>,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// Before the link was measured there is one question only: if it is fast, the server works on its answer in vain.
    is_measured: bool,
    sent: Sent,
    whole: VecDeque<PlannedObject>,
    candidates: ByWeight<Candidate>,
    comparable: ByWeight<Comparable>,
    /// Objects that the server is asked about.
    asked: usize,
    added: u64,
    is_planned: bool,
    /// Nothing is sent any more.
    is_given_up: bool,
}

/// The planner's side of a [`Board`]. When it is dropped, all is planned.
pub(crate) struct Feed(Arc<Board>);

impl Board {
    /// Makes an empty board. With [`Way::Whole`] nothing is compared.
    pub(crate) fn new(source: &Arc<Source>, way: Way) -> Arc<Self> {
        let state = State {
            way,
            is_measured: false,
            sent: Sent::default(),
            whole: VecDeque::new(),
            candidates: BTreeMap::new(),
            comparable: BTreeMap::new(),
            asked: 0,
            added: 0,
            is_planned: false,
            is_given_up: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            questions: Notify::new(),
            places: OnceLock::new(),
            source: Arc::clone(source),
        })
    }

    /// Takes the next object that goes as it is stored. Waits until there is one, or until there will be none.
    pub(crate) fn next_whole(&self) -> Option<PlannedObject> {
        self.wait_for(State::take_whole)
    }

    /// Takes the next object of a probe, which may be one that could be compared. Waits as [`next_whole`](Self::next_whole).
    pub(crate) fn next_of_probe(&self) -> Option<PlannedObject> {
        self.wait_for(State::take_for_probe)
    }

    /// Takes the next object that goes as a recipe, the largest first. Waits as [`next_whole`](Self::next_whole).
    pub(crate) fn next_comparable(&self) -> Option<Comparable> {
        self.wait_for(State::take_comparable)
    }

    /// Takes the next object that goes as a recipe, if there is one now.
    pub(crate) fn try_comparable(&self) -> Option<Comparable> {
        self.take(&mut self.state(), State::take_comparable)
    }

    fn wait_for<T>(&self, take: impl Fn(&mut State) -> Option<T>) -> Option<T> {
        let mut state = self.state();
        while !state.is_over() {
            let taken = self.take(&mut state, &take);
            if taken.is_some() {
                return taken;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Takes something, and wakes those who wait for what will not come any more.
    fn take<T>(&self, state: &mut MutexGuard<'_, State>, take: impl Fn(&mut State) -> Option<T>) -> Option<T> {
        let taken = if state.is_given_up { None } else { take(state) };
        if taken.is_some() && state.is_over() {
            self.tell_all(state);
        }
        taken
    }

    /// Takes candidates that the server is to be asked about, the largest first. Nothing when there will be none.
    pub(crate) async fn next_question(&self) -> Option<Vec<(Candidate, Place)>> {
        loop {
            let changed = self.questions.notified();
            {
                let mut state = self.state();
                if state.is_over() {
                    return None;
                }
                let question = self.take_question(&mut state);
                if !question.is_empty() {
                    return Some(question);
                }
            }
            changed.await;
        }
    }

    fn take_question(&self, state: &mut State) -> Vec<(Candidate, Place)> {
        let mut question = Vec::new();
        let mut bytes = 0;
        if !state.is_measured && state.asked > 0 {
            return question;
        }
        while state.way == Way::Recipes && question.len() < QUESTION_OBJECTS && bytes < QUESTION_BYTES {
            let Some((_, candidate)) = state.candidates.pop_last() else { break };
            match self.places.get().and_then(|places| places.of(&candidate.place)) {
                Some(place) => {
                    bytes += candidate.weight;
                    question.push((candidate, place));
                }
                None => state.whole.push_back(candidate.object),
            }
        }
        state.asked += question.len();
        if !state.whole.is_empty() {
            self.changed.notify_all();
        }
        question
    }

    /// Takes the answer to a question.
    pub(crate) fn answered(&self, answers: impl IntoIterator<Item = (Candidate, Option<Older>)>) {
        let mut state = self.state();
        for (Candidate { object, weight, .. }, older) in answers {
            state.asked -= 1;
            match older {
                Some(older) => {
                    let key = state.key(weight);
                    state.comparable.insert(key, Comparable { object, older });
                }
                None => state.whole.push_back(object),
            }
        }
        self.tell_all(&state);
    }

    /// Sends objects as they are that did not become what they should.
    pub(crate) fn send_whole(&self, objects: impl IntoIterator<Item = PlannedObject>) {
        let mut state = self.state();
        state.whole.extend(objects);
        self.tell_all(&state);
    }

    /// Changes the way of what is left.
    pub(crate) fn go(&self, way: Way) {
        let mut state = self.state();
        state.way = way;
        state.is_measured = true;
        self.tell_all(&state);
    }

    /// Notes that bytes have left for the server, those of objects as they are stored.
    pub(crate) fn note_sent(&self, way: Way, bytes: u64) {
        let mut state = self.state();
        match way {
            Way::Recipes => state.sent.as_recipes_bytes += bytes,
            Way::Whole => state.sent.whole_bytes += bytes,
        }
    }

    /// Returns what has left for the server so far.
    pub(crate) fn sent(&self) -> Sent {
        self.state().sent
    }

    /// Returns the way that objects go at present.
    pub(crate) fn way(&self) -> Way {
        self.state().way
    }

    /// Sends nothing any more.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        state.is_given_up = true;
        self.tell_all(&state);
    }

    /// Waits until everything was taken.
    pub(crate) async fn over(&self) {
        loop {
            let changed = self.questions.notified();
            if self.is_over() {
                return;
            }
            changed.await;
        }
    }

    /// Tells whether everything was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.state().is_over()
    }

    /// Takes all that is there, for a dry run.
    pub(crate) fn drain(&self) -> Vec<PlannedObject> {
        let mut state = self.state();
        let candidates = std::mem::take(&mut state.candidates).into_values().map(|candidate| candidate.object);
        std::mem::take(&mut state.whole).into_iter().chain(candidates).collect()
    }

    fn tell_all(&self, state: &MutexGuard<'_, State>) {
        if state.is_over() || !state.candidates.is_empty() {
            self.questions.notify_waiters();
        }
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_whole(&mut self) -> Option<PlannedObject> {
        if let Some(object) = self.whole.pop_front() {
            return Some(object);
        }
        if self.way == Way::Whole {
            let candidate = self.candidates.pop_last().map(|(_, candidate)| candidate.object);
            return candidate.or_else(|| self.comparable.pop_last().map(|(_, comparable)| comparable.object));
        }
        None
    }

    fn take_for_probe(&mut self) -> Option<PlannedObject> {
        // The small ones: they save the least as recipes.
        let candidate = self.candidates.pop_first().map(|(_, candidate)| candidate.object);
        candidate.or_else(|| self.take_whole())
    }

    fn take_comparable(&mut self) -> Option<Comparable> {
        if self.way != Way::Recipes {
            return None;
        }
        self.comparable.pop_last().map(|(_, comparable)| comparable)
    }

    /// Tells whether nothing is left to be sent, now or later.
    fn is_over(&self) -> bool {
        let is_empty = self.whole.is_empty() && self.candidates.is_empty() && self.comparable.is_empty();
        self.is_given_up || self.is_planned && is_empty && self.asked == 0
    }

    fn key(&mut self, weight: u64) -> (u64, Reverse<u64>) {
        self.added += 1;
        (weight, Reverse(self.added))
    }
}

impl Feed {
    pub(crate) fn new(board: &Arc<Board>) -> Self {
        Self(Arc::clone(board))
    }

    /// Says where files are found.
    pub(crate) fn know_places(&self, places: &Arc<Places>) {
        // There is one plan for a board.
        let _ = self.0.places.set(Arc::clone(places));
    }

    /// Adds an object, and its place if the server may have an older version of it.
    pub(crate) fn add(&self, object: PlannedObject, place: Option<FilePlace>) {
        // It may take a look at the disk, for which nobody shall wait.
        let weight = place.as_ref().map_or(0, |_| self.0.source.objects.weight(&object));
        let mut state = self.0.state();
        match place {
            Some(place) if weight >= MIN_COMPARED_BYTES => {
                let key = state.key(weight);
                state.candidates.insert(key, Candidate { object, place, weight });
            }
            _ => state.whole.push_back(object),
        }
    }

    /// Tells the streams what was added. It is told together, so that the largest objects go first.
    pub(crate) fn announce(&self) {
        self.0.tell_all(&self.0.state());
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_planned = true;
        self.0.tell_all(&state);
    }
}
