//! A cache of what files were hashed to, for a worker that keeps its build directories. Builds that take turns may share one.
//!
//! ```text
//! treegraft hash-cache 2
//! DEVICE INODE BYTES MTIME CTIME HEADER CONTENT USED   a line for each file; MTIME and CTIME in nanoseconds since 1970,
//!                                                      USED, the last run that met the file, in seconds
//! sha256 DIGITS                                        of all bytes before this line
//! ```
//!
//! A file is known when all of this is the same. Whatever changes a file changes its `ctime`, which nobody can set, so an entry
//! is never true of another content; but within the grain of the clock a second change does not show, so a file that changed
//! in the last seconds before it was hashed is not kept. The worker's clock and that of the file system must agree as far as
//! that.
//!
//! A file that a run has not met is another build's, or is gone: it is kept for a month ([`MAX_UNUSED_SECS`]). Of a file that has
//! changed, only the newest is kept.
//!
//! What is in the cache is not trusted further than that: content is hashed again when it is sent or stored.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use treegraft_object::{Checksum, ContentId};

use crate::{File, scan::Stamp};

const HEAD: &str = "treegraft hash-cache 2\n";

/// Largest cache that is read, in bytes: half a million files.
const MAX_BYTES: u64 = 128 << 20;

/// Longest line, in bytes.
const MAX_LINE_BYTES: u64 = 512;

/// How long before it was hashed a file must have been at rest, in seconds: the grain of the coarsest clocks of file systems.
const REST_SECS: i64 = 2;

/// How long a file is kept that no run meets, in seconds: 30 days, in which most builds have had their turn.
const MAX_UNUSED_SECS: i64 = 30 * 24 * 60 * 60;

/// What identifies a file with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_nanos: i128,
    changed_nanos: i128,
    /// Checksum of the bare header, which is part of what is hashed.
    header: Checksum,
}

impl Key {
    fn of(file: &File) -> Option<Self> {
        let stamp: Stamp = file.stamp?;
        Some(Self {
            device: stamp.device,
            inode: stamp.inode,
            bytes: file.content_bytes,
            modified_nanos: stamp.modified_nanos(),
            changed_nanos: stamp.changed_nanos(),
            header: file.header.checksum,
        })
    }
}

/// What an earlier run hashed a file to.
#[derive(Debug, Clone, Copy)]
struct Found {
    id: ContentId,
    used_secs: i64,
}

/// What files were hashed to.
#[derive(Debug)]
pub struct HashCache {
    path: PathBuf,
    found: HashMap<Key, Found>,
    /// What was seen this time.
    seen: Mutex<HashMap<Key, ContentId>>,
    now_secs: i64,
}

impl HashCache {
    /// Reads a cache. One that is not there, damaged, or of another version is empty. `now_secs` is the time in seconds since
    /// 1970 UTC, before anything is hashed.
    pub fn open(path: &Path, now_secs: u64) -> io::Result<Self> {
        let mut data = Vec::new();
        match fs::File::open(path) {
            Ok(file) => drop(file.take(MAX_BYTES + 1).read_to_end(&mut data)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let found = if data.len() as u64 > MAX_BYTES { None } else { parse(&data) };
        let now_secs = i64::try_from(now_secs).unwrap_or(i64::MAX);
        Ok(Self { path: path.to_owned(), found: found.unwrap_or_default(), seen: Mutex::default(), now_secs })
    }

    /// Returns what a file was hashed to, if it is the same file still.
    pub(crate) fn get(&self, file: &File) -> Option<ContentId> {
        let key = Key::of(file)?;
        let id = self.found.get(&key)?.id;
        self.seen().insert(key, id);
        Some(id)
    }

    /// Keeps what a file was hashed to, unless it changed a moment before.
    pub(crate) fn put(&self, file: &File, id: ContentId) {
        let Some(key) = Key::of(file) else { return };
        let rested_until = i128::from(self.now_secs.saturating_sub(REST_SECS)) * 1_000_000_000;
        if key.changed_nanos.max(key.modified_nanos) < rested_until {
            self.seen().insert(key, id);
        }
    }

    /// Writes the cache anew.
    pub fn save(&self) -> io::Result<()> {
        let mut text = HEAD.to_owned();
        for (key, Found { id, used_secs }) in self.kept() {
            let Key { device, inode, bytes, modified_nanos, changed_nanos, header } = key;
            if text.len() as u64 > MAX_BYTES - MAX_LINE_BYTES {
                break;
            }
            let _ =
                writeln!(text, "{device} {inode} {bytes} {modified_nanos} {changed_nanos} {header} {id} {used_secs}");
        }
        let sum = Checksum::of(text.as_bytes());
        let _ = writeln!(text, "sha256 {sum}");
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.persist(&self.path).map(drop).map_err(|error| error.error)
    }

    /// Returns what is written, what was used last before the rest.
    fn kept(&self) -> Vec<(Key, Found)> {
        let seen = self.seen();
        let inodes: HashSet<(u64, u64)> = seen.keys().map(|key| (key.device, key.inode)).collect();
        let oldest_secs = self.now_secs.saturating_sub(MAX_UNUSED_SECS);
        let is_kept =
            |key: &Key, found: &Found| found.used_secs >= oldest_secs && !inodes.contains(&(key.device, key.inode));
        let others = self.found.iter().filter(|&(key, found)| is_kept(key, found)).map(|(&key, &found)| (key, found));
        let used_secs = self.now_secs;
        let mut kept: Vec<_> = seen.iter().map(|(&key, &id)| (key, Found { id, used_secs })).chain(others).collect();
        kept.sort_unstable_by_key(|(_, found)| Reverse(found.used_secs));
        kept
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<Key, ContentId>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a whole and sound cache.
fn parse(data: &[u8]) -> Option<HashMap<Key, Found>> {
    let text = std::str::from_utf8(data).ok()?;
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let body = &text[..=body.len()];
    let sum: Checksum = sum.strip_prefix("sha256 ")?.parse().ok()?;
    if sum != Checksum::of(body.as_bytes()) {
        return None;
    }
    body.strip_prefix(HEAD)?.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(Key, Found)> {
    let mut words = line.split(' ');
    let key = Key {
        device: words.next()?.parse().ok()?,
        inode: words.next()?.parse().ok()?,
        bytes: words.next()?.parse().ok()?,
        modified_nanos: words.next()?.parse().ok()?,
        changed_nanos: words.next()?.parse().ok()?,
        header: words.next()?.parse().ok()?,
    };
    let found = Found { id: words.next()?.parse().ok()?, used_secs: words.next()?.parse().ok()? };
    words.next().is_none().then_some((key, found))
}
