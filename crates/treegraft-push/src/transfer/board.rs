//! What has to be sent, and in which way: between the planner, who finds it, and the streams, which take it.
//!
//! ```text
//! planner ──> whole ──────────────────────────────> streams of objects as they are stored
//!        └──> candidates ──> asked ──> comparable ─> streams of recipes
//!                  └──────────────────────┴────────> streams of objects, when the link is fast
//! ```

use std::{
    cmp::Reverse,
    collections::BTreeMap,
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
pub(crate) const MIN_COMPARED_BYTES: u64 = 1 << 10;

/// Smallest object that goes before others, in bytes: one that came last would keep a single stream for long.
const LARGE_BYTES: u64 = 4 << 20;

/// What a probe shall have at least of each object, in bytes.
const PROBED_BYTES: u64 = 32 << 10;

/// Objects in one question for signatures, and their bytes: the first answer shall come soon, and be put to use while the
/// server works on the next.
const QUESTION_OBJECTS: usize = 128;
const QUESTION_BYTES: u64 = 8 << 20;

/// Bytes of objects that wait to be compared before more is asked: the names of their chunks take some percent of them in
/// memory.
const MAX_COMPARABLE_BYTES: u64 = 256 << 20;

/// Questions before the link was measured: if it is fast, the server works on their answers in vain. With a single one,
/// nothing would be sent until the largest file was looked at.
const FIRST_QUESTIONS: usize = 2;

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

impl Sent {
    pub(crate) const fn bytes(self) -> u64 {
        self.whole_bytes + self.as_recipes_bytes
    }
}

/// Objects by their weight, and in the order in which they came.
#[derive(Debug)]
struct ByWeight<T> {
    objects: BTreeMap<Key, T>,
    /// The sum of all weights.
    weight: u64,
}

/// A weight, and when it came.
type Key = (u64, Reverse<u64>);

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
    /// Streams stay where they are from now on. What is large does not begin before: it would bind its stream to a
    /// connection that all others are on as well.
    is_settled: bool,
    /// How many questions may still be asked: few before the link was measured, and then any number.
    questions_left: usize,
    sent: Sent,
    /// The large ones by their weight, all others in the order in which they came.
    whole: ByWeight<PlannedObject>,
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
        Arc::new(Self {
            state: Mutex::new(State::new(way)),
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

    /// Takes the next object that goes as it is stored, if there is one now.
    pub(crate) fn try_whole(&self) -> Option<PlannedObject> {
        self.take(&mut self.state(), State::take_whole)
    }

    /// Takes the next object of a probe, which may be one that could be compared, but no large one. Waits as
    /// [`next_whole`](Self::next_whole).
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
        if taken.is_some() {
            if state.is_over() {
                self.tell_all(state);
            } else if state.may_ask() {
                self.questions.notify_waiters();
            }
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
        if !state.may_ask() {
            return question;
        }
        while question.len() < QUESTION_OBJECTS && bytes < QUESTION_BYTES {
            let Some(candidate) = state.candidates.pop_last() else { break };
            match self.places.get().and_then(|places| places.of(&candidate.place)) {
                Some(place) => {
                    bytes += candidate.weight;
                    question.push((candidate, place));
                }
                None => state.add_whole(candidate.object, candidate.weight),
            }
        }
        state.asked += question.len();
        state.questions_left -= usize::from(!question.is_empty());
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
                None => state.add_whole(object, weight),
            }
        }
        self.tell_all(&state);
    }

    /// Sends objects as they are that did not become what they should.
    pub(crate) fn send_whole(&self, objects: impl IntoIterator<Item = PlannedObject>) {
        // It may take a look at the disk, for which nobody shall wait.
        let weighed: Vec<_> = objects.into_iter().map(|object| (self.source.objects.weight(&object), object)).collect();
        let mut state = self.state();
        for (weight, object) in weighed {
            state.add_whole(object, weight);
        }
        self.tell_all(&state);
    }

    /// Changes the way of what is left.
    pub(crate) fn go(&self, way: Way) {
        let mut state = self.state();
        state.way = way;
        state.questions_left = usize::MAX;
        self.tell_all(&state);
    }

    /// Lets large objects go first, since each stream has its connection now.
    pub(crate) fn settle(&self) {
        self.state().is_settled = true;
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

    /// Tells whether there is something that goes, or could go, on the present way.
    pub(crate) fn has_work(&self) -> bool {
        let state = self.state();
        let is_comparing = !state.candidates.is_empty() || state.asked > 0 || !state.comparable.is_empty();
        is_comparing || state.way == Way::Whole && !state.whole.is_empty()
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

    /// Takes all that is there, in the order in which it would go, for a dry run.
    pub(crate) fn drain(&self) -> Vec<PlannedObject> {
        let mut state = self.state();
        let whole: Vec<_> = std::iter::from_fn(|| state.whole.pop_last()).collect();
        let candidates = std::iter::from_fn(|| state.candidates.pop_last()).map(|candidate| candidate.object);
        whole.into_iter().chain(candidates).collect()
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
    const fn new(way: Way) -> Self {
        Self {
            way,
            is_settled: false,
            questions_left: FIRST_QUESTIONS,
            sent: Sent { whole_bytes: 0, as_recipes_bytes: 0 },
            whole: ByWeight::new(),
            candidates: ByWeight::new(),
            comparable: ByWeight::new(),
            asked: 0,
            added: 0,
            is_planned: false,
            is_given_up: false,
        }
    }

    fn add_whole(&mut self, object: PlannedObject, weight: u64) {
        let key = self.key(rank(weight));
        self.whole.insert(key, object);
    }

    fn take_whole(&mut self) -> Option<PlannedObject> {
        if !self.is_settled
            && let Some(object) = self.take_not_large()
        {
            return Some(object);
        }
        let of_candidates = self.candidates.heaviest().map_or(0, rank);
        if self.way == Way::Recipes || self.whole.heaviest().is_some_and(|of_whole| of_whole >= of_candidates) {
            return self.whole.pop_last();
        }
        let candidate = self.candidates.pop_last().map(|candidate| candidate.object);
        candidate.or_else(|| self.comparable.pop_last().map(|comparable| comparable.object))
    }

    /// Takes what does not bind its stream for long, if there is such an object on this way.
    fn take_not_large(&mut self) -> Option<PlannedObject> {
        let object = self.whole.pop_not_large();
        if object.is_some() || self.way == Way::Recipes {
            return object;
        }
        let candidate = self.candidates.pop_not_large().map(|candidate| candidate.object);
        candidate.or_else(|| self.comparable.pop_not_large().map(|comparable| comparable.object))
    }

    fn take_for_probe(&mut self) -> Option<PlannedObject> {
        // Small ones save the least as recipes. But so many very small ones would show how fast they are opened.
        let large_enough = self.candidates.pop_lightest_from(PROBED_BYTES);
        let candidate = large_enough.or_else(|| self.candidates.pop_last()).map(|candidate| candidate.object);
        candidate
            .or_else(|| self.whole.pop_first())
            .or_else(|| self.comparable.pop_first().map(|comparable| comparable.object))
    }

    fn take_comparable(&mut self) -> Option<Comparable> {
        if self.way != Way::Recipes {
            return None;
        }
        self.comparable.pop_last()
    }

    /// Tells whether there is something to ask now.
    fn may_ask(&self) -> bool {
        let has_room = self.questions_left > 0 && self.comparable.weight <= MAX_COMPARABLE_BYTES;
        self.way == Way::Recipes && has_room && !self.candidates.is_empty()
    }

    /// Tells whether nothing is left to be sent, now or later.
    fn is_over(&self) -> bool {
        let is_empty = self.whole.is_empty() && self.candidates.is_empty() && self.comparable.is_empty();
        self.is_given_up || self.is_planned && is_empty && self.asked == 0
    }

    fn key(&mut self, weight: u64) -> Key {
        self.added += 1;
        (weight, Reverse(self.added))
    }
}

impl<T> ByWeight<T> {
    const fn new() -> Self {
        Self { objects: BTreeMap::new(), weight: 0 }
    }

    fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    fn insert(&mut self, key: Key, object: T) {
        self.weight += key.0;
        self.objects.insert(key, object);
    }

    /// Returns the weight of the heaviest one.
    fn heaviest(&self) -> Option<u64> {
        self.objects.last_key_value().map(|(&(weight, _), _)| weight)
    }

    /// Takes the heaviest one.
    fn pop_last(&mut self) -> Option<T> {
        let key = self.objects.last_key_value().map(|(&key, _)| key)?;
        self.remove(key)
    }

    /// Takes the lightest one.
    fn pop_first(&mut self) -> Option<T> {
        self.pop_lightest_from(0)
    }

    /// Takes the lightest one that has this weight or more.
    fn pop_lightest_from(&mut self, weight: u64) -> Option<T> {
        let key = self.objects.range((weight, Reverse(u64::MAX))..).next().map(|(&key, _)| key)?;
        self.remove(key)
    }

    /// Takes the heaviest one that is not large.
    fn pop_not_large(&mut self) -> Option<T> {
        let key = self.objects.range(..(LARGE_BYTES, Reverse(u64::MAX))).next_back().map(|(&key, _)| key)?;
        self.remove(key)
    }

    fn remove(&mut self, key: Key) -> Option<T> {
        let object = self.objects.remove(&key)?;
        self.weight -= key.0;
        Some(object)
    }
}

/// Tells what counts of a weight where only the large objects are in order.
const fn rank(weight: u64) -> u64 {
    if weight < LARGE_BYTES { 0 } else { weight }
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
        let weight = self.0.source.objects.weight(&object);
        let mut state = self.0.state();
        match place {
            Some(place) if weight >= MIN_COMPARED_BYTES => {
                let key = state.key(weight);
                state.candidates.insert(key, Candidate { object, place, weight });
            }
            _ => state.add_whole(object, weight),
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

#[cfg(test)]
mod tests {
    use treegraft_object::{Checksum, DirTreeId, ObjectKind, ObjectName};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn object(number: u8) -> PlannedObject {
        let checksum = Checksum::from_bytes([number; Checksum::BYTES]);
        PlannedObject { name: ObjectName { checksum, kind: ObjectKind::File }, bytes: None }
    }

    fn add_candidate(state: &mut State, number: u8, weight: u64) {
        let key = state.key(weight);
        let place = FilePlace { directory: DirTreeId(Checksum::of(b"")), name: "file".into() };
        state.candidates.insert(key, Candidate { object: object(number), place, weight });
    }

    fn taken(mut take: impl FnMut() -> Option<PlannedObject>) -> Vec<u8> {
        std::iter::from_fn(|| take().map(|object| object.name.checksum.as_bytes()[0])).collect()
    }

    #[test]
    fn large_objects_go_first_and_all_others_in_order() {
        let mut state = State::new(Way::Recipes);
        state.is_settled = true;
        for (number, weight) in [(1, 3 * MIB), (2, 5 * MIB), (3, 10), (4, 9 * MIB), (5, 2 * MIB)] {
            state.add_whole(object(number), weight);
        }
        add_candidate(&mut state, 6, 7 * MIB);
        add_candidate(&mut state, 7, 2 * MIB);
        assert_eq!(taken(|| state.take_whole()), [4, 2, 1, 3, 5], "candidates go in parts");
        assert_eq!(state.candidates.objects.len(), 2);
    }

    #[test]
    fn large_ones_among_those_that_could_be_compared_go_first_as_well() {
        let mut state = State::new(Way::Whole);
        state.is_settled = true;
        for (number, weight) in [(1, 3 * MIB), (2, 5 * MIB), (3, 9 * MIB)] {
            state.add_whole(object(number), weight);
        }
        for (number, weight) in [(4, 7 * MIB), (5, 2 * MIB), (6, 3 * MIB)] {
            add_candidate(&mut state, number, weight);
        }
        assert_eq!(taken(|| state.take_whole()), [3, 4, 2, 1, 6, 5]);
    }

    #[test]
    fn large_objects_begin_when_each_stream_has_its_connection() {
        let mut state = State::new(Way::Whole);
        for (number, weight) in [(1, 5 * MIB), (2, 10), (3, 4 * MIB - 1), (4, 4 * MIB), (5, 20)] {
            state.add_whole(object(number), weight);
        }
        let mut number_taken = || state.take_whole().map(|object| object.name.checksum.as_bytes()[0]);
        assert_eq!([number_taken(), number_taken()], [Some(2), Some(3)]);
        state.is_settled = true;
        assert_eq!(taken(|| state.take_whole()), [1, 4, 5]);
        state.is_settled = false;
        state.add_whole(object(6), 5 * MIB);
        assert_eq!(taken(|| state.take_whole()), [6], "nothing else is left");
    }

    #[test]
    fn candidates_that_are_not_large_go_before_large_ones_until_streams_have_their_connections() {
        let mut state = State::new(Way::Whole);
        state.add_whole(object(1), 5 * MIB);
        for (number, weight) in [(2, 9 * MIB), (3, 4 * MIB), (4, 4 * MIB - 1), (5, 10)] {
            add_candidate(&mut state, number, weight);
        }
        assert_eq!(taken(|| state.take_whole()), [4, 5, 2, 1, 3], "the large ones only when nothing else is left");
        state.way = Way::Recipes;
        add_candidate(&mut state, 6, 10);
        assert_eq!(taken(|| state.take_whole()), [0; 0], "candidates go in parts");
    }

    #[test]
    fn a_probe_takes_what_is_neither_large_nor_very_small() {
        let mut state = State::new(Way::Recipes);
        for (number, weight) in [(1, 9 * MIB), (2, 1), (3, 2)] {
            state.add_whole(object(number), weight);
        }
        for (number, weight) in [(4, 60 << 10), (5, 40 << 10), (6, 10 << 10)] {
            add_candidate(&mut state, number, weight);
        }
        assert_eq!(taken(|| state.take_for_probe()), [5, 4, 6, 3, 2, 1]);
    }
}
