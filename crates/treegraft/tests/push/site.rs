//! A place with a server repository, a worker, and the program between them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Pid;
use treegraft_testkit::{CleanEnv, Gpg, Ostree, RepoMode, Run, Sshd};

/// The program under test.
pub(crate) const TREEGRAFT: &str = env!("CARGO_BIN_EXE_treegraft");

/// Most tests want to see what one try leaves; a later `--retries` takes it back.
const ONE_TRY: &str = "--retries=0";

/// How long a process may take to notice that the other side is gone.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(30);

/// A server's repository with its configuration, reachable by path and by ssh.
pub(crate) struct Site {
    pub(crate) env: CleanEnv,
    pub(crate) ostree: Ostree,
    pub(crate) server: PathBuf,
    config: PathBuf,
}

impl Site {
    /// Makes an empty archive repository.
    pub(crate) fn new() -> Option<Self> {
        let ostree = Ostree::find()?;
        let env = CleanEnv::new();
        let server = env.root().join("srv/repo");
        fs::create_dir_all(env.root().join("srv")).expect("a folder can be made");
        let config = env.root().join("server.toml");
        fs::write(&config, "").expect("a file can be written");
        let site = Self { env, ostree, server, config };
        site.treegraft(["init".as_ref(), site.server.as_os_str()]).ok();
        Some(site)
    }

    /// Writes the server's configuration; `settings` are lines of `[defaults]`.
    pub(crate) fn configure(&self, settings: &str) {
        fs::write(&self.config, format!("[defaults]\n{settings}\n")).expect("a file can be written");
    }

    /// Returns the file with the server's configuration.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Writes a configuration that signs with a key.
    pub(crate) fn sign_with(&self, gpg: &Gpg) {
        let (home, key) = (gpg.home().display(), gpg.fingerprint());
        self.configure(&format!("gpg-keys = [\"{key}\"]\ngpg-homedir = \"{home}\""));
    }

    /// Runs the program.
    #[must_use]
    pub(crate) fn treegraft<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        Run::of(self.env.command(TREEGRAFT).args(args))
    }

    /// Pushes to the server's repository on this machine.
    #[must_use]
    pub(crate) fn push_local(&self, worker: &Path, args: &[&str]) -> Run {
        Run::of(&mut self.push_local_command(worker, args))
    }

    /// Returns the command of a push to the server's repository on this machine.
    pub(crate) fn push_local_command(&self, worker: &Path, args: &[&str]) -> std::process::Command {
        let mut command = self.push_unstored_command(args);
        command.arg("--repo").arg(worker);
        command
    }

    /// Returns the command of a push of something else than a repository, which the arguments name.
    pub(crate) fn push_unstored_command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.env.command(TREEGRAFT);
        command.arg("push").arg("--config").arg(&self.config).arg(ONE_TRY).arg(&self.server).args(args);
        command
    }

    /// Pushes something else than a repository to the server's repository on this machine.
    #[must_use]
    pub(crate) fn push_unstored(&self, args: &[&str]) -> Run {
        Run::of(&mut self.push_unstored_command(args))
    }

    /// Pushes through ssh. The far side runs the same program with the server's configuration.
    #[must_use]
    pub(crate) fn push_ssh(&self, sshd: &Sshd, worker: &Path, args: &[&str]) -> Run {
        self.push_ssh_through(sshd, sshd.port(), worker, args)
    }

    /// Pushes through ssh at another port, behind which there is a link to the real one.
    #[must_use]
    pub(crate) fn push_ssh_through(&self, sshd: &Sshd, port: u16, worker: &Path, args: &[&str]) -> Run {
        Run::of(&mut self.push_ssh_command(sshd, port, worker, args))
    }

    /// Returns the command of a push through ssh.
    pub(crate) fn push_ssh_command(
        &self,
        sshd: &Sshd,
        port: u16,
        worker: &Path,
        args: &[&str],
    ) -> std::process::Command {
        let mut command = self.push_unstored_ssh_command(sshd, port, args);
        command.arg("--repo").arg(worker);
        command
    }

    /// Returns the command of a push through ssh of something else than a repository.
    pub(crate) fn push_unstored_ssh_command(&self, sshd: &Sshd, port: u16, args: &[&str]) -> std::process::Command {
        let mut command = self.env.command(TREEGRAFT);
        command.arg("push").arg(ONE_TRY).arg("-F").arg(sshd.client_config()).args(["-p", &port.to_string()]);
        command.arg("--remote-command").arg(self.remote_command());
        command.arg(format!("{}:{}", sshd.host(), self.server.display())).args(args);
        command
    }

    /// Returns the command of a push through ssh to a receiver that is started behind these words.
    pub(crate) fn push_ssh_traced(
        &self,
        sshd: &Sshd,
        prefix: &[String],
        worker: &Path,
        args: &[&str],
    ) -> std::process::Command {
        let command = self.push_ssh_command(sshd, sshd.port(), worker, args);
        self.write_remote_command(&format!("'{}' ", prefix.join("' '")));
        command
    }

    /// Writes the command that ssh runs on the far side.
    fn remote_command(&self) -> PathBuf {
        self.write_remote_command("")
    }

    fn write_remote_command(&self, prefix: &str) -> PathBuf {
        let script = self.receive_script();
        let config = self.config.display();
        let pid = self.receiver_pid();
        let (pid, all) = (pid.display(), self.receivers_file());
        let all = all.display();
        // The first argument is `receive`; its options have to come behind it.
        let text = format!(
            "#!/bin/sh\nshift\necho $$ > '{pid}'\necho $$ >> '{all}'\nexec {prefix}'{TREEGRAFT}' receive --config '{config}' \"$@\"\n"
        );
        // Another push may run it at this moment, which nobody can who writes it.
        if fs::read(&script).is_ok_and(|written| written == text.as_bytes()) {
            return script;
        }
        fs::write(&script, text).expect("a file can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        script
    }

    /// Returns the program that ssh runs on the far side, which takes further options of `treegraft receive` behind a first word.
    pub(crate) fn receive_script(&self) -> PathBuf {
        self.env.root().join("receive")
    }

    /// Returns the file with the process id of the last receiver that ssh has started.
    pub(crate) fn receiver_pid(&self) -> PathBuf {
        self.env.root().join("receiver.pid")
    }

    fn receivers_file(&self) -> PathBuf {
        self.env.root().join("receivers")
    }

    /// Returns all receivers that ssh has started, those of lanes among them, in their order.
    pub(crate) fn receivers(&self) -> Vec<Pid> {
        let text = fs::read_to_string(self.receivers_file()).unwrap_or_default();
        text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    }

    /// Returns the last receiver that ssh has started, if it was.
    pub(crate) fn receiver(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.receiver_pid()).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// Waits until the last receiver is gone, which it must be soon when its connection is.
    ///
    /// Until then it stores what had arrived, and the next push cannot resume it.
    pub(crate) fn wait_for_receiver(&self) {
        let begin = Instant::now();
        while self.receiver().is_some_and(is_running) {
            assert!(begin.elapsed() < END_TIMEOUT, "the receiver ends with the connection");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes a worker's repository with one commit of `tree`.
    pub(crate) fn worker(&self, name: &str, mode: RepoMode, tree: &Path, branch: &str, timestamp_secs: u64) -> PathBuf {
        let repo = self.env.root().join(name);
        if !repo.exists() {
            self.ostree.init(&repo, mode, None);
        }
        self.ostree.commit(&repo, tree, branch, timestamp_secs, &[]);
        repo
    }

    /// Makes a small tree out of names and contents.
    pub(crate) fn tree(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.env.root().join(name);
        fs::create_dir_all(&root).expect("a folder can be made");
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder can be made");
            fs::write(path, content).expect("a file can be written");
        }
        root
    }
}

/// Tells whether a process does anything yet; that of a dead one stays until somebody has asked how it ended.
fn is_running(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// Lists all objects of a repository below `objects`, as paths.
pub(crate) fn objects(repo: &Path) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for folder in fs::read_dir(repo.join("objects")).expect("a repository has objects") {
        let folder = folder.expect("a folder can be read");
        for file in fs::read_dir(folder.path()).expect("a folder can be read") {
            let file = file.expect("a folder can be read");
            found.insert(format!("{}/{}", folder.file_name().display(), file.file_name().display()));
        }
    }
    found
}

/// Returns the JSON document that a push printed.
pub(crate) fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.text()).unwrap_or_else(|error| panic!("the output is JSON ({error}): {}", run.report()))
}

/// Tells whether an object's path is that of a content object.
pub(crate) fn is_content(object: &str) -> bool {
    Path::new(object).extension().is_some_and(|extension| extension == "filez")
}
