//! The configuration of ostree-push's receiver, for servers that have one: `ostree-receive.conf`.
//!
//! Every key is read with its meaning there, as far as it is sound; docs/rights.md has the table. What such a server allowed
//! is what it goes on to allow: grafts, and nothing of what ostree-push has no word for.

mod yaml;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

pub use yaml::YamlError;

use self::yaml::Node;
use crate::config::{FlatpakUpdate, Place, Settings, is_absent};

/// The system's file.
pub const SYSTEM_PATH: &str = "/etc/ostree/ostree-receive.conf";

/// The user's file, below the home directory. Its keys win over those of the system's.
pub const HOME_PATH: &str = ".config/ostree/ostree-receive.conf";

/// Largest file, in bytes: a wrong path must not be read into memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The keys, as ostree-push 1.2 has them.
const KEYS: [&str; 15] = [
    "root",
    "gpg_sign",
    "gpg_homedir",
    "gpg_verify",
    "gpg_trustedkeys",
    "sign_type",
    "sign_keyfiles",
    "sign_verify",
    "sign_trustedkeyfile",
    "update",
    "update_hook",
    "repos",
    "log_level",
    "force",
    "dry_run",
];

/// The keys that hold for all repositories alike.
const GLOBAL_KEYS: [&str; 5] = ["root", "repos", "log_level", "force", "dry_run"];

/// The only kind of signature besides OpenPGP that can be made and verified here.
const ED25519: &str = "ed25519";

/// A configuration of ostree-push's receiver.
#[derive(Debug, Clone, Default)]
pub struct OstreeReceiveConf {
    values: BTreeMap<String, Node>,
    /// Where the keys for verifying are that are not named.
    key_directories: Vec<PathBuf>,
    warnings: Vec<String>,
}

/// What such a configuration means for one repository.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceivedRepository {
    /// Where it is.
    pub path: PathBuf,
    /// Its settings.
    pub settings: Settings,
    /// Whether nothing may be published (`dry_run`).
    pub takes_only_dry_runs: bool,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OstreeReceiveError {
    /// A file cannot be read.
    #[error("Could not read the configuration file `{path}`", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A file is no YAML.
    #[error("The configuration file `{path}` is not valid", path = path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: YamlError,
    },
    /// A file is no list of keys with values.
    #[error("The configuration file `{path}` is not a YAML mapping", path = path.display())]
    NotAMapping {
        /// The file.
        path: PathBuf,
    },
    /// A key has a value of another kind.
    #[error("The key `{key}` of ostree-push's configuration must be {expected}")]
    Kind {
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Something is wanted that cannot be done here.
    #[error("The key `{key}` of ostree-push's configuration cannot be followed: {reason}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Why not.
        reason: String,
    },
    /// The repository is not below `root`.
    #[error("The repository `{path}` was not found", path = path.display())]
    OutsideRoot {
        /// The path as it was asked for.
        path: PathBuf,
    },
}

impl OstreeReceiveConf {
    /// Reads one file that must exist.
    pub fn load(file: &Path, home: Option<&Path>) -> Result<Self, OstreeReceiveError> {
        let mut conf = Self::empty(home);
        conf.read(file)?;
        Ok(conf)
    }

    /// Reads the system's file, then the user's. Returns nothing when there is neither.
    pub fn load_usual(home: Option<&Path>) -> Result<Option<Self>, OstreeReceiveError> {
        let mut conf = Self::empty(home);
        let mut is_any_there = false;
        let user = home.map(|home| home.join(HOME_PATH));
        for file in [Some(PathBuf::from(SYSTEM_PATH)), user].into_iter().flatten() {
            if is_there(&file)? {
                conf.read(&file)?;
                is_any_there = true;
            }
        }
        Ok(is_any_there.then_some(conf))
    }

    fn empty(home: Option<&Path>) -> Self {
        let user = home.map(|home| home.join(".config/ostree"));
        let key_directories = [Some(PathBuf::from("/etc/ostree")), user].into_iter().flatten().collect();
        Self { key_directories, ..Self::default() }
    }

    fn read(&mut self, path: &Path) -> Result<(), OstreeReceiveError> {
        let fail = |source| OstreeReceiveError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(fail)?.len() > MAX_FILE_BYTES {
            return Err(fail(io::ErrorKind::FileTooLarge.into()));
        }
        let text = fs::read_to_string(path).map_err(fail)?;
        let document =
            yaml::parse(&text).map_err(|source| OstreeReceiveError::Yaml { path: path.to_owned(), source })?;
        let entries = match document {
            None => return Ok(()),
            Some(Node::Mapping(entries)) => entries,
            Some(_) => return Err(OstreeReceiveError::NotAMapping { path: path.to_owned() }),
        };
        for (key, value) in entries {
            if KEYS.contains(&key.as_str()) {
                self.values.insert(key, value);
            } else {
                self.warnings.push(format!("`{}` has the unknown key `{key}`", path.display()));
            }
        }
        Ok(())
    }

    /// Returns sentences about what is not followed.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns what holds for the repository at `path`: relative to `root`, if there is one, and below it.
    pub fn repository(&self, path: &Path) -> Result<ReceivedRepository, OstreeReceiveError> {
        let root = text(self.values.get("root"), "root")?.map(PathBuf::from);
        let path = match &root {
            None => path.to_owned(),
            Some(root) => below(root, path)?,
        };
        let own = self.own(&path, root.as_deref())?;
        let value = |key: &'static str| {
            own.iter().find(|(name, _)| name == key).map(|(_, value)| value).or_else(|| self.values.get(key))
        };
        let mut settings = Settings { allow_exact: Some(false), allow_force: Some(false), ..Settings::default() };
        settings.allow_older = Some(flag(self.values.get("force"), "force", false)?);
        settings.gpg_keys = texts(value("gpg_sign"), "gpg_sign")?;
        settings.gpg_homedir = text(value("gpg_homedir"), "gpg_homedir")?.map(PathBuf::from);
        settings.ed25519_key_files = paths(value("sign_keyfiles"), "sign_keyfiles")?;
        if flag(value("gpg_verify"), "gpg_verify", false)? {
            let named = text(value("gpg_trustedkeys"), "gpg_trustedkeys")?;
            settings.verify_gpg_keyrings =
                vec![self.key_file(named, "gpg_verify", "ostree-receive-trustedkeys.gpg")?];
        }
        if flag(value("sign_verify"), "sign_verify", false)? {
            let named = text(value("sign_trustedkeyfile"), "sign_trustedkeyfile")?;
            settings.verify_ed25519_files =
                vec![self.key_file(named, "sign_verify", "ostree-receive-trustedkeyfile.ed25519")?];
        }
        let sign_type = text(value("sign_type"), "sign_type")?.unwrap_or(ED25519);
        let is_type_used = !settings.ed25519_key_files.is_empty() || !settings.verify_ed25519_files.is_empty();
        if is_type_used && sign_type != ED25519 {
            let reason = format!("keys of the type `{sign_type}` cannot be used, only `{ED25519}`");
            return Err(OstreeReceiveError::Unsupported { key: "sign_type", reason });
        }
        let hook = text(value("update_hook"), "update_hook")?;
        if !flag(value("update"), "update", true)? {
            // Neither summary nor hook.
            settings.update_command = vec!["true".to_owned()];
            settings.flatpak_update = FlatpakUpdate::Never;
        } else if let Some(hook) = hook {
            settings.update_command = hook_command(hook)?;
        }
        text(self.values.get("log_level"), "log_level")?;
        let takes_only_dry_runs = flag(self.values.get("dry_run"), "dry_run", false)?;
        Ok(ReceivedRepository { path, settings, takes_only_dry_runs })
    }

    /// Tells whether there are bounds to which repositories can be asked for: a `root`, or an entry for this one.
    pub fn names(&self, path: &Path) -> bool {
        let has_root = text(self.values.get("root"), "root").is_ok_and(|root| root.is_some());
        let is_listed = match self.values.get("repos") {
            Some(Node::Mapping(entries)) => {
                entries.iter().any(|(name, _)| Place::of(Path::new(name)) == Place::of(path))
            }
            _ => false,
        };
        has_root || is_listed
    }

    /// Returns what stands under `repos` for the repository. The first entry that leads to it counts.
    fn own(&self, path: &Path, root: Option<&Path>) -> Result<&[(String, Node)], OstreeReceiveError> {
        let kind = || OstreeReceiveError::Kind {
            key: "repos".to_owned(),
            expected: "a mapping of repositories to mappings of keys",
        };
        let repositories = match self.values.get("repos") {
            None => return Ok(&[]),
            Some(Node::Mapping(repositories)) => repositories,
            Some(node) if node.is_null() => return Ok(&[]),
            Some(_) => return Err(kind()),
        };
        let wanted = Place::of(path);
        for (name, entries) in repositories {
            let name = root.map_or_else(|| PathBuf::from(name), |root| root.join(name));
            if Place::of(&name) != wanted {
                continue;
            }
            let Node::Mapping(entries) = entries else { return Err(kind()) };
            // A key that is mistyped here would silently leave the repository as all others are.
            let unknown =
                entries.iter().find(|(key, _)| !KEYS.contains(&key.as_str()) || GLOBAL_KEYS.contains(&key.as_str()));
            if let Some((key, _)) = unknown {
                let expected = "one that a repository can have of its own";
                return Err(OstreeReceiveError::Kind { key: format!("repos: {key}"), expected });
            }
            return Ok(entries);
        }
        Ok(&[])
    }

    /// Returns a named file, or the first of the usual ones.
    fn key_file(&self, named: Option<&str>, key: &'static str, usual: &str) -> Result<PathBuf, OstreeReceiveError> {
        if let Some(named) = named {
            return Ok(PathBuf::from(named));
        }
        for file in self.key_directories.iter().map(|directory| directory.join(usual)) {
            if is_there(&file)? {
                return Ok(file);
            }
        }
        let places: Vec<_> = self.key_directories.iter().map(|path| format!("`{}`", path.display())).collect();
        let reason = format!("no trusted keys are named, and there is no `{usual}` in {}", places.join(" or "));
        Err(OstreeReceiveError::Unsupported { key, reason })
    }
}

fn is_there(file: &Path) -> Result<bool, OstreeReceiveError> {
    let fail = |source| OstreeReceiveError::Read { path: file.to_owned(), source };
    is_absent(file).map(|is_absent| !is_absent).map_err(fail)
}

/// Returns the path of a repository below `root`, symlinks resolved.
fn below(root: &Path, path: &Path) -> Result<PathBuf, OstreeReceiveError> {
    let outside = || OstreeReceiveError::OutsideRoot { path: path.to_owned() };
    let real_root = root.canonicalize().map_err(|source| OstreeReceiveError::Read { path: root.to_owned(), source })?;
    let real = real_root.join(path).canonicalize().map_err(|_| outside())?;
    if real.starts_with(&real_root) { Ok(real) } else { Err(outside()) }
}

/// Makes an update command of a hook. That gets no argument, and the repository in `OSTREE_RECEIVE_REPO`; an update command
/// gets the path as its last argument, which is the shell's own name here.
fn hook_command(hook: &str) -> Result<Vec<String>, OstreeReceiveError> {
    let words = words(hook).filter(|words| !words.is_empty()).ok_or_else(|| OstreeReceiveError::Unsupported {
        key: "update_hook",
        reason: "a quote is not closed, or there is no program".to_owned(),
    })?;
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    Ok(vec!["sh".to_owned(), "-c".to_owned(), format!("exec {}", quoted.join(" "))])
}

/// Takes a command line apart as Python's `shlex.split` does; nothing when a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(first) = chars.next() {
        match first {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(chars.next()?),
            '\'' => loop {
                let word = word.get_or_insert_default();
                match chars.next()? {
                    '\'' => break,
                    inner => word.push(inner),
                }
            },
            '"' => loop {
                let word = word.get_or_insert_default();
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        escaped @ ('"' | '\\') => word.push(escaped),
                        other => word.extend(['\\', other]),
                    },
                    inner => word.push(inner),
                }
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}

fn flag(node: Option<&Node>, key: &str, default: bool) -> Result<bool, OstreeReceiveError> {
    let kind = || OstreeReceiveError::Kind { key: key.to_owned(), expected: "`yes` or `no`" };
    node.map_or(Ok(default), |node| node.as_bool().ok_or_else(kind))
}

/// Reads a text; an empty one is none.
fn text<'n>(node: Option<&'n Node>, key: &str) -> Result<Option<&'n str>, OstreeReceiveError> {
    let kind = || OstreeReceiveError::Kind { key: key.to_owned(), expected: "a text" };
    match node.filter(|node| !node.is_null()) {
        None => Ok(None),
        Some(node) => node.as_text().map(|text| Some(text).filter(|text| !text.is_empty())).ok_or_else(kind),
    }
}

fn texts(node: Option<&Node>, key: &str) -> Result<Vec<String>, OstreeReceiveError> {
    let kind = || OstreeReceiveError::Kind { key: key.to_owned(), expected: "a list of texts" };
    let Some(node) = node else { return Ok(Vec::new()) };
    node.as_texts().map(|texts| texts.into_iter().map(str::to_owned).collect()).ok_or_else(kind)
}

fn paths(node: Option<&Node>, key: &str) -> Result<Vec<PathBuf>, OstreeReceiveError> {
    Ok(texts(node, key)?.into_iter().map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests;
