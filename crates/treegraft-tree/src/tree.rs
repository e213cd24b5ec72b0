//! A tree in memory: what each name is.

use std::{
    collections::{BTreeMap, btree_map::Entry as MapEntry},
    io,
    path::PathBuf,
    sync::Arc,
};

use treegraft_object::{Checksum, DirMeta, FileHeader, FileKind};

use crate::{Container, Content, TreeError, content::Opened, scan::Stamp};

/// A directory of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirIndex(pub(crate) u32);

/// A file of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileIndex(pub(crate) u32);

/// A file's header with its checksum, shared by the files that have it.
#[derive(Debug)]
pub struct Header {
    pub(crate) header: FileHeader,
    /// Of the bare form.
    pub(crate) checksum: Checksum,
}

impl Header {
    /// Takes a valid header.
    pub fn new(header: FileHeader) -> Arc<Self> {
        let checksum = Checksum::of(&header.encode_bare());
        Arc::new(Self { header, checksum })
    }

    /// Tells whether it is that of a regular file and not of a symlink.
    pub(crate) fn is_regular(&self) -> bool {
        self.header.kind == FileKind::Regular
    }
}

/// A regular file or a symlink.
#[derive(Debug, Clone)]
pub struct File {
    /// Owner, mode, kind and extended attributes.
    pub header: Arc<Header>,
    /// Size of the plain content in bytes; 0 for a symlink.
    pub content_bytes: u64,
    /// Where the content is; of no meaning for a symlink.
    pub content: Content,
    /// How the file looked when it was listed, for one that is on disk.
    pub(crate) stamp: Option<Stamp>,
    /// The name that it has in a tree, which is empty before.
    pub(crate) name: Arc<str>,
}

impl File {
    /// Makes a file out of content that is in memory.
    pub fn in_memory(header: Arc<Header>, data: impl Into<Arc<[u8]>>) -> Self {
        let data = data.into();
        let content_bytes = data.len() as u64;
        Self { header, content_bytes, content: Content::Memory(data), stamp: None, name: Arc::default() }
    }

    /// Makes a file out of a part of another one, from `offset` on.
    pub fn part(header: Arc<Header>, container: Arc<Container>, offset: u64, content_bytes: u64) -> Self {
        let content = Content::Part(container, offset);
        Self { header, content_bytes, content, stamp: None, name: Arc::default() }
    }

    /// Makes a symlink.
    pub fn symlink(header: Arc<Header>) -> Self {
        Self::in_memory(header, [])
    }

    /// Returns the path that messages name.
    pub(crate) fn path(&self) -> PathBuf {
        self.content.path(&self.name)
    }

    /// Opens the plain content.
    pub(crate) fn open(&self) -> io::Result<Opened> {
        self.content.open(&self.name, self.content_bytes)
    }
}

#[derive(Debug)]
pub(crate) enum Entry {
    Dir(DirIndex),
    File(FileIndex),
}

#[derive(Debug, Default)]
pub(crate) struct Dir {
    pub(crate) meta: Option<Arc<DirMeta>>,
    /// In the order of a dirtree.
    pub(crate) entries: BTreeMap<Arc<str>, Entry>,
}

/// What each name of a tree is. Built by [`scan`](crate::scan()) and by hand; a later entry replaces an earlier one.
#[derive(Debug)]
pub struct Tree {
    pub(crate) dirs: Vec<Dir>,
    pub(crate) files: Vec<File>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { dirs: vec![Dir::default()], files: Vec::new() }
    }
}

impl Tree {
    /// The root directory.
    pub const ROOT: DirIndex = DirIndex(0);

    /// Makes an empty tree. The root has no owner and mode yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets owner, mode and extended attributes of a directory.
    pub fn set_meta(&mut self, dir: DirIndex, meta: Arc<DirMeta>) {
        self.dir_mut(dir).meta = Some(meta);
    }

    /// Returns a directory's entry that is a directory, which is made if there is none.
    pub fn ensure_dir(&mut self, parent: DirIndex, name: &str) -> Result<DirIndex, TreeError> {
        let next = DirIndex(index(self.dirs.len()));
        match self.dir_mut(parent).entries.entry(name.into()) {
            MapEntry::Occupied(entry) => match entry.get() {
                Entry::Dir(found) => Ok(*found),
                Entry::File(_) => Err(TreeError::Conflict { path: name.to_owned() }),
            },
            MapEntry::Vacant(entry) => {
                entry.insert(Entry::Dir(next));
                self.dirs.push(Dir::default());
                Ok(next)
            }
        }
    }

    /// Puts a file into a directory, in the place of one with this name.
    pub fn put_file(&mut self, parent: DirIndex, name: &str, file: File) -> Result<(), TreeError> {
        let next = FileIndex(index(self.files.len()));
        match self.dir_mut(parent).entries.entry(name.into()) {
            MapEntry::Occupied(entry) => match *entry.get() {
                Entry::File(FileIndex(found)) => {
                    let name = Arc::clone(entry.key());
                    self.files[found as usize] = File { name, ..file };
                }
                Entry::Dir(_) => return Err(TreeError::Conflict { path: name.to_owned() }),
            },
            MapEntry::Vacant(entry) => {
                let name = Arc::clone(entry.key());
                entry.insert(Entry::File(next));
                self.files.push(File { name, ..file });
            }
        }
        Ok(())
    }

    /// Tells whether there is nothing, not even a root with owner and mode.
    pub(crate) fn is_empty(&self) -> bool {
        self.dirs.len() == 1 && self.files.is_empty() && self.dirs[0].meta.is_none()
    }

    /// Tells whether a directory has its owner and mode.
    pub(crate) fn has_meta(&self, dir: DirIndex) -> bool {
        self.dirs[dir.0 as usize].meta.is_some()
    }

    /// Returns a directory's entry of this name.
    pub(crate) fn entry(&self, parent: DirIndex, name: &str) -> Option<&Entry> {
        self.dirs[parent.0 as usize].entries.get(name)
    }

    /// Returns the sizes in bytes of all regular files, each as often as it has a name.
    pub fn file_sizes(&self) -> impl Iterator<Item = u64> {
        self.files.iter().filter(|file| file.header.is_regular()).map(|file| file.content_bytes)
    }

    fn dir_mut(&mut self, dir: DirIndex) -> &mut Dir {
        &mut self.dirs[dir.0 as usize]
    }
}

/// Makes a small number of a position.
pub(crate) fn index(length: usize) -> u32 {
    u32::try_from(length).expect("a tree with 2³² entries does not fit into memory")
}
