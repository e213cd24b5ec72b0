use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        for name in ["srv/one", "srv/two", "outside"] {
            fs::create_dir_all(dir.path().join(name)).expect("a directory can be made");
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, text: &str) -> Result<OstreeReceiveConf, OstreeReceiveError> {
        let file = self.path("ostree-receive.conf");
        let text = text.replace("PLACE", &self.0.path().display().to_string());
        fs::write(&file, text).expect("a file can be written");
        OstreeReceiveConf::load(&file, Some(&self.path("home")))
    }

    fn repository(&self, text: &str, name: &str) -> Result<ReceivedRepository, OstreeReceiveError> {
        self.load(text)?.repository(&self.path(name))
    }

    fn settings(&self, text: &str) -> Settings {
        self.repository(text, "srv/one").expect("it can be followed").settings
    }
}

#[test]
fn a_file_that_cannot_be_reached_is_an_error() {
    let files = Files::new();
    let usual = files.path("home").join(HOME_PATH);
    let directory = usual.parent().expect("it is in a directory");
    fs::create_dir_all(directory).expect("a directory can be made");
    let fails = |what: &str| {
        let error = OstreeReceiveConf::load_usual(Some(&files.path("home"))).expect_err(what);
        assert!(matches!(&error, OstreeReceiveError::Read { path, .. } if *path == usual), "{what}: {error:?}");
    };
    symlink("nowhere", &usual).expect("a symlink can be made");
    fails("the link leads nowhere");
    fs::remove_dir_all(directory).expect("it can be removed");
    fs::write(directory, "").expect("a file can be written");
    fails("it is not in a directory");
}

/// Every key and what becomes of it.
#[test]
fn all_keys_are_read() {
    let files = Files::new();
    let text = "
root: PLACE/srv
gpg_sign:
  - 01234567
  - ABCDEF01
gpg_homedir: /srv/gnupg
gpg_verify: yes
gpg_trustedkeys: /srv/trusted.gpg
sign_type: ed25519
sign_keyfiles: [/srv/one.key, '/srv/two.key']
sign_verify: on
sign_trustedkeyfile: /srv/trusted.ed25519
update: true
update_hook: /usr/bin/hook --quick 'two words'
log_level: DEBUG
force: no
dry_run: off
repos: {}
";
    assert_eq!(KEYS.len(), text.lines().filter(|line| line.contains(':')).count(), "the test has every key");
    let conf = files.load(text).expect("it is valid");
    assert!(conf.warnings().is_empty(), "all keys are known: {:?}", conf.warnings());
    let found = conf.repository(&files.path("srv/one")).expect("it can be followed");
    let expected = Settings {
        gpg_keys: vec!["01234567".to_owned(), "ABCDEF01".to_owned()],
        gpg_homedir: Some(PathBuf::from("/srv/gnupg")),
        verify_gpg_keyrings: vec![PathBuf::from("/srv/trusted.gpg")],
        ed25519_key_files: vec![PathBuf::from("/srv/one.key"), PathBuf::from("/srv/two.key")],
        verify_ed25519_files: vec![PathBuf::from("/srv/trusted.ed25519")],
        allow_exact: Some(false),
        allow_force: Some(false),
        allow_older: Some(false),
        update_command: ["sh", "-c", "exec '/usr/bin/hook' '--quick' 'two words'"].map(str::to_owned).into(),
        ..Settings::default()
    };
    assert_eq!(found.settings, expected);
    assert!(!found.takes_only_dry_runs, "pushes are taken");
}

#[test]
fn without_a_key_its_default_holds() {
    let files = Files::new();
    let found = files.repository("", "srv/one").expect("an empty file is valid");
    let expected = Settings {
        allow_exact: Some(false),
        allow_force: Some(false),
        allow_older: Some(false),
        ..Settings::default()
    };
    assert_eq!((found.settings, found.takes_only_dry_runs), (expected, false));
    assert_eq!(files.settings("force: yes").allow_older, Some(true), "`force` lets older commits in");
    let off = files.settings("update: no\nupdate_hook: hook");
    assert_eq!(
        (off.update_command, off.flatpak_update),
        (vec!["true".to_owned()], FlatpakUpdate::Never),
        "no hook either"
    );
    assert!(files.repository("dry_run: yes", "srv/one").expect("it is valid").takes_only_dry_runs);
    for null in ["root:", "root: ~", "root: ''", "gpg_homedir: null", "update_hook: ''"] {
        assert!(files.repository(null, "srv/one").is_ok(), "`{null}` is as if it were not there");
    }
}

#[test]
fn a_repository_has_its_own_values() {
    let files = Files::new();
    symlink(files.path("srv/two"), files.path("srv/link")).expect("a symlink can be made");
    let text = "
root: PLACE/srv
gpg_sign: [AAAA]
gpg_homedir: /srv/gnupg
repos:
  missing:
    gpg_sign: [CCCC]
  link:
    gpg_sign: [BBBB]
    update: no
  PLACE/srv/two:
    gpg_sign: [DDDD]
";
    let keys = |name: &str| files.repository(text, name).expect("it can be followed").settings.gpg_keys;
    assert_eq!(keys("srv/one"), ["AAAA"], "a repository without an entry has the values of all");
    assert_eq!(keys("srv/two"), ["BBBB"], "the first entry that leads to the repository counts");
    let two = files.repository(text, "srv/two").expect("it can be followed").settings;
    assert_eq!(two.gpg_homedir, Some(PathBuf::from("/srv/gnupg")), "what it does not say comes from all");
    assert_eq!(two.update_command, ["true"], "and what it says is its own");
    for (wrong, told) in [
        ("repos:\n  PLACE/srv/one:\n    gpg_sing: []", "`repos: gpg_sing`"),
        ("repos:\n  PLACE/srv/one:\n    root: /", "`repos: root`"),
        ("repos:\n  PLACE/srv/one:\n    force: yes", "`repos: force`"),
        ("repos:\n  PLACE/srv/one: yes", "`repos`"),
        ("repos: [PLACE/srv/one]", "`repos`"),
    ] {
        let error = files.repository(wrong, "srv/one").expect_err("it is wrong").to_string();
        assert!(error.contains(told), "{wrong}: {error}");
    }
}

#[test]
fn nothing_outside_of_root_is_found() {
    let files = Files::new();
    symlink(files.path("outside"), files.path("srv/leads-out")).expect("a symlink can be made");
    symlink(files.path("srv/one"), files.path("leads-in")).expect("a symlink can be made");
    let conf = files.load("root: PLACE/srv").expect("it is valid");
    let real = files.path("srv/one").canonicalize().expect("it is there");
    for inside in [PathBuf::from("one"), PathBuf::from("./two/../one"), files.path("srv/one"), files.path("leads-in")] {
        let found = conf.repository(&inside).expect("it is below the root");
        assert_eq!(found.path, real, "`{}`", inside.display());
    }
    for outside in ["../outside", "leads-out", "/etc", "", "missing", "one/../../outside", ".."] {
        let result = conf.repository(Path::new(outside));
        if outside.is_empty() {
            assert_eq!(result.expect("the root itself").path, files.path("srv").canonicalize().expect("it is there"));
            continue;
        }
        let error = result.expect_err("it is not below the root");
        assert!(matches!(error, OstreeReceiveError::OutsideRoot { .. }), "`{outside}`: {error:?}");
    }
}

#[test]
fn what_cannot_be_followed_is_an_error_and_an_unknown_key_a_warning() {
    let files = Files::new();
    for (wrong, told) in [
        ("gpg_sign: AAAA", "`gpg_sign` of ostree-push's configuration must be a list"),
        ("gpg_verify: 'yes'", "`gpg_verify` of ostree-push's configuration must be `yes` or `no`"),
        ("update: 1", "`update` of"),
        ("gpg_homedir: [a]", "`gpg_homedir` of"),
        ("sign_type: spki\nsign_keyfiles: [a]", "`spki` cannot be used"),
        ("gpg_verify: yes", "no trusted keys are named"),
        ("sign_verify: yes", "no trusted keys are named"),
        ("update_hook: \"'open\"", "a quote is not closed"),
        ("- a", "is not a YAML mapping"),
        ("a: [", "is not valid"),
    ] {
        let error = files.repository(wrong, "srv/one").expect_err(wrong).to_string();
        assert!(error.contains(told), "{wrong}: {error}");
    }
    let conf = files.load("gpg-sign: [AAAA]\nsign_trigger: x").expect("unknown keys are no error");
    assert_eq!(conf.warnings().len(), 2, "each is told: {:?}", conf.warnings());
    assert!(conf.warnings()[0].contains("`gpg-sign`"), "by its name: {:?}", conf.warnings());
    assert!(files.repository("sign_type: spki", "srv/one").is_ok(), "a type that nothing uses does no harm");
}

#[test]
fn trusted_keys_are_found_where_they_usually_are() {
    let files = Files::new();
    let directory = files.path("home/.config/ostree");
    fs::create_dir_all(&directory).expect("a directory can be made");
    for name in ["ostree-receive-trustedkeys.gpg", "ostree-receive-trustedkeyfile.ed25519"] {
        fs::write(directory.join(name), "").expect("a file can be written");
    }
    let settings = files.settings("gpg_verify: yes\nsign_verify: yes");
    assert_eq!(settings.verify_gpg_keyrings, [directory.join("ostree-receive-trustedkeys.gpg")]);
    assert_eq!(settings.verify_ed25519_files, [directory.join("ostree-receive-trustedkeyfile.ed25519")]);
}

#[test]
fn a_hook_is_taken_apart_as_python_does() {
    for (line, expected) in [
        ("hook", Some(vec!["hook"])),
        (" hook  a\tb ", Some(vec!["hook", "a", "b"])),
        ("hook 'a b' \"c d\"e", Some(vec!["hook", "a b", "c de"])),
        (r#"hook a\ b "\"\x" '' "#, Some(vec!["hook", "a b", "\"\\x", ""])),
        ("hook 'a", None),
        ("hook \"a", None),
        ("hook a\\", None),
        ("", Some(Vec::new())),
    ] {
        let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(words(line), expected, "`{line}`");
    }
}
