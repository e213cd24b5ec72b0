//! A cache of what files were hashed to, for a worker that keeps its build directory. It knows the files of one run: builds
//! that take turns need a cache each.
//!
//! ```text
//! treegraft hash-cache 1
//! DEVICE INODE BYTES MTIME CTIME HEADER CONTENT      a line for each file; times in nanoseconds since 1970
//! sha256 DIGITS                                      of all bytes before this line
//! ```
//!
//! A file is known when all of this is the same. Whatever changes a file changes its `ctime`, which nobody can set, so an entry
//! is never true of another content; but within the grain of the clock a second change does not show, so a file that changed
//! in the last seconds before it was hashed is not kept. The worker's clock and that of the file system must agree as far as
//! that.
//!
//! What is in the cache is not trusted further than that: content is hashed again when it is sent or stored.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use treegraft_object::{Checksum, ContentId};

use crate::{File, scan::Stamp};

const HEAD: &str = "treegraft hash-cache 1\n";

/// Largest cache that is read, in bytes: half a million files.
const MAX_BYTES: u64 = 128 << 20;

/// Longest line, in bytes.
const MAX_LINE_BYTES: u64 = 512;

/// How long before it was hashed a file must have been at rest, in seconds: the grain of the coarsest clocks of file systems.
const REST_SECS: i64 = 2;

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

/// What files were hashed to.
#[derive(Debug)]
pub struct HashCache {
    path: PathBuf,
    found: HashMap<Key, ContentId>,
    /// What was seen this time; the rest is forgotten.
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
        let id = *self.found.get(&key)?;
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

    /// Writes the cache anew, with the files of this time alone.
    pub fn save(&self) -> io::Result<()> {
        let mut text = HEAD.to_owned();
        for (key, id) in &*self.seen() {
            let Key { device, inode, bytes, modified_nanos, changed_nanos, header } = key;
            if text.len() as u64 > MAX_BYTES - MAX_LINE_BYTES {
                break;
            }
            let _ = writeln!(text, "{device} {inode} {bytes} {modified_nanos} {changed_nanos} {header} {id}");
        }
        let sum = Checksum::of(text.as_bytes());
        let _ = writeln!(text, "sha256 {sum}");
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.persist(&self.path).map(drop).map_err(|error| error.error)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<Key, ContentId>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a whole and sound cache.
fn parse(data: &[u8]) -> Option<HashMap<Key, ContentId>> {
    let text = std::str::from_utf8(data).ok()?;
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let body = &text[..=body.len()];
    let sum: Checksum = sum.strip_prefix("sha256 ")?.parse().ok()?;
    if sum != Checksum::of(body.as_bytes()) {
        return None;
    }
    body.strip_prefix(HEAD)?.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(Key, ContentId)> {
    let mut words = line.split(' ');
    let key = Key {
        device: words.next()?.parse().ok()?,
        inode: words.next()?.parse().ok()?,
        bytes: words.next()?.parse().ok()?,
        modified_nanos: words.next()?.parse().ok()?,
        changed_nanos: words.next()?.parse().ok()?,
        header: words.next()?.parse().ok()?,
    };
    let id = words.next()?.parse().ok()?;
    words.next().is_none().then_some((key, id))
}
