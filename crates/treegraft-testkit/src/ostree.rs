//! The real `ostree` program, as judge of what we write and as writer of what we read.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::CleanEnv;
use crate::oracle::{self, Oracle};
use crate::run::Run;

/// How a repository stores its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoMode {
    /// Compressed content objects, as served over HTTP.
    Archive,
    /// Files with their real owner, mode and extended attributes; needs root.
    Bare,
    /// Files with owner, mode and extended attributes in `user.ostreemeta`.
    BareUser,
    /// Files without owner and extended attributes, as in Flatpak installations.
    BareUserOnly,
}

impl RepoMode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Archive, Self::Bare, Self::BareUser, Self::BareUserOnly];

    /// Returns the word for `ostree init --mode`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Bare => "bare",
            Self::BareUser => "bare-user",
            Self::BareUserOnly => "bare-user-only",
        }
    }
}

/// The `ostree` program with an environment of its own.
#[derive(Debug)]
pub struct Ostree {
    program: PathBuf,
    env: CleanEnv,
}

impl Ostree {
    /// Finds the program, or tells that the calling test is skipped.
    #[track_caller]
    pub fn find() -> Option<Self> {
        let program = oracle::require(Oracle::Ostree)?;
        Some(Self { program, env: CleanEnv::new() })
    }

    /// Makes a command that runs the program in the cleaned environment.
    pub fn command(&self) -> Command {
        self.env.command(&self.program)
    }

    /// Runs the program and returns how it ended, well or not.
    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing; call `ok` or `failed`"]
    pub fn run_raw<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        Run::of(self.command().args(args))
    }

    /// Runs the program and panics with all of its output unless it succeeds.
    #[track_caller]
    pub fn run_ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.run_raw(args).ok()
    }

    /// Runs one verb on a repository and panics unless it succeeds: `ostree VERB --repo=REPO ARGS…`.
    #[track_caller]
    pub fn at<A: AsRef<OsStr>>(&self, repo: &Path, verb: &str, args: impl IntoIterator<Item = A>) -> Run {
        Run::of(self.command().arg(verb).arg(repo_option(repo)).args(args)).ok()
    }

    /// Makes an empty repository.
    #[track_caller]
    pub fn init(&self, repo: &Path, mode: RepoMode, collection_id: Option<&str>) {
        let mut args = vec![format!("--mode={}", mode.as_str())];
        args.extend(collection_id.map(|id| format!("--collection-id={id}")));
        let _ = self.at(repo, "init", args);
    }

    /// Commits a folder to a branch and returns the checksum of the commit.
    ///
    /// The time is in seconds since 1970; a fixed one gives the same checksum every time. The owner is 0:0 unless the
    /// extra arguments say otherwise, so that the checksum does not depend on who runs the test.
    #[track_caller]
    pub fn commit(&self, repo: &Path, tree: &Path, branch: &str, timestamp_secs: u64, extra: &[&str]) -> String {
        let mut args = vec![
            OsString::from(format!("--branch={branch}")),
            format!("--timestamp=@{timestamp_secs}").into(),
            "--owner-uid=0".into(),
            "--owner-gid=0".into(),
        ];
        args.extend(extra.iter().map(OsString::from));
        args.push(tree.into());
        self.at(repo, "commit", args).text()
    }

    /// Checks every object that a ref reaches, and panics when one is missing or damaged.
    #[track_caller]
    pub fn fsck(&self, repo: &Path) {
        let run = self.at(repo, "fsck", ["--quiet"]);
        // `ostree fsck` ends well when it merely finds a commit that it believes to be partial.
        assert!(!run.text().contains("partial commits"), "no commit may be partial\n{}", run.report());
    }

    /// Returns the output of `ostree log`.
    #[track_caller]
    pub fn log(&self, repo: &Path, rev: &str) -> String {
        self.at(repo, "log", [rev]).text()
    }

    /// Returns the checksum that a ref stands for.
    #[track_caller]
    pub fn rev_parse(&self, repo: &Path, rev: &str) -> String {
        self.at(repo, "rev-parse", [rev]).text()
    }

    /// Lists a commit with all checksums and extended attributes: `ostree ls -RXC REV /`.
    #[track_caller]
    pub fn ls(&self, repo: &Path, rev: &str) -> String {
        self.at(repo, "ls", ["-RXC", rev, "/"]).text()
    }

    /// Returns all refs, sorted.
    #[track_caller]
    pub fn refs(&self, repo: &Path) -> Vec<String> {
        let mut refs = self.at::<&str>(repo, "refs", []).lines();
        refs.sort();
        refs
    }

    /// Pulls refs of a remote, or all of them when none is named.
    #[track_caller]
    pub fn pull(&self, repo: &Path, remote: &str, refs: &[&str]) {
        let _ = self.at(repo, "pull", [&[remote], refs].concat());
    }

    /// Copies refs of another repository on this machine, or all of them when none is named.
    #[track_caller]
    pub fn pull_local(&self, repo: &Path, source: &Path, refs: &[&str]) {
        let args = std::iter::once(source.as_os_str()).chain(refs.iter().map(OsStr::new));
        let _ = self.at(repo, "pull-local", args);
    }

    /// Adds a remote, which must then sign commits and summary with the key of the file, or nothing without one.
    #[track_caller]
    pub fn remote_add(&self, repo: &Path, name: &str, url: &str, key_file: Option<&Path>) {
        let mut args: Vec<OsString> = vec!["add".into()];
        match key_file {
            Some(file) => {
                let mut import = OsString::from("--gpg-import=");
                import.push(file);
                args.extend(["--set=gpg-verify-summary=true".into(), import]);
            }
            None => args.push("--no-gpg-verify".into()),
        }
        args.extend([name.into(), url.into()]);
        let _ = self.at(repo, "remote", args);
    }

    /// Writes the summary anew.
    #[track_caller]
    pub fn summary_update(&self, repo: &Path, extra: &[&str]) {
        let _ = self.at(repo, "summary", [&["--update"], extra].concat());
    }

    /// Returns the output of `ostree show`.
    #[track_caller]
    pub fn show(&self, repo: &Path, rev: &str) -> String {
        self.at(repo, "show", [rev]).text()
    }

    /// Returns one key of a commit's metadata in the text form of a `GVariant`.
    #[track_caller]
    pub fn metadata(&self, repo: &Path, rev: &str, key: &str) -> String {
        self.at(repo, "show", [&format!("--print-metadata-key={key}"), rev]).text()
    }

    /// Returns one key of a commit's detached metadata in the text form of a `GVariant`.
    #[track_caller]
    pub fn detached_metadata(&self, repo: &Path, rev: &str, key: &str) -> String {
        self.at(repo, "show", [&format!("--print-detached-metadata-key={key}"), rev]).text()
    }

    /// Prunes the repository and returns what the program says about it.
    #[track_caller]
    pub fn prune(&self, repo: &Path, extra: &[&str]) -> String {
        self.at(repo, "prune", extra).text()
    }

    /// Checks a commit out to a folder that does not exist yet, as the current user.
    #[track_caller]
    pub fn checkout(&self, repo: &Path, rev: &str, destination: &Path) {
        let _ = self.at(repo, "checkout", [OsStr::new("--user-mode"), OsStr::new(rev), destination.as_os_str()]);
    }
}

fn repo_option(repo: &Path) -> OsString {
    let mut option = OsString::from("--repo=");
    option.push(repo);
    option
}
