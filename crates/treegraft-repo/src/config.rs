//! The repository's `config`: the keys that treegraft obeys, and everything else as it is written.
//!
//! The file is a `GLib` key file ([`KeyFile`]). Groups and keys that are not known here, like `[remote "…"]` or `[flatpak]`,
//! stay readable through [`Config::get`]. Defaults and rules are those of libostree's `reload_core_config`.

use std::path::PathBuf;

use treegraft_object::CollectionId;

use crate::{
    Mode,
    key_file::{KeyFile, KeyFileError},
};

/// Largest `config` that is read, in bytes: remotes with pasted keys have kilobytes.
pub(crate) const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// `core.lock-timeout-secs` when it is not set (libostree since 2023.6; before, 30).
const DEFAULT_LOCK_TIMEOUT_SECS: u32 = 300;

/// `core.min-free-space-percent` when neither key is set.
const DEFAULT_MIN_FREE_PERCENT: u8 = 3;

/// `archive.zlib-level` when it is not set, as for libostree. For the binaries of a distribution, the result is 2 % larger
/// than what libostree makes with the original zlib.
pub const DEFAULT_ZLIB_LEVEL: u32 = 6;

/// How long to wait for the repository's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockTimeout {
    /// Until it is free (`core.lock-timeout-secs=-1`).
    Forever,
    /// This many seconds; 0 is a single try.
    Secs(u32),
}

/// How much of the file system must stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFreeSpace {
    /// A share of its size, 0 to 99.
    Percent(u8),
    /// A number of bytes.
    Bytes(u64),
}

/// The settings of a repository.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting that is on or off in the file")]
pub struct Config {
    /// How content objects are stored (`core.mode`, default bare).
    pub mode: Mode,
    /// The value of `core.mode` as it is written, e.g. `archive-z2`.
    pub mode_text: String,
    /// The collection of the refs in `refs/heads` (`core.collection-id`).
    pub collection_id: Option<CollectionId>,
    /// Whether new objects and refs are made durable (`core.fsync`, default true).
    pub fsync: bool,
    /// Whether each object is made durable by itself (`core.per-object-fsync`, default false).
    pub per_object_fsync: bool,
    /// Whether the repository's lock is used at all (`core.locking`, default true).
    pub locking: bool,
    /// How long to wait for the lock (`core.lock-timeout-secs`, default 300).
    pub lock_timeout: LockTimeout,
    /// What must stay free (`core.min-free-space-size`, else `core.min-free-space-percent`, default 3 %).
    pub min_free_space: MinFreeSpace,
    /// Whether a deleted commit leaves a tombstone (`core.tombstone-commits`, default false).
    pub tombstone_commits: bool,
    /// A repository in which objects are looked up as well (`core.parent`). A relative path begins where the process runs.
    pub parent: Option<PathBuf>,
    /// Whether the summary leaves out static deltas (`core.no-deltas-in-summary`, default false).
    pub no_deltas_in_summary: bool,
    /// Whether extended attributes of files are ignored (`core.disable-xattrs`, default false).
    pub disable_xattrs: bool,
    /// zlib's level for new `.filez` files (`archive.zlib-level`, default 5, brought into 1 to 9).
    pub zlib_level: u32,
    key_file: KeyFile,
}

/// Why a `config` is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is no key file.
    #[error("The configuration is not valid")]
    Syntax(#[from] KeyFileError),
    /// A key has a value that it cannot have.
    #[error("The setting `{group}.{key}` cannot be `{value}`: {expected}")]
    Value {
        /// The group.
        group: &'static str,
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key is missing that must be there.
    #[error("The setting `{group}.{key}` is missing")]
    Missing {
        /// The group.
        group: &'static str,
        /// The key.
        key: &'static str,
    },
}

impl Config {
    /// Parses the text of a `config`.
    pub fn parse(data: &[u8]) -> Result<Self, ConfigError> {
        let key_file = KeyFile::parse(data)?;
        let core = Core(&key_file);
        match core.text("repo_version")? {
            Some("1") => {}
            Some(other) => return Err(wrong("core", "repo_version", other, "only version 1 is known")),
            None => return Err(ConfigError::Missing { group: "core", key: "repo_version" }),
        }
        if core.boolean("archive", false)? {
            return Err(wrong("core", "archive", "true", "that format is older than libostree's first release"));
        }
        let mode_text = core.text("mode")?.unwrap_or("bare").to_owned();
        let known = "treegraft knows `archive`, `bare`, `bare-user` and `bare-user-only`";
        let mode = Mode::from_config(&mode_text).ok_or_else(|| wrong("core", "mode", &mode_text, known))?;
        let collection_id = match core.text("collection-id")? {
            None => None,
            Some(id) => Some(CollectionId::new(id).map_err(|_| {
                wrong("core", "collection-id", id, "it must be a collection id like `org.example.Apps`")
            })?),
        };
        Ok(Self {
            mode,
            collection_id,
            fsync: core.boolean("fsync", true)?,
            per_object_fsync: core.boolean("per-object-fsync", false)?,
            locking: core.boolean("locking", true)?,
            lock_timeout: core.lock_timeout()?,
            min_free_space: core.min_free_space()?,
            tombstone_commits: core.boolean("tombstone-commits", false)?,
            // libostree takes it as it stands there.
            parent: key_file.get_raw("core", "parent").filter(|path| !path.is_empty()).map(PathBuf::from),
            no_deltas_in_summary: core.boolean("no-deltas-in-summary", false)?,
            disable_xattrs: core.boolean("disable-xattrs", false)?,
            zlib_level: zlib_level(&key_file)?,
            mode_text,
            key_file,
        })
    }

    /// Returns a value with its escapes resolved, e.g. of `core` and `mode`, or of `remote "origin"` and `url`.
    pub fn get(&self, group: &str, key: &str) -> Option<&str> {
        self.key_file.get(group, key)
    }

    /// Returns the whole key file.
    pub const fn key_file(&self) -> &KeyFile {
        &self.key_file
    }
}

fn wrong(group: &'static str, key: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { group, key, value: value.chars().take(200).collect(), expected }
}

/// The group `[core]`.
struct Core<'a>(&'a KeyFile);

impl<'a> Core<'a> {
    /// Returns a value. One that cannot be unescaped is an error: what it means is not known.
    fn text(&self, key: &'static str) -> Result<Option<&'a str>, ConfigError> {
        match (self.0.get("core", key), self.0.get_raw("core", key)) {
            (None, Some(raw)) => Err(wrong("core", key, raw, "it has an escape sequence that is not known")),
            (value, _) => Ok(value),
        }
    }

    fn boolean(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        // Unlike texts, booleans may have blanks behind them.
        match self.text(key)?.map(|value| value.trim_end_matches(|c: char| c.is_ascii_whitespace())) {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(wrong("core", key, other, "it must be `true` or `false`")),
        }
    }

    fn lock_timeout(&self) -> Result<LockTimeout, ConfigError> {
        let key = "lock-timeout-secs";
        let expected = "it must be a number of seconds, or -1 to wait for ever";
        match self.text(key)?.map(str::trim) {
            None => Ok(LockTimeout::Secs(DEFAULT_LOCK_TIMEOUT_SECS)),
            Some("-1") => Ok(LockTimeout::Forever),
            Some(text) => text.parse().map(LockTimeout::Secs).map_err(|_| wrong("core", key, text, expected)),
        }
    }

    fn min_free_space(&self) -> Result<MinFreeSpace, ConfigError> {
        let key = "min-free-space-size";
        if let Some(text) = self.text(key)? {
            let expected = "it must be a number with `MB`, `GB` or `TB`";
            return size_bytes(text).map(MinFreeSpace::Bytes).ok_or_else(|| wrong("core", key, text, expected));
        }
        let key = "min-free-space-percent";
        match self.text(key)? {
            None => Ok(MinFreeSpace::Percent(DEFAULT_MIN_FREE_PERCENT)),
            Some(text) => match number(text.trim()) {
                Some(percent @ 0..=99) => Ok(MinFreeSpace::Percent(u8::try_from(percent).expect("below 100"))),
                _ => Err(wrong("core", key, text, "it must be a number from 0 to 99")),
            },
        }
    }
}

/// Reads a number that is written with digits only.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Reads `^[0-9]+(M|G|T)B$`, where the units are powers of 1024.
fn size_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = [("MB", 20), ("GB", 30), ("TB", 40)]
        .into_iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|digits| (digits, shift)))?;
    number(digits)?.checked_mul(1 << shift)
}

fn zlib_level(key_file: &KeyFile) -> Result<u32, ConfigError> {
    let (group, key) = ("archive", "zlib-level");
    match key_file.get(group, key) {
        None => Ok(DEFAULT_ZLIB_LEVEL),
        Some(text) => match number(text.trim()) {
            Some(level) => Ok(u32::try_from(level.clamp(1, 9)).expect("at most 9")),
            None => Err(wrong(group, key, text, "it must be a number from 1 to 9")),
        },
    }
}
