//! The place where pushes are measured: sshd, signing keys, links, and repositories that nobody has written to before.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use treegraft_testkit::{Direction, Gpg, LinkOptions, SlowLink, Sshd};

use super::memory::Peaks;
use super::report::{Peak, Sample};
use super::{file, make_folder, write};
use crate::{TaskError, shell};

/// A link with a round trip and a width that is the same both ways.
pub(super) const fn link(rtt_ms: u64, mbit_per_sec: u64) -> LinkOptions {
    let bytes_per_sec = Some(mbit_per_sec * 1_000_000 / 8);
    let one_way_delay = Duration::from_millis(rtt_ms / 2);
    LinkOptions { one_way_delay, up_bytes_per_sec: bytes_per_sec, down_bytes_per_sec: bytes_per_sec }
}

/// What a push is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Time,
    Memory,
}

/// What is pushed.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Repo(PathBuf),
    BuildDirs(Vec<PathBuf>),
}

/// A push with `treegraft`.
#[derive(Debug, Clone)]
pub(super) struct Push {
    pub(super) source: Source,
    /// The server's repository; each run goes into a copy of it.
    pub(super) server: PathBuf,
    pub(super) options: Vec<String>,
    /// Without a link, ssh goes straight to sshd: the link itself takes a part of the machine.
    pub(super) link: Option<LinkOptions>,
    /// Whether `flatpak build-update-repo` runs after the publication.
    pub(super) updates_metadata: bool,
}

impl Push {
    pub(super) fn new(source: Source, server: &Path, link: Option<LinkOptions>) -> Self {
        Self { source, server: server.to_owned(), options: Vec::new(), link, updates_metadata: true }
    }

    pub(super) fn with_options<'o>(mut self, options: impl IntoIterator<Item = &'o str>) -> Self {
        self.options.extend(options.into_iter().map(str::to_owned));
        self
    }
}

/// Where pushes are measured.
pub(super) struct Bench {
    pub(super) work: PathBuf,
    pub(super) treegraft: PathBuf,
    pub(super) sshd: Sshd,
    pub(super) gpg: Gpg,
    places: Cell<u32>,
}

impl Bench {
    /// Builds the program and clears the place for its repositories.
    pub(super) fn start(work: PathBuf) -> Result<Self, TaskError> {
        shell::run(shell::cargo().args(["build", "--release", "--locked", "-p", "treegraft"]))?;
        let sshd = Sshd::start().expect("it is installed");
        let gpg = Gpg::with_key("Bench <bench@example.org>").expect("it is installed");
        let _ = fs::remove_dir_all(&work);
        make_folder(&work)?;
        let treegraft = shell::target().join("release/treegraft");
        Ok(Self { work, treegraft, sshd, gpg, places: Cell::new(0) })
    }

    pub(super) fn end(self) -> Result<(), TaskError> {
        fs::remove_dir_all(&self.work).map_err(|source| file("remove", &self.work, source))
    }

    /// Returns a path where nothing was before.
    pub(super) fn place(&self) -> PathBuf {
        self.places.set(self.places.get() + 1);
        self.work.join(self.places.get().to_string())
    }

    /// Makes an empty repository for a server.
    pub(super) fn empty(&self) -> Result<PathBuf, TaskError> {
        let repo = self.place();
        shell::read(shell::command(&self.treegraft).arg("init").arg(&repo))?;
        Ok(repo)
    }

    /// Copies a repository by hard links: objects never change, everything else is replaced, not written to.
    pub(super) fn copy_of(&self, repo: &Path) -> Result<PathBuf, TaskError> {
        let copy = self.place();
        shell::read(shell::command("cp").arg("-al").arg(repo).arg(&copy))?;
        // What a push may write to instead of replacing it.
        let _ = fs::remove_file(copy.join(".lock"));
        let private = copy.join(".treegraft");
        if private.exists() {
            let _ = fs::remove_dir_all(&private);
            shell::read(shell::command("cp").arg("-a").arg(repo.join(".treegraft")).arg(&private))?;
        }
        // The next run must not wait for what this one left to be written.
        shell::read(&mut shell::command("sync"))?;
        Ok(copy)
    }

    /// Runs a push into a copy of its server's repository.
    pub(super) fn push(&self, push: &Push, purpose: Purpose) -> Result<Sample, TaskError> {
        let copy = self.copy_of(&push.server)?;
        self.push_into(&copy, push, purpose)
    }

    /// Runs a push into this repository.
    pub(super) fn push_into(&self, server: &Path, push: &Push, purpose: Purpose) -> Result<Sample, TaskError> {
        let place = self.place();
        make_folder(&place)?;
        let peaks = match purpose {
            Purpose::Memory => Some((Peaks::in_folder(place.join("client"))?, Peaks::in_folder(place.join("server"))?)),
            Purpose::Time => None,
        };
        let (before_client, before_server) = match &peaks {
            Some((client, server)) => (client.prefix()?, server.prefix()?),
            None => Default::default(),
        };
        let receive = self.write_receive(&place, &before_server, push.updates_metadata)?;
        let relay = push.link.map(|options| SlowLink::start(self.sshd.addr(), options));
        let port = relay.as_ref().map_or(self.sshd.port(), SlowLink::port);

        let mut command = shell::command("sh");
        command.arg("-c").arg(format!("exec {before_client}'{}' \"$@\"", self.treegraft.display())).arg("sh");
        command.args(["push", "--quiet"]).args(&push.options).arg("-F").arg(self.sshd.client_config());
        match &push.source {
            Source::Repo(repo) => {
                command.arg("--repo").arg(repo);
            }
            Source::BuildDirs(folders) => {
                for folder in folders {
                    command.arg("--build-dir").arg(folder);
                }
                command.args(["--timestamp", "now"]);
            }
        }
        command.args(["-p", &port.to_string()]).arg("--remote-command").arg(format!("sh {}", receive.display()));
        command.arg(format!("{}:{}", self.sshd.host(), server.display()));
        let start = Instant::now();
        shell::read(&mut command)?;
        let seconds = start.elapsed().as_secs_f64();
        let up_bytes = relay.as_ref().map(|relay| relay.carried_bytes(Direction::Up));
        let peak = match &peaks {
            Some((client, server)) => {
                Peak { client_mib: Some(client.largest_mib()?), server_mib: Some(server.largest_mib()?) }
            }
            None => Peak::default(),
        };
        Ok(Sample { seconds, up_bytes, peak })
    }

    /// Writes the script that sshd starts a receiver with, and returns its path.
    fn write_receive(&self, place: &Path, before: &str, updates_metadata: bool) -> Result<PathBuf, TaskError> {
        let (config, receive) = (place.join("server.toml"), place.join("receive"));
        let keys = format!(
            "[defaults]\ngpg-keys = [\"{}\"]\ngpg-homedir = \"{}\"\n",
            self.gpg.fingerprint(),
            self.gpg.home().display()
        );
        let update = if updates_metadata { "auto" } else { "never" };
        write(&config, &format!("{keys}flatpak-update = \"{update}\"\n"))?;
        let (program, config) = (self.treegraft.display(), config.display());
        let script = format!("#!/bin/sh\nshift\nexec {before}'{program}' receive --config '{config}' \"$@\"\n");
        write(&receive, &script)?;
        Ok(receive)
    }
}
