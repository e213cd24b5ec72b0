//! Bringing a Flatpak repository up to date after its refs have changed.
//!
//! Clients of Flatpak read the indexed summary (`summary.idx`, `summaries/`) and the appstream branches, which list what
//! there is to install. The `flatpak` program writes both: `flatpak build-update-repo`. A repository that needs something
//! else (deltas, an own metadata tool, a cache to be cleared) names a command of its own instead.
//!
//! Neither goes through a shell. Both get no standard input, a process group of their own and a time limit; of what they
//! say, the last 16 KiB of each stream are kept. The program takes no lock on the repository while it writes: the caller
//! must hold whatever keeps two updates apart.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::process::{self, Finished, RunError};

/// Ends an update that does not: all of Flathub takes minutes, one that makes deltas of a large runtime about an hour.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// The variable that tells a replacement command the repository.
pub const REPO_VARIABLE: &str = "TREEGRAFT_REPO";

/// The variables that tell it the same and the refs in the way of ostree-push's `update_hook`.
pub const RECEIVE_VARIABLES: [&str; 2] = ["OSTREE_RECEIVE_REPO", "OSTREE_RECEIVE_REFS"];

/// Longest list of refs in a variable, in bytes: Linux starts no program with a longer text than 128 KiB.
const MAX_REFS_BYTES: usize = 100 << 10;

/// Variables that would change what `flatpak` writes, or flood its output.
///
/// `SOURCE_DATE_EPOCH` would give every appstream commit the same time, `OSTREE_REPO` names another repository.
const REMOVED_VARIABLES: [&str; 5] = ["SOURCE_DATE_EPOCH", "OSTREE_REPO", "G_MESSAGES_DEBUG", "G_DEBUG", "LANGUAGE"];

/// How `flatpak build-update-repo` is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateRepo {
    /// The program; a name without a slash is looked for in the search path.
    pub program: PathBuf,
    /// The home directory of GnuPG with the keys, instead of the usual one.
    pub gpg_homedir: Option<PathBuf>,
    /// The keys that sign the summary and the appstream commits; without one they stay unsigned.
    pub gpg_keys: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// A command that is run instead of `flatpak build-update-repo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacementCommand {
    /// The program; a name without a slash is looked for in the search path.
    pub program: PathBuf,
    /// Its arguments; the path of the repository follows them, and is in `TREEGRAFT_REPO` as well.
    pub args: Vec<OsString>,
    /// The refs that have moved, joined by spaces.
    pub refs: String,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a program said that ended well: the last 16 KiB of each stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpdateOutput {
    /// Standard output.
    pub stdout: String,
    /// Standard error: warnings.
    pub stderr: String,
}

/// Why a repository was not brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum UpdateRepoError {
    /// The program is not installed, or not in the search path.
    #[error("Could not find the program `{}`", program.display())]
    NotFound {
        /// The program.
        program: PathBuf,
    },
    /// The program could not be started.
    #[error("Could not start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The system lost track of the program.
    #[error("Could not wait for `{}`", program.display())]
    Wait {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The program took too long and was ended, with everything that it had started.
    #[error("Could not update `{}`: `{}` did not end within {} seconds{}",
        repo.display(), program.display(), timeout.as_secs(), said(stderr))]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The repository.
        repo: PathBuf,
        /// How long it was allowed to take.
        timeout: Duration,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// The program failed.
    #[error("Could not update `{}`: `{}` failed with {status}{}", repo.display(), program.display(), said(stderr))]
    Failed {
        /// The program.
        program: PathBuf,
        /// The repository.
        repo: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
}

impl UpdateRepoError {
    /// Tells whether trying again may help.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Wait { .. } | Self::TimedOut { .. })
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

impl Default for UpdateRepo {
    /// Runs `flatpak` from the search path without signing.
    fn default() -> Self {
        Self { program: "flatpak".into(), gpg_homedir: None, gpg_keys: Vec::new(), timeout: DEFAULT_TIMEOUT }
    }
}

impl UpdateRepo {
    /// Brings summary, index and appstream branches of a repository up to date, in the repository itself or in a directory
    /// that stands for it. Errors name the repository.
    pub fn run(&self, directory: &Path, repo: &Path) -> Result<UpdateOutput, UpdateRepoError> {
        let mut command = Command::new(&self.program);
        command.arg("build-update-repo");
        command.args(self.gpg_homedir.iter().map(|homedir| option("--gpg-homedir=", homedir)));
        command.args(self.gpg_keys.iter().map(|key| option("--gpg-sign=", key)));
        command.arg(argument(directory));
        for variable in REMOVED_VARIABLES {
            command.env_remove(variable);
        }
        command.env("LC_ALL", "C.UTF-8");
        run(command, &self.program, repo, self.timeout)
    }
}

impl ReplacementCommand {
    /// Takes a configured list apart: the program and its arguments. An empty list is no command.
    pub fn new<A: Into<OsString>>(argv: impl IntoIterator<Item = A>) -> Option<Self> {
        let mut argv = argv.into_iter().map(Into::into);
        let program = argv.next().filter(|program| !program.is_empty())?.into();
        Some(Self { program, args: argv.collect(), refs: String::new(), timeout: DEFAULT_TIMEOUT })
    }

    /// Says which refs have moved: `OSTREE_RECEIVE_REFS`. A list that is too long for a variable is left out.
    #[must_use]
    pub fn with_refs<R: AsRef<str>>(mut self, refs: impl IntoIterator<Item = R>) -> Self {
        for name in refs {
            if !self.refs.is_empty() {
                self.refs.push(' ');
            }
            self.refs.push_str(name.as_ref());
        }
        if self.refs.len() > MAX_REFS_BYTES {
            self.refs.clear();
        }
        self
    }

    /// Runs the command for the repository.
    pub fn run(&self, repo: &Path) -> Result<UpdateOutput, UpdateRepoError> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).arg(argument(repo)).env(REPO_VARIABLE, argument(repo));
        let [repo_variable, refs_variable] = RECEIVE_VARIABLES;
        let absolute = std::path::absolute(repo).unwrap_or_else(|_| repo.to_owned());
        command.env(repo_variable, absolute).env(refs_variable, &self.refs);
        run(command, &self.program, repo, self.timeout)
    }
}

fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

/// Returns the path in a form that no program takes for an option.
fn argument(repo: &Path) -> PathBuf {
    if repo.is_absolute() { repo.to_owned() } else { Path::new(".").join(repo) }
}

fn run(command: Command, program: &Path, repo: &Path, timeout: Duration) -> Result<UpdateOutput, UpdateRepoError> {
    let (program, repo) = (program.to_owned(), repo.to_owned());
    match process::run(command, None, timeout) {
        Ok(Finished { status, stdout, stderr }) if status.success() => Ok(UpdateOutput { stdout, stderr }),
        Ok(Finished { status, stderr, .. }) => Err(UpdateRepoError::Failed { program, repo, status, stderr }),
        Err(RunError::NotFound) => Err(UpdateRepoError::NotFound { program }),
        Err(RunError::Start(source)) => Err(UpdateRepoError::Start { program, source }),
        Err(RunError::Wait(source)) => Err(UpdateRepoError::Wait { program, source }),
        Err(RunError::TimedOut { stderr }) => Err(UpdateRepoError::TimedOut { program, repo, timeout, stderr }),
    }
}
