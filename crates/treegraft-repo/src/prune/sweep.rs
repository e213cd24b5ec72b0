//! Deleting what was not marked, under the repository's exclusive lock and in an order that a crash may end anywhere.

use std::{
    collections::HashSet,
    io::{self, Write},
    thread,
};

use rustix::fs::renameat;
use treegraft_object::{CommitId, ObjectKind, ObjectName, tombstone};

use super::{
    Event, Pace, PruneError, Report, Rules,
    inventory::{FileClock, Names, Temporary, flatpak_cache_path},
    mark::Marker,
    rules::roots,
};
use crate::{
    FileLock, Find, LockKind, Mode, Repo, RepoLock,
    deltas::{self, DeltaName},
    durable::{self, Durability, open_dir},
    fault, private_dir, publish_lock,
    store::{LoosePath, PARTIAL_SUFFIX},
    touched::Touched,
};

/// How many objects are deleted between two events.
const EVENT_OBJECTS: u64 = 256;

/// One thing that may be to be deleted or written.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// An object of the inventory, by its kind and number.
    Object(ObjectKind, usize),
    /// Detached metadata, by its number in the inventory.
    Detached(usize),
    /// The tombstone of a deleted commit.
    Tombstone(CommitId),
    /// The mark of a commit as partial.
    PartialMark(CommitId),
    /// A static delta.
    Delta(DeltaName),
    /// A cache of Flatpak's, by its number in the inventory.
    FlatpakCache(usize),
    /// A temporary file in a directory.
    Temporary(u8, Temporary),
}

pub(super) struct Sweep<'r, 'e> {
    repo: &'r Repo,
    rules: &'r Rules,
    marker: Marker<'r>,
    clock: FileClock,
    durability: Durability,
    pace: Pace<'r>,
    events: &'e mut dyn FnMut(Event),
    report: Report,
    /// Commits that this run has deleted or found to be deleted, and that did not come back.
    gone: HashSet<CommitId>,
    /// Commits that came after the inventory. They are kept, whether a ref leads to them or not.
    newcomers: HashSet<CommitId>,
    /// The directories that objects were deleted from since they were durable.
    touched: Touched,
    /// Set when the lock was held as long as it may be.
    is_rest_due: bool,
}

impl<'r, 'e> Sweep<'r, 'e> {
    pub(super) fn new(
        repo: &'r Repo,
        rules: &'r Rules,
        marker: Marker<'r>,
        clock: FileClock,
        pace: Pace<'r>,
        events: &'e mut dyn FnMut(Event),
    ) -> Self {
        let report = Report { objects: marker.inventory.len(), ..Report::default() };
        let durability = Durability::of(repo);
        let (gone, newcomers) = (HashSet::new(), HashSet::new());
        Self {
            repo,
            rules,
            marker,
            clock,
            durability,
            pace,
            events,
            report,
            gone,
            newcomers,
            touched: Touched::default(),
            is_rest_due: false,
        }
    }

    /// Deletes everything. The order is explained in [the module](super).
    pub(super) fn run(mut self) -> Result<Report, PruneError> {
        let commits: Vec<usize> = self.marker.inventory.commits.unmarked().collect();
        self.delete_all(commits.into_iter().map(|index| Item::Object(ObjectKind::Commit, index)))?;
        self.make_durable("prune:commits-durable")?;

        let deleted = self.report.commits.clone();
        let partial_marks = partial_marks(self.repo)?;
        let deltas = deltas::names_of_all(self.repo)?;
        let inventory = &self.marker.inventory;
        let (detached, caches) = (inventory.detached.len(), inventory.flatpak_caches.len());
        let temporaries = inventory.temporaries.clone();
        let dirtrees = self.marker.unmarked_dirtrees();
        let items = (0..detached).map(Item::Detached);
        let items = items.chain(deleted.into_iter().map(Item::Tombstone));
        let items = items.chain(partial_marks.into_iter().map(Item::PartialMark));
        let items = items.chain(deltas.into_iter().map(Item::Delta));
        let items = items.chain((0..caches).map(Item::FlatpakCache));
        let items = items.chain(temporaries.into_iter().map(|(byte, file)| Item::Temporary(byte, file)));
        self.delete_all(items.chain(dirtrees.into_iter().map(|index| Item::Object(ObjectKind::DirTree, index))))?;
        self.make_durable("prune:trees-durable")?;

        let (dirmetas, files) = (self.marker.inventory.dirmetas.len(), self.marker.inventory.files.len());
        let items = (0..dirmetas).map(|index| Item::Object(ObjectKind::DirMeta, index));
        self.delete_all(items.chain((0..files).map(|index| Item::Object(ObjectKind::File, index))))?;
        self.report.kept_commits = self.marker.kept_commits();
        Ok(self.report)
    }

    /// Deletes what is due of these, holding the lock for one turn after the other.
    fn delete_all(&mut self, items: impl Iterator<Item = Item>) -> Result<(), PruneError> {
        let mut items = items.peekable();
        loop {
            // Without the lock only to find out whether it is needed.
            while let Some(&item) = items.peek()
                && !self.is_due(item)?
            {
                items.next();
            }
            if items.peek().is_none() {
                (self.events)(Event::Deleted { objects: self.report.deleted.all() });
                return Ok(());
            }
            self.turn(&mut items)?;
        }
    }

    /// Takes the lock, looks at what has changed, and deletes until the time is up.
    fn turn(&mut self, items: &mut dyn Iterator<Item = Item>) -> Result<(), PruneError> {
        if std::mem::take(&mut self.is_rest_due) {
            thread::sleep(self.pace.rest);
        }
        let events = &mut *self.events;
        let mut waiting = |waited| events(Event::Waiting { waited });
        let lock = RepoLock::acquire_within(self.repo, LockKind::Exclusive, self.pace.wait, &mut waiting)?;
        let elapsed = self.pace.elapsed;
        let begin = elapsed();
        fault::point("prune:locked").map_err(|source| self.io_error("", source))?;
        self.mark_what_came()?;
        for item in items {
            if self.is_due(item)? {
                self.delete(item)?;
            }
            if elapsed().saturating_sub(begin) >= self.pace.turn {
                self.is_rest_due = true;
                break;
            }
        }
        self.marker.inventory.settle(self.repo, &self.clock)?;
        drop(lock);
        self.report.lock_turns += 1;
        self.report.longest_turn = self.report.longest_turn.max(elapsed().saturating_sub(begin));
        Ok(())
    }

    /// Marks what refs lead to now, and what has come since the inventory.
    ///
    /// Under the exclusive lock nobody is between asking for an object and moving a ref. What a push was told to be there is
    /// now behind a ref, or the push is over.
    fn mark_what_came(&mut self) -> Result<(), PruneError> {
        let (commits, gone, newcomers) = (&self.marker.inventory.commits, &self.gone, &self.newcomers);
        let is_known = |id: CommitId| newcomers.contains(&id) || (!gone.contains(&id) && commits.find(&id.0).is_some());
        for commit in self.marker.inventory.new_commits(self.repo, &is_known)? {
            self.gone.remove(&commit);
            self.newcomers.insert(commit);
            self.marker.keep_unreferenced(commit)?;
        }
        let roots = roots(self.repo, self.rules)?;
        // Refs that are lost, or on a file system that is not mounted, are more likely than the wish to delete everything.
        let commits = self.marker.inventory.commits.len();
        if roots.is_empty() && commits > 0 && self.marker.kept_commits() == 0 {
            return Err(PruneError::NoRefs { path: self.repo.path().to_owned(), commits });
        }
        for root in roots {
            self.marker.keep(root)?;
        }
        self.marker.retry_missing()?;
        self.marker.check_complete()
    }

    /// Tells whether a thing is to be deleted or written. Certain only under the lock.
    fn is_due(&self, item: Item) -> Result<bool, PruneError> {
        let inventory = &self.marker.inventory;
        Ok(match item {
            Item::Object(kind, index) => !self.names(kind).is_marked(index),
            Item::Detached(index) => !self.has(inventory.detached[index])?,
            Item::Tombstone(commit) => self.repo.config().tombstone_commits && !self.has(commit)?,
            // An interrupted pull may go on with what libostree has staged, and relies on the mark.
            Item::PartialMark(commit) => !self.has(commit)? && !self.has_foreign_staging()?,
            Item::Delta(name) => !self.has(name.to)?,
            Item::FlatpakCache(_) | Item::Temporary(..) => true,
        })
    }

    fn delete(&mut self, item: Item) -> Result<(), PruneError> {
        match item {
            Item::Object(kind, index) => {
                let name = ObjectName::new(kind, self.names(kind).name(index));
                return self.delete_object(name);
            }
            Item::Detached(index) => {
                let commit = self.marker.inventory.detached[index];
                let path = LoosePath::new(ObjectName::commit_meta(commit), Mode::Archive);
                self.report.detached_metadata += self.unlink(path.as_str())?;
            }
            Item::Tombstone(commit) => {
                self.write_tombstone(commit)?;
                self.report.tombstones += 1;
            }
            Item::PartialMark(commit) => {
                let path = Repo::partial_path(commit);
                let removed = durable::unlink_if_there(self.repo.dir(), path.as_str());
                self.report.partial_marks += u64::from(removed.map_err(|source| self.io_error(&path, source))?);
            }
            Item::Delta(name) => {
                self.report.bytes += deltas::remove(self.repo, name)?;
                self.report.deltas.push(name);
            }
            Item::FlatpakCache(index) => {
                let path = flatpak_cache_path(self.marker.inventory.flatpak_caches[index]);
                self.report.flatpak_caches += self.unlink(&path)?;
            }
            Item::Temporary(byte, file) => {
                let writer = private_dir::path(self.repo).join(publish_lock::LOCK);
                // Somebody may be writing this one. Whoever waits for the lock that is held here may hold that one.
                let is_free = FileLock::try_acquire(&writer, LockKind::Exclusive)?;
                if is_free.is_some() || file == Temporary::Tombstone {
                    self.report.temporaries += self.unlink(&file.path(byte))?;
                }
            }
        }
        fault::point("prune:leftover-deleted").map_err(|source| self.io_error("", source))
    }

    fn delete_object(&mut self, name: ObjectName) -> Result<(), PruneError> {
        let path = LoosePath::new(name, Mode::Archive);
        let count = self.unlink(path.as_str())?;
        if name.kind == ObjectKind::Commit {
            // Also when another prune was first: whoever brings it back relies on what it needs.
            self.gone.insert(CommitId(name.checksum));
        }
        if count == 0 {
            return Ok(());
        }
        self.report.deleted.add(name.kind);
        if name.kind == ObjectKind::Commit {
            self.report.commits.push(CommitId(name.checksum));
        }
        let deleted = self.report.deleted.all();
        if deleted.is_multiple_of(EVENT_OBJECTS) {
            (self.events)(Event::Deleted { objects: deleted });
        }
        let point = match name.kind {
            ObjectKind::Commit => "prune:commit-deleted",
            ObjectKind::DirTree => "prune:dirtree-deleted",
            _ => "prune:leaf-deleted",
        };
        fault::point(point).map_err(|source| self.io_error("", source))
    }

    /// Deletes a file in `objects/`. Returns how many it were: one, or none when it is gone already.
    fn unlink(&mut self, path: &str) -> Result<u64, PruneError> {
        let fail = |source| PruneError::Io { path: self.repo.objects_path().join(path), source };
        let Some(bytes) = durable::unlink_sized(self.repo.objects_dir(), path).map_err(fail)? else { return Ok(0) };
        self.report.bytes += bytes;
        if let Ok(byte) = u8::from_str_radix(&path[..2], 16) {
            self.touched.add(byte);
        }
        Ok(1)
    }

    /// Writes a tombstone as libostree does: its name tells clients that the commit was deleted on purpose.
    fn write_tombstone(&mut self, commit: CommitId) -> Result<(), PruneError> {
        let path = LoosePath::new(ObjectName::new(ObjectKind::TombstoneCommit, commit.0), Mode::Archive);
        let write = || -> io::Result<()> {
            let dir = open_dir(self.repo.objects_dir(), path.directory())?;
            let mut file = durable::create(&dir, Temporary::Tombstone.file_name())?;
            file.write_all(&tombstone::encode(commit))?;
            self.durability.sync_file(&file)?;
            Ok(renameat(&dir, Temporary::Tombstone.file_name(), &dir, path.file_name())?)
        };
        write().map_err(|source| PruneError::Io { path: self.repo.objects_path().join(path.as_str()), source })?;
        self.touched.add(commit.0.as_bytes()[0]);
        Ok(())
    }

    /// Makes what was deleted up to here stay deleted. The lock is not held: a sync may take long.
    fn make_durable(&mut self, point: &'static str) -> Result<(), PruneError> {
        let synced = std::mem::take(&mut self.touched).sync(self.repo, self.durability);
        synced.and_then(|()| fault::point(point)).map_err(|source| self.io_error("", source))
    }

    fn names(&self, kind: ObjectKind) -> &Names {
        let inventory = &self.marker.inventory;
        match kind {
            ObjectKind::Commit => &inventory.commits,
            ObjectKind::DirTree => &inventory.dirtrees,
            ObjectKind::DirMeta => &inventory.dirmetas,
            _ => &inventory.files,
        }
    }

    fn has(&self, commit: CommitId) -> Result<bool, PruneError> {
        Ok(self.repo.has(commit.into())?)
    }

    /// Tells whether libostree has anything staged: a transaction that was interrupted.
    fn has_foreign_staging(&self) -> Result<bool, PruneError> {
        let names = names(self.repo, "tmp")?;
        Ok(names.iter().any(|name| name.starts_with("staging-")))
    }

    fn io_error(&self, below: &str, source: io::Error) -> PruneError {
        let path = if below.is_empty() { self.repo.objects_path().to_owned() } else { self.repo.path().join(below) };
        PruneError::Io { path, source }
    }
}

/// Lists the commits that are marked as partial.
pub(super) fn partial_marks(repo: &Repo) -> Result<Vec<CommitId>, PruneError> {
    let commits = names(repo, "state")?.into_iter().filter_map(|name| name.strip_suffix(PARTIAL_SUFFIX)?.parse().ok());
    Ok(commits.collect())
}

fn names(repo: &Repo, path: &str) -> Result<Vec<String>, PruneError> {
    match open_dir(repo.dir(), path).and_then(durable::names) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|source| PruneError::Io { path: repo.path().join(path), source }),
    }
}
