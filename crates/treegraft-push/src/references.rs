//! References to an earlier build, made before the server has said what it lacks.
//!
//! While ssh logs in, the processors have nothing to do. Which files have changed since the earlier build is known by then,
//! and what differs in them needs nothing of the server. What it turns out not to lack was made in vain.
//!
//! # Invariants
//!
//! * One lock holds what is known. Nothing is read or compressed under it; [`References::take`] gives it up while it waits for
//!   an object that is being made.
//! * What is kept and what is being made have no more than [`MAX_KEPT_BYTES`] together.
//! * As soon as the push asks for the first reference, or has no use for any, nothing more is begun.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet, hash_map::Entry},
    io::{self, Read, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use treegraft_object::{ContentId, DirTreeId, ObjectName};
use treegraft_repo::{Find, ReadError};
use treegraft_wire::{Purpose, chunks::write_reference};

use crate::{BasisRepo, Compare, PlannedObject, PushOptions, Source, transfer::MIN_COMPARED_BYTES};

/// Bytes of references that are kept. Those of a weekly update of a runtime and its SDK are a third of it.
const MAX_KEPT_BYTES: usize = 24 << 20;

/// Most threads that make references. Each has some ten megabytes of the files and of tables.
const MAX_THREADS: usize = 4;

/// What was made, and what is being made.
#[derive(Debug, Default)]
pub(crate) struct References {
    state: Mutex<State>,
    /// Something was made, or could not be made.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing more is begun.
    is_ended: bool,
    kept_bytes: usize,
    /// By the object that it makes. Nothing as long as it is being made.
    by_object: HashMap<ContentId, Option<Reference>>,
}

#[derive(Debug)]
struct Reference {
    older: ContentId,
    bytes: Vec<u8>,
}

impl References {
    /// Takes the reference of an object to an older one if it was made. One that is being made is waited for, and no other
    /// one is begun.
    pub(crate) fn take(&self, id: ContentId, older: ContentId) -> Option<Vec<u8>> {
        let mut state = self.state();
        state.is_ended = true;
        while matches!(state.by_object.get(&id), Some(None)) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let reference = state.by_object.remove(&id)??;
        state.kept_bytes -= reference.bytes.len();
        Some(reference.bytes).filter(|_| reference.older == older)
    }

    /// Begins no other one: there is no use for them.
    pub(crate) fn end(&self) {
        self.state().is_ended = true;
    }

    /// Lets an object be made by the caller, unless somebody else has, or does.
    fn begin(&self, id: ContentId) -> Begun<'_> {
        let mut state = self.state();
        if state.is_ended || state.kept_bytes >= MAX_KEPT_BYTES {
            return Begun::NoMore;
        }
        match state.by_object.entry(id) {
            Entry::Occupied(_) => Begun::Another,
            Entry::Vacant(unknown) => {
                unknown.insert(None);
                Begun::This(Making { references: self, id, bytes: Vec::new() })
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a reference is to be made.
enum Begun<'r> {
    This(Making<'r>),
    Another,
    NoMore,
}

/// A reference that is being made. When it is dropped before its end, it is none.
struct Making<'r> {
    references: &'r References,
    id: ContentId,
    bytes: Vec<u8>,
}

impl Making<'_> {
    fn end(mut self, older: ContentId) {
        let bytes = mem::take(&mut self.bytes);
        self.references.state().by_object.insert(self.id, Some(Reference { older, bytes }));
    }
}

impl Write for Making<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.references.state();
        if data.len() > MAX_KEPT_BYTES.saturating_sub(state.kept_bytes) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        state.kept_bytes += data.len();
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut state = self.references.state();
        state.kept_bytes -= self.bytes.len();
        if let Entry::Occupied(entry) = state.by_object.entry(self.id)
            && entry.get().is_none()
        {
            entry.remove();
        }
        self.references.changed.notify_all();
    }
}

/// References are made until this is dropped, or until the push needs the first one.
#[derive(Debug)]
#[must_use = "nothing is made when it is dropped"]
pub struct MakingAhead(Work);

impl MakingAhead {
    /// Begins to make references of what has changed in `source` since the earlier build, the largest files first, on
    /// several processors; nothing if there is no use for them. It needs a tokio runtime.
    pub fn start(options: &PushOptions, source: &Arc<Source>) -> Option<Self> {
        let is_used = options.compare != Compare::Never && options.purpose == Purpose::Push;
        let basis = options.basis.clone().filter(|_| is_used)?;
        basis.references.state().is_ended = false;
        let work = Work { basis, source: Arc::clone(source), is_given_up: Arc::default() };
        let making = work.clone();
        tokio::task::spawn_blocking(move || making.run());
        Some(Self(work))
    }
}

impl Drop for MakingAhead {
    fn drop(&mut self) {
        self.0.basis.references.end();
        self.0.is_given_up.store(true, Ordering::Relaxed);
    }
}

/// Making references for one try of a push.
#[derive(Debug, Clone)]
struct Work {
    basis: Arc<BasisRepo>,
    source: Arc<Source>,
    /// The try is over, and shall not wait for the rest of a large file.
    is_given_up: Arc<AtomicBool>,
}

/// A file that is another one than at the same place in the earlier build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Changed {
    id: ContentId,
    older: ContentId,
}

impl Work {
    fn run(&self) {
        let changed = self.changed();
        let next = AtomicUsize::new(0);
        let make = || {
            while let Some(&file) = changed.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.basis.references.begin(file.id) {
                    Begun::This(making) => {
                        // What cannot be read now is read again when it is needed, and fails there.
                        let _ = self.make(file, making);
                    }
                    Begun::Another => {}
                    Begun::NoMore => break,
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(changed.len());
        thread::scope(|scope| {
            for _ in 1..threads {
                // Where no more threads can be had, there are fewer.
                let _ = thread::Builder::new().spawn_scoped(scope, make);
            }
            make();
        });
    }

    fn make(&self, Changed { id, older }: Changed, mut making: Making<'_>) -> Result<(), MakeError> {
        let (header, content_bytes, content) = self.source.objects.open_plain(id)?;
        let (older_bytes, older_content) = self.basis.open_file(older)?;
        let (content, older_content) = (self.wanted(content), self.wanted(older_content));
        write_reference(older, (older_bytes, older_content), &header, (content_bytes, content), &mut making)?;
        making.end(older);
        Ok(())
    }

    fn wanted<R>(&self, content: R) -> Wanted<'_, R> {
        Wanted { content, is_given_up: &self.is_given_up }
    }

    /// Returns the files that have changed and are worth it, the largest first.
    fn changed(&self) -> Vec<Changed> {
        let (mut found, mut seen) = (HashSet::new(), HashSet::new());
        let roots = self.source.commits.iter().filter_map(|pushed| {
            let root = self.basis.root(&pushed.target)?;
            Some((pushed.commit.root_tree, root))
        });
        let mut pairs: Vec<_> = roots.collect();
        while let Some(pair) = pairs.pop() {
            if self.is_given_up.load(Ordering::Relaxed) {
                return Vec::new();
            }
            if seen.insert(pair) {
                // What cannot be read is compared later, or not at all.
                let _ = self.compare_directories(pair, &mut pairs, &mut found);
            }
        }
        let objects = &self.source.objects;
        let weight = |changed: &Changed| {
            let name = ObjectName::from(changed.id);
            objects.weight(&PlannedObject { name, bytes: objects.size(name) })
        };
        let mut weighed: Vec<_> = found.into_iter().map(|changed| (weight(&changed), changed)).collect();
        weighed.retain(|&(weight, _)| weight >= MIN_COMPARED_BYTES);
        weighed.sort_unstable_by_key(|&(weight, changed)| (Reverse(weight), changed.id));
        weighed.into_iter().map(|(_, changed)| changed).collect()
    }

    fn compare_directories(
        &self,
        (new, old): (DirTreeId, DirTreeId),
        pairs: &mut Vec<(DirTreeId, DirTreeId)>,
        found: &mut HashSet<Changed>,
    ) -> Result<(), ReadError> {
        let (new, old) = (self.source.objects.find().dirtree(new)?, self.basis.repo().dirtree(old)?);
        for &(ref name, id) in &new.files {
            if let Some(older) = old.file(name).filter(|&older| older != id) {
                found.insert(Changed { id, older });
            }
        }
        for &(ref name, id, _) in &new.dirs {
            if let Some(older) = old.dir(name).filter(|&older| older != id) {
                pairs.push((id, older));
            }
        }
        Ok(())
    }
}

/// Why a reference was not made. The push finds out by itself.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Open(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// Content that can be read as long as there is a use for it.
struct Wanted<'r, R> {
    content: R,
    is_given_up: &'r AtomicBool,
}

impl<R: Read> Read for Wanted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other("there is no use for it any more"));
        }
        self.content.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, time::Duration};

    use treegraft_object::Checksum;
    use treegraft_testkit::{Ostree, RepoMode, SplitMix64};

    use super::*;

    /// Two builds, of which two large files differ, and what else may differ.
    struct Builds {
        work: Work,
        large: Changed,
        medium: Changed,
        _folder: tempfile::TempDir,
    }

    impl Builds {
        fn make() -> Option<Self> {
            let ostree = Ostree::find()?;
            let folder = tempfile::tempdir().expect("a temporary directory");
            let tree = folder.path().join("tree");
            fs::create_dir_all(tree.join("usr/lib")).expect("it is empty");
            let mut random = SplitMix64::new(7);
            let (mut large, mut medium) = (random.bytes(3 << 20), random.bytes(50_000));
            let write = |name: &str, content: &[u8]| fs::write(tree.join(name), content).expect("it is ours");
            let commit = |name: &str| -> PathBuf {
                let repo = folder.path().join(name);
                ostree.init(&repo, RepoMode::Archive, None);
                ostree.commit(&repo, &tree, "main", 1, &[]);
                repo
            };
            write("usr/lib/large", &large);
            write("usr/lib/medium", &medium);
            write("usr/same", &random.bytes(50_000));
            write("usr/small", b"old");
            write("usr/gone", &random.bytes(50_000));
            let basis = BasisRepo::open(&commit("old")).expect("it is a repository");
            large[1_000_000] ^= 1;
            medium[0] ^= 1;
            write("usr/lib/large", &large);
            write("usr/lib/medium", &medium);
            write("usr/small", b"new");
            write("usr/new", &random.bytes(50_000));
            fs::remove_file(tree.join("usr/gone")).expect("it is ours");
            let source = Source::open(&commit("new"), &[]).expect("it is a repository");
            let work = Work { basis: Arc::new(basis), source: Arc::new(source), is_given_up: Arc::default() };
            let changed = work.changed();
            let [large, medium] = changed[..] else { panic!("two files have changed and are worth it: {changed:?}") };
            Some(Self { work, large, medium, _folder: folder })
        }

        fn references(&self) -> &References {
            &self.work.basis.references
        }

        fn take(&self, Changed { id, older }: Changed) -> Option<Vec<u8>> {
            self.references().take(id, older)
        }

        /// Begins a reference as [`Work::run`] does.
        fn begin(&self, file: Changed) -> Making<'_> {
            match self.references().begin(file.id) {
                Begun::This(making) => making,
                Begun::Another | Begun::NoMore => panic!("nobody makes it, and there is room"),
            }
        }

        /// Makes a reference as a push does that has none.
        fn expected(&self, Changed { id, older }: Changed) -> Vec<u8> {
            let (header, bytes, content) = self.work.source.objects.open_plain(id).expect("it is there");
            let older_file = self.work.basis.open_file(older).expect("it is there");
            let mut reference = Vec::new();
            write_reference(older, older_file, &header, (bytes, content), &mut reference).expect("memory takes it");
            reference
        }
    }

    fn no_object() -> ContentId {
        ContentId(Checksum::from_bytes([0; 32]))
    }

    #[test]
    fn what_has_changed_is_made_ahead() {
        let Some(builds) = Builds::make() else { return };
        builds.work.run();
        let (large, medium, references) = (builds.large, builds.medium, builds.references());
        assert!(builds.take(large) == Some(builds.expected(large)), "it is what would be sent");
        assert_eq!(builds.take(large), None, "it is given away once");
        assert_eq!(references.take(medium.id, no_object()), None, "it is none to another file");
        assert_eq!(references.take(no_object(), large.older), None, "nor of another one");
        assert_eq!(references.state().kept_bytes, 0, "nothing is kept");
    }

    #[test]
    fn nothing_is_begun_when_one_was_needed() {
        let Some(builds) = Builds::make() else { return };
        assert_eq!(builds.references().take(no_object(), no_object()), None, "there is none");
        builds.work.run();
        assert!(builds.references().state().by_object.is_empty(), "nothing was made");
    }

    #[test]
    fn another_try_makes_what_is_not_made() {
        let Some(builds) = Builds::make() else { return };
        let options = PushOptions { basis: Some(Arc::clone(&builds.work.basis)), ..PushOptions::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it can be started");
        builds.references().end();
        let ahead = runtime.block_on(async { MakingAhead::start(&options, &builds.work.source) });
        assert!(ahead.is_some(), "there is a use for it");
        let are_made = || builds.references().state().by_object.values().flatten().count() == 2;
        (0..60_000).take_while(|_| !are_made()).for_each(|_| thread::sleep(Duration::from_millis(1)));
        assert!(are_made(), "nothing keeps it from making both");
        drop(ahead);
        for (compare, purpose) in [(Compare::Never, Purpose::Push), (Compare::Auto, Purpose::DryRun)] {
            let options = PushOptions { purpose, compare, ..options.clone() };
            assert!(MakingAhead::start(&options, &builds.work.source).is_none(), "there is no use for it");
        }
    }

    #[test]
    fn a_push_that_is_over_waits_for_nothing() {
        let Some(builds) = Builds::make() else { return };
        let making = builds.begin(builds.large);
        builds.work.is_given_up.store(true, Ordering::Relaxed);
        builds.work.make(builds.large, making).expect_err("it is not read any more");
        assert_eq!(builds.work.changed(), [], "nor is anything compared");
        let state = builds.references().state();
        assert!(state.by_object.is_empty() && state.kept_bytes == 0, "nothing of it is left");
    }

    #[test]
    fn memory_is_bounded() {
        let Some(builds) = Builds::make() else { return };
        builds.references().state().kept_bytes = MAX_KEPT_BYTES - builds.expected(builds.medium).len();
        let making = builds.begin(builds.large);
        builds.work.make(builds.large, making).expect_err("it would be too much");
        let making = builds.begin(builds.medium);
        builds.work.make(builds.medium, making).expect("there is room for it");
        assert!(matches!(builds.references().begin(builds.large.id), Begun::NoMore), "there is no room for more");
        assert_eq!(builds.references().state().kept_bytes, MAX_KEPT_BYTES, "what was not made is not counted");
    }

    #[test]
    fn one_that_is_being_made_is_waited_for() {
        let Some(builds) = Builds::make() else { return };
        for is_made in [true, false] {
            builds.references().state().is_ended = false;
            let making = builds.begin(builds.large);
            let taken = thread::scope(|scope| {
                let taking = scope.spawn(|| builds.take(builds.large));
                // From here on it has the lock until it waits.
                while !builds.references().state().is_ended {
                    thread::sleep(Duration::from_millis(1));
                }
                if is_made {
                    builds.work.make(builds.large, making).expect("it can be made");
                } else {
                    drop(making);
                }
                taking.join().expect("no panic")
            });
            assert!(taken == is_made.then(|| builds.expected(builds.large)), "it is told what became of it");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_made() {
        let Some(builds) = Builds::make() else { return };
        fs::remove_file(builds.work.basis.repo().path_of(builds.large.older)).expect("it is ours");
        builds.work.run();
        assert_eq!(builds.take(builds.large), None, "the push finds out what is wrong with it");
        assert!(builds.take(builds.medium).is_some(), "the other one is made");
    }
}
