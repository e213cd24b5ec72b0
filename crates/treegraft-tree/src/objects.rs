//! The objects that trees are made of.

use std::{
    collections::HashMap,
    fmt,
    io::{Read, Write},
    sync::Arc,
};

use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, FileHeader, ObjectKind, ObjectName,
    filez::{self, FilezError, FilezInfo},
};
use treegraft_repo::{ArchivedFile, Find, ReadError};

use crate::{Content, File, Header, content::Opened, hash::Inode};

/// All objects of some trees and of the commits that were made of them. Content is read when it is asked for.
#[derive(Default)]
pub struct TreeObjects {
    metadata: HashMap<ObjectName, Box<[u8]>>,
    files: HashMap<ContentId, Kept>,
    /// Files with several names that were hashed.
    pub(crate) linked: HashMap<Inode, ContentId>,
}

/// A content object.
struct Kept {
    header: Arc<Header>,
    content_bytes: u64,
    content: Content,
    name: Box<str>,
}

impl fmt::Debug for TreeObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metadata, files) = (self.metadata.len(), self.files.len());
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
        self.files.iter().map(|(&id, kept)| (id, kept.content_bytes))
    }

    /// Returns the names of all other objects.
    pub fn metadata_names(&self) -> impl Iterator<Item = ObjectName> {
        self.metadata.keys().copied()
    }

    /// Opens a content object: its header, the size of its plain content in bytes, and that.
    ///
    /// Whoever reads has to compare the checksum: see [`changed`](Self::changed).
    pub fn open(&self, id: ContentId) -> Result<(&FileHeader, u64, Box<dyn Read + '_>), ReadError> {
        let kept = self.kept(id)?;
        Ok((&kept.header.header, kept.content_bytes, Box::new(kept.open()?)))
    }

    /// Makes the error that says that a file is not what it was when it was hashed.
    pub fn changed(&self, id: ContentId) -> ReadError {
        match self.kept(id) {
            Ok(kept) => ReadError::Changed { path: kept.content.path(&kept.name) },
            Err(error) => error,
        }
    }

    /// Streams a content object as `.filez`, compressed with zlib's `level`, and verifies it on the way.
    ///
    /// What was written must be thrown away after an error.
    pub fn write_archived(&self, id: ContentId, level: u32, archived: &mut dyn Write) -> Result<FilezInfo, ReadError> {
        let name = ObjectName::from(id);
        let kept = self.kept(id)?;
        let mut content = kept.open()?;
        match filez::write(&kept.header.header, kept.content_bytes, &mut content, level, &mut &mut *archived) {
            Ok(info) if info.id == id => Ok(info),
            // Another size than that of the first time counts as invalid.
            Ok(_) | Err(FilezError::Invalid(_)) => Err(self.changed(id)),
            Err(FilezError::Read(source)) => Err(ReadError::Io { path: kept.content.path(&kept.name), source }),
            Err(FilezError::Write(source)) => Err(ReadError::Write { name, source }),
        }
    }

    pub(crate) fn put_metadata(&mut self, kind: ObjectKind, data: Vec<u8>) -> Checksum {
        let checksum = Checksum::of(&data);
        self.metadata.entry(ObjectName::new(kind, checksum)).or_insert_with(|| data.into());
        checksum
    }

    pub(crate) fn put_file(&mut self, id: ContentId, name: Box<str>, file: File) {
        let File { header, content_bytes, content, .. } = file;
        self.files.entry(id).or_insert(Kept { header, content_bytes, content, name });
    }

    fn kept(&self, id: ContentId) -> Result<&Kept, ReadError> {
        self.files.get(&id).ok_or(ReadError::NotFound { name: id.into() })
    }
}

impl Kept {
    fn open(&self) -> Result<Opened, ReadError> {
        let bytes = self.content_bytes;
        let fail = |source| ReadError::Io { path: self.content.path(&self.name), source };
        self.content.open(&self.name, bytes).map_err(fail)
    }
}

impl Find for TreeObjects {
    fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        Ok(match name.kind {
            ObjectKind::File => self.files.contains_key(&ContentId(name.checksum)),
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
