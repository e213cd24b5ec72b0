//! The configuration is read as `GLib` and libostree read it.

use std::{fs, path::Path};

use proptest::prelude::*;
use treegraft_object::CollectionId;
use treegraft_repo::{Config, ConfigError, KeyFile, LockTimeout, MinFreeSpace, Mode, Repo};
use treegraft_testkit::{Ostree, RepoMode};

fn parse(lines: &str) -> Result<Config, ConfigError> {
    Config::parse(format!("[core]\nrepo_version=1\nmode=archive-z2\n{lines}").as_bytes())
}

fn core(lines: &str) -> Config {
    parse(lines).expect("the configuration is valid")
}

#[test]
fn defaults_are_those_of_libostree() {
    let config = Config::parse(b"[core]\nrepo_version=1\n").expect("everything else has a default");
    assert_eq!(config.mode, Mode::Bare, "`core.mode`");
    assert_eq!(config.collection_id, None, "`core.collection-id`");
    assert!(config.fsync && config.locking, "`core.fsync`, `core.locking`");
    assert!(!config.per_object_fsync && !config.tombstone_commits, "`core.per-object-fsync`, `core.tombstone-commits`");
    assert!(
        !config.no_deltas_in_summary && !config.disable_xattrs,
        "`core.no-deltas-in-summary`, `core.disable-xattrs`"
    );
    assert_eq!(config.lock_timeout, LockTimeout::Secs(300), "`core.lock-timeout-secs`");
    assert_eq!(config.min_free_space, MinFreeSpace::Percent(3), "`core.min-free-space-*`");
    assert_eq!((config.parent, config.zlib_level), (None, 6), "`core.parent`, `archive.zlib-level`");
}

#[test]
fn settings_are_read() {
    let config = core(
        "collection-id=org.example.Test\nfsync=false\nper-object-fsync=true\nlocking=0\nlock-timeout-secs=-1\n\
         min-free-space-size=2GB\nmin-free-space-percent=50\ntombstone-commits=1\nparent=/srv/parent\n\
         no-deltas-in-summary=true \n[archive]\nzlib-level=9\n",
    );
    assert_eq!((config.mode, config.mode_text.as_str()), (Mode::Archive, "archive-z2"), "both forms of the mode");
    assert_eq!(config.collection_id.as_ref().map(CollectionId::as_str), Some("org.example.Test"), "a collection id");
    assert!(!config.fsync && config.per_object_fsync && !config.locking, "words and numbers are booleans");
    assert!(config.tombstone_commits && config.no_deltas_in_summary, "blanks behind a boolean do not count");
    assert_eq!(config.lock_timeout, LockTimeout::Forever, "-1 waits for ever");
    assert_eq!(config.min_free_space, MinFreeSpace::Bytes(2 << 30), "a size wins over a share; units are binary");
    assert_eq!(config.parent.as_deref(), Some(Path::new("/srv/parent")), "a path");
    assert_eq!(config.zlib_level, 9, "another group");
    for (text, level) in [("0", 1), ("1", 1), ("42", 9)] {
        let config = core(&format!("[archive]\nzlib-level={text}\n"));
        assert_eq!(config.zlib_level, level, "a level of {text} is brought into the range");
    }
    for (text, bytes) in [("0MB", 0), ("1MB", 1 << 20), ("3TB", 3 << 40)] {
        let config = core(&format!("min-free-space-size={text}\n"));
        assert_eq!(config.min_free_space, MinFreeSpace::Bytes(bytes), "{text}");
    }
}

#[test]
fn wrong_settings_are_refused_by_name() {
    for (lines, expected) in [
        ("mode=bare-split-xattrs\n", "mode"),
        ("mode=\n", "mode"),
        ("archive=true\n", "archive"),
        ("collection-id=example\n", "collection-id"),
        ("fsync=yes\n", "fsync"),
        ("locking=\n", "locking"),
        ("fsync=tr\\xue\n", "fsync"),
        ("lock-timeout-secs=-2\n", "lock-timeout-secs"),
        ("lock-timeout-secs=soon\n", "lock-timeout-secs"),
        ("min-free-space-percent=100\n", "min-free-space-percent"),
        ("min-free-space-percent=-1\n", "min-free-space-percent"),
        ("min-free-space-size=1\n", "min-free-space-size"),
        ("min-free-space-size=1 GB\n", "min-free-space-size"),
        ("min-free-space-size=99999999999999TB\n", "min-free-space-size"),
        ("repo_version=2\n", "repo_version"),
        ("[archive]\nzlib-level=best\n", "zlib-level"),
    ] {
        match parse(lines).expect_err("the value is not possible") {
            ConfigError::Value { key, .. } => assert_eq!(key, expected, "the error names the key of {lines:?}"),
            error => panic!("{lines:?} is a wrong value: {error}"),
        }
    }
    let error = Config::parse(b"[core]\nmode=archive\n").expect_err("there is no version");
    assert!(matches!(error, ConfigError::Missing { key: "repo_version", .. }), "the version must be there: {error}");
    let error = Config::parse(b"[core]\nrepo_version\n").expect_err("it is no key file");
    assert_eq!(error.to_string(), "The configuration is not valid", "a broken file is told as such");
}

/// Texts and a `group key` in them; both programs must see the same value, or refuse the text both.
const CASES: [(&str, &str, &str); 22] = [
    ("# a comment\n\n[g]\nk=v\n", "g", "k"),
    ("[g]\n  k  =  v\n", "g", "k"),
    ("[g]\nk=v \n", "g", "k"),
    ("[g]\nk=a\\sb\\tc\\nd\\\\e\n", "g", "k"),
    ("[g]\nk=\\sv\n", "g", "k"),
    ("[g]\nk=a=b\n", "g", "k"),
    ("[g]\nk=v # no comment\n", "g", "k"),
    ("[g]\n  # k=w\nk=v\n", "g", "k"),
    ("[g]\nk=v\nk=w\n", "g", "k"),
    ("[g]\nk=v\n[h]\nk=w\n[g]\nl=x\n", "g", "l"),
    ("[g]\nk=v\n[h]\nk=w\n[g]\nl=x\n", "g", "k"),
    ("[g]\r\nk=v\r\n", "g", "k"),
    ("[g]\nk=v", "g", "k"),
    ("[g]\nk=\n", "g", "k"),
    ("[g]\nk=é\n", "g", "k"),
    ("[remote \"a\"]\nk=v\n", "remote \"a\"", "k"),
    ("[a=b]\nk=v\n", "a=b", "k"),
    ("[g] \nk=v\n", "g", "k"),
    ("[g]\nk[de]=v\nk=w\n", "g", "k"),
    ("[g]\nkey with blanks=v\n", "g", "key with blanks"),
    ("[g]\nk=v\n", "g", "other"),
    ("[g]\nk=v\n", "other", "k"),
];

#[test]
fn key_files_are_read_as_glib_reads_them() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let repo_option = format!("--repo={}", path.display());
    for (text, group, key) in CASES {
        fs::write(path.join("config"), format!("[core]\nrepo_version=1\nmode=archive\n{text}")).expect("it is ours");
        let run = ostree.run_raw(["config", &repo_option, &format!("--group={group}"), "get", key]);
        let theirs = run.success().then(|| String::from_utf8(run.stdout.clone()).expect("it is UTF-8"));
        let theirs = theirs.as_deref().map(|text| text.strip_suffix('\n').unwrap_or(text));
        let repo = Repo::open(&path).expect("the configuration is valid");
        assert_eq!(repo.config().get(group, key), theirs, "`{group}`, `{key}` in {text:?}: {}", run.report());
    }
}

#[test]
fn broken_key_files_are_refused_as_glib_refuses_them() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let repo_option = format!("--repo={}", path.display());
    let sound = "[core]\nrepo_version=1\nmode=archive\n";
    for (text, line) in [
        (format!("k=v\n{sound}"), 1),
        (format!("{sound}no pair\n"), 4),
        (format!("{sound}=v\n"), 4),
        (format!("{sound}[]\n"), 4),
        (format!("{sound}[a\n"), 4),
        (format!("{sound}[a]b\n"), 4),
        (format!("{sound}[a[b]\n"), 4),
    ] {
        fs::write(path.join("config"), &text).expect("it is ours");
        let _ = ostree.run_raw(["refs", &repo_option]).failed();
        let error = KeyFile::parse(text.as_bytes()).expect_err("the text is broken");
        assert_eq!(error.line, line, "the error names the line of {text:?}");
    }
}

#[test]
fn unknown_groups_and_lists_stay_readable() {
    let text = "[remote \"origin\"]\nurl=https://example.org\nbranches=a;b\\;c;d\\\\;\nbroken=\\x\n[empty]\n";
    let config = core(text);
    let file = config.key_file();
    assert_eq!(config.get("remote \"origin\"", "url"), Some("https://example.org"), "a value of an unknown group");
    let branches = ["a", "b;c", "d\\"].map(str::to_owned).to_vec();
    assert_eq!(file.get_list("remote \"origin\"", "branches"), Some(branches), "a list with escapes");
    assert_eq!(config.get("remote \"origin\"", "broken"), None, "a value with an unknown escape has no meaning");
    assert_eq!(file.get_raw("remote \"origin\"", "broken"), Some("\\x"), "but a text");
    assert_eq!(file.groups().collect::<Vec<_>>(), ["core", "remote \"origin\"", "empty"], "groups in their order");
    let keys: Vec<_> = file.keys("remote \"origin\"").collect();
    assert_eq!(keys, ["url", "branches", "broken"], "keys in their order");
}

proptest! {
    #[test]
    fn parsing_never_panics(data in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'['), Just(b']'), Just(b'='), Just(b'\\'), any::<u8>()], 0..200)) {
        let _ = KeyFile::parse(&data);
        let _ = Config::parse(&data);
    }

    #[test]
    fn any_escaped_value_is_read_back(value in "[^\\x00]{0,40}") {
        let mut escaped = String::new();
        for c in value.chars() {
            match c {
                ' ' => escaped.push_str("\\s"),
                '\n' => escaped.push_str("\\n"),
                '\t' => escaped.push_str("\\t"),
                '\r' => escaped.push_str("\\r"),
                '\\' => escaped.push_str("\\\\"),
                // Blanks for ASCII, which `\s` does not stand for; they only count behind other characters.
                '\u{b}' | '\u{c}' => escaped.push('x'),
                c => escaped.push(c),
            }
        }
        let expected = value.replace(['\u{b}', '\u{c}'], "x");
        let file = KeyFile::parse(format!("[g]\nk={escaped}\n").as_bytes()).expect("it is valid");
        prop_assert_eq!(file.get("g", "k"), Some(expected.as_str()), "escaping and parsing gives the value");
    }
}
