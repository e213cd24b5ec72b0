//! The real `gpg` program with keys that live as long as a test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::env::{CleanEnv, SHORT_TEMP_FOLDER};
use crate::oracle::{self, Oracle};
use crate::run::Run;

/// A key ring of its own with one secret key without passphrase (ed25519, never expires).
///
/// The agent that `gpg` starts for it is ended when the value is dropped.
#[derive(Debug)]
pub struct Gpg {
    program: PathBuf,
    env: CleanEnv,
    home: TempDir,
    fingerprint: String,
}

impl Gpg {
    /// Makes a key for the user id (`Name <mail address>`), or tells that the calling test is skipped.
    #[track_caller]
    pub fn with_key(user_id: &str) -> Option<Self> {
        let program = oracle::require(Oracle::Gpg)?;
        // The agent's socket lies in this folder, so its path has to be short.
        let home = tempfile::Builder::new().prefix("tggpg").tempdir_in(SHORT_TEMP_FOLDER);
        let home = home.expect("a temporary folder can be made");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("an own folder can be made private");
        let mut env = CleanEnv::new();
        env.set("GNUPGHOME", home.path());
        let mut made = Self { program, env, home, fingerprint: String::new() };
        made.fingerprint = made.add_key(user_id);
        Some(made)
    }

    /// Makes one more secret key and returns its fingerprint (40 hexadecimal digits).
    #[track_caller]
    pub fn add_key(&self, user_id: &str) -> String {
        let mut command = self.command();
        command.args(["--passphrase", "", "--pinentry-mode", "loopback", "--status-fd", "1", "--quick-generate-key"]);
        let run = Run::of(command.args([user_id, "ed25519", "sign", "never"])).ok();
        let created = run.lines().into_iter().find(|line| line.contains(" KEY_CREATED "));
        let fingerprint = created.as_deref().and_then(|line| line.split(' ').next_back());
        fingerprint.unwrap_or_else(|| panic!("gpg must tell the new key\n{}", run.report())).to_owned()
    }

    /// Returns the folder to pass as `GNUPGHOME`, `--homedir` or `--gpg-homedir`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the fingerprint of the first key (40 hexadecimal digits).
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Makes a command that runs the program with this key ring, without questions.
    pub fn command(&self) -> Command {
        let mut command = self.env.command(&self.program);
        command.args(["--batch", "--no-tty", "--yes"]);
        command
    }

    /// Returns the arguments that make `ostree` or `flatpak` sign with the first key.
    pub fn sign_args(&self) -> [String; 2] {
        [format!("--gpg-sign={}", self.fingerprint), format!("--gpg-homedir={}", self.home().display())]
    }

    /// Returns the public keys of the ring in binary form.
    #[track_caller]
    pub fn public_key(&self) -> Vec<u8> {
        Run::of(self.command().arg("--export")).ok().stdout
    }

    /// Writes the public keys of the ring to a file in binary form, as `--gpg-import` wants it.
    #[track_caller]
    pub fn write_public_key(&self, file: &Path) {
        fs::write(file, self.public_key()).expect("the key file can be written");
    }

    /// Returns the secret key of a fingerprint in armoured form.
    #[track_caller]
    pub fn secret_key(&self, fingerprint: &str) -> Vec<u8> {
        let mut command = self.command();
        command.args([
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
            "--armor",
            "--export-secret-keys",
            fingerprint,
        ]);
        Run::of(&mut command).ok().stdout
    }

    /// Signs the data with the first key and returns the detached signature in binary form.
    #[track_caller]
    pub fn sign_detached(&self, data: &[u8]) -> Vec<u8> {
        let mut command = self.command();
        command.args(["--local-user", &self.fingerprint, "--detach-sign", "--output", "-"]);
        Run::with_input(&mut command, data).ok().stdout
    }

    /// Checks a detached signature of the data; its result has exit code 0 when the signature is good.
    ///
    /// The standard output has the lines of `--status-fd`, such as `[GNUPG:] VALIDSIG FINGERPRINT …`.
    #[track_caller]
    pub fn verify_detached(&self, data: &[u8], signature: &[u8]) -> Run {
        let file = tempfile::NamedTempFile::new_in(self.env.root()).expect("a temporary file can be made");
        fs::write(file.path(), signature).expect("a temporary file can be written");
        let mut command = self.command();
        command.args(["--status-fd", "1", "--verify"]).arg(file.path()).arg("-");
        Run::with_input(&mut command, data)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let mut command = self.env.command("gpgconf");
        // An agent that is left over ends by itself when its folder is gone; a failure here must not hide the test's.
        command.args(["--kill", "all"]).output().ok();
    }
}
