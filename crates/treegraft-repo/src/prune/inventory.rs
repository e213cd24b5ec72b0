//! What is in `objects/`: every object once, with a mark for what is to be kept.
//!
//! An object costs 32 bytes and a bit. Names are sorted and found by halving, whole names always: two objects whose names
//! begin alike are two objects.

use std::{io, os::fd::OwnedFd, thread, time::Duration};

use rustix::{
    fs::{Dir, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat, futimens},
    io::Errno,
};
use treegraft_object::{Checksum, CommitId, ObjectKind, ObjectName};

use super::PruneError;
use crate::{
    Mode, Repo,
    durable::{TEMPORARY, open_dir},
    store::LoosePath,
};

/// How often the file system's clock is read until it has moved on, and the pause between: file systems count time in
/// steps of some milliseconds.
const CLOCK_TRIES: usize = 20;
const CLOCK_PAUSE: Duration = Duration::from_millis(1);

/// The extension of a cache that Flatpak's own prune keeps beside commits.
const FLATPAK_CACHE: &str = "commitmeta2";

/// A set of numbers below a limit, a bit for each.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    pub(super) fn new(limit: usize) -> Self {
        Self { words: vec![0; limit.div_ceil(64)] }
    }

    fn contains(&self, index: usize) -> bool {
        self.words[index / 64] & (1 << (index % 64)) != 0
    }

    /// Adds a number. Tells whether it was not in the set before.
    pub(super) fn insert(&mut self, index: usize) -> bool {
        let is_new = !self.contains(index);
        self.words[index / 64] |= 1 << (index % 64);
        is_new
    }

    fn remove(&mut self, index: usize) {
        self.words[index / 64] &= !(1 << (index % 64));
    }
}

/// The objects of one kind.
#[derive(Debug, Default)]
pub(super) struct Names {
    sorted: Vec<Checksum>,
    /// Where the names with each first byte begin, and the end.
    starts: Vec<usize>,
    marks: Bits,
}

impl Names {
    fn new(mut names: Vec<Checksum>) -> Self {
        names.shrink_to_fit();
        names.sort_unstable();
        let starts =
            (0..=256).map(|byte| names.partition_point(|name| usize::from(name.as_bytes()[0]) < byte)).collect();
        let marks = Bits::new(names.len());
        Self { sorted: names, starts, marks }
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    pub(super) fn name(&self, index: usize) -> Checksum {
        self.sorted[index]
    }

    pub(super) fn find(&self, name: &Checksum) -> Option<usize> {
        let byte = usize::from(name.as_bytes()[0]);
        let (start, end) = (*self.starts.get(byte)?, *self.starts.get(byte + 1)?);
        self.sorted[start..end].binary_search(name).ok().map(|index| start + index)
    }

    pub(super) fn is_marked(&self, index: usize) -> bool {
        self.marks.contains(index)
    }

    /// Marks a name. Tells whether it was not marked before.
    pub(super) fn mark(&mut self, index: usize) -> bool {
        self.marks.insert(index)
    }

    pub(super) fn unmark(&mut self, index: usize) {
        self.marks.remove(index);
    }

    pub(super) fn unmarked(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|&index| !self.is_marked(index))
    }
}

/// When a directory `objects/XX` was changed last (`ctime`, which no program can set), as far as that is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// There is no such directory.
    Absent,
    /// Its time, after which the file system's clock has moved on: a later change gives it another.
    At { secs: i64, nanos: i64 },
    /// A later change may have given it the same time.
    Unsettled,
}

/// Everything in `objects/` at one time.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) commits: Names,
    pub(super) dirtrees: Names,
    pub(super) dirmetas: Names,
    pub(super) files: Names,
    /// The commits that there is detached metadata for.
    pub(super) detached: Vec<CommitId>,
    /// The commits that Flatpak has a cache for.
    pub(super) flatpak_caches: Vec<CommitId>,
    /// Temporary files that a crash of treegraft may have left, by directory.
    pub(super) temporaries: Vec<(u8, Temporary)>,
    stamps: Vec<Stamp>,
}

/// What a file in `objects/XX` is.
enum Entry {
    Object(ObjectName),
    FlatpakCache(CommitId),
    Temporary(Temporary),
}

/// A temporary file of treegraft's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temporary {
    /// Detached metadata, written under the publish lock.
    Detached,
    /// A tombstone, written under the repository's exclusive lock.
    Tombstone,
}

impl Temporary {
    pub(super) const fn file_name(self) -> &'static str {
        match self {
            Self::Detached => TEMPORARY,
            Self::Tombstone => ".treegraft-tombstone",
        }
    }

    /// Returns the file's path below `objects`.
    pub(super) fn path(self, byte: u8) -> String {
        format!("{}/{}", directory_name(byte), self.file_name())
    }
}

impl Inventory {
    /// Lists everything. What comes and goes meanwhile may be in it or not; what comes later is found by
    /// [`new_commits`](Self::new_commits).
    pub(super) fn read(repo: &Repo, clock: Option<&FileClock>) -> Result<Self, PruneError> {
        let (mut commits, mut dirtrees, mut dirmetas, mut files) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut detached, mut flatpak_caches, mut temporaries) = (Vec::new(), Vec::new(), Vec::new());
        let begin = clock.map(FileClock::now).transpose()?;
        let mut stamps = Vec::with_capacity(256);
        for byte in 0..=u8::MAX {
            let Some(dir) = open(repo, byte)? else {
                stamps.push(Stamp::Absent);
                continue;
            };
            // Before the listing: a change from now on gives another time, or one that is not before `begin`.
            stamps.push(stamp(repo, byte, &dir, begin)?);
            list(repo, byte, dir, &mut |entry| match entry {
                Entry::Object(ObjectName { kind, checksum }) => match kind {
                    ObjectKind::Commit => commits.push(checksum),
                    ObjectKind::DirTree => dirtrees.push(checksum),
                    ObjectKind::DirMeta => dirmetas.push(checksum),
                    ObjectKind::File => files.push(checksum),
                    ObjectKind::CommitMeta => detached.push(CommitId(checksum)),
                    ObjectKind::TombstoneCommit => {}
                },
                Entry::FlatpakCache(commit) => flatpak_caches.push(commit),
                Entry::Temporary(temporary) => temporaries.push((byte, temporary)),
            })?;
        }
        let [commits, dirtrees, dirmetas, files] = [commits, dirtrees, dirmetas, files].map(Names::new);
        Ok(Self { commits, dirtrees, dirmetas, files, detached, flatpak_caches, temporaries, stamps })
    }

    /// Returns how many objects there are, of the kinds that libostree counts.
    pub(super) fn len(&self) -> u64 {
        [&self.commits, &self.dirtrees, &self.dirmetas, &self.files].iter().map(|names| names.len() as u64).sum()
    }

    /// Lists the commits that have come since the last [`settle`](Self::settle), or since everything was listed.
    ///
    /// Only directories that were changed are looked at. `is_known` tells whether a commit was there before.
    pub(super) fn new_commits(
        &self,
        repo: &Repo,
        is_known: &dyn Fn(CommitId) -> bool,
    ) -> Result<Vec<CommitId>, PruneError> {
        let mut found = Vec::new();
        for byte in 0..=u8::MAX {
            let Some(dir) = open(repo, byte)? else { continue };
            let known = self.stamps[usize::from(byte)];
            if known != Stamp::Unsettled && known == stamp(repo, byte, &dir, None)? {
                continue;
            }
            list(repo, byte, dir, &mut |entry| {
                if let Entry::Object(ObjectName { kind: ObjectKind::Commit, checksum }) = entry
                    && !is_known(CommitId(checksum))
                {
                    found.push(CommitId(checksum));
                }
            })?;
        }
        Ok(found)
    }

    /// Notes how the directories are now, so that [`new_commits`](Self::new_commits) sees what comes later.
    ///
    /// The caller keeps others from adding objects meanwhile.
    pub(super) fn settle(&mut self, repo: &Repo, clock: &FileClock) -> Result<(), PruneError> {
        for _ in 0..CLOCK_TRIES {
            let now = clock.now()?;
            for byte in 0..=u8::MAX {
                self.stamps[usize::from(byte)] = match open(repo, byte)? {
                    Some(dir) => stamp(repo, byte, &dir, Some(now))?,
                    None => Stamp::Absent,
                };
            }
            if !self.stamps.contains(&Stamp::Unsettled) {
                break;
            }
            // On a file system with coarser steps, or after the clock was set back, the directories are listed again instead.
            thread::sleep(CLOCK_PAUSE);
        }
        Ok(())
    }
}

/// The file system's own clock, the one that times of directories are taken from.
#[derive(Debug)]
pub(super) struct FileClock {
    /// A directory of ours whose time nobody looks at.
    dir: OwnedFd,
    path: std::path::PathBuf,
}

impl FileClock {
    pub(super) const fn new(dir: OwnedFd, path: std::path::PathBuf) -> Self {
        Self { dir, path }
    }

    fn now(&self) -> Result<(i64, i64), PruneError> {
        let fail = |errno: Errno| PruneError::Io { path: self.path.clone(), source: errno.into() };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        futimens(&self.dir, &Timestamps { last_access: keep, last_modification: now }).map_err(fail)?;
        let stat = fstat(&self.dir).map_err(fail)?;
        Ok((stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)))
    }
}

fn directory_name(byte: u8) -> String {
    format!("{byte:02x}")
}

fn fail(repo: &Repo, byte: u8) -> impl Fn(io::Error) -> PruneError {
    let path = repo.objects_path().join(directory_name(byte));
    move |source| PruneError::Io { path: path.clone(), source }
}

fn open(repo: &Repo, byte: u8) -> Result<Option<OwnedFd>, PruneError> {
    match open_dir(repo.objects_dir(), &directory_name(byte)) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(fail(repo, byte)(error)),
    }
}

/// Reads a directory's time. With the clock's it is unsettled unless it is before.
fn stamp(repo: &Repo, byte: u8, dir: &OwnedFd, now: Option<(i64, i64)>) -> Result<Stamp, PruneError> {
    let stat = fstat(dir).map_err(|errno| fail(repo, byte)(errno.into()))?;
    let (secs, nanos) = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0));
    Ok(if now.is_some_and(|now| (secs, nanos) >= now) { Stamp::Unsettled } else { Stamp::At { secs, nanos } })
}

fn list(repo: &Repo, byte: u8, dir: OwnedFd, each: &mut dyn FnMut(Entry)) -> Result<(), PruneError> {
    let fail = |errno: Errno| fail(repo, byte)(errno.into());
    let directory = directory_name(byte);
    for entry in Dir::new(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if let Some(object) = LoosePath::parse(&directory, name, Mode::Archive) {
            each(Entry::Object(object));
        } else if let Some(temporary) =
            [Temporary::Detached, Temporary::Tombstone].into_iter().find(|file| file.file_name() == name)
        {
            each(Entry::Temporary(temporary));
        } else if let Some(digits) = name.strip_suffix(FLATPAK_CACHE).and_then(|name| name.strip_suffix('.'))
            && let Ok(commit) = format!("{directory}{digits}").parse()
        {
            each(Entry::FlatpakCache(commit));
        }
    }
    Ok(())
}

/// Returns the path of Flatpak's cache for a commit, below `objects`.
pub(super) fn flatpak_cache_path(commit: CommitId) -> String {
    let hex = commit.0.to_hex();
    format!("{}/{}.{FLATPAK_CACHE}", &hex[..2], &hex[2..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whole_names_are_found(
            tails in proptest::collection::btree_set(any::<[u8; 2]>(), 0..40),
            first: u8,
            other: [u8; 2],
        ) {
            // All names begin with the same 30 bytes.
            let name = |tail: &[u8; 2]| {
                let mut bytes = [first; Checksum::BYTES];
                bytes[30..].copy_from_slice(tail);
                Checksum::from_bytes(bytes)
            };
            let mut names = Names::new(tails.iter().rev().map(name).collect());
            for tail in &tails {
                let index = names.find(&name(tail)).expect("what is there is found");
                prop_assert_eq!(names.name(index), name(tail), "and it is that one");
            }
            prop_assert_eq!(names.find(&name(&other)).is_some(), tails.contains(&other), "nothing else is found");
            if let Some(tail) = tails.first() {
                let index = names.find(&name(tail)).expect("it is there");
                prop_assert!(names.mark(index), "it was not marked");
                prop_assert!(!names.mark(index), "now it is");
                prop_assert_eq!(names.unmarked().count(), tails.len() - 1, "no other one is");
                names.unmark(index);
                prop_assert_eq!(names.unmarked().count(), tails.len(), "nor is it any more");
            }
        }
    }
}
