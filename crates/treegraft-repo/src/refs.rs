//! Reading refs.
//!
//! ```text
//! refs/heads/<ref>                   local refs, and refs of the repository's own collection
//! refs/mirrors/<collection id>/<ref> refs of other collections
//! refs/remotes/<remote>/<ref>        refs that were fetched from a remote
//! ```
//!
//! A ref is a file with 64 hexadecimal digits and a newline; an alias is a relative symlink to another ref. Readers skip
//! file names that cannot be refs, as libostree does, and above that the names `tmp.XXXXXX` that libostree gives to refs
//! in the instant of writing.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};
use treegraft_object::{CollectionId, CommitId, RefName};

use crate::Repo;

/// The directory that every repository has.
const HEADS: &str = "refs/heads";

/// Largest file that is read as a ref, in bytes: 64 digits, and generously blanks behind them.
const MAX_REF_BYTES: u64 = 1024;

/// Deepest directories below `refs/heads`: a ref name has at most 1024 bytes, two for a level.
const MAX_REF_DEPTH: usize = 512;

/// A ref, local or of a collection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefTarget {
    /// A ref in `refs/heads`.
    Head(RefName),
    /// A ref of a collection; it is in `refs/heads` when the collection is the repository's own, else in `refs/mirrors`.
    Mirror(CollectionId, RefName),
}

impl RefTarget {
    /// Returns the ref's name without its collection.
    pub const fn name(&self) -> &RefName {
        match self {
            Self::Head(name) | Self::Mirror(_, name) => name,
        }
    }
}

/// Shows a head as its name and a mirror as `(collection, name)`.
impl fmt::Display for RefTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(name) => name.fmt(f),
            Self::Mirror(collection, name) => write!(f, "({collection}, {name})"),
        }
    }
}

/// Why refs could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefError {
    /// The file of a ref does not hold a checksum.
    #[error("The ref in `{path}` holds no checksum", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
    },
    /// A symlink leads to no ref.
    #[error("The alias `{path}` leads to no ref", path = path.display())]
    DanglingAlias {
        /// The symlink.
        path: PathBuf,
    },
    /// Directories below `refs` are nested deeper than a ref name can be.
    #[error("The directory `{path}` is nested too deep for a ref", path = path.display())]
    TooDeep {
        /// The directory.
        path: PathBuf,
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
}

impl RefError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::find::is_temporary(source))
    }

    /// Returns the stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid-ref",
            Self::DanglingAlias { .. } => "dangling-alias",
            Self::TooDeep { .. } => "ref-too-deep",
            Self::Io { .. } => "io",
        }
    }
}

/// One ref as it was found, or why it could not be read.
pub(crate) struct Found<T> {
    pub(crate) target: T,
    pub(crate) commit: Result<CommitId, RefError>,
}

impl Repo {
    /// Returns the refs in `refs/heads`, aliases included.
    ///
    /// A ref that is deleted or made at the same time may be there or not; each one is read as a whole.
    pub fn refs(&self) -> Result<BTreeMap<RefName, CommitId>, RefError> {
        collect(self.list_refs(HEADS)?)
    }

    /// Returns the refs in `refs/mirrors`, by their collection. Collections without refs are left out.
    pub fn mirror_refs(&self) -> Result<BTreeMap<CollectionId, BTreeMap<RefName, CommitId>>, RefError> {
        let mut mirrors = BTreeMap::new();
        for name in self.subdirectories("refs/mirrors")? {
            let Ok(collection) = CollectionId::new(name) else { continue };
            let refs = collect(self.list_refs(&format!("refs/mirrors/{collection}"))?)?;
            if !refs.is_empty() {
                mirrors.insert(collection, refs);
            }
        }
        Ok(mirrors)
    }

    /// Reads a ref in `refs/heads`, or nothing when there is none. Its commit need not be there.
    pub fn resolve_ref(&self, name: &RefName) -> Result<Option<CommitId>, RefError> {
        self.read_ref_file(&format!("refs/heads/{name}"))
    }

    /// Reads a ref, or nothing when there is none.
    pub fn resolve(&self, target: &RefTarget) -> Result<Option<CommitId>, RefError> {
        self.read_ref_file(&self.ref_path(target))
    }

    /// Returns the path of a ref's file below the repository.
    pub(crate) fn ref_path(&self, target: &RefTarget) -> String {
        // Neither kind of name can hold an empty part, `.` or `..`, so the path stays below `refs`.
        match target {
            RefTarget::Mirror(collection, name) if self.collection_id() != Some(collection) => {
                format!("refs/mirrors/{collection}/{name}")
            }
            RefTarget::Head(name) | RefTarget::Mirror(_, name) => format!("refs/heads/{name}"),
        }
    }

    /// Lists the refs below a directory, unreadable ones as well.
    pub(crate) fn list_refs(&self, below: &str) -> Result<Vec<Found<RefName>>, RefError> {
        let mut found = Vec::new();
        for (name, file_type) in self.ref_files(below)? {
            let Ok(target) = RefName::new(name) else { continue };
            let file = format!("{below}/{target}");
            let commit = match self.read_ref_file(&file) {
                Ok(Some(id)) => Ok(id),
                Ok(None) if file_type == FileType::Symlink => {
                    Err(RefError::DanglingAlias { path: self.path().join(file) })
                }
                // Deleted since it was listed.
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            found.push(Found { target, commit });
        }
        Ok(found)
    }

    /// Lists what is a ref by its content and none by its name, for those who must not miss one: libostree has names for refs
    /// that are none here, and in the instant of writing a ref's new commit is under another name.
    pub(crate) fn list_unnamed_refs(&self, below: &str) -> Result<Vec<(String, CommitId)>, RefError> {
        let mut found = Vec::new();
        for (name, _) in self.ref_files(below)? {
            if RefName::new(name.as_str()).is_ok() {
                continue;
            }
            match self.read_ref_file(&format!("{below}/{name}")) {
                Ok(Some(id)) => found.push((name, id)),
                Ok(None) | Err(RefError::Invalid { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Lists the files and symlinks below a directory with their names from there on.
    fn ref_files(&self, below: &str) -> Result<Vec<(String, FileType)>, RefError> {
        let mut files = Vec::new();
        let mut pending = vec![(String::new(), 0)];
        while let Some((prefix, depth)) = pending.pop() {
            let path = if prefix.is_empty() { below.to_owned() } else { format!("{below}/{prefix}") };
            if depth > MAX_REF_DEPTH {
                return Err(RefError::TooDeep { path: self.path().join(path) });
            }
            let entries = if depth == 0 { self.fixed_entries(&path)? } else { self.entries(&path, OFlags::NOFOLLOW)? };
            for (entry, file_type) in entries.unwrap_or_default() {
                let name = if prefix.is_empty() { entry } else { format!("{prefix}/{entry}") };
                if file_type == FileType::Directory {
                    pending.push((name, depth + 1));
                } else {
                    files.push((name, file_type));
                }
            }
        }
        Ok(files)
    }

    /// Lists the names of the directories in `refs/mirrors` or `refs/remotes`; none when it does not exist.
    ///
    /// A symlink to a directory counts: refs are written and read through it.
    pub(crate) fn subdirectories(&self, path: &str) -> Result<Vec<String>, RefError> {
        let mut names = Vec::new();
        for (name, file_type) in self.fixed_entries(path)?.unwrap_or_default() {
            let is_directory = match file_type {
                FileType::Directory => true,
                FileType::Symlink => {
                    let file = format!("{path}/{name}");
                    let stat = statat(self.dir(), file.as_str(), AtFlags::empty());
                    let stat =
                        stat.map_err(|errno| RefError::Io { path: self.path().join(&file), source: errno.into() })?;
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                }
                _ => false,
            };
            if is_directory {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Lists a directory that the repository's layout gives a name, and that may be a symlink to one elsewhere, as libostree
    /// has it.
    ///
    /// What is not found is not taken for an empty one where that cannot be: a prune deletes what no ref leads to.
    fn fixed_entries(&self, path: &str) -> Result<Option<Vec<(String, FileType)>>, RefError> {
        let fail = |errno: Errno| RefError::Io { path: self.path().join(path), source: errno.into() };
        match self.entries(path, OFlags::empty())? {
            // Every repository has it; without it, it was lost or not mounted.
            None if path == HEADS => Err(fail(Errno::NOENT)),
            // Old repositories lack `refs/mirrors`, but a symlink was made to lead somewhere.
            None => match statat(self.dir(), path, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(None),
                Ok(_) => Err(fail(Errno::NOENT)),
                Err(errno) => Err(fail(errno)),
            },
            entries => Ok(entries),
        }
    }

    /// Lists a directory: regular files, symlinks and directories whose names are UTF-8. Nothing when it is missing.
    ///
    /// With `NOFOLLOW` neither a symlink nor a file is a directory, but what has come in place of one since it was listed.
    fn entries(&self, path: &str, follow: OFlags) -> Result<Option<Vec<(String, FileType)>>, RefError> {
        let fail = |errno: Errno| RefError::Io { path: self.path().join(path), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
        let dir: OwnedFd = match openat(self.dir(), path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR) if follow == OFlags::NOFOLLOW => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        };
        let mut entries = Vec::new();
        for entry in Dir::read_from(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let file_type = match entry.file_type() {
                // Some file systems do not tell in the listing.
                FileType::Unknown => match statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(fail(errno)),
                },
                known => known,
            };
            if matches!(file_type, FileType::RegularFile | FileType::Symlink | FileType::Directory) {
                entries.push((name.to_owned(), file_type));
            }
        }
        Ok(Some(entries))
    }

    /// Reads the checksum in a ref's file; nothing when there is no file.
    fn read_ref_file(&self, path: &str) -> Result<Option<CommitId>, RefError> {
        let full_path = || -> PathBuf { self.path().join(path) };
        // Opening a pipe must not wait for somebody who writes into it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(self.dir(), path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(RefError::Io { path: full_path(), source: errno.into() }),
        };
        let mut text = Vec::new();
        match file.take(MAX_REF_BYTES + 1).read_to_end(&mut text) {
            Ok(_) => {}
            // A directory with refs below it is no ref.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(None),
            Err(source) => return Err(RefError::Io { path: full_path(), source }),
        }
        let is_bounded = text.len() as u64 <= MAX_REF_BYTES;
        let id = std::str::from_utf8(text.trim_ascii_end()).ok().and_then(|text| text.parse().ok());
        id.filter(|_| is_bounded).map(Some).ok_or_else(|| RefError::Invalid { path: full_path() })
    }
}

fn collect(found: Vec<Found<RefName>>) -> Result<BTreeMap<RefName, CommitId>, RefError> {
    found.into_iter().map(|found| Ok((found.target, found.commit?))).collect()
}
