//! The objects that trees are made of.

use std::{
    collections::HashMap,
    fmt,
    io::{Read, Write},
    path::PathBuf,
};

use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, DirTreeId, DirTreeRef, FileHeader, ObjectKind, ObjectName,
    filez::{self, FilezError, FilezInfo},
};
use treegraft_repo::{ArchivedFile, Find, ReadError};

use crate::{File, content::Opened, hash::Inode, tree::index};

/// All objects of some trees and of the commits that were made of them. Content is read when it is asked for.
#[derive(Default)]
pub struct TreeObjects {
    metadata: HashMap<ObjectName, Box<[u8]>>,
    /// The files of all trees.
    files: Vec<Vec<File>>,
    /// Each content object's place: a tree, and a file of it.
    places: HashMap<ContentId, (u32, u32)>,
    /// Files with several names that were hashed.
    pub(crate) linked: HashMap<Inode, ContentId>,
}

impl fmt::Debug for TreeObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metadata, files) = (self.metadata.len(), self.places.len());
        f.debug_struct("TreeObjects").field("metadata", &metadata).field("files", &files).finish_non_exhaustive()
    }
}

impl TreeObjects {
    /// Starts without any object.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a commit and returns its id.
    pub fn add_commit(&mut self, commit: &Commit) -> CommitId {
        CommitId(self.put_metadata(ObjectKind::Commit, commit.encode()))
    }

    /// Returns the names of all content objects with the sizes of their plain content in bytes.
    pub fn files(&self) -> impl Iterator<Item = (ContentId, u64)> {
        self.places.iter().map(|(&id, &place)| (id, self.at(place).content_bytes))
    }

    /// Returns the names of all other objects.
    pub fn metadata_names(&self) -> impl Iterator<Item = ObjectName> {
        self.metadata.keys().copied()
    }

    /// Returns the size of the plain content of all regular files of a tree, in bytes, each as often as it has a name.
    pub fn plain_size(&self, root: DirTreeId) -> u64 {
        let mut total = 0_u64;
        let mut pending = vec![root];
        while let Some(id) = pending.pop() {
            let data = self.metadata.get(&ObjectName::from(id)).map_or(&[][..], |data| data);
            let Ok(tree) = DirTreeRef::decode(data) else { continue };
            let sizes = tree.files.iter().filter_map(|(_, id)| self.file(*id).ok()).map(|file| file.content_bytes);
            total = sizes.fold(total, u64::saturating_add);
            pending.extend(tree.dirs.iter().map(|&(_, id, _)| id));
        }
        total
    }

    /// Opens a content object: its header, the size of its plain content in bytes, and that.
    ///
    /// Whoever reads has to compare the checksum: see [`changed`](Self::changed).
    pub fn open(&self, id: ContentId) -> Result<(&FileHeader, u64, Box<dyn Read + '_>), ReadError> {
        let file = self.file(id)?;
        Ok((&file.header.header, file.content_bytes, Box::new(open(file)?)))
    }

    /// Returns the size of a content object's plain content in bytes, or nothing when it is not there.
    pub fn content_bytes(&self, id: ContentId) -> Option<u64> {
        self.places.get(&id).map(|&place| self.at(place).content_bytes)
    }

    /// Returns the path of the file with a content object, or nothing when there is none.
    pub fn path_of(&self, id: ContentId) -> Option<PathBuf> {
        self.file(id).ok().map(File::path)
    }

    /// Makes the error that says that a file is not what it was when it was hashed.
    pub fn changed(&self, id: ContentId) -> ReadError {
        self.file(id).map_or_else(|error| error, |file| ReadError::Changed { path: file.path() })
    }

    /// Streams a content object as `.filez`, compressed with zlib's `level`, and verifies it on the way.
    ///
    /// What was written must be thrown away after an error.
    pub fn write_archived(&self, id: ContentId, level: u32, archived: &mut dyn Write) -> Result<FilezInfo, ReadError> {
        let name = ObjectName::from(id);
        let file = self.file(id)?;
        let mut content = open(file)?;
        match filez::write(&file.header.header, file.content_bytes, &mut content, level, &mut &mut *archived) {
            Ok(info) if info.id == id => Ok(info),
            // Another size than that of the first time counts as invalid.
            Ok(_) | Err(FilezError::Invalid(_)) => Err(self.changed(id)),
            Err(FilezError::Read(source)) => Err(ReadError::Io { path: file.path(), source }),
            Err(FilezError::Write(source)) => Err(ReadError::Write { name, source }),
        }
    }

    pub(crate) fn put_metadata(&mut self, kind: ObjectKind, data: Vec<u8>) -> Checksum {
        let checksum = Checksum::of(&data);
        self.metadata.entry(ObjectName::new(kind, checksum)).or_insert_with(|| data.into());
        checksum
    }

    pub(crate) fn put_files(&mut self, files: Vec<File>, ids: Vec<ContentId>) {
        let tree = index(self.files.len());
        for (file, id) in ids.into_iter().enumerate() {
            self.places.entry(id).or_insert((tree, index(file)));
        }
        self.files.push(files);
    }

    fn file(&self, id: ContentId) -> Result<&File, ReadError> {
        self.places.get(&id).map(|&place| self.at(place)).ok_or(ReadError::NotFound { name: id.into() })
    }

    fn at(&self, (tree, file): (u32, u32)) -> &File {
        &self.files[tree as usize][file as usize]
    }
}

fn open(file: &File) -> Result<Opened, ReadError> {
    file.open().map_err(|source| ReadError::Io { path: file.path(), source })
}

impl Find for TreeObjects {
    fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        Ok(match name.kind {
            ObjectKind::File => self.places.contains_key(&ContentId(name.checksum)),
            _ => self.metadata.contains_key(&name),
        })
    }

    fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.metadata.get(&name).map(|data| data.to_vec()))
    }

    /// Nothing is archived.
    fn archived_file(&self, _id: ContentId) -> Result<Option<ArchivedFile>, ReadError> {
        Ok(None)
    }
}
