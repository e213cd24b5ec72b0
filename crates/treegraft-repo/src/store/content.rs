//! Reading objects through a repository and its parents.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    iter,
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, Dir, Mode as FileMode, OFlags, openat, statat},
    io::Errno,
};
use treegraft_object::{
    CommitId, ContentId, FileHeader, FileKind, ObjectName, detached, filez::FilezError, filez::read_header,
    gvariant::Dict,
};

use super::{LooseDir, bare};
use crate::{ArchivedFile, Find, Mode, ReadError, Repo};

/// Size of the read buffer before the inflater.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// A content object: its header, and its plain content as a stream.
///
/// Nothing is verified but the header's format; [`Repo::write_archived`] checks the checksum as well.
pub struct Content {
    /// Owner, mode, kind and extended attributes.
    pub header: FileHeader,
    /// Size of the plain content in bytes; 0 for a symlink.
    pub content_bytes: u64,
    /// The plain content; empty for a symlink.
    pub reader: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("header", &self.header)
            .field("content_bytes", &self.content_bytes)
            .finish_non_exhaustive()
    }
}

impl Content {
    /// Makes a symlink's content, which is empty.
    pub(super) fn symlink(header: FileHeader) -> Self {
        Self { header, content_bytes: 0, reader: Box::new(io::empty()) }
    }
}

impl Find for Repo {
    fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        for repo in self.with_parents() {
            if repo.loose().has(name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
        for repo in self.with_parents() {
            if let Some(data) = repo.loose().metadata(name)? {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    fn archived_file(&self, id: ContentId) -> Result<Option<ArchivedFile>, ReadError> {
        self.first_archived(id, |loose| loose.archived_file(id))
    }
}

impl Repo {
    /// Opens a content object of a repository of any mode.
    ///
    /// The stream ends with an error when a `.filez` has another size than its header promises.
    pub fn open_content(&self, id: ContentId) -> Result<Content, ReadError> {
        for repo in self.with_parents() {
            if let Some(content) = repo.open_own_content(id)? {
                return Ok(content);
            }
        }
        Err(ReadError::NotFound { name: id.into() })
    }

    /// Opens a `.filez` as it is on disk, or returns nothing when it is absent. The size is in bytes.
    pub fn open_archived(&self, id: ContentId) -> Result<Option<(File, u64)>, ReadError> {
        self.first_archived(id, |loose| loose.open(id.into()))
    }

    /// Returns the file of an object, here or in a parent, for messages; that of an absent one is where it would be here.
    pub fn path_of(&self, name: impl Into<ObjectName>) -> PathBuf {
        let name = name.into();
        let holder = self.with_parents().find(|repo| repo.loose().has(name).unwrap_or(false));
        holder.unwrap_or(self).loose().path_of(name)
    }

    /// Reads a commit's detached metadata, or nothing when it has none.
    pub fn detached_metadata(&self, commit: CommitId) -> Result<Option<Dict>, ReadError> {
        let name = ObjectName::commit_meta(commit);
        let Some(data) = self.metadata(name)? else { return Ok(None) };
        detached::decode(&data).map(Some).map_err(|source| ReadError::Invalid { name, source })
    }

    /// Tells whether a commit is marked as partial: its tree may be incomplete because a pull was interrupted.
    pub fn is_partial(&self, commit: CommitId) -> Result<bool, ReadError> {
        let path = Self::partial_path(commit);
        match statat(self.dir(), &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(ReadError::Io { path: self.path().join(path), source: errno.into() }),
        }
    }

    /// Returns the path of a commit's mark as partial, below the repository.
    pub(crate) fn partial_path(commit: CommitId) -> String {
        format!("state/{commit}{PARTIAL_SUFFIX}")
    }

    /// Tells whether any commit is marked as partial.
    pub fn has_partial_commits(&self) -> Result<bool, ReadError> {
        let fail = |errno: Errno| ReadError::Io { path: self.path().join("state"), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let state = match openat(self.dir(), "state", flags, FileMode::empty()) {
            Ok(state) => state,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(fail(errno)),
        };
        for entry in Dir::new(state).map_err(fail)? {
            if entry.map_err(fail)?.file_name().to_bytes().ends_with(PARTIAL_SUFFIX.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns this repository, its parent, the parent's parent, …
    pub(super) fn with_parents(&self) -> impl Iterator<Item = &Self> {
        iter::successors(Some(self), |repo| repo.parent())
    }

    /// Returns the repository's own objects, without the parents'.
    pub(crate) fn loose(&self) -> LooseDir<'_> {
        LooseDir::new(self.objects_dir(), self.objects_path(), self.mode())
    }

    /// Looks for a `.filez` here and in the parents. One that is there in another form is an error, not absent.
    fn first_archived<T>(
        &self,
        id: ContentId,
        look: impl Fn(LooseDir<'_>) -> Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let not_archive = |repo: &Self| ReadError::NotArchive { path: repo.path().to_owned() };
        if self.mode() != Mode::Archive {
            return Err(not_archive(self));
        }
        for repo in self.with_parents() {
            if repo.mode() != Mode::Archive {
                if repo.loose().has(id.into())? {
                    return Err(not_archive(repo));
                }
            } else if let Some(found) = look(repo.loose())? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Opens a content object that is here and not in a parent.
    pub(super) fn open_own_content(&self, id: ContentId) -> Result<Option<Content>, ReadError> {
        match self.mode() {
            Mode::Archive => open_filez(self.loose(), id),
            Mode::Bare => bare::open_bare(self.loose(), id, self.config().disable_xattrs),
            Mode::BareUser => bare::open_bare_user(self.loose(), id),
            Mode::BareUserOnly => bare::open_bare_user_only(self.loose(), id),
        }
    }
}

/// What follows a commit's checksum in the name of its mark in `state/`.
pub(crate) const PARTIAL_SUFFIX: &str = ".commitpartial";

fn open_filez(loose: LooseDir<'_>, id: ContentId) -> Result<Option<Content>, ReadError> {
    let name = ObjectName::from(id);
    let Some((file, _)) = loose.open(name)? else { return Ok(None) };
    let mut file = BufReader::with_capacity(READ_BUFFER_BYTES, file);
    let (header, content_bytes, _) = read_header(&mut file).map_err(|error| match error {
        FilezError::Invalid(source) => ReadError::Invalid { name, source },
        FilezError::Read(source) | FilezError::Write(source) => ReadError::Io { path: loose.path_of(name), source },
    })?;
    Ok(Some(match header.kind {
        FileKind::Symlink(_) => Content::symlink(header),
        FileKind::Regular => {
            let inflate = flate2::bufread::DeflateDecoder::new(file);
            Content {
                header,
                content_bytes,
                reader: Box::new(ExactSize { source: inflate, left_bytes: content_bytes }),
            }
        }
    }))
}

/// Reads a source that must have exactly this many bytes left.
struct ExactSize<R> {
    source: R,
    left_bytes: u64,
}

impl<R: Read> Read for ExactSize<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let error = |reason| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        if self.left_bytes == 0 {
            // No more than one byte is inflated beyond the promise.
            return if self.source.read(&mut [0])? == 0 { Ok(0) } else { error("the content is larger than promised") };
        }
        let limit = buffer.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        let count = self.source.read(&mut buffer[..limit])?;
        if count == 0 {
            return error("the content is smaller than promised");
        }
        self.left_bytes -= count as u64;
        Ok(count)
    }
}
