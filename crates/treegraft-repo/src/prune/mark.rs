//! Marking what is to be kept.
//!
//! The first pass runs without any lock. Objects never change, so what it has walked stays walked; the second one, under the
//! lock, walks only from what has come since. Dirtrees that were missing in between are the one thing to look at again: above
//! them everything is marked already, below nothing is.

use std::collections::{HashMap, HashSet};

use treegraft_object::{Checksum, CommitId, CommitRef, DirMetaId, DirTreeId, DirTreeRef, ObjectName};

use super::{
    PruneError,
    inventory::{Bits, Inventory, Names},
    rules::{Depth, Root, Rule},
};
use crate::{Find, ReadError, Repo};

/// How a commit was reached on the way from a ref, as far as it decides about the commits behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    /// How far down the depth goes from here; nothing when the commit is behind it.
    depth: Option<Depth>,
    /// Up to when commits are young; nothing when one on the way was not.
    younger_than_secs: Option<u64>,
}

impl Reach {
    const fn of(rule: Rule) -> Self {
        Self { depth: Some(rule.depth), younger_than_secs: rule.younger_than_secs }
    }

    /// Tells whether nothing more is kept by the other one than by this one.
    fn covers(self, other: Self) -> bool {
        // Every rule with an age has the same one.
        self.depth >= other.depth && (self.younger_than_secs.is_some() || other.younger_than_secs.is_none())
    }

    fn or(self, other: Self) -> Self {
        Self {
            depth: self.depth.max(other.depth),
            younger_than_secs: self.younger_than_secs.or(other.younger_than_secs),
        }
    }

    const fn parent(self) -> Self {
        let depth = match self.depth {
            Some(Depth::Parents(0)) | None => None,
            Some(Depth::Parents(count)) => Some(Depth::Parents(count - 1)),
            Some(Depth::All) => Some(Depth::All),
        };
        Self { depth, ..self }
    }

    const fn is_over(self) -> bool {
        self.depth.is_none() && self.younger_than_secs.is_none()
    }
}

/// What is known of a commit that a ref leads to.
#[derive(Debug, Clone, Copy)]
struct Visit {
    reach: Reach,
    is_kept: bool,
}

/// A dirtree that was not there.
#[derive(Debug, Clone, Copy)]
struct Missing {
    /// A commit that must be complete and is not; nothing when all that need it are partial.
    needed_by: Option<CommitId>,
}

/// What must be there below a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Whole,
    /// Some of it may be missing.
    Partial,
}

/// Walks from commits down, and marks in an [`Inventory`] what it passes.
#[derive(Debug)]
pub(super) struct Marker<'r> {
    repo: &'r Repo,
    pub(super) inventory: Inventory,
    visits: HashMap<CommitId, Visit>,
    missing: HashMap<DirTreeId, Missing>,
    /// Dirtrees that were walked and are not in the inventory: they came later, or are the parent repository's.
    unlisted: HashSet<DirTreeId>,
}

impl<'r> Marker<'r> {
    pub(super) fn new(repo: &'r Repo, inventory: Inventory) -> Self {
        Self { repo, inventory, visits: HashMap::new(), missing: HashMap::new(), unlisted: HashSet::new() }
    }

    /// Returns how many commits are kept.
    pub(super) fn kept_commits(&self) -> u64 {
        self.visits.values().filter(|visit| visit.is_kept).count() as u64
    }

    /// Keeps a commit and what its rule says of those behind it. History that is not there ends.
    pub(super) fn keep(&mut self, root: Root) -> Result<(), PruneError> {
        let (mut id, mut reach) = (root.commit, Reach::of(root.rule));
        loop {
            let known = self.visits.get(&id).copied();
            if known.is_some_and(|known| known.reach.covers(reach)) {
                return Ok(());
            }
            let Some(data) = self.repo.metadata(id.into())? else { return Ok(()) };
            let commit = decode_commit(id, &data)?;
            let on_the_way = reach;
            // One that is too old ends the young ones, but a depth may reach further.
            if reach.younger_than_secs.is_some_and(|limit| commit.timestamp_secs < limit) {
                reach.younger_than_secs = None;
            }
            let is_kept = !reach.is_over();
            let was_kept = known.is_some_and(|known| known.is_kept);
            let reach_of_all = known.map_or(on_the_way, |known| known.reach.or(on_the_way));
            self.visits.insert(id, Visit { reach: reach_of_all, is_kept: is_kept || was_kept });
            if is_kept && !was_kept {
                let tree = if self.repo.is_partial(id)? { Tree::Partial } else { Tree::Whole };
                self.keep_commit(id, commit.root_tree, commit.root_meta, tree)?;
            }
            let Some(parent) = commit.parent.filter(|_| is_kept) else { return Ok(()) };
            (id, reach) = (parent, reach.parent());
            if reach.is_over() {
                return Ok(());
            }
        }
    }

    /// Keeps a commit that no ref leads to. It may be incomplete.
    pub(super) fn keep_unreferenced(&mut self, id: CommitId) -> Result<(), PruneError> {
        let Some(data) = self.repo.metadata(id.into())? else { return Ok(()) };
        let commit = decode_commit(id, &data)?;
        self.keep_commit(id, commit.root_tree, commit.root_meta, Tree::Partial)
    }

    /// Looks again for dirtrees that were missing.
    pub(super) fn retry_missing(&mut self) -> Result<(), PruneError> {
        for (id, missing) in std::mem::take(&mut self.missing) {
            self.keep_dirtree(id, missing.needed_by)?;
        }
        Ok(())
    }

    /// Fails when a dirtree is missing that a commit must have: what is below it is not known, and could be deleted.
    pub(super) fn check_complete(&self) -> Result<(), PruneError> {
        for (&dirtree, missing) in &self.missing {
            if let Some(commit) = missing.needed_by {
                return Err(PruneError::Incomplete { dirtree, commit });
            }
        }
        Ok(())
    }

    fn keep_commit(
        &mut self,
        id: CommitId,
        root_tree: DirTreeId,
        root_meta: DirMetaId,
        tree: Tree,
    ) -> Result<(), PruneError> {
        mark(&mut self.inventory.commits, &id.0);
        mark(&mut self.inventory.dirmetas, &root_meta.0);
        self.keep_dirtree(root_tree, Some(id).filter(|_| tree == Tree::Whole))
    }

    /// Keeps a dirtree and all below it. `needed_by` is the commit that must have all of it.
    fn keep_dirtree(&mut self, root: DirTreeId, needed_by: Option<CommitId>) -> Result<(), PruneError> {
        let mut pending = vec![root];
        while let Some(id) = pending.pop() {
            let listed = self.inventory.dirtrees.find(&id.0);
            let is_new = match listed {
                Some(index) => self.inventory.dirtrees.mark(index),
                None => self.unlisted.insert(id),
            };
            if !is_new {
                continue;
            }
            let name = ObjectName::from(id);
            let Some(data) = self.repo.metadata(name)? else {
                match listed {
                    Some(index) => self.inventory.dirtrees.unmark(index),
                    None => drop(self.unlisted.remove(&id)),
                }
                let missing = self.missing.entry(id).or_insert(Missing { needed_by });
                missing.needed_by = missing.needed_by.or(needed_by);
                continue;
            };
            let tree = DirTreeRef::decode(&data).map_err(|source| ReadError::Invalid { name, source })?;
            for (_, file) in &tree.files {
                mark(&mut self.inventory.files, &file.0);
            }
            for (_, subtree, meta) in &tree.dirs {
                mark(&mut self.inventory.dirmetas, &meta.0);
                pending.push(*subtree);
            }
        }
        Ok(())
    }

    /// Returns the dirtrees that are not marked, each before those below it.
    ///
    /// Deleted in this order, a dirtree that is there has all below it that it had, at every instant. Programs that take
    /// that for granted publish no holes beside a prune.
    pub(super) fn unmarked_dirtrees(&self) -> Vec<usize> {
        let dirtrees = &self.inventory.dirtrees;
        let mut entered = Bits::new(dirtrees.len());
        let mut ordered = Vec::new();
        let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
        for root in dirtrees.unmarked() {
            if entered.insert(root) {
                open.push((root, self.unmarked_below(root)));
            }
            while let Some((index, below)) = open.last_mut() {
                if let Some(child) = below.pop() {
                    if entered.insert(child) {
                        let below = self.unmarked_below(child);
                        open.push((child, below));
                    }
                } else {
                    ordered.push(*index);
                    open.pop();
                }
            }
        }
        ordered.reverse();
        ordered
    }

    /// Returns the dirtrees directly below one. Of one that is damaged or gone nothing is known, nor needed.
    fn unmarked_below(&self, index: usize) -> Vec<usize> {
        let dirtrees = &self.inventory.dirtrees;
        let data = self.repo.metadata(DirTreeId(dirtrees.name(index)).into()).ok().flatten().unwrap_or_default();
        let Ok(tree) = DirTreeRef::decode(&data) else { return Vec::new() };
        let below = tree.dirs.iter().filter_map(|(_, tree, _)| dirtrees.find(&tree.0));
        below.filter(|&index| !dirtrees.is_marked(index)).collect()
    }
}

fn decode_commit(id: CommitId, data: &[u8]) -> Result<CommitRef<'_>, ReadError> {
    CommitRef::decode(data).map_err(|source| ReadError::Invalid { name: id.into(), source })
}

fn mark(names: &mut Names, name: &Checksum) {
    if let Some(index) = names.find(name) {
        names.mark(index);
    }
}
