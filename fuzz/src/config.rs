//! Checks of files that an administrator or another program has written.

use std::{fs, path::Path, sync::LazyLock};

use tempfile::{NamedTempFile, TempDir};
use treegraft_repo::Config;
use treegraft_server::{config::ServerConfig, ostree_receive::OstreeReceiveConf};
use treegraft_sign::{Ed25519Key, Ed25519PublicKeys, GpgKeyrings, SignedData, TrustedKeys as _};

use crate::input::Input;

static FILE: LazyLock<NamedTempFile> = LazyLock::new(|| NamedTempFile::new().expect("a file can be made"));
static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a directory can be made"));

/// Checks the `config` of a repository.
///
/// # Panics
///
/// When something is not as it has to be, which is what fuzzing looks for.
pub fn check_repository(data: &[u8]) {
    let Ok(config) = Config::parse(data) else { return };
    assert!((1..=9).contains(&config.zlib_level), "the level is one of zlib's");
    let file = config.key_file();
    for group in file.groups() {
        for key in file.keys(group) {
            assert!(file.get_raw(group, key).is_some(), "a key that is listed is there");
            let _ = file.get_list(group, key);
        }
    }
}

/// Checks a `server.toml`.
pub fn check_server(text: &str) {
    if let Ok(config) = ServerConfig::parse(text) {
        let _ = config.settings(Path::new("/srv/repo"));
        let _ = config.named(Path::new("/"));
    }
}

/// Checks an `ostree-receive.conf`.
///
/// # Panics
///
/// When a repository is found that is not below the root, which is what fuzzing looks for.
pub fn check_ostree_receive(data: &[u8]) {
    fs::write(FILE.path(), data).expect("it can be written");
    let Ok(conf) = OstreeReceiveConf::load(FILE.path(), Some(DIRECTORY.path())) else { return };
    for path in [Path::new("repo"), DIRECTORY.path()] {
        let _ = conf.names(path);
        let _ = conf.repository(path);
    }
}

/// Checks files of keys, and signatures by them.
///
/// # Panics
///
/// When a signature counts that nobody has made, which is what fuzzing looks for.
pub fn check_keys(data: &[u8]) {
    let mut input = Input::new(data);
    let (keys, signature, signed) = (input.long_bytes(), input.bytes(), input.bytes());
    fs::write(FILE.path(), keys).expect("it can be written");
    let paths = [FILE.path().to_owned()];
    let signed = SignedData { data: signed, file: FILE.path() };
    for key in Ed25519Key::load_file(FILE.path()).unwrap_or_default() {
        let again = Ed25519Key::from_base64(key.secret_base64().as_bytes()).expect("it is read as it is written");
        assert_eq!(again.public_key(), key.public_key(), "it is the same key");
    }
    if let Ok(trusted) = Ed25519PublicKeys::load_files(&paths) {
        let _ = trusted.verify_any(signed, &[signature, data]);
    }
    if let Ok(trusted) = GpgKeyrings::new(&paths) {
        // What would look at the signature is not there.
        let verified = trusted.with_program("/nonexistent/gpgv").verify_any(signed, &[signature]);
        assert!(verified.is_err(), "nothing counts that was not looked at");
    }
}
