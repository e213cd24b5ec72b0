//! The summary, which clients fetch first: all refs and what is said about the repository as a whole.
//!
//! `summary` and `summary.sig` are two files, and clients fetch them one after the other; there is no way to replace both at
//! once. [`write()`] does what libostree does since 2023.1: both are complete and durable under other names before two renames,
//! one right after the other, give them theirs.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT, fstat, futimens, renameat, statat};
use treegraft_object::{
    CollectionId, CommitId, CommitRef, DecodeError, ObjectName, RefName, detached,
    gvariant::{Dict, Variant},
    limits::MAX_METADATA_BYTES,
    summary::{Summary, SummaryRef},
};

use crate::{
    Find, PublishLock, ReadError, RefError, RefTarget, Repo,
    deltas::{self, DeltaError},
    durable, fault, private_dir,
};

/// The names of both files while they are being written, in `.treegraft`.
const NEW_SUMMARY: &str = "summary.new";
const NEW_SIGNATURES: &str = "summary.sig.new";

/// Why a summary could not be made or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SummaryError {
    /// The commit of a ref cannot be read.
    #[error("Could not read the commit of the ref `{target}`")]
    Commit {
        /// The ref.
        target: RefTarget,
        /// The reason.
        #[source]
        source: Box<ReadError>,
    },
    /// Refs could not be read.
    #[error(transparent)]
    Refs(#[from] RefError),
    /// Static deltas could not be listed.
    #[error(transparent)]
    Deltas(#[from] DeltaError),
    /// The file system refused.
    #[error("Could not write `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl SummaryError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Commit { source, .. } => source.is_temporary(),
            Self::Refs(source) => source.is_temporary(),
            Self::Deltas(source) => source.is_temporary(),
            Self::Io { source, .. } => crate::find::is_temporary(source),
        }
    }
}

/// Makes the summary of the refs and static deltas as they are now.
///
/// `additional` is added to the metadata; keys of libostree's own in it are replaced. `now_secs` is the time in seconds since
/// 1970 UTC. Nothing is written; write the delta indexes ([`deltas::reindex`]) before the summary that announces them.
pub fn build(repo: &Repo, now_secs: u64, additional: &Dict) -> Result<Vec<u8>, SummaryError> {
    let config = repo.config();
    let mut metadata = additional.clone();
    metadata.set("ostree.summary.mode", Variant::string(&config.mode_text));
    metadata.set("ostree.summary.last-modified", Variant::uint64_be(now_secs));
    metadata.set("ostree.summary.tombstone-commits", Variant::bool(config.tombstone_commits));
    metadata.set("ostree.summary.indexed-deltas", Variant::bool(true));
    if !config.no_deltas_in_summary {
        let deltas = deltas::list(repo)?;
        if !deltas.is_empty() {
            metadata.set(deltas::KEY, deltas::to_variant(&deltas));
        }
    }
    if let Some(id) = repo.collection_id() {
        metadata.set("ostree.summary.collection-id", Variant::string(id.as_str()));
    }
    let heads = entries(repo, repo.refs()?, RefTarget::Head)?;
    let mut collections = Vec::new();
    for (collection, refs) in other_collections(repo)? {
        let refs = entries(repo, refs, |name| RefTarget::Mirror(collection.clone(), name))?;
        collections.push((collection.to_string(), refs));
    }
    if !collections.is_empty() {
        metadata.set("ostree.summary.collection-map", Summary::collection_map(&collections));
    }
    Ok(Summary { refs: heads, metadata }.encode())
}

/// Returns the refs of other collections: mirrored ones, and those of remotes that are known to be of a collection.
fn other_collections(repo: &Repo) -> Result<BTreeMap<CollectionId, BTreeMap<RefName, CommitId>>, SummaryError> {
    let mut collections = repo.mirror_refs()?;
    for remote in repo.subdirectories("refs/remotes")? {
        let id = repo.config().get(&format!("remote \"{remote}\""), "collection-id");
        let Some(id) = id.and_then(|id| CollectionId::new(id).ok()) else { continue };
        for found in repo.list_refs(&format!("refs/remotes/{remote}"))? {
            // What is mirrored is meant to be served; a remote's ref only tells what was fetched.
            collections.entry(id.clone()).or_default().entry(found.target).or_insert(found.commit?);
        }
    }
    if let Some(own) = repo.collection_id() {
        collections.remove(own);
    }
    collections.retain(|_, refs| !refs.is_empty());
    Ok(collections)
}

fn entries(
    repo: &Repo,
    refs: BTreeMap<RefName, CommitId>,
    target: impl Fn(RefName) -> RefTarget,
) -> Result<Vec<SummaryRef>, SummaryError> {
    refs.into_iter()
        .map(|(name, commit)| {
            entry(repo, &name, commit)
                .map_err(|source| SummaryError::Commit { target: target(name.clone()), source: Box::new(source) })
        })
        .collect()
}

fn entry(repo: &Repo, name: &RefName, commit: CommitId) -> Result<SummaryRef, ReadError> {
    let object = ObjectName::from(commit);
    let data = repo.metadata(object)?.ok_or(ReadError::NotFound { name: object })?;
    let invalid = |source: DecodeError| ReadError::Invalid { name: object, source };
    let decoded = CommitRef::decode(&data).map_err(invalid)?;
    let mut metadata = Dict::from_iter([("ostree.commit.timestamp", Variant::uint64_be(decoded.timestamp_secs))]);
    let commit_metadata = Dict::decode(decoded.metadata).map_err(invalid)?;
    if let Some(version) = commit_metadata.get_str("version") {
        metadata.set("ostree.commit.version", Variant::string(version));
    }
    Ok(SummaryRef { name: name.clone(), commit_bytes: data.len() as u64, commit, metadata })
}

/// Reads `summary` and its signatures, or nothing when there is no summary. Neither is verified.
pub fn read(repo: &Repo) -> Result<Option<(Vec<u8>, Dict)>, SummaryError> {
    read_in(repo.path())
}

/// Reads the same in another directory.
pub(crate) fn read_in(directory: &Path) -> Result<Option<(Vec<u8>, Dict)>, SummaryError> {
    let Some(summary) = read_file(directory.join("summary"))? else {
        return Ok(None);
    };
    let path = directory.join("summary.sig");
    let invalid = |source| SummaryError::Io { path, source: io::Error::new(io::ErrorKind::InvalidData, source) };
    let signatures = read_file(directory.join("summary.sig"))?.map_or(Ok(Dict::new()), |data| detached::decode(&data));
    Ok(Some((summary, signatures.map_err(invalid)?)))
}

/// Reads `summary` alone, or nothing when there is none.
pub fn read_unsigned(repo: &Repo) -> Result<Option<Vec<u8>>, SummaryError> {
    read_file(repo.path().join("summary"))
}

fn read_file(path: PathBuf) -> Result<Option<Vec<u8>>, SummaryError> {
    let read = |path: &Path| -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        File::open(path)?.take(MAX_METADATA_BYTES + 1).read_to_end(&mut data)?;
        if data.len() as u64 > MAX_METADATA_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(data) }
    };
    match read(&path) {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SummaryError::Io { path, source }),
    }
}

/// Replaces `summary` and `summary.sig`; without signatures an old `summary.sig` is removed.
///
/// Both get the same modification time, by at least a full second later than before, since HTTP caches know seconds only.
/// Everything is durable on return. A crash leaves the old pair, the new pair, or, between two renames, the new summary with
/// the old signatures, which no client accepts; then the journal makes the next publish write both again.
pub fn write(repo: &Repo, lock: &PublishLock, summary: &[u8], signatures: Option<&Dict>) -> Result<(), SummaryError> {
    let fail = |path: PathBuf| move |source| SummaryError::Io { path, source };
    let new_path = |name: &str| private_dir::path(repo).join(name);
    let durability = lock.durability();
    let modified = write_new(lock, NEW_SUMMARY, summary)
        .and_then(|file| set_time(repo, &file, "summary").map(|time| (file, time)))
        .and_then(|(file, time)| durability.sync_file(&file).map(|()| time))
        .map_err(fail(new_path(NEW_SUMMARY)))?;
    if let Some(signatures) = signatures {
        write_new(lock, NEW_SIGNATURES, &signatures.encode())
            .and_then(|file| futimens(&file, &modified).map(|()| file).map_err(io::Error::from))
            .and_then(|file| durability.sync_file(&file))
            .map_err(fail(new_path(NEW_SIGNATURES)))?;
    }
    let rename = || -> io::Result<()> {
        fault::point("summary:written")?;
        renameat(lock.private_dir(), NEW_SUMMARY, repo.dir(), "summary")?;
        fault::point("summary:renamed")?;
        if signatures.is_some() {
            renameat(lock.private_dir(), NEW_SIGNATURES, repo.dir(), "summary.sig")?;
        } else {
            durable::unlink_if_there(repo.dir(), "summary.sig")?;
        }
        fault::point("summary:signatures-renamed")?;
        durability.sync_dir(repo.dir())?;
        fault::point("summary:durable")
    };
    rename().map_err(fail(repo.path().join("summary")))
}

/// Makes durable what another program has written into the repository: a summary, and all that belongs to it.
///
/// libostree and flatpak sync the bytes of a summary, but not its name. The journal must not be gone before that.
pub fn sync_foreign(repo: &Repo, lock: &PublishLock) -> Result<(), SummaryError> {
    let synced = lock.durability().sync_fs(repo.dir()).and_then(|()| fault::point("summary:foreign-durable"));
    synced.map_err(|source| SummaryError::Io { path: repo.path().to_owned(), source })
}

fn write_new(lock: &PublishLock, name: &str, data: &[u8]) -> io::Result<File> {
    let mut file = durable::create(lock.private_dir(), name)?;
    file.write_all(data)?;
    fault::point("summary:part-written")?;
    Ok(file)
}

/// Makes the file's modification time later, by at least a full second, than that of the repository's file that it will
/// replace, and returns it.
pub(crate) fn set_time(repo: &Repo, file: &File, name: &str) -> io::Result<Timestamps> {
    let stat = fstat(file)?;
    let mut modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    if let Ok(old) = statat(repo.dir(), name, AtFlags::empty())
        && modified.tv_sec <= old.st_mtime
    {
        modified = Timespec { tv_sec: old.st_mtime + 1, tv_nsec: 0 };
    }
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: modified };
    futimens(file, &times)?;
    Ok(times)
}
