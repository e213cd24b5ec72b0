//! Finds the programs that tests compare against.

use std::env;
use std::io::Write as _;
use std::panic::Location;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The environment variable that turns a missing oracle from a skip into a failure.
pub const REQUIRE_VARIABLE: &str = "TREEGRAFT_REQUIRE_ORACLES";

/// Folders that hold `sshd` on most systems and are not in the `PATH` of ordinary users.
const EXTRA_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program that tests run to compare its behaviour with ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    /// The command line of libostree.
    Ostree,
    /// The command line of Flatpak.
    Flatpak,
    /// GNU Privacy Guard.
    Gpg,
    /// The server of OpenSSH.
    Sshd,
    /// The client of OpenSSH.
    Ssh,
    /// The key generator of OpenSSH.
    SshKeygen,
    /// The remote copy program that many repositories are published with.
    Rsync,
    /// The interpreter that small independent readers of our formats are written for.
    Python3,
    /// Small tools and a POSIX shell in one program, as small servers have them.
    Busybox,
    /// A login shell that is no POSIX shell.
    Csh,
    /// Another one.
    Fish,
    /// A login shell that is nearly a POSIX shell.
    Zsh,
    /// The tracer that records what a program does to files.
    Strace,
}

impl Oracle {
    /// All oracles, in the order in which they are reported.
    pub const ALL: [Self; 13] = [
        Self::Ostree,
        Self::Flatpak,
        Self::Gpg,
        Self::Sshd,
        Self::Ssh,
        Self::SshKeygen,
        Self::Rsync,
        Self::Python3,
        Self::Busybox,
        Self::Csh,
        Self::Fish,
        Self::Zsh,
        Self::Strace,
    ];

    /// Returns the name of the executable.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ostree => "ostree",
            Self::Flatpak => "flatpak",
            Self::Gpg => "gpg",
            Self::Sshd => "sshd",
            Self::Ssh => "ssh",
            Self::SshKeygen => "ssh-keygen",
            Self::Rsync => "rsync",
            Self::Python3 => "python3",
            Self::Busybox => "busybox",
            Self::Csh => "csh",
            Self::Fish => "fish",
            Self::Zsh => "zsh",
            Self::Strace => "strace",
        }
    }

    /// Returns the Debian package that holds the program.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Ostree => "ostree",
            Self::Flatpak => "flatpak",
            Self::Gpg => "gnupg",
            Self::Sshd => "openssh-server",
            Self::Ssh | Self::SshKeygen => "openssh-client",
            Self::Rsync => "rsync",
            Self::Python3 => "python3",
            Self::Busybox => "busybox",
            Self::Csh => "csh",
            Self::Fish => "fish",
            Self::Zsh => "zsh",
            Self::Strace => "strace",
        }
    }

    /// Returns where the program is on this machine, if it is there.
    pub fn path(self) -> Option<PathBuf> {
        let search = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&search)
            .chain(EXTRA_FOLDERS.map(PathBuf::from))
            .map(|folder| folder.join(self.program()))
            .find(|candidate| candidate.is_file())
    }
}

/// Returns the path of the oracle, or `None` after telling that the calling test is skipped.
///
/// Panics instead of skipping when the environment has `TREEGRAFT_REQUIRE_ORACLES=1`. The line goes straight to standard
/// error, past the capture of the test harness, because a skip that nobody sees is a test that nobody has.
#[track_caller]
pub fn require(oracle: Oracle) -> Option<PathBuf> {
    let found = oracle.path();
    if found.is_none() {
        let (program, package) = (oracle.program(), oracle.package());
        skip(&format!("`{program}` (apt-get install {package})"));
    }
    found
}

/// The environment variable with the program under test as one static file, which `cargo xtask test` builds.
pub const STATIC_PROGRAM_VARIABLE: &str = "TREEGRAFT_STATIC_PROGRAM";

/// Returns the program under test as one static file, or `None` after telling that the calling test is skipped.
#[track_caller]
pub fn static_program() -> Option<PathBuf> {
    let found = env::var_os(STATIC_PROGRAM_VARIABLE).map(PathBuf::from).filter(|path| path.is_file());
    if found.is_none() {
        skip("the program as a static file; run the tests with `cargo xtask test`");
    }
    found
}

/// Tells whether the test runs as root of a machine that lets it mount; if not, tells that the calling test is skipped.
///
/// A container may forbid it, so that it is no failure anywhere.
#[track_caller]
pub fn may_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs none /mnt"]).stdin(Stdio::null()).stderr(Stdio::null());
    let may = command.status().is_ok_and(|status| status.success());
    if !may {
        writeln!(std::io::stderr().lock(), "SKIPPED: {} needs the right to mount", Location::caller())
            .expect("standard error of a test is open");
    }
    may
}

#[track_caller]
fn skip(what: &str) {
    let sentence = format!("{} needs {what}", Location::caller());
    assert!(!oracles_required(), "{REQUIRE_VARIABLE}=1, and {sentence}");
    writeln!(std::io::stderr().lock(), "SKIPPED: {sentence}").expect("standard error of a test is open");
}

fn oracles_required() -> bool {
    env::var_os(REQUIRE_VARIABLE).is_some_and(|value| value == "1")
}
