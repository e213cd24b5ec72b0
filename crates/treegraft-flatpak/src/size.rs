//! The download size of a tree, as Flatpak counts it.
//!
//! It is the sum of the archived sizes (`.filez`, header included) over every *path* of a regular file: the same object at two
//! paths counts twice, symlinks and directories do not count. That is more than a client downloads, and it is the
//! number that `flatpak` shows, because `xa.download-size` says so.

use std::collections::HashMap;

use treegraft_object::{ContentId, DirTreeId};
use treegraft_repo::{Find, ReadError, parallel};

/// How many files a thread takes at a time: so few that all threads end together, so many that starting one pays.
const FILES_AT_A_TIME: usize = 256;

/// Why a download size is not known.
#[derive(Debug, thiserror::Error)]
pub enum SizeError {
    /// An object of the tree is not there or cannot be read.
    #[error("Could not compute the download size of `{root}`")]
    Read {
        /// The root dirtree.
        root: DirTreeId,
        /// What is wrong with the object.
        source: ReadError,
    },
    /// A dirtree is inside itself, so its bytes cannot have the checksum that it is named after.
    #[error("Could not compute the download size of `{root}`: the dirtree `{dirtree}` contains itself")]
    Cycle {
        /// The root dirtree.
        root: DirTreeId,
        /// The dirtree that is inside itself.
        dirtree: DirTreeId,
    },
    /// The sum is larger than the number in a commit can be, as in a tree that was nested to harm.
    #[error("Could not compute the download size of `{root}`: it does not fit into 64 bits")]
    TooLarge {
        /// The root dirtree.
        root: DirTreeId,
    },
}

impl SizeError {
    /// Tells whether the same call may succeed later without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.is_temporary())
    }

    /// Returns a stable word for the kind of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { source, .. } => source.code(),
            Self::Cycle { .. } => "dirtree-cycle",
            Self::TooLarge { .. } => "download-size-too-large",
        }
    }
}

/// Computes the download size of the tree below `root`, in bytes.
pub fn download_size(find: &dyn Find, root: DirTreeId) -> Result<u64, SizeError> {
    DownloadSizes::new(find).of(root)
}

/// Computes the download sizes of several trees that share directories and files, as a Platform and its SDK do.
///
/// It keeps 40 bytes for every file and directory that it has seen.
pub struct DownloadSizes<'f> {
    find: &'f dyn Find,
    known: KnownSizes,
}

/// The sizes that [`DownloadSizes`] has found, for another one that looks where the first did, and perhaps further.
#[derive(Debug, Default)]
pub struct KnownSizes {
    /// What a path to this object adds: 0 for a symlink.
    files: HashMap<ContentId, u64>,
    /// The sum over everything below.
    trees: HashMap<DirTreeId, u64>,
}

/// A directory in the old tree and the one of the same path in the new tree.
type Pair = (Option<DirTreeId>, Option<DirTreeId>);

/// What differs between two directories.
#[derive(Default)]
struct Difference {
    added_bytes: u64,
    removed_bytes: u64,
    dirs: Vec<Pair>,
}

/// A dirtree that is part of the tree and not summed up yet.
struct Node {
    files: Vec<ContentId>,
    dirs: Vec<DirTreeId>,
    is_left: bool,
}

enum Step {
    Enter(DirTreeId),
    Leave(DirTreeId),
}

/// Most pairs of directories that are compared: more than a real tree has. Trees that are made to grow without end, each
/// directory holding another one twice, are summed up as a whole instead, which looks at each directory once.
const MAX_COMPARED_DIRS: usize = 100_000;

impl<'f> DownloadSizes<'f> {
    /// Starts without having seen anything.
    pub fn new(find: &'f dyn Find) -> Self {
        Self::with_known(find, KnownSizes::default())
    }

    /// Starts with what another one has found. The objects must still be the same, where this one looks.
    pub const fn with_known(find: &'f dyn Find, known: KnownSizes) -> Self {
        Self { find, known }
    }

    /// Ends, and returns what was found.
    pub fn into_known(self) -> KnownSizes {
        self.known
    }

    /// Computes the download size of the tree below `root`, in bytes.
    pub fn of(&mut self, root: DirTreeId) -> Result<u64, SizeError> {
        let nodes = self.walk(root)?;
        let mut new_files: Vec<ContentId> = nodes.iter().flat_map(|(_, node)| &node.files).copied().collect();
        new_files.retain(|id| !self.known.files.contains_key(id));
        new_files.sort_unstable();
        new_files.dedup();
        let sizes = file_sizes(self.find, &new_files).map_err(|source| SizeError::Read { root, source })?;
        self.known.files.extend(sizes);
        for (id, node) in nodes {
            let files = node.files.iter().map(|file| self.known.files[file]);
            // Children come before their parents, so their sums are there.
            let dirs = node.dirs.iter().map(|dir| self.known.trees[dir]);
            let sum = files.chain(dirs).try_fold(0_u64, u64::checked_add);
            self.known.trees.insert(id, sum.ok_or(SizeError::TooLarge { root })?);
        }
        Ok(self.known.trees[&root])
    }

    /// Computes the download size of the tree below `root` from that of another tree, of `old_bytes` bytes below `old_root`.
    ///
    /// Only what differs is looked at: after a weekly update some hundred files instead of all.
    pub fn of_changed(&mut self, root: DirTreeId, old_root: DirTreeId, old_bytes: u64) -> Result<u64, SizeError> {
        let too_large = || SizeError::TooLarge { root };
        let (mut added_bytes, mut removed_bytes, mut compared) = (0_u64, 0_u64, 0);
        let mut pairs = vec![(Some(old_root), Some(root))];
        while let Some(pair) = pairs.pop() {
            let (added, removed) = match pair {
                (old, new) if old == new => (0, 0),
                (None, new) => (new.map_or(Ok(0), |new| self.of(new))?, 0),
                (old, None) => (0, old.map_or(Ok(0), |old| self.of(old))?),
                (Some(_), Some(_)) if compared == MAX_COMPARED_DIRS => return self.of(root),
                (Some(old), Some(new)) => {
                    compared += 1;
                    let difference = self.compare(root, old, new)?;
                    pairs.extend(difference.dirs);
                    (difference.added_bytes, difference.removed_bytes)
                }
            };
            added_bytes = added_bytes.checked_add(added).ok_or_else(too_large)?;
            removed_bytes = removed_bytes.checked_add(removed).ok_or_else(too_large)?;
        }
        // A wrong old size cannot be told from a right one, but it must not wrap around.
        let sum = old_bytes.checked_add(added_bytes).and_then(|sum| sum.checked_sub(removed_bytes));
        sum.ok_or_else(too_large)
    }

    /// Compares two directories by themselves.
    fn compare(&mut self, root: DirTreeId, old: DirTreeId, new: DirTreeId) -> Result<Difference, SizeError> {
        let read = |source| SizeError::Read { root, source };
        let (old, new) = (self.find.dirtree(old).map_err(read)?, self.find.dirtree(new).map_err(read)?);
        let mut difference = Difference::default();
        let only_in = |these: &[(String, ContentId)], those: &[(String, ContentId)]| -> Vec<ContentId> {
            let others: HashMap<&str, ContentId> = those.iter().map(|(name, id)| (name.as_str(), *id)).collect();
            these.iter().filter(|(name, id)| others.get(name.as_str()) != Some(id)).map(|&(_, id)| id).collect()
        };
        difference.added_bytes = self.sum(root, &only_in(&new.files, &old.files))?;
        difference.removed_bytes = self.sum(root, &only_in(&old.files, &new.files))?;
        let mut dirs: HashMap<String, Pair> = HashMap::new();
        for (name, id, _) in old.dirs {
            dirs.entry(name).or_default().0 = Some(id);
        }
        for (name, id, _) in new.dirs {
            dirs.entry(name).or_default().1 = Some(id);
        }
        difference.dirs = dirs.into_values().filter(|(old, new)| old != new).collect();
        Ok(difference)
    }

    /// Sums the sizes of files, each as often as it is listed.
    fn sum(&mut self, root: DirTreeId, files: &[ContentId]) -> Result<u64, SizeError> {
        let new: Vec<ContentId> = files.iter().copied().filter(|id| !self.known.files.contains_key(id)).collect();
        let sizes = file_sizes(self.find, &new).map_err(|source| SizeError::Read { root, source })?;
        self.known.files.extend(sizes);
        let sizes = files.iter().map(|id| self.known.files[id]);
        sizes.into_iter().try_fold(0_u64, u64::checked_add).ok_or(SizeError::TooLarge { root })
    }

    /// Reads every dirtree that has no sum yet, and returns them with children before their parents.
    fn walk(&self, root: DirTreeId) -> Result<Vec<(DirTreeId, Node)>, SizeError> {
        let mut nodes: HashMap<DirTreeId, Node> = HashMap::new();
        let mut order = Vec::new();
        let mut steps = vec![Step::Enter(root)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(id) if self.known.trees.contains_key(&id) => {}
                Step::Enter(id) => match nodes.get(&id) {
                    Some(node) if node.is_left => {}
                    Some(_) => return Err(SizeError::Cycle { root, dirtree: id }),
                    None => {
                        let node = self.read(id).map_err(|source| SizeError::Read { root, source })?;
                        steps.push(Step::Leave(id));
                        steps.extend(node.dirs.iter().copied().map(Step::Enter));
                        nodes.insert(id, node);
                    }
                },
                Step::Leave(id) => {
                    nodes.entry(id).and_modify(|node| node.is_left = true);
                    order.push(id);
                }
            }
        }
        Ok(order.into_iter().filter_map(|id| nodes.remove_entry(&id)).collect())
    }

    fn read(&self, id: DirTreeId) -> Result<Node, ReadError> {
        let tree = self.find.dirtree(id)?;
        let files = tree.files.into_iter().map(|(_, file)| file).collect();
        let dirs = tree.dirs.into_iter().map(|(_, dir, _)| dir).collect();
        Ok(Node { files, dirs, is_left: false })
    }
}

/// Looks at each file once, with all cores when there are many.
fn file_sizes(find: &dyn Find, files: &[ContentId]) -> Result<Vec<(ContentId, u64)>, ReadError> {
    let some: Vec<_> = files.chunks(FILES_AT_A_TIME).collect();
    let look =
        |(): &mut (), some: &&[ContentId]| some.iter().map(|&id| file_size(find, id)).collect::<Result<Vec<_>, _>>();
    Ok(parallel::for_each(0, &some, || (), look)?.into_iter().flatten().collect())
}

fn file_size(find: &dyn Find, id: ContentId) -> Result<(ContentId, u64), ReadError> {
    let file = find.archived_file(id)?.ok_or(ReadError::NotFound { name: id.into() })?;
    Ok((id, if file.is_symlink { 0 } else { file.archived_bytes }))
}
