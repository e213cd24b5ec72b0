//! A real `sshd` on loopback for the current user.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::env::CleanEnv;
use crate::oracle::{self, Oracle};
use crate::run::Run;

/// The folder that `sshd` wants to find, empty, when root starts it.
const PRIVILEGE_SEPARATION_FOLDER: &str = "/run/sshd";

/// How often a start is tried: another program may take the free port before `sshd` does.
const START_ATTEMPTS: usize = 5;

/// How often the new server's log is read to see whether it listens, and the pause between: 10 s in all.
const LISTEN_ATTEMPTS: usize = 500;
const LISTEN_PAUSE: Duration = Duration::from_millis(20);

/// What is special about a server.
#[derive(Debug, Clone, Default)]
pub struct SshdOptions {
    /// What stands before the key in `authorized_keys`, such as `restrict,command="treegraft receive /srv/repo"`.
    pub key_options: String,
    /// Variables that every session has; they win over the default ones (`HOME` and `PATH` among them).
    pub set_env: Vec<(String, String)>,
    /// More lines for `sshd_config`; the first line for a keyword wins, and these come first.
    pub config_lines: Vec<String>,
}

/// A running `sshd` that the current user can log in to with a key.
///
/// Sessions have their `HOME` in a temporary folder, but the shell is the user's own from the password database, and
/// sessions begin in the user's real home folder. A user whose password is locked with `!` cannot log in. The
/// server and all its sessions are killed when the value is dropped; if the test is failing by then, its log is shown.
#[derive(Debug)]
pub struct Sshd {
    env: CleanEnv,
    ssh: PathBuf,
    keygen: PathBuf,
    server: Child,
    user: String,
    port: u16,
}

impl Sshd {
    /// Starts a server with ordinary options, or tells that the calling test is skipped.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::start_with(&SshdOptions::default())
    }

    /// Starts a server, or tells that the calling test is skipped.
    #[track_caller]
    pub fn start_with(options: &SshdOptions) -> Option<Self> {
        let (sshd, ssh) = (oracle::require(Oracle::Sshd)?, oracle::require(Oracle::Ssh)?);
        let keygen = oracle::require(Oracle::SshKeygen)?;
        let env = CleanEnv::new();
        if rustix::process::getuid().is_root() {
            fs::create_dir_all(PRIVILEGE_SEPARATION_FOLDER).expect("root can make the folder that sshd wants");
        }
        for name in ["host_key", "client_key"] {
            generate_key(&env, &keygen, &env.root().join(name));
        }
        write_private(&env.root().join("authorized_keys"), &key_line(&env, "client_key", &options.key_options));
        let mut last_log = String::new();
        for _ in 0..START_ATTEMPTS {
            let port = free_port();
            fs::write(env.root().join("sshd_config"), server_config(&env, port, options))
                .expect("a file can be written");
            let mut server = spawn_server(&env, &sshd);
            if listens(&mut server, &env, port) {
                let user = current_user(&env);
                let made = Self { env, ssh, keygen, server, user, port };
                made.write_client_files();
                return Some(made);
            }
            server.kill().ok();
            server.wait().ok();
            last_log = read_log(&env);
        }
        panic!("Could not start `{}`:\n{last_log}", sshd.display());
    }

    /// Returns the port that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address that the server listens on, for a relay in front of it.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the host to connect to.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// Returns the user to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the `HOME` of the sessions, a temporary folder.
    pub fn home(&self) -> PathBuf {
        self.env.home()
    }

    /// Returns the file for `ssh -F`, which has everything to log in at `host()`, port included.
    pub fn client_config(&self) -> PathBuf {
        self.env.root().join("ssh_config")
    }

    /// Returns the secret key that may log in.
    pub fn client_key(&self) -> PathBuf {
        self.env.root().join("client_key")
    }

    /// Returns the options for `ssh` that log in at `host()`, without any configuration file.
    pub fn client_options(&self) -> Vec<String> {
        self.client_options_for_port(self.port)
    }

    /// Returns the options for `ssh` that log in through a relay on another port of loopback.
    pub fn client_options_for_port(&self, port: u16) -> Vec<String> {
        let mut options = vec!["-F".to_owned(), "none".to_owned(), "-p".to_owned(), port.to_string()];
        for (keyword, value) in self.client_settings() {
            options.extend(["-o".to_owned(), format!("{keyword}={value}")]);
        }
        options
    }

    /// Returns a script with the name `ssh` that adds `client_config()` to what it is called with.
    ///
    /// Its folder can be put in front of the `PATH` of a program that starts `ssh` by name.
    pub fn ssh_wrapper(&self) -> PathBuf {
        self.env.root().join("wrapper/ssh")
    }

    /// Makes the command `ssh OPTIONS HOST`, to which the remote command can be added.
    pub fn ssh(&self) -> Command {
        let mut command = self.env.command(&self.ssh);
        command.arg("-F").arg(self.client_config()).arg(self.host());
        command
    }

    /// Runs a command line on the server and returns how it ended.
    #[track_caller]
    pub fn run(&self, remote_command: &str) -> Run {
        Run::of(self.ssh().arg(remote_command))
    }

    /// Makes one more key that may log in, with these options before it in `authorized_keys`; returns the secret key.
    #[track_caller]
    pub fn add_client_key(&self, name: &str, key_options: &str) -> PathBuf {
        let key = self.env.root().join(name);
        generate_key(&self.env, &self.keygen, &key);
        let file = OpenOptions::new().append(true).open(self.env.root().join("authorized_keys"));
        let line = key_line(&self.env, name, key_options);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the key file can be extended");
        key
    }

    /// Returns what the server has logged so far.
    pub fn log(&self) -> String {
        read_log(&self.env)
    }

    /// Kills every session and all that runs in it, as a server that loses power would; new ones are possible.
    pub fn kill_sessions(&self) {
        for pid in descendants(self.server.id()) {
            if let Some(pid) = Pid::from_raw(pid) {
                // It may have ended by itself since it was listed.
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }

    fn client_settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("User", self.user.clone()),
            ("IdentityFile", self.client_key().display().to_string()),
            ("IdentitiesOnly", "yes".to_owned()),
            ("UserKnownHostsFile", self.env.root().join("known_hosts").display().to_string()),
            ("GlobalKnownHostsFile", "/dev/null".to_owned()),
            // One name for the host key, whatever port a relay has.
            ("HostKeyAlias", "testkit".to_owned()),
            ("StrictHostKeyChecking", "yes".to_owned()),
            ("BatchMode", "yes".to_owned()),
            ("LogLevel", "ERROR".to_owned()),
        ]
    }

    fn write_client_files(&self) {
        let root = self.env.root();
        let host_key = fs::read_to_string(root.join("host_key.pub")).expect("the key was just made");
        fs::write(root.join("known_hosts"), format!("testkit {host_key}")).expect("a file can be written");
        let mut config = format!("Port {}\n", self.port);
        for (keyword, value) in self.client_settings() {
            writeln!(config, "{keyword} {value}").expect("a string takes any text");
        }
        fs::write(self.client_config(), config).expect("a file can be written");
        let wrapper = self.ssh_wrapper();
        fs::create_dir_all(wrapper.parent().expect("the script is in a folder")).expect("a folder can be made");
        let script =
            format!("#!/bin/sh\nexec '{}' -F '{}' \"$@\"\n", self.ssh.display(), self.client_config().display());
        fs::write(&wrapper, script).expect("a file can be written");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("an own file can be made executable");
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill_sessions();
        self.server.kill().ok();
        self.server.wait().ok();
        if thread::panicking() {
            let shown = format!("log of sshd on port {}:\n{}", self.port, self.log());
            std::io::stderr().lock().write_all(shown.as_bytes()).ok();
        }
    }
}

fn generate_key(env: &CleanEnv, keygen: &Path, file: &Path) {
    let mut command = env.command(keygen);
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "testkit", "-f"]).arg(file);
    let _ = Run::of(&mut command).ok();
}

fn key_line(env: &CleanEnv, name: &str, key_options: &str) -> String {
    let public = fs::read_to_string(env.root().join(format!("{name}.pub"))).expect("the key was just made");
    format!("{key_options} {public}").trim_start().to_owned()
}

fn write_private(path: &Path, text: &str) {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file can be written");
}

fn current_user(env: &CleanEnv) -> String {
    Run::of(env.command("id").arg("-un")).ok().text()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

fn server_config(env: &CleanEnv, port: u16, options: &SshdOptions) -> String {
    let root = env.root().display();
    let mut variables = vec![("HOME".to_owned(), env.home().display().to_string())];
    for (key, value) in &options.set_env {
        variables.retain(|(known, _)| known != key);
        variables.push((key.clone(), value.clone()));
    }
    let variables: Vec<String> = variables.iter().map(|(key, value)| format!("\"{key}={value}\"")).collect();
    let mut lines = options.config_lines.clone();
    // The first SetEnv line wins, so that all variables have to be on it.
    lines.push(format!("SetEnv {}", variables.join(" ")));
    lines.extend([
        format!("Port {port}"),
        "ListenAddress 127.0.0.1".to_owned(),
        format!("HostKey {root}/host_key"),
        format!("AuthorizedKeysFile {root}/authorized_keys"),
        "PidFile none".to_owned(),
        "UsePAM no".to_owned(),
        "StrictModes no".to_owned(),
        "PermitRootLogin yes".to_owned(),
        "PasswordAuthentication no".to_owned(),
        "KbdInteractiveAuthentication no".to_owned(),
        "PermitUserRC no".to_owned(),
        "PrintMotd no".to_owned(),
        "UseDNS no".to_owned(),
        // Tests open many connections at once, and that must not look like an attack.
        "MaxStartups 1000".to_owned(),
        "MaxSessions 1000".to_owned(),
        "LogLevel VERBOSE".to_owned(),
    ]);
    lines.join("\n") + "\n"
}

fn spawn_server(env: &CleanEnv, sshd: &Path) -> Child {
    let log = File::create(env.root().join("sshd.log")).expect("a file can be written");
    let mut command = env.command(sshd);
    // In the foreground, with its log on standard error.
    command.args(["-D", "-e", "-f"]).arg(env.root().join("sshd_config"));
    command.stdout(Stdio::null()).stderr(log).spawn().expect("sshd can be started")
}

/// Waits until the server listens. Only its log tells: the port may have been taken by somebody else, who answers as well.
fn listens(server: &mut Child, env: &CleanEnv, port: u16) -> bool {
    let said = format!("Server listening on {} port {port}.", Ipv4Addr::LOCALHOST);
    for _ in 0..LISTEN_ATTEMPTS {
        if read_log(env).contains(&said) {
            return true;
        }
        if server.try_wait().expect("a child can be asked for its state").is_some() {
            return false;
        }
        thread::sleep(LISTEN_PAUSE);
    }
    false
}

fn read_log(env: &CleanEnv) -> String {
    fs::read_to_string(env.root().join("sshd.log")).unwrap_or_default()
}

/// Returns the ids of all processes that descend from this one, deepest last.
fn descendants(ancestor: u32) -> Vec<i32> {
    let mut parents: Vec<(i32, i32)> = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The name of the program stands in brackets and may hold anything; state and parent come after it.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, after_name)) = stat.rsplit_once(')') else { continue };
        if let Some(parent) = after_name.split_whitespace().nth(1).and_then(|word| word.parse().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = Vec::new();
    let mut wave = vec![i32::try_from(ancestor).expect("a process id fits")];
    while !wave.is_empty() {
        wave = parents.iter().filter(|(_, parent)| wave.contains(parent)).map(|(pid, _)| *pid).collect();
        found.extend(&wave);
    }
    found
}
