//! A disk that remembers every change, and what of it a crash may leave.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::image::{Image, ImageEntry};
use crate::rng::SplitMix64;

/// The unit in which disks write, in bytes: a write may be torn at its multiples.
const SECTOR_BYTES: usize = 512;

/// The number of a file, directory or link, whatever names it has.
pub(super) type Node = usize;

/// The directory that everything is in.
const ROOT: Node = 0;

/// How the machine or the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process was killed. Everything that it had done is there.
    Kill,
    /// The power was lost. Only what had been synced is there: bytes of synced files, names in synced directories.
    PowerStrict,
    /// The power was lost on a file system with a journal, as ext4, XFS and btrfs have it: names came to the disk in the order
    /// in which they were made, up to some moment after the last sync. Bytes that were not synced are there, missing, torn
    /// or zero.
    PowerOrdered(u64),
    /// The power was lost on a file system that promises nothing: each name that was not synced is there or not, for itself,
    /// a renamed file under both names or none at times. Bytes as before.
    PowerRandom(u64),
}

/// What a change did.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// A name in a directory was given to a node, or taken away.
    Entry { directory: Node, name: OsString, to: Option<Node> },
    /// The bytes or the mode of a node changed.
    Edit { node: Node, edit: Edit },
}

/// A change of a node itself.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Write { offset: usize, bytes: Vec<u8> },
    Resize { bytes: usize },
    Mode(u32),
}

/// Something that happened to the disk.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// What one system call changed.
    Step(Vec<Change>),
    /// The bytes of a file, or the names in a directory, are durable, or everything: what the first so many events have done.
    Sync { node: Option<Node>, covered: usize },
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File,
    Symlink(PathBuf),
}

/// A node as it was made, or as it was when the recording began.
#[derive(Debug, Clone)]
struct Made {
    kind: Kind,
    mode: u32,
    bytes: Arc<[u8]>,
}

/// A directory on a disk, from the beginning of a recording on.
#[derive(Debug, Clone)]
pub struct Disk {
    made: Vec<Made>,
    /// Names when the recording began.
    base: BTreeMap<Node, BTreeMap<OsString, Node>>,
    /// Names as they are now, in the order of the calls.
    names: BTreeMap<Node, BTreeMap<OsString, Node>>,
    events: Vec<Event>,
    /// For each event the call that it was.
    calls: Vec<String>,
}

impl Disk {
    /// Makes a disk with these files on it, all of them durable.
    pub fn new(image: &Image) -> Self {
        let root = Made { kind: Kind::Directory, mode: 0o755, bytes: Arc::default() };
        let mut disk = Self {
            made: vec![root],
            base: BTreeMap::new(),
            names: BTreeMap::new(),
            events: Vec::new(),
            calls: Vec::new(),
        };
        for (path, entry) in &image.entries {
            let (kind, mode, bytes) = match entry {
                ImageEntry::Directory(mode) => (Kind::Directory, *mode, Arc::default()),
                ImageEntry::File(mode, bytes) => (Kind::File, *mode, Arc::clone(bytes)),
                ImageEntry::Symlink(target) => (Kind::Symlink(target.clone()), 0o777, Arc::default()),
            };
            let node = disk.add(Made { kind, mode, bytes });
            let (directory, name) = disk.place(path).expect("a directory comes before what is in it");
            disk.names.entry(directory).or_default().insert(name, node);
        }
        disk.base.clone_from(&disk.names);
        disk
    }

    /// Returns how many changes and syncs were recorded.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Describes the call that an event was.
    pub fn call(&self, event: usize) -> &str {
        &self.calls[event]
    }

    /// Tells whether an event was a sync.
    pub fn is_sync(&self, event: usize) -> bool {
        !matches!(self.events[event], Event::Step(_))
    }

    /// Returns the same recording as if one sync had not been done.
    #[must_use]
    pub fn without_sync(&self, event: usize) -> Self {
        assert!(self.is_sync(event), "`{}` is a sync", self.call(event));
        let mut other = self.clone();
        other.events[event] = Event::Step(Vec::new());
        other
    }

    fn add(&mut self, made: Made) -> Node {
        self.made.push(made);
        self.made.len() - 1
    }

    /// Finds what has a path now.
    pub(super) fn find(&self, path: &Path) -> Option<Node> {
        path.iter().try_fold(ROOT, |node, name| self.names.get(&node)?.get(name).copied())
    }

    /// Finds the directory of a path, and the name in it.
    pub(super) fn place(&self, path: &Path) -> Option<(Node, OsString)> {
        let directory = self.find(path.parent()?)?;
        matches!(self.made[directory].kind, Kind::Directory).then_some((directory, path.file_name()?.to_owned()))
    }

    /// Returns the bytes that a file has now.
    pub(super) fn size(&self, node: Node) -> usize {
        let edits = self.events.iter().filter_map(|event| match event {
            Event::Step(changes) => Some(changes),
            Event::Sync { .. } => None,
        });
        let edits = edits.flatten().filter_map(|change| match change {
            Change::Edit { node: edited, edit } if *edited == node => Some(edit),
            _ => None,
        });
        edits.fold(self.made[node].bytes.len(), |size, edit| match edit {
            Edit::Write { offset, bytes } => size.max(offset + bytes.len()),
            Edit::Resize { bytes } => *bytes,
            Edit::Mode(_) => size,
        })
    }

    pub(super) fn make_file(&mut self, mode: u32) -> Node {
        self.add(Made { kind: Kind::File, mode, bytes: Arc::default() })
    }

    pub(super) fn make_directory(&mut self, mode: u32) -> Node {
        self.add(Made { kind: Kind::Directory, mode, bytes: Arc::default() })
    }

    pub(super) fn make_symlink(&mut self, target: &[u8]) -> Node {
        let target = PathBuf::from(OsStr::from_bytes(target));
        self.add(Made { kind: Kind::Symlink(target), mode: 0o777, bytes: Arc::default() })
    }

    /// Records an event.
    pub(super) fn push(&mut self, event: Event, call: String) {
        if let Event::Step(changes) = &event {
            for change in changes {
                if let Change::Entry { directory, name, to } = change {
                    let names = self.names.entry(*directory).or_default();
                    match to {
                        Some(node) => drop(names.insert(name.clone(), *node)),
                        None => drop(names.remove(name)),
                    }
                }
            }
        }
        self.events.push(event);
        self.calls.push(call);
    }

    /// Returns what a crash may leave right after the first `count` events.
    pub fn after(&self, count: usize, crash: Crash) -> Image {
        let durable = self.durable(count);
        let mut random = SplitMix64::new(match crash {
            Crash::Kill | Crash::PowerStrict => 0,
            Crash::PowerOrdered(seed) | Crash::PowerRandom(seed) => seed,
        });
        let chooser = Chooser::new(crash, &durable, &mut random);
        let mut names = self.base.clone();
        let mut edits: BTreeMap<Node, Vec<(&Edit, bool)>> = BTreeMap::new();
        for (index, event) in self.events[..count].iter().enumerate() {
            let Event::Step(changes) = event else { continue };
            let whole = chooser.keeps_step(index, &mut random);
            for (change, &is_durable) in changes.iter().zip(&durable[index]) {
                match change {
                    Change::Entry { directory, name, to } => {
                        if !is_durable && !chooser.keeps_entry(whole, &mut random) {
                            continue;
                        }
                        let names = names.entry(*directory).or_default();
                        match to {
                            Some(node) => drop(names.insert(name.clone(), *node)),
                            None => drop(names.remove(name)),
                        }
                    }
                    Change::Edit { node, edit } => edits.entry(*node).or_default().push((edit, is_durable)),
                }
            }
        }
        let mut nodes = BTreeMap::new();
        for (node, edits) in edits {
            nodes.insert(node, leave(&self.made[node], &edits, crash, &mut random));
        }
        self.collect(&names, &nodes)
    }

    /// Tells of each change in the first `count` events whether a sync that came after it covers it.
    fn durable(&self, count: usize) -> Vec<Vec<bool>> {
        let (mut all, mut single): (usize, HashMap<Node, usize>) = (0, HashMap::new());
        for event in &self.events[..count] {
            match event {
                Event::Sync { node: None, covered } => all = all.max(*covered),
                Event::Sync { node: Some(node), covered } => {
                    let known = single.entry(*node).or_default();
                    *known = (*known).max(*covered);
                }
                Event::Step(_) => {}
            }
        }
        let is_durable = |index: usize, change: &Change| match change {
            Change::Entry { directory: node, .. } | Change::Edit { node, .. } => {
                index < all || single.get(node).is_some_and(|covered| index < *covered)
            }
        };
        let of_event = |(index, event): (usize, &Event)| match event {
            Event::Step(changes) => changes.iter().map(|change| is_durable(index, change)).collect(),
            Event::Sync { .. } => Vec::new(),
        };
        self.events[..count].iter().enumerate().map(of_event).collect()
    }

    fn collect(
        &self,
        names: &BTreeMap<Node, BTreeMap<OsString, Node>>,
        nodes: &BTreeMap<Node, (u32, Vec<u8>)>,
    ) -> Image {
        let mut image = Image::default();
        // Each directory is listed once: no crash makes one that is in two places.
        let mut listed = HashSet::from([ROOT]);
        let mut pending = vec![(ROOT, PathBuf::new())];
        while let Some((directory, path)) = pending.pop() {
            for (name, &node) in names.get(&directory).into_iter().flatten() {
                let path = path.join(name);
                let first = &self.made[node];
                let mode = nodes.get(&node).map_or(first.mode, |(mode, _)| *mode);
                let entry = match &first.kind {
                    Kind::Directory if !listed.insert(node) => continue,
                    Kind::Directory => {
                        pending.push((node, path.clone()));
                        ImageEntry::Directory(mode)
                    }
                    Kind::File => {
                        let bytes =
                            nodes.get(&node).map_or_else(|| Arc::clone(&first.bytes), |(_, bytes)| bytes[..].into());
                        ImageEntry::File(mode, bytes)
                    }
                    Kind::Symlink(target) => ImageEntry::Symlink(target.clone()),
                };
                image.entries.insert(path, entry);
            }
        }
        image
    }
}

/// Decides which names a crash leaves.
enum Chooser {
    All,
    None,
    /// Those of the first steps.
    Until(usize),
    /// So many in a hundred.
    Percent(usize),
}

impl Chooser {
    fn new(crash: Crash, durable: &[Vec<bool>], random: &mut SplitMix64) -> Self {
        match crash {
            Crash::Kill => Self::All,
            Crash::PowerStrict => Self::None,
            Crash::PowerOrdered(_) => {
                let least = durable.iter().rposition(|changes| changes.contains(&true)).map_or(0, |index| index + 1);
                Self::Until(least + random.below(durable.len() - least + 1))
            }
            Crash::PowerRandom(_) => Self::Percent([10, 50, 90, 99][random.below(4)]),
        }
    }

    /// Decides about all names that a call changed together.
    fn keeps_step(&self, index: usize, random: &mut SplitMix64) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Until(end) => index < *end,
            Self::Percent(percent) => random.below(100) < *percent,
        }
    }

    /// Decides about one of them: mostly like the others of its call.
    fn keeps_entry(&self, whole: bool, random: &mut SplitMix64) -> bool {
        match self {
            Self::Percent(_) if random.one_in(8) => random.one_in(2),
            _ => whole,
        }
    }
}

/// Returns the mode and the bytes that a crash leaves of a node; durable edits come before the others.
fn leave(first: &Made, edits: &[(&Edit, bool)], crash: Crash, random: &mut SplitMix64) -> (u32, Vec<u8>) {
    let apply = |count: usize| {
        let (mut mode, mut bytes) = (first.mode, first.bytes.to_vec());
        for (edit, _) in &edits[..count] {
            match edit {
                Edit::Write { offset, bytes: written } => {
                    bytes.resize(bytes.len().max(offset + written.len()), 0);
                    bytes[*offset..offset + written.len()].copy_from_slice(written);
                }
                Edit::Resize { bytes: size } => bytes.resize(*size, 0),
                Edit::Mode(new) => mode = *new,
            }
        }
        (mode, bytes)
    };
    let durable = edits.iter().take_while(|(_, is_durable)| *is_durable).count();
    if crash == Crash::Kill || durable == edits.len() {
        return apply(edits.len());
    }
    if crash == Crash::PowerStrict {
        return apply(durable);
    }
    let kept = apply(durable).1;
    let (mode, mut bytes) = apply(edits.len());
    match random.below(6) {
        0 => {}
        1 => return apply(durable),
        2 => return apply(durable + random.below(edits.len() - durable)),
        // The size came to the disk before the bytes.
        3 => {
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = kept.get(at).copied().unwrap_or(0);
            }
        }
        4 if bytes.len() > kept.len() => bytes.truncate(kept.len() + random.below(bytes.len() - kept.len())),
        4 => bytes = kept,
        _ => {
            let sector = random.below(bytes.len() / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let end = bytes.len().min(sector + SECTOR_BYTES);
            for (at, byte) in bytes.iter_mut().enumerate().take(end).skip(sector) {
                *byte = kept.get(at).copied().unwrap_or(0);
            }
        }
    }
    (mode, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most random crashes that a test tries.
    const SEEDS: u64 = 300;

    /// A program that replaces the file `f`, which says `old`, in the usual way, with or without its syncs.
    struct Replacement {
        disk: Disk,
        temporary: Node,
    }

    impl Replacement {
        fn begin() -> Self {
            let mut image = Image::default();
            image.entries.insert("f".into(), ImageEntry::File(0o644, b"old".as_slice().into()));
            let mut disk = Disk::new(&image);
            let temporary = disk.make_file(0o644);
            let mut this = Self { disk, temporary };
            this.name("t", Some(temporary));
            let edit = Edit::Write { offset: 0, bytes: b"new".to_vec() };
            this.step(vec![Change::Edit { node: temporary, edit }]);
            this
        }

        fn step(&mut self, changes: Vec<Change>) {
            self.disk.push(Event::Step(changes), "step".to_owned());
        }

        fn name(&mut self, name: &str, to: Option<Node>) {
            self.step(vec![Change::Entry { directory: ROOT, name: name.into(), to }]);
        }

        fn sync(mut self, node: Node) -> Self {
            let covered = self.disk.events();
            self.disk.push(Event::Sync { node: Some(node), covered }, "fsync".to_owned());
            self
        }

        fn sync_file(self) -> Self {
            let node = self.temporary;
            self.sync(node)
        }

        fn rename(mut self) -> Self {
            let entry = |name: &str, to| Change::Entry { directory: ROOT, name: name.into(), to };
            self.step(vec![entry("t", None), entry("f", Some(self.temporary))]);
            self
        }

        fn content(&self, crash: Crash) -> Option<Vec<u8>> {
            self.disk.after(self.disk.events(), crash).content("f").map(<[u8]>::to_vec)
        }

        /// Tells whether some crash after so many calls leaves something else than the old or the new file.
        fn can_be_damaged(&self, count: usize) -> bool {
            let is_whole = |seed| {
                let image = self.disk.after(count, Crash::PowerOrdered(seed));
                image.content("f").is_some_and(|bytes| bytes == b"old" || bytes == b"new")
            };
            !(0..SEEDS).all(is_whole)
        }
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_need_not() {
        let unsynced = Replacement::begin().rename();
        assert_eq!(unsynced.content(Crash::Kill).as_deref(), Some(b"new".as_slice()), "the kernel keeps it all");
        assert_eq!(unsynced.content(Crash::PowerStrict).as_deref(), Some(b"old".as_slice()), "nothing was synced");
        let named = Replacement::begin().rename().sync(ROOT);
        assert_eq!(
            named.content(Crash::PowerStrict).as_deref(),
            Some(b"".as_slice()),
            "the name is there, the bytes are not"
        );
        let written = Replacement::begin().sync_file().rename();
        assert_eq!(
            written.content(Crash::PowerStrict).as_deref(),
            Some(b"old".as_slice()),
            "the new name is not durable"
        );
        let all = Replacement::begin().sync_file().rename().sync(ROOT);
        for crash in [Crash::PowerStrict, Crash::PowerOrdered(1), Crash::PowerRandom(1)] {
            assert_eq!(all.content(crash).as_deref(), Some(b"new".as_slice()), "everything is durable");
        }
        let mut everything = Replacement::begin().rename();
        let covered = everything.disk.events();
        everything.disk.push(Event::Sync { node: None, covered }, "sync".to_owned());
        assert_eq!(everything.content(Crash::PowerStrict).as_deref(), Some(b"new".as_slice()), "everything is durable");
    }

    #[test]
    fn a_file_that_is_not_synced_before_its_rename_is_found() {
        let right = Replacement::begin().sync_file().rename();
        assert!(!right.can_be_damaged(right.disk.events()), "a file that is synced and then renamed is old or new");
        let never = Replacement::begin().rename();
        assert!(never.can_be_damaged(never.disk.events()), "without the sync it may be torn");
        let late = Replacement::begin().rename().sync_file();
        assert!(late.can_be_damaged(late.disk.events() - 1), "and so it may be before a sync that comes too late");
    }

    #[test]
    fn a_journal_keeps_the_order_of_names_and_nothing_else_does() {
        let mut disk = Disk::new(&Image::default());
        for name in ["a", "b"] {
            let node = disk.make_directory(0o755);
            let change = Change::Entry { directory: ROOT, name: name.into(), to: Some(node) };
            disk.push(Event::Step(vec![change]), "mkdir".to_owned());
        }
        let late_alone = |crash: fn(u64) -> Crash| {
            let image = |seed| disk.after(2, crash(seed));
            (0..SEEDS).map(image).any(|image| image.has("b") && !image.has("a"))
        };
        assert!(!late_alone(Crash::PowerOrdered), "a journal has the second name with the first one only");
        assert!(late_alone(Crash::PowerRandom), "without one the second may be there alone");
        disk.push(Event::Sync { node: Some(ROOT), covered: 1 }, "fsync".to_owned());
        let image = disk.after(3, Crash::PowerStrict);
        assert!(image.has("a") && !image.has("b"), "a sync covers what was there when it began");
        disk.push(Event::Sync { node: Some(ROOT), covered: 3 }, "fsync".to_owned());
        let image = disk.after(4, Crash::PowerStrict);
        assert!(image.has("a") && image.has("b"), "a sync of the directory makes its names durable");
    }
}
