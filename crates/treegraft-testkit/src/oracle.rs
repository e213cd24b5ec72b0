//! Finds the programs that tests compare against.

use std::env;
use std::io::Write as _;
use std::panic::Location;
use std::path::PathBuf;

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
    /// The tracer that records what a program does to files.
    Strace,
}

impl Oracle {
    /// All oracles, in the order in which they are reported.
    pub const ALL: [Self; 9] = [
        Self::Ostree,
        Self::Flatpak,
        Self::Gpg,
        Self::Sshd,
        Self::Ssh,
        Self::SshKeygen,
        Self::Rsync,
        Self::Python3,
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
        let sentence = format!("{} needs `{program}` (apt-get install {package})", Location::caller());
        assert!(!oracles_required(), "{REQUIRE_VARIABLE}=1, and {sentence}");
        writeln!(std::io::stderr().lock(), "SKIPPED: {sentence}").expect("standard error of a test is open");
    }
    found
}

fn oracles_required() -> bool {
    env::var_os(REQUIRE_VARIABLE).is_some_and(|value| value == "1")
}
