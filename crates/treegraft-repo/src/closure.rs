//! Is everything there that a commit needs?
//!
//! A [`Closure`] walks trees over any [`Find`] without recursion and visits every object once, however many trees share it
//! and however many calls ask. Memory is a few dozen bytes for each distinct object that was looked at.

use std::collections::{BTreeMap, HashMap, HashSet};

use treegraft_object::{
    Commit, CommitId, ContentId, DirMetaId, DirTree, DirTreeId, ObjectName, limits::MAX_TREE_DEPTH,
};

use crate::{Find, ReadError, parallel};

/// How many missing objects are kept by name; the rest is only counted.
pub const MAX_MISSING_NAMES: usize = 1000;

/// Into how many parts trees are cut at least that are looked at on all cores: so many that all threads end together.
const PARTS: usize = 64;

/// What is known about a dirtree after all below it was visited.
#[derive(Debug, Clone, Copy)]
enum TreeState {
    /// Everything is there; so many directories are nested in it, itself included.
    Complete { height: usize },
    /// Something is missing.
    Incomplete,
}

/// Finds out which objects are missing below commits and trees.
///
/// What was found complete stays so, as long as nothing deletes objects: hold the repository's lock. What was missing is
/// not looked up again; call [`forget_missing`](Self::forget_missing) after adding objects.
pub struct Closure<'f> {
    find: &'f dyn Find,
    known: KnownObjects,
    missing: Vec<ObjectName>,
    missing_names: HashSet<ObjectName>,
}

/// What a [`Closure`] has found to be there, for another one that looks where the first did, and perhaps further.
#[derive(Debug, Default)]
pub struct KnownObjects {
    dirtrees: HashMap<DirTreeId, TreeState>,
    dirmetas: HashMap<DirMetaId, bool>,
    files: HashMap<ContentId, bool>,
}

/// Nobody wants to know any more.
struct Unwanted;

impl KnownObjects {
    /// Adds what is there below some dirtrees, found out on all cores, as long as `is_wanted`.
    ///
    /// What cannot be read does not become known; who needs it gets the error.
    #[must_use]
    pub fn look_below(mut self, find: &dyn Find, roots: &[DirTreeId], is_wanted: &(dyn Fn() -> bool + Sync)) -> Self {
        let look = |(): &mut (), part: &Vec<DirTreeId>| {
            if is_wanted() { Ok(Self::default().and_below(find, part)) } else { Err(Unwanted) }
        };
        let Ok(found) = parallel::for_each(0, &parts(find, roots), || (), look) else { return self };
        for Self { dirtrees, dirmetas, files } in found {
            self.dirtrees.extend(dirtrees);
            self.dirmetas.extend(dirmetas);
            self.files.extend(files);
        }
        self.and_below(find, roots)
    }

    fn and_below(self, find: &dyn Find, dirtrees: &[DirTreeId]) -> Self {
        let mut closure = Closure::with_known(find, self);
        for &dirtree in dirtrees {
            let _ = closure.check_dirtree(dirtree);
        }
        closure.into_known()
    }
}

/// Cuts trees into parts that can be looked at side by side.
///
/// A part is what the trees have at one path: where they are similar, their files are looked at once.
fn parts(find: &dyn Find, roots: &[DirTreeId]) -> Vec<Vec<DirTreeId>> {
    let mut parts = vec![roots.to_vec()];
    let mut seen = HashSet::new();
    while parts.len() < PARTS {
        let mut below = Vec::new();
        for part in &parts {
            let mut by_name: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for tree in part.iter().filter_map(|&dirtree| find.dirtree(dirtree).ok()) {
                for (name, dirtree, _) in tree.dirs {
                    if seen.insert(dirtree) {
                        by_name.entry(name).or_default().push(dirtree);
                    }
                }
            }
            below.extend(by_name.into_values());
        }
        if below.is_empty() {
            break;
        }
        parts = below;
    }
    parts
}

/// A dirtree whose children are being visited.
struct Frame {
    id: DirTreeId,
    /// The directories that are left to be visited, the next one last.
    left: Vec<DirTreeId>,
    is_complete: bool,
    /// The height of the highest child so far.
    height: usize,
}

impl<'f> Closure<'f> {
    /// Starts with nothing known.
    pub fn new(find: &'f dyn Find) -> Self {
        Self::with_known(find, KnownObjects::default())
    }

    /// Starts with what another closure has found to be there. It must still be there, where this one looks.
    pub fn with_known(find: &'f dyn Find, known: KnownObjects) -> Self {
        Self { find, known, missing: Vec::new(), missing_names: HashSet::new() }
    }

    /// Ends, and returns what was found to be there.
    pub fn into_known(mut self) -> KnownObjects {
        self.forget_missing();
        self.known
    }

    /// Checks that a commit and its whole tree are there. Its parent need not be.
    pub fn check_commit(&mut self, id: CommitId) -> Result<bool, ReadError> {
        let name = ObjectName::from(id);
        let Some(data) = self.find.metadata(name)? else {
            self.add_missing(name);
            return Ok(false);
        };
        let commit = Commit::decode(&data).map_err(|source| ReadError::Invalid { name, source })?;
        self.check_tree(commit.root_tree, commit.root_meta)
    }

    /// Checks that a tree is there: its root directory's dirmeta, and everything below its dirtree.
    pub fn check_tree(&mut self, root_tree: DirTreeId, root_meta: DirMetaId) -> Result<bool, ReadError> {
        self.visit_tree(root_tree, root_meta, &mut |_| {})
    }

    /// Checks that a dirtree and everything below it are there.
    pub fn check_dirtree(&mut self, id: DirTreeId) -> Result<bool, ReadError> {
        self.visit_dirtree(id, &mut |_| {})
    }

    /// Checks a tree like [`check_tree`](Self::check_tree), and calls `visit` for each object below it that is there.
    ///
    /// Children are visited before their dirtree. An object that this closure has seen before is not visited again, but
    /// for incomplete dirtrees after [`forget_missing`](Self::forget_missing).
    pub fn visit_tree(
        &mut self,
        root_tree: DirTreeId,
        root_meta: DirMetaId,
        visit: &mut dyn FnMut(ObjectName),
    ) -> Result<bool, ReadError> {
        let has_meta = self.visit_dirmeta(root_meta, visit)?;
        let has_tree = self.visit_dirtree(root_tree, visit)?;
        Ok(has_meta && has_tree)
    }

    /// Returns the names of the missing objects in the order in which they were missed, at most [`MAX_MISSING_NAMES`].
    ///
    /// What is below a missing dirtree is not known and not counted.
    pub fn missing(&self) -> &[ObjectName] {
        &self.missing
    }

    /// Returns how many objects are missing.
    pub fn missing_count(&self) -> usize {
        self.missing_names.len()
    }

    /// Returns the names of all missing objects, in no order.
    pub(crate) fn all_missing(&self) -> impl Iterator<Item = &ObjectName> {
        self.missing_names.iter()
    }

    /// Forgets what was missing, so that it is looked up again. What is complete stays known.
    pub fn forget_missing(&mut self) {
        self.missing.clear();
        self.missing_names.clear();
        self.known.dirtrees.retain(|_, known| matches!(known, TreeState::Complete { .. }));
        self.known.dirmetas.retain(|_, is_there| *is_there);
        self.known.files.retain(|_, is_there| *is_there);
    }

    fn add_missing(&mut self, name: ObjectName) {
        if self.missing_names.insert(name) && self.missing.len() < MAX_MISSING_NAMES {
            self.missing.push(name);
        }
    }

    fn visit_dirmeta(&mut self, id: DirMetaId, visit: &mut dyn FnMut(ObjectName)) -> Result<bool, ReadError> {
        if let Some(&is_there) = self.known.dirmetas.get(&id) {
            return Ok(is_there);
        }
        let is_there = self.visit_leaf(id.into(), visit)?;
        self.known.dirmetas.insert(id, is_there);
        Ok(is_there)
    }

    fn visit_file(&mut self, id: ContentId, visit: &mut dyn FnMut(ObjectName)) -> Result<bool, ReadError> {
        if let Some(&is_there) = self.known.files.get(&id) {
            return Ok(is_there);
        }
        let is_there = self.visit_leaf(id.into(), visit)?;
        self.known.files.insert(id, is_there);
        Ok(is_there)
    }

    fn visit_leaf(&mut self, name: ObjectName, visit: &mut dyn FnMut(ObjectName)) -> Result<bool, ReadError> {
        let is_there = self.find.has(name)?;
        if is_there {
            visit(name);
        } else {
            self.add_missing(name);
        }
        Ok(is_there)
    }

    /// Walks depth first, with the dirtrees from the root down to the current one on a stack.
    ///
    /// The bound of the stack also ends a walk in a circle. There is none as long as checksums are right, but a [`Find`]
    /// does not compute them.
    fn visit_dirtree(&mut self, root: DirTreeId, visit: &mut dyn FnMut(ObjectName)) -> Result<bool, ReadError> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut next = Some(root);
        loop {
            let known = if let Some(id) = next {
                if let Some(&known) = self.known.dirtrees.get(&id) {
                    known
                } else if stack.len() == MAX_TREE_DEPTH {
                    return Err(too_deep(id));
                } else if let Some(mut frame) = self.enter(id, visit)? {
                    next = frame.left.pop();
                    stack.push(frame);
                    continue;
                } else {
                    self.known.dirtrees.insert(id, TreeState::Incomplete);
                    TreeState::Incomplete
                }
            } else {
                let frame = stack.pop().expect("`next` is none only while a dirtree is open");
                self.leave(&frame, visit)
            };
            let depth = stack.len();
            let Some(parent) = stack.last_mut() else { return Ok(matches!(known, TreeState::Complete { .. })) };
            match known {
                TreeState::Complete { height } => parent.height = parent.height.max(height),
                TreeState::Incomplete => parent.is_complete = false,
            }
            // A complete dirtree that is met again is not walked again, but a path through it is as long as ever.
            if depth + parent.height > MAX_TREE_DEPTH {
                return Err(too_deep(parent.id));
            }
            next = parent.left.pop();
        }
    }

    /// Reads a dirtree and visits its files and dirmetas; nothing when it is missing.
    fn enter(&mut self, id: DirTreeId, visit: &mut dyn FnMut(ObjectName)) -> Result<Option<Frame>, ReadError> {
        let name = ObjectName::from(id);
        let Some(data) = self.find.metadata(name)? else {
            self.add_missing(name);
            return Ok(None);
        };
        let tree = DirTree::decode(&data).map_err(|source| ReadError::Invalid { name, source })?;
        let mut is_complete = true;
        for (_, file) in &tree.files {
            is_complete &= self.visit_file(*file, visit)?;
        }
        for (_, _, meta) in &tree.dirs {
            is_complete &= self.visit_dirmeta(*meta, visit)?;
        }
        let left = tree.dirs.iter().rev().map(|&(_, tree, _)| tree).collect();
        Ok(Some(Frame { id, left, is_complete, height: 0 }))
    }

    /// Notes what is known of a dirtree after all of its children were visited.
    fn leave(&mut self, frame: &Frame, visit: &mut dyn FnMut(ObjectName)) -> TreeState {
        visit(frame.id.into());
        let known =
            if frame.is_complete { TreeState::Complete { height: frame.height + 1 } } else { TreeState::Incomplete };
        self.known.dirtrees.insert(frame.id, known);
        known
    }
}

fn too_deep(dirtree: DirTreeId) -> ReadError {
    ReadError::TooDeep { dirtree, limit: MAX_TREE_DEPTH }
}
