//! The server's configuration file.
//!
//! ```toml
//! # What holds for every repository that has no other word below.
//! [defaults]
//! allow-force = false
//!
//! [[repository]]
//! path = "/srv/repo"
//! gpg-keys = ["0123456789ABCDEF0123456789ABCDEF01234567"]
//! gpg-homedir = "/srv/keys/gnupg"
//! ```

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::rights::Rule;

/// The file that is read when no other is named. It does not have to exist.
pub const DEFAULT_PATH: &str = "/etc/treegraft/server.toml";

/// A configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// What holds where a repository has no other word.
    #[serde(default)]
    defaults: PartialSettings,
    /// The repositories that have settings of their own.
    #[serde(default)]
    repository: Vec<PartialSettings>,
}

/// What becomes of a pushed commit's detached metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetachedMetadata {
    /// It is dropped.
    Never,
    /// It is kept with a commit that is published as it is, where signatures in it remain valid.
    #[default]
    Exact,
    /// It is kept with a grafted commit as well, without its signatures.
    Always,
}

/// Whether Flatpak's own metadata is made with the `flatpak` program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlatpakUpdate {
    /// `flatpak build-update-repo` runs for repositories with `app/` or `runtime/` refs, where the program exists.
    #[default]
    Auto,
    /// It never runs.
    Never,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $example:literal;)*) => {
        /// What the administrator decides about a repository.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct PartialSettings {
            /// The repository that these settings are for; nothing in the defaults.
            path: Option<PathBuf>,
            $($name: Option<$type>,)*
        }

        impl PartialSettings {
            fn apply(&self, settings: &mut Settings) {
                $(if let Some(value) = &self.$name { settings.$name = value.clone(); })*
            }
        }

        /// Every key with its documentation and an example, in the order of the reference.
        pub const KEYS: &[Key] = &[$(Key { field: stringify!($name), documentation: &[$($doc),+], example: $example },)*];
    };
}

/// A key of the configuration file, for the reference.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    field: &'static str,
    /// Lines of documentation.
    pub documentation: &'static [&'static str],
    /// A value as it stands in the file; that of the default where there is one.
    pub example: &'static str,
}

impl Key {
    /// Returns the key as it stands in the file.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }
}

settings! {
    /// OpenPGP keys that sign commits and summary: fingerprints or key ids that `gpg` finds a secret key for.
    gpg_keys: Vec<String> = Vec::new(), r#"["0123456789ABCDEF0123456789ABCDEF01234567"]"#;
    /// The GnuPG home directory of these keys. Without it, `gpg` uses its own default.
    gpg_homedir: Option<PathBuf> = None, r#""/srv/keys/gnupg""#;
    /// The `gpg` program.
    gpg_program: PathBuf = PathBuf::from("gpg"), r#""gpg""#;
    /// Files with ed25519 secret keys that sign commits and summary: one key a line in base64, as libostree has them.
    ed25519_key_files: Vec<PathBuf> = Vec::new(), r#"["/srv/keys/ed25519.key"]"#;
    /// Keyrings with OpenPGP public keys, as `gpg --export` writes them: every pushed commit must be signed by one of these
    /// keys (`ostree commit --gpg-sign`), grafted or not.
    verify_gpg_keyrings: Vec<PathBuf> = Vec::new(), r#"["/srv/keys/builders.gpg"]"#;
    /// The `gpgv` program, which looks at these signatures.
    gpgv_program: PathBuf = PathBuf::from("gpgv"), r#""gpgv""#;
    /// Files with ed25519 public keys, one a line in base64: every pushed commit must be signed by one of these keys
    /// (`ostree sign --sign-type=ed25519`), grafted or not. With keyrings as well, one signature of each kind is needed.
    verify_ed25519_files: Vec<PathBuf> = Vec::new(), r#"["/srv/keys/builders.ed25519"]"#;
    /// Whether a push may keep its commit's checksum (`--exact`) instead of being grafted. It may unless this is `false`;
    /// where there are rules, one of them must allow it as well.
    allow_exact: Option<bool> = None, "true";
    /// Whether an exact push may drop commits from a ref (`--force`). It may if this is `true`; where there are rules, it
    /// may if one of them allows it and this is not `false`.
    allow_force: Option<bool> = None, "false";
    /// Whether a push may publish a commit that is older than the ref's head (`--allow-older`). It may unless this is
    /// `false`; where there are rules, one of them must allow it as well.
    allow_older: Option<bool> = None, "true";
    /// Rules that say who may push what; more often written as `[[repository.rule]]`, see below. The rules of a repository
    /// take the place of all that are among the defaults.
    rule: Vec<Rule> = Vec::new(), r#"[{ keys = ["gnome-ci"], refs = ["app/org.gnome.*"] }]"#;
    /// What becomes of a pushed commit's detached metadata: `"never"`, `"exact"` (kept with commits that are published as
    /// they are) or `"always"` (kept with grafted commits as well, without signatures).
    detached_metadata: DetachedMetadata = DetachedMetadata::default(), r#""exact""#;
    /// Whether `flatpak build-update-repo` runs after a push to a repository with `app/` or `runtime/` refs: `"auto"` (where
    /// the program exists) or `"never"`.
    flatpak_update: FlatpakUpdate = FlatpakUpdate::default(), r#""auto""#;
    /// A program and its arguments that update the repository's metadata instead of `flatpak build-update-repo` and
    /// treegraft's own summary. The repository's path is added as the last argument; `TREEGRAFT_REPO` has it, too, and
    /// `OSTREE_RECEIVE_REFS` the refs that have moved, joined by spaces (left out above 100 KiB).
    /// A prune in it waits for the pushes that are under way, and they for it: leave that to a job of its own.
    update_command: Vec<String> = Vec::new(), r#"["/usr/local/bin/update-repo", "--quick"]"#;
    /// A program and its arguments that may refuse a push, run before anything becomes visible. Its end with another status
    /// than 0 refuses; what it says is told to the pusher. It gets the refs as JSON on standard input; see docs/hooks.md.
    pre_publish_hook: Vec<String> = Vec::new(), r#"["/usr/local/bin/check-push", "--strict"]"#;
    /// A program and its arguments that run after a push was published, when all locks are free. Its failure is told to the
    /// pusher and changes nothing. It runs again if it was interrupted; see docs/hooks.md.
    post_publish_hook: Vec<String> = Vec::new(), r#"["/usr/local/bin/purge-cdn"]"#;
    /// Seconds after which a hook is killed with everything that it has started.
    hook_timeout_secs: u64 = 60, "60";
    /// Largest content object in bytes, as it is stored: compressed.
    max_object_bytes: u64 = 16 << 30, "17179869184";
    /// Largest file in bytes, unpacked. Compression makes up to a thousand times more of what is stored, and every client
    /// unpacks it.
    max_content_bytes: u64 = 16 << 30, "17179869184";
    /// Largest commit, dirtree or dirmeta in bytes, at most 134217728. Up to 8 are in memory at a time for a push; 32 MiB are
    /// a directory of some 400,000 files.
    max_metadata_bytes: u64 = 32 << 20, "33554432";
    /// Most bytes in one push, as they are sent and stored. What is sent in vain counts as well.
    max_push_bytes: u64 = 1 << 40, "1099511627776";
    /// Most objects in one push.
    max_push_objects: u64 = 10_000_000, "10000000";
    /// How long a push may be open before its publication begins, in seconds. As long as one is, nothing can be pruned.
    max_push_secs: u64 = 24 * 60 * 60, "86400";
    /// Most bytes of all objects of the repository. A push that would go beyond is refused. To know how much is there, every
    /// push looks at every object's size twice, which takes some seconds for a million objects.
    max_repository_bytes: Option<u64> = None, "1099511627776";
    /// Whether pushers may send of a file only the parts that the ref's head does not have. It saves two thirds of an
    /// update's bytes and costs the server processor time: it has to compress what it puts together.
    offer_chunks: bool = true, "true";
    /// Most refs in one push.
    max_refs: usize = 10_000, "10000";
}

/// The configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("Could not read the configuration file `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It is not valid.
    #[error("The configuration file `{path}` is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The reason, with line and key.
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl ServerConfig {
    /// Reads a file that must exist.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// Reads a file, or returns nothing when there is none.
    pub fn load_if_exists(path: &Path) -> Result<Option<Self>, ConfigError> {
        match is_absent(path) {
            Ok(true) => Ok(None),
            Ok(false) => Self::load(path).map(Some),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Parses the text of a file.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        use serde::de::Error as _;
        let config: Self = toml::from_str(text)?;
        if config.defaults.path.is_some() {
            return Err(toml::de::Error::custom("`path` belongs into a [[repository]], not into [defaults]"));
        }
        if config.repository.iter().any(|entry| entry.path.is_none()) {
            return Err(toml::de::Error::custom("a [[repository]] has no `path`"));
        }
        Ok(config)
    }

    /// Finds a repository that has an entry, by any path that leads to it. Returns the path of the entry.
    pub fn named(&self, path: &Path) -> Option<&Path> {
        let wanted = Place::of(path);
        let paths = self.repository.iter().filter_map(|entry| entry.path.as_deref());
        paths.into_iter().find(|path| matches!(wanted, Place::Directory(..)) && Place::of(path) == wanted)
    }

    /// Returns the settings of the repository at `path`.
    ///
    /// Directories are compared, not paths, so that neither a symlink nor `..` nor a second mount leads around an entry.
    pub fn settings(&self, path: &Path) -> Settings {
        let wanted = Place::of(path);
        let mut settings = Settings::default();
        self.defaults.apply(&mut settings);
        let is_wanted = |entry: &&PartialSettings| entry.path.as_deref().is_some_and(|path| Place::of(path) == wanted);
        for entry in self.repository.iter().filter(is_wanted) {
            entry.apply(&mut settings);
        }
        settings
    }
}

/// Tells whether there is no file of this name.
///
/// Without a file everything is allowed, so one that cannot be reached is an error: behind a directory that may not be
/// searched, or a link that leads nowhere.
pub(crate) fn is_absent(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            // The directory's own name may be the link that leads nowhere.
            Some(parent) if parent != Path::new("") && !is_absent(parent)? => fs::metadata(parent).map(|_| true),
            _ => Ok(true),
        },
        Err(error) => Err(error),
    }
}

/// What a path leads to.
#[derive(PartialEq, Eq)]
pub(crate) enum Place {
    /// A directory, by device and number.
    Directory(u64, u64),
    /// Nothing that can be looked at.
    Unknown(PathBuf),
}

impl Place {
    pub(crate) fn of(path: &Path) -> Self {
        fs::metadata(path)
            .map_or_else(|_| Self::Unknown(path.to_owned()), |found| Self::Directory(found.dev(), found.ino()))
    }
}

/// Returns a configuration file with every key, documented and commented out.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration of the receiving side of treegraft.\n#\n# Keys in [defaults] hold for every repository, keys in a \
         [[repository]] for the one at its `path`.\n\n[defaults]\n",
    );
    for key in KEYS {
        text.push('\n');
        for line in key.documentation {
            let _ = writeln!(text, "#{line}");
        }
        let _ = writeln!(text, "# {} = {}", key.name(), key.example);
    }
    text.push_str("\n# [[repository]]\n# path = \"/srv/repo\"\n# allow-force = true\n");
    text.push_str(RULES);
    text
}

/// The part of the reference about rules.
const RULES: &str = r#"
# Rules, see docs/rights.md. As soon as a repository has one, what none allows is refused. Each rule gives, and none takes
# away: their order means nothing.

# [[repository.rule]]

# The keys that the rule is for: names from `treegraft receive --as NAME` in `authorized_keys`. Without it, the rule is for
# whoever can log in.
# keys = ["gnome-ci"]

# The refs that it is for. A pattern is the beginning of a ref, in whole parts between `/`; `*` stands for any characters
# but `/`. This one covers app/org.gnome.Maps/x86_64/stable. Must be there.
# refs = ["app/org.gnome.*"]

# What may be done: "rebase" (a graft), "exact" (`--exact`), "force" (`--force`), "older" (`--allow-older`), "mirrors"
# (`--extra-collection-id`), "subsets" (`--subset`, or the commit says it itself), "token-type" (`--token-type`, or the
# commit says it itself). By default ["rebase"].
# allow = ["rebase", "exact", "force", "older", "mirrors", "subsets", "token-type"]

# Bytes and objects in a push, and bytes of a content object, where they are to be lower than for the whole repository. Of
# several rules for a ref the highest counts, of several refs in a push the lowest.
# max-push-bytes = 1073741824
# max-push-objects = 100000
# max-object-bytes = 268435456
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::rights::Action;

    #[test]
    fn a_repository_overrides_the_defaults() {
        let text =
            "[defaults]\nallow-force = true\nmax-refs = 5\n[[repository]]\npath = \"/srv/a\"\nallow-force = false\n";
        let config = ServerConfig::parse(text).expect("a valid file");
        let (a, b) = (config.settings(Path::new("/srv/a")), config.settings(Path::new("/srv/b")));
        assert_eq!(
            (a.allow_force, a.max_refs),
            (Some(false), 5),
            "a repository's own word wins, the rest comes from the defaults"
        );
        assert_eq!((b.allow_force, b.max_refs), (Some(true), 5), "a repository without an entry has the defaults");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = ServerConfig::parse("[defaults]\nalow-force = true\n").expect_err("a typing error");
        assert!(error.to_string().contains("alow-force"), "the message names the key: {error}");
        assert!(ServerConfig::parse("[defaults]\npath = \"/srv\"\n").is_err(), "defaults are for no repository");
        assert!(ServerConfig::parse("[[repository]]\n").is_err(), "an entry says which repository it is for");
        assert!(
            ServerConfig::parse("[[repository]]\npath = \"/srv\"\nallow_force = true\n").is_err(),
            "a key of a repository is checked as well"
        );
    }

    /// Modes are no hindrance for root, who may run the tests: other errors stand for a directory that may not be searched.
    #[test]
    fn only_a_file_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = |name: &str| dir.path().join(name);
        for name in ["server.toml", "missing/server.toml", "missing/too/server.toml"] {
            let loaded = ServerConfig::load_if_exists(&path(name)).expect("nothing is in the way");
            assert!(loaded.is_none(), "{name} is not there");
        }
        fs::write(path("file"), "[defaults]\nallow-exact = false\n").expect("a file can be written");
        for (link, target) in [("dangling", "missing"), ("loop", "loop"), ("good", "file")] {
            symlink(target, path(link)).expect("a symlink can be made");
        }
        for name in ["dangling", "dangling/server.toml", "loop", "loop/server.toml", "file/server.toml"] {
            let error = ServerConfig::load_if_exists(&path(name)).expect_err("it may say what is forbidden");
            assert!(
                matches!(&error, ConfigError::Read { path: named, .. } if *named == path(name)),
                "{name}: {error:?}"
            );
        }
        let config = ServerConfig::load_if_exists(&path("good")).expect("it can be read").expect("it is there");
        assert_eq!(config.settings(Path::new("/srv")).allow_exact, Some(false), "a link to a file is that file");
    }

    /// The reference must be a valid file when every comment sign before a key is taken away.
    #[test]
    fn every_example_in_the_reference_is_valid() {
        let uncommented = |line: &'static str| {
            let is_example = |rest: &&str| KEYS.iter().any(|key| rest.starts_with(&format!("{} = ", key.name())));
            line.strip_prefix("# ").filter(is_example).unwrap_or(line)
        };
        let reference: &'static str = reference().leak();
        let defaults = reference.lines().take_while(|&line| line != "# [[repository]]");
        let text = defaults.map(uncommented).collect::<Vec<_>>().join("\n");
        let config = ServerConfig::parse(&text).expect("examples are valid");
        let is_code = |line: &&str| line.starts_with("[[") || line.contains(" = ");
        let rule =
            RULES.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_code).collect::<Vec<_>>().join("\n");
        let repository =
            ServerConfig::parse(&format!("[[repository]]\npath = \"/srv\"\n{rule}")).expect("so is the rule");
        assert_eq!(repository.settings(Path::new("/srv")).rule[0].allow, Action::ALL.into(), "all actions are listed");
        assert_eq!(config.defaults.gpg_homedir, Some(Some(PathBuf::from("/srv/keys/gnupg"))));
    }
}
