//! Object kinds and the name of an object: its kind and its checksum.

use std::fmt;

use crate::{Checksum, CommitId, ContentId, DirMetaId, DirTreeId};

/// The kind of an object, with libostree's numbers (`OstreeObjectType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// A content object: a regular file or a symlink with owner, mode and extended attributes.
    File = 1,
    /// A directory listing.
    DirTree = 2,
    /// Owner, mode and extended attributes of a directory.
    DirMeta = 3,
    /// A commit.
    Commit = 4,
    /// The mark that a commit was deleted on purpose.
    TombstoneCommit = 5,
    /// Detached metadata of a commit: mutable, named after the commit, without a checksum of its own.
    CommitMeta = 6,
}

impl ObjectKind {
    /// Returns the kind with libostree's number `number`.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::File,
            2 => Self::DirTree,
            3 => Self::DirMeta,
            4 => Self::Commit,
            5 => Self::TombstoneCommit,
            6 => Self::CommitMeta,
            _ => return None,
        })
    }

    /// Returns libostree's number of this kind.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the file extension: `file`, `dirtree`, … (archive repositories append a `z` to `file`).
    pub const fn extension(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::DirTree => "dirtree",
            Self::DirMeta => "dirmeta",
            Self::Commit => "commit",
            Self::TombstoneCommit => "tombstone-commit",
            Self::CommitMeta => "commitmeta",
        }
    }

    /// Tells whether objects of this kind are stored as they are in every mode, in contrast to content objects.
    pub const fn is_metadata(self) -> bool {
        !matches!(self, Self::File)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

/// The name of an object, written `<checksum>.<kind>` as `ostree` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// What the object is.
    pub kind: ObjectKind,
    /// Its checksum, or for a tombstone and for detached metadata that of the commit that it belongs to.
    pub checksum: Checksum,
}

impl ObjectName {
    /// Makes a name.
    pub const fn new(kind: ObjectKind, checksum: Checksum) -> Self {
        Self { kind, checksum }
    }

    /// Returns the name of a commit's detached metadata.
    pub const fn commit_meta(commit: CommitId) -> Self {
        Self::new(ObjectKind::CommitMeta, commit.0)
    }

    /// Returns the path below the repository, with `/`: `objects/ab/cdef….dirtree`.
    ///
    /// Archive repositories store content objects as `.filez`, the others as `.file`.
    pub fn loose_path(&self, content_extension: &str) -> String {
        let hex = self.checksum.to_hex();
        let extension = if self.kind == ObjectKind::File { content_extension } else { self.kind.extension() };
        format!("objects/{}/{}.{extension}", &hex[..2], &hex[2..])
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.checksum, self.kind)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<CommitId> for ObjectName {
    fn from(id: CommitId) -> Self {
        Self::new(ObjectKind::Commit, id.0)
    }
}

impl From<DirTreeId> for ObjectName {
    fn from(id: DirTreeId) -> Self {
        Self::new(ObjectKind::DirTree, id.0)
    }
}

impl From<DirMetaId> for ObjectName {
    fn from(id: DirMetaId) -> Self {
        Self::new(ObjectKind::DirMeta, id.0)
    }
}

impl From<ContentId> for ObjectName {
    fn from(id: ContentId) -> Self {
        Self::new(ObjectKind::File, id.0)
    }
}
