//! What people use today, and what a link takes at least.

use std::{ffi::OsString, os::unix::fs::symlink, path::Path, process::Command, time::Instant};

use treegraft_testkit::{Direction, LinkOptions, SlowLink};

use super::push::Bench;
use super::report::Sample;
use super::{file, make_folder, write};
use crate::{TaskError, shell};

/// Runs a command and returns how long it took, in seconds.
pub(super) fn timed(command: &mut Command) -> Result<f64, TaskError> {
    let start = Instant::now();
    shell::read(command)?;
    Ok(start.elapsed().as_secs_f64())
}

impl Bench {
    /// Copies everything to an empty place, then puts it on top of the branches, signed and with a summary.
    pub(super) fn rsync_and_commit_from(&self, worker: &Path, server: &Path) -> Result<Sample, TaskError> {
        let (copy, incoming) = (self.copy_of(server)?, self.place());
        make_folder(&incoming)?;
        let mut seconds = timed(&mut self.rsync(self.sshd.port(), worker, &incoming))?;
        let mut commit = shell::command("flatpak");
        commit.arg("build-commit-from").args(self.gpg.sign_args());
        seconds += timed(commit.arg(format!("--src-repo={}", incoming.display())).arg(&copy))?;
        Ok(Sample { seconds, ..Sample::default() })
    }

    /// Copies the objects that are not there.
    pub(super) fn rsync_objects(&self, worker: &Path, server: &Path, link: LinkOptions) -> Result<Sample, TaskError> {
        let copy = self.copy_of(server)?;
        let relay = SlowLink::start(self.sshd.addr(), link);
        let mut rsync = self.rsync(relay.port(), &worker.join("objects"), &copy.join("objects"));
        let seconds = timed(rsync.arg("--ignore-existing"))?;
        Ok(Sample { seconds, up_bytes: Some(relay.carried_bytes(Direction::Up)), ..Sample::default() })
    }

    fn rsync(&self, port: u16, from: &Path, to: &Path) -> Command {
        let mut rsync = shell::command("rsync");
        rsync.arg("-a").arg("-e");
        rsync.arg(format!("ssh -F {} -p {}", self.sshd.client_config().display(), port));
        rsync.arg(format!("{}/", from.display())).arg(format!("{}:{}/", self.sshd.host(), to.display()));
        rsync
    }

    /// Pushes with `ostree-push`, signed and with `flatpak build-update-repo`.
    ///
    /// It writes a summary into the worker's repository, so that it gets one with the same objects.
    pub(super) fn ostree_push(&self, worker: &Path, server: &Path, link: LinkOptions) -> Result<Sample, TaskError> {
        let (copy, place) = (self.copy_of(server)?, self.place());
        let borrowed = place.join("worker");
        make_folder(&borrowed)?;
        shell::read(shell::command("cp").arg("-a").args([worker.join("config"), worker.join("refs")]).arg(&borrowed))?;
        symlink(worker.join("objects"), borrowed.join("objects")).map_err(|source| file("write", &borrowed, source))?;
        let (config, receive) = (place.join("ostree-receive.conf"), place.join("receive"));
        let keys =
            format!("gpg_sign: [\"{}\"]\ngpg_homedir: \"{}\"\n", self.gpg.fingerprint(), self.gpg.home().display());
        write(&config, &keys)?;
        let script =
            format!("#!/bin/sh\nOSTREE_RECEIVE_CONF='{}' exec ostree-receive --quiet \"$@\"\n", config.display());
        write(&receive, &script)?;
        let relay = SlowLink::start(self.sshd.addr(), link);
        let mut push = shell::command("ostree-push");
        push.env("PATH", self.path_with_ssh());
        push.arg("--quiet").arg("--repo").arg(&borrowed).args(["-p", &relay.port().to_string()]);
        push.arg("--command").arg(format!("sh {}", receive.display()));
        let seconds = timed(push.arg(format!("{}:{}", self.sshd.host(), copy.display())))?;
        Ok(Sample { seconds, up_bytes: Some(relay.carried_bytes(Direction::Up)), ..Sample::default() })
    }

    /// Returns a `PATH` with an `ssh` that can log in to this sshd.
    fn path_with_ssh(&self) -> OsString {
        let wrapper = self.sshd.ssh_wrapper();
        let folder = wrapper.parent().expect("the script is in a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
        std::env::join_paths(folders).expect("a temporary folder has no colon in its name")
    }

    /// Logs in and does nothing.
    pub(super) fn login(&self, link: LinkOptions) -> Result<Sample, TaskError> {
        let relay = SlowLink::start(self.sshd.addr(), link);
        let mut ssh = shell::command("ssh");
        ssh.arg("-F").arg(self.sshd.client_config()).args(["-p", &relay.port().to_string(), self.sshd.host(), "true"]);
        let seconds = timed(&mut ssh)?;
        Ok(Sample { seconds, up_bytes: Some(relay.carried_bytes(Direction::Up)), ..Sample::default() })
    }
}
