//! Static deltas: which there are, and the indexes by which clients find them.
//!
//! ```text
//! deltas/<2>/<41>/superblock            a delta from nothing; the digits are those of the commit it leads to
//! deltas/<2>/<41>-<43>/superblock       a delta from one commit to another
//! delta-indexes/<2>/<41>.index          all deltas that lead to a commit, with the checksums of their superblocks
//! ```
//!
//! The numbers are lengths; the digits are those of a checksum in base64 with `_` instead of `/`, without padding. An index
//! is an `a{sv}` whose key `ostree.static-deltas` has an `a{sv}` of names in hexadecimal digits and checksums. Source:
//! `ostree-repo-static-delta-core.c` and `_ostree_get_relative_static_delta_path` of libostree.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::PathBuf,
    sync::LazyLock,
};

use data_encoding::{Encoding, Specification};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat},
    io::Errno,
};
use treegraft_object::{
    Checksum, CommitId,
    gvariant::{Dict, Variant},
    limits::MAX_METADATA_BYTES,
};

use crate::{
    KeyFile, PublishLock, Repo,
    durable::{self, open_dir},
    fault,
};

/// The file of a delta that lists its parts; with it the delta is complete.
const SUPERBLOCK: &str = "superblock";

/// The key of the list, in an index and in the summary.
pub(crate) const KEY: &str = "ostree.static-deltas";

static BASE64: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+_");
    specification.encoding().expect("64 different symbols")
});

/// The name of a static delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeltaName {
    /// The commit that a client must have; nothing for a delta from nothing.
    pub from: Option<CommitId>,
    /// The commit that the client gets.
    pub to: CommitId,
}

/// Why static deltas could not be listed or indexed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// A superblock is larger than a client would read.
    #[error("The delta `{path}` has more than {limit_bytes} bytes", path = path.display())]
    TooLarge {
        /// The superblock.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// The file system refused.
    #[error("Could not read or write `{path}`", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl DeltaError {
    /// Tells whether a later try may succeed without a change to the repository.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::find::is_temporary(source))
    }
}

/// Shows the name as libostree does: `<to>` or `<from>-<to>`.
impl fmt::Display for DeltaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "{from}-{}", self.to),
            None => self.to.fmt(f),
        }
    }
}

impl DeltaName {
    /// Returns the path of the delta's directory below the repository.
    pub fn path(&self) -> String {
        let base64 = |id: CommitId| BASE64.encode(id.0.as_bytes());
        let first = base64(self.from.unwrap_or(self.to));
        let (directory, rest) = first.split_at(2);
        match self.from {
            Some(_) => format!("deltas/{directory}/{rest}-{}", base64(self.to)),
            None => format!("deltas/{directory}/{rest}"),
        }
    }

    fn parse(directory: &str, name: &str) -> Option<Self> {
        let commit = |text: &str| {
            let bytes = BASE64.decode(text.as_bytes()).ok()?;
            Checksum::from_slice(&bytes).map(CommitId)
        };
        Some(match name.split_once('-') {
            Some((from, to)) => Self { from: Some(commit(&format!("{directory}{from}"))?), to: commit(to)? },
            None => Self { from: None, to: commit(&format!("{directory}{name}"))? },
        })
    }
}

/// Returns the path of the index of deltas that lead to a commit.
fn index_path(to: CommitId) -> (String, String) {
    let digits = BASE64.encode(to.0.as_bytes());
    let (directory, rest) = digits.split_at(2);
    (format!("delta-indexes/{directory}"), format!("{rest}.index"))
}

/// Lists the static deltas with the checksums of their superblocks.
pub fn list(repo: &Repo) -> Result<BTreeMap<DeltaName, Checksum>, DeltaError> {
    let mut deltas = BTreeMap::new();
    for directory in names(repo, "deltas")? {
        for entry in names(repo, &format!("deltas/{directory}"))? {
            let Some(name) = DeltaName::parse(&directory, &entry) else { continue };
            // Without a superblock it is being made or deleted.
            if let Some(data) = read(repo, &format!("{}/{SUPERBLOCK}", name.path()))? {
                deltas.insert(name, Checksum::of(&data));
            }
        }
    }
    Ok(deltas)
}

/// Lists the names of all static deltas, those without a superblock as well: they are being made, or their deletion was cut off.
pub(crate) fn names_of_all(repo: &Repo) -> Result<Vec<DeltaName>, DeltaError> {
    let mut all = Vec::new();
    for directory in names(repo, "deltas")? {
        let entries = names(repo, &format!("deltas/{directory}"))?;
        all.extend(entries.iter().filter_map(|entry| DeltaName::parse(&directory, entry)));
    }
    Ok(all)
}

/// Deletes a static delta, and returns its size on disk in bytes. Indexes and the summary may go on naming it.
///
/// The superblock goes first: a client that finds none falls back to objects. What a crash leaves has none, and is deleted by
/// the next call.
pub(crate) fn remove(repo: &Repo, name: DeltaName) -> Result<u64, DeltaError> {
    let path = name.path();
    let remove_all = || -> io::Result<u64> {
        let dir = open_dir(repo.dir(), &path)?;
        let mut bytes = durable::unlink_sized(&dir, SUPERBLOCK)?.unwrap_or(0);
        fault::point("prune:superblock-deleted")?;
        // All names are read before any is deleted: what a listing shows of names that come and go is not defined.
        let entries: Vec<_> = Dir::read_from(&dir)?.collect::<Result<_, _>>()?;
        for entry in entries {
            match entry.file_name() {
                name if name == c"." || name == c".." => {}
                name => bytes += durable::unlink_sized(&dir, name)?.unwrap_or(0),
            }
        }
        unlinkat(repo.dir(), path.as_str(), AtFlags::REMOVEDIR)?;
        Ok(bytes)
    };
    match remove_all() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        result => result.map_err(fail(repo, &path)),
    }
}

/// Encodes deltas as the value of `ostree.static-deltas`.
pub(crate) fn to_variant<'a>(deltas: impl IntoIterator<Item = (&'a DeltaName, &'a Checksum)>) -> Variant {
    let dict: Dict =
        deltas.into_iter().map(|(name, checksum)| (name.to_string(), Variant::bytes(checksum.as_bytes()))).collect();
    Variant::dict(&dict)
}

/// Writes an index for each commit that deltas lead to, and removes the others, as libostree does before each summary.
///
/// An index that says the same already is not touched. As libostree it also sets `core.indexed-deltas` in `config`, by which
/// clients without a summary learn of the indexes. Everything is durable on return; after a crash some indexes are old.
pub fn reindex(repo: &Repo, lock: &PublishLock, deltas: &BTreeMap<DeltaName, Checksum>) -> Result<(), DeltaError> {
    let mut by_target: BTreeMap<CommitId, Vec<(&DeltaName, &Checksum)>> = BTreeMap::new();
    for entry @ (name, _) in deltas {
        by_target.entry(name.to).or_default().push(entry);
    }
    for (&to, deltas) in &by_target {
        write_index(repo, lock, to, deltas)?;
    }
    for directory in names(repo, "delta-indexes")? {
        for entry in names(repo, &format!("delta-indexes/{directory}"))? {
            let to = entry.strip_suffix(".index").and_then(|rest| DeltaName::parse(&directory, rest));
            if to.is_some_and(|name| name.from.is_none() && !by_target.contains_key(&name.to)) {
                let path = format!("delta-indexes/{directory}/{entry}");
                durable::unlink_if_there(repo.dir(), path.as_str()).map_err(fail(repo, &path))?;
            }
        }
    }
    announce(repo, lock)
}

fn write_index(
    repo: &Repo,
    lock: &PublishLock,
    to: CommitId,
    deltas: &[(&DeltaName, &Checksum)],
) -> Result<(), DeltaError> {
    let (directory, file) = index_path(to);
    let path = format!("{directory}/{file}");
    let old = read(repo, &path)?.and_then(|data| Dict::decode(&data).ok());
    let old = old.as_ref().and_then(|dict| dict.get(KEY)).and_then(Variant::as_dict);
    // libostree writes the same entries in another order; writing them again would only upset caches.
    let is_same = old.is_some_and(|old| {
        old.len() == deltas.len()
            && deltas.iter().all(|(name, checksum)| {
                old.get(&name.to_string()).and_then(Variant::as_bytes) == Some(&checksum.as_bytes()[..])
            })
    });
    if is_same {
        return Ok(());
    }
    let index = Dict::from_iter([(KEY, to_variant(deltas.iter().copied()))]);
    let write = || {
        let dir = durable::make_dirs(repo.dir(), &directory, durable::DIRECTORY_MODE, lock.durability())?;
        durable::replace(&dir, &file, &index.encode(), lock.durability())?;
        lock.durability().sync_dir(&dir)
    };
    write().map_err(fail(repo, &path))
}

/// Sets `core.indexed-deltas=true` in `config` unless it is there. All other bytes stay as they are.
fn announce(repo: &Repo, lock: &PublishLock) -> Result<(), DeltaError> {
    let Some(data) = read(repo, "config")? else { return Ok(()) };
    // Read again: the setting may have been written since the repository was opened.
    let is_announced = match KeyFile::parse(&data) {
        Ok(key_file) => matches!(key_file.get("core", "indexed-deltas"), Some("true" | "1")),
        // Somebody is editing it; it is not for us to repair.
        Err(_) => true,
    };
    let Some(text) = std::str::from_utf8(&data).ok().filter(|_| !is_announced) else { return Ok(()) };
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let Some(core) = lines.iter().position(|line| line.trim_end() == "[core]") else { return Ok(()) };
    let end = lines.iter().skip(core + 1).position(|line| line.starts_with('[')).map_or(lines.len(), |n| core + 1 + n);
    let is_old_value = |line: &&str| line.split('=').next().is_some_and(|key| key.trim() == "indexed-deltas");
    if let Some(old) = lines[core..end].iter().position(is_old_value) {
        lines[core + old] = "indexed-deltas=true\n";
    } else {
        // Behind the last setting, before the blank lines that set the next group apart.
        let last = lines[core..end].iter().rposition(|line| !line.trim().is_empty()).map_or(core, |n| core + n);
        let is_unfinished = !lines[last].ends_with('\n');
        lines.insert(last + 1, if is_unfinished { "\nindexed-deltas=true\n" } else { "indexed-deltas=true\n" });
    }
    let write = || {
        durable::replace(repo.dir(), "config", lines.concat().as_bytes(), lock.durability())?;
        lock.durability().sync_dir(repo.dir())
    };
    write().map_err(fail(repo, "config"))
}

fn fail(repo: &Repo, path: &str) -> impl Fn(io::Error) -> DeltaError {
    let path = repo.path().join(path);
    move |source| DeltaError::Io { path: path.clone(), source }
}

/// Reads a file, or nothing when there is none.
fn read(repo: &Repo, path: &str) -> Result<Option<Vec<u8>>, DeltaError> {
    let file = match openat(repo.dir(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(fail(repo, path)(errno.into())),
    };
    let mut data = Vec::new();
    file.take(MAX_METADATA_BYTES + 1).read_to_end(&mut data).map_err(fail(repo, path))?;
    if data.len() as u64 > MAX_METADATA_BYTES {
        return Err(DeltaError::TooLarge { path: repo.path().join(path), limit_bytes: MAX_METADATA_BYTES });
    }
    Ok(Some(data))
}

/// Lists the names in a directory, sorted; none when it does not exist.
fn names(repo: &Repo, path: &str) -> Result<Vec<String>, DeltaError> {
    let dir = match open_dir(repo.dir().as_fd(), path) {
        Ok(dir) => dir,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(fail(repo, path)(error)),
    };
    let mut names = durable::names(dir).map_err(fail(repo, path))?;
    names.sort_unstable();
    Ok(names)
}
