//! The real `flatpak` program, as builder of what we push and as client of what we publish.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;

use crate::env::CleanEnv;
use crate::oracle::{self, Oracle};
use crate::run::Run;

/// The `flatpak` program with an installation of its own in a temporary folder.
///
/// It works as root in a container without user namespaces, D-Bus or a session. What it takes:
/// * `FLATPAK_USER_DIR`, `FLATPAK_SYSTEM_DIR`, `FLATPAK_SYSTEM_CACHE_DIR`, `FLATPAK_CONFIG_DIR`, `HOME` and
///   `XDG_*` in the temporary folder: nothing of the real user or of the machine is read or changed;
/// * `FLATPAK_TRIGGERSDIR` on an empty folder: the triggers after an installation (icon caches and the like) run in
///   bubblewrap, the one thing in `flatpak install` that wants namespaces;
/// * `--disable-sandbox` for `build-export`, which otherwise runs the check of icons in bubblewrap;
/// * 500 MB free in the temporary folder: the installation's repository refuses to fill the disk further.
#[derive(Debug)]
pub struct Flatpak {
    program: PathBuf,
    env: CleanEnv,
}

impl Flatpak {
    /// Finds the program, or tells that the calling test is skipped.
    #[track_caller]
    pub fn find() -> Option<Self> {
        let program = oracle::require(Oracle::Flatpak)?;
        let mut env = CleanEnv::new();
        for (variable, name) in [
            ("FLATPAK_USER_DIR", "user"),
            ("FLATPAK_SYSTEM_DIR", "system"),
            ("FLATPAK_SYSTEM_CACHE_DIR", "system-cache"),
            ("FLATPAK_CONFIG_DIR", "etc"),
            ("FLATPAK_TRIGGERSDIR", "triggers"),
        ] {
            let folder = env.make_folder(name);
            env.set(variable, folder);
        }
        Some(Self { program, env })
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

    /// Commits a build directory to a repository, which is made when it is not there.
    ///
    /// Extra arguments that are useful here: `--runtime`, `--collection-id=ID`, `--timestamp=2020-01-01T00:00:00Z`.
    #[track_caller]
    pub fn build_export(&self, repo: &Path, build_dir: &Path, branch: &str, extra: &[&str]) -> Run {
        let mut command = self.command();
        command.args(["build-export", "--disable-sandbox"]).args(extra).arg(repo).arg(build_dir).arg(branch);
        Run::of(&mut command).ok()
    }

    /// Commits refs of one repository on top of another: `flatpak build-commit-from ARGS… REPO REFS…`.
    #[track_caller]
    pub fn build_commit_from(&self, repo: &Path, args: &[&str], refs: &[&str]) -> Run {
        Run::of(self.command().arg("build-commit-from").args(args).arg(repo).args(refs)).ok()
    }

    /// Writes summary and appstream branches of a repository anew.
    #[track_caller]
    pub fn build_update_repo(&self, repo: &Path, extra: &[&str]) -> Run {
        Run::of(self.command().arg("build-update-repo").args(extra).arg(repo)).ok()
    }

    /// Adds a remote, which must then sign with the key of the file, or nothing without one.
    #[track_caller]
    pub fn remote_add(&self, name: &str, url: &str, key_file: Option<&Path>) {
        let trust = key_file.map_or_else(
            || OsString::from("--no-gpg-verify"),
            |file| {
                let mut option = OsString::from("--gpg-import=");
                option.push(file);
                option
            },
        );
        let mut command = self.command();
        command.args(["remote-add", "--user"]).arg(trust).args([name, url]);
        let _ = Run::of(&mut command).ok();
    }

    /// Installs a ref such as `runtime/org.example.Platform/x86_64/master`, without what it depends on.
    #[track_caller]
    pub fn install(&self, remote: &str, flatpak_ref: &str) -> Run {
        let args = ["install", "--user", "--noninteractive", "-y", "--no-deps", "--no-related", remote, flatpak_ref];
        self.run_ok(args)
    }

    /// Updates an installed ref.
    #[track_caller]
    pub fn update(&self, flatpak_ref: &str) -> Run {
        self.run_ok(["update", "--user", "--noninteractive", "-y", "--no-deps", "--no-related", flatpak_ref])
    }

    /// Returns the checksum of the commit that is installed for a ref.
    #[track_caller]
    pub fn installed_commit(&self, flatpak_ref: &str) -> String {
        self.run_ok(["info", "--user", "--show-commit", flatpak_ref]).text()
    }

    /// Returns the folder that a ref is installed in; the files of the build are in its `files`.
    #[track_caller]
    pub fn location(&self, flatpak_ref: &str) -> PathBuf {
        self.run_ok(["info", "--user", "--show-location", flatpak_ref]).text().into()
    }

    /// Returns the repository of the installation (mode `bare-user-only`).
    pub fn user_repo(&self) -> PathBuf {
        self.env.root().join("user/repo")
    }
}

/// Returns the summaries to which the index of a repository leads, decompressed; older ones are among them.
#[must_use]
pub fn indexed_summaries(repo: &Path) -> Vec<Vec<u8>> {
    let index = fs::read(repo.join("summary.idx")).expect("there is an index");
    let mut found = Vec::new();
    for entry in fs::read_dir(repo.join("summaries")).expect("there are summaries") {
        let path = entry.expect("a folder can be read").path();
        if path.extension().is_none_or(|extension| extension != "gz") {
            continue;
        }
        let digest = path.file_stem().and_then(OsStr::to_str).and_then(hex_bytes).expect("its name is a checksum");
        if index.windows(digest.len()).any(|bytes| bytes == digest) {
            let mut data = Vec::new();
            let file = fs::File::open(&path).expect("a file can be read");
            GzDecoder::new(file).read_to_end(&mut data).expect("the summary is whole");
            found.push(data);
        }
    }
    found
}

fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
