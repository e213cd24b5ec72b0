//! Hashing the files of a tree on all cores.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use treegraft_object::{Checksum, ContentHasher, ContentId, DirMetaId, DirTree, DirTreeId, limits};
use treegraft_repo::parallel;

use crate::{
    DirIndex, File, HashCache, Tree, TreeError, TreeObjects,
    content::Opened,
    scan::stamp,
    tree::{Entry, FileIndex},
};

/// Size in bytes of each thread's buffer: large enough that system calls cost nothing beside hashing.
const BUFFER_BYTES: usize = 256 << 10;

/// How the files of a tree are hashed.
#[derive(Clone, Copy)]
pub struct HashOptions<'o> {
    /// Threads; 0 for as many as there are cores.
    pub threads: usize,
    /// Is told of each piece that was hashed, in bytes, by all threads.
    pub progress: &'o (dyn Fn(u64) + Sync),
    /// What files were hashed to at other times.
    pub cache: Option<&'o HashCache>,
}

impl Default for HashOptions<'_> {
    fn default() -> Self {
        Self { threads: 0, progress: &|_| {}, cache: None }
    }
}

/// The root of a tree whose objects are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The dirtree.
    pub tree: DirTreeId,
    /// The dirmeta.
    pub meta: DirMetaId,
}

/// A file that several names lead to, with one header: it is hashed once.
pub(crate) type Inode = (u64, u64, Checksum);

impl TreeObjects {
    /// Hashes a tree's files and makes its dirtrees and dirmetas.
    ///
    /// Files that are linked to others, of this tree or of one that was added before, are read once.
    pub fn add(&mut self, tree: Tree, options: HashOptions<'_>) -> Result<Root, TreeError> {
        let ids = self.hash_files(&tree, options)?;
        let root = self.make_dirs(&tree, &ids)?;
        self.put_files(tree.files, ids);
        Ok(root)
    }

    /// Returns the id of each file.
    fn hash_files(&mut self, tree: &Tree, options: HashOptions<'_>) -> Result<Vec<ContentId>, TreeError> {
        let mut ids: Vec<Option<ContentId>> = vec![None; tree.files.len()];
        let mut first_of: HashMap<Inode, usize> = HashMap::new();
        let mut work = Vec::new();
        for (index, file) in tree.files.iter().enumerate() {
            let inode = linked_inode(file);
            ids[index] = inode.and_then(|inode| self.linked.get(&inode).copied());
            ids[index] = ids[index].or_else(|| options.cache?.get(file));
            let is_first = inode.is_none_or(|inode| *first_of.entry(inode).or_insert(index) == index);
            if ids[index].is_none() && is_first {
                work.push(index);
            }
        }
        // The largest first, so that no thread begins with one when the others are done.
        work.sort_by_key(|&index| std::cmp::Reverse(tree.files[index].content_bytes));
        let hashed = parallel::for_each(
            options.threads,
            &work,
            || vec![0; BUFFER_BYTES],
            |buffer, &index| hash(&tree.files[index], buffer, options.progress).map(|id| (index, id)),
        )?;
        for (index, id) in hashed {
            if let Some(cache) = options.cache {
                cache.put(&tree.files[index], id);
            }
            ids[index] = Some(id);
        }
        self.linked.extend(first_of.iter().filter_map(|(&inode, &index)| Some((inode, ids[index]?))));
        let known = |(index, id): (usize, Option<ContentId>)| {
            let linked = || linked_inode(&tree.files[index]).and_then(|inode| self.linked.get(&inode).copied());
            id.or_else(linked).expect("each file was hashed, or is linked to one that was")
        };
        Ok(ids.into_iter().enumerate().map(known).collect())
    }

    /// Makes dirmetas and dirtrees, those of subdirectories before their parents'.
    fn make_dirs(&mut self, tree: &Tree, ids: &[ContentId]) -> Result<Root, TreeError> {
        let mut roots: Vec<Option<Root>> = vec![None; tree.dirs.len()];
        let mut open = vec![(Tree::ROOT, String::new(), false)];
        while let Some((DirIndex(index), path, is_entered)) = open.pop() {
            let dir = &tree.dirs[index as usize];
            if !is_entered {
                if path.matches('/').count() > limits::MAX_TREE_DEPTH {
                    return Err(TreeError::TooDeep { path });
                }
                let below = dir.entries.iter().filter_map(|(name, entry)| match entry {
                    Entry::Dir(dir) => Some((*dir, format!("{path}/{name}"), false)),
                    Entry::File(_) => None,
                });
                let below: Vec<_> = below.collect();
                open.push((DirIndex(index), path, true));
                open.extend(below);
                continue;
            }
            let mut made = DirTree::default();
            for (name, entry) in &dir.entries {
                match *entry {
                    Entry::File(FileIndex(file)) => made.files.push((name.to_string(), ids[file as usize])),
                    Entry::Dir(DirIndex(below)) => {
                        let Root { tree, meta } = roots[below as usize].expect("it was left before its parent");
                        made.dirs.push((name.to_string(), tree, meta));
                    }
                }
            }
            let shown = || if path.is_empty() { "/".to_owned() } else { path.clone() };
            let meta = dir.meta.as_ref().ok_or_else(|| TreeError::NoMeta { path: shown() })?;
            let data = made.encode();
            if data.len() as u64 > limits::MAX_METADATA_BYTES {
                return Err(TreeError::TooLarge { path: shown(), bytes: data.len() as u64 });
            }
            roots[index as usize] = Some(Root {
                tree: DirTreeId(self.put_metadata(treegraft_object::ObjectKind::DirTree, data)),
                meta: DirMetaId(self.put_metadata(treegraft_object::ObjectKind::DirMeta, meta.encode())),
            });
        }
        Ok(roots[0].expect("the root is left last"))
    }
}

/// Returns what identifies a file that has several names.
fn linked_inode(file: &File) -> Option<Inode> {
    let stamp = file.stamp.filter(|stamp| stamp.has_links)?;
    Some((stamp.device, stamp.inode, file.header.checksum))
}

/// Hashes one file, which must be as it was listed, before and after.
fn hash(file: &File, buffer: &mut [u8], progress: &dyn Fn(u64)) -> Result<ContentId, TreeError> {
    let fail = |source| TreeError::Io { path: file.path(), source };
    let changed = || TreeError::Changed { path: file.path() };
    let mut hasher = ContentHasher::new(&file.header.header);
    if file.header.is_regular() {
        let mut opened = file.open().map_err(fail)?;
        let looks_the_same = |opened: &Opened| match (opened, file.stamp) {
            (Opened::File(opened), Some(listed)) => Ok(stamp(opened)? == listed),
            _ => Ok(true),
        };
        if !looks_the_same(&opened).map_err(fail)? {
            return Err(changed());
        }
        let mut bytes = 0;
        loop {
            let count = match opened.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(fail)?,
            };
            if count == 0 {
                break;
            }
            bytes += count as u64;
            hasher.update(&buffer[..count]);
            progress(count as u64);
            if bytes > file.content_bytes {
                return Err(changed());
            }
        }
        if bytes != file.content_bytes || !looks_the_same(&opened).map_err(fail)? {
            return Err(changed());
        }
    }
    Ok(hasher.finish())
}
