//! Where objects are looked up.

use std::{io, path::PathBuf};

use treegraft_object::{Checksum, Commit, CommitId, ContentId, DecodeError, DirTree, DirTreeId, ObjectName};

/// Where objects are looked up: a repository with its parents, or a staging area over one.
///
/// A look-up is one or two system calls; no implementation may list a directory for it.
pub trait Find: Sync {
    /// Tells whether the object is there. Its bytes are not looked at.
    fn has(&self, name: ObjectName) -> Result<bool, ReadError>;

    /// Reads a metadata object, or nothing when it is absent. Its checksum is not computed.
    ///
    /// An object larger than [`MAX_METADATA_BYTES`](treegraft_object::limits::MAX_METADATA_BYTES) is an error.
    fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError>;

    /// Looks at a `.filez`, or returns nothing when it is absent. Only archive repositories have such files.
    fn archived_file(&self, id: ContentId) -> Result<Option<ArchivedFile>, ReadError>;

    /// Reads and decodes a commit, which must be there.
    fn commit(&self, id: CommitId) -> Result<Commit, ReadError> {
        let name = ObjectName::from(id);
        let data = self.metadata(name)?.ok_or(ReadError::NotFound { name })?;
        Commit::decode(&data).map_err(|source| ReadError::Invalid { name, source })
    }

    /// Reads and decodes a dirtree, which must be there.
    fn dirtree(&self, id: DirTreeId) -> Result<DirTree, ReadError> {
        let name = ObjectName::from(id);
        let data = self.metadata(name)?.ok_or(ReadError::NotFound { name })?;
        DirTree::decode(&data).map_err(|source| ReadError::Invalid { name, source })
    }
}

/// What can be told of a content object in an archive repository without reading all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivedFile {
    /// Size of the `.filez` on disk in bytes, header included.
    pub archived_bytes: u64,
    /// Whether the object is a symlink and not a regular file.
    pub is_symlink: bool,
}

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The object is neither in the repository nor in its parents.
    #[error("Could not find the object `{name}`")]
    NotFound {
        /// The object.
        name: ObjectName,
    },
    /// The file system refused.
    #[error("Could not read `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The object breaks a rule of its format.
    #[error("The object `{name}` is not valid")]
    Invalid {
        /// The object.
        name: ObjectName,
        /// The broken rule.
        #[source]
        source: DecodeError,
    },
    /// The object's bytes have another checksum than its name.
    #[error("The object `{name}` has the checksum {actual}")]
    Checksum {
        /// The object.
        name: ObjectName,
        /// The checksum of its bytes.
        actual: Checksum,
    },
    /// The file that an object is made from is not what it was when the object got its name.
    #[error("`{path}` changed after it was read for the first time", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Something that cannot be an object has an object's path.
    #[error("The object `{name}` is no regular file on disk")]
    FileType {
        /// The object.
        name: ObjectName,
    },
    /// A `.filez` was asked for, but the repository has none.
    #[error("`{path}` is no archive repository", path = path.display())]
    NotArchive {
        /// The repository.
        path: PathBuf,
    },
    /// A tree is nested deeper than any path can be.
    #[error("The dirtree `{dirtree}` is nested deeper than {limit} directories")]
    TooDeep {
        /// The dirtree at which the walk stopped.
        dirtree: DirTreeId,
        /// The deepest allowed nesting.
        limit: usize,
    },
    /// The place where the object should be copied to did not take it.
    #[error("Could not write a copy of the object `{name}`")]
    Write {
        /// The object.
        name: ObjectName,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl ReadError {
    /// Tells whether the same call may succeed later without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => is_temporary(source),
            // It has to be hashed again, which the next try does.
            Self::Changed { .. } => true,
            _ => false,
        }
    }

    /// Returns the stable code: that of the broken format rule, or one of the read's own.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "missing-object",
            Self::Io { .. } | Self::Write { .. } => "io",
            Self::Invalid { source, .. } => source.code(),
            Self::Checksum { .. } => "checksum-mismatch",
            Self::Changed { .. } => "file-changed",
            Self::FileType { .. } => "file-type",
            Self::NotArchive { .. } => "not-archive",
            Self::TooDeep { .. } => "too-deep",
        }
    }
}

/// Tells whether a failure is one of the moment: interrupted, busy, or out of memory or file descriptors.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    // The last two have no `ErrorKind`: too many open files in the process, and in the system.
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::StaleNetworkFileHandle
    ) || [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
