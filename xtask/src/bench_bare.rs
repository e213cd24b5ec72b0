//! `cargo xtask bench-bare`: what it costs to push to a server that has nothing but sshd and a shell.
//!
//! Every push finds that its ref is unchanged, so that nothing but the way to a running receiver is measured. The ways
//! take turns, since the machine's speed drifts.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;
use treegraft_testkit::{CleanEnv, LinkOptions, Ostree, RepoMode, SlowLink, Sshd, SshdOptions};

use crate::{TaskError, dist, shell};

/// Arguments of `cargo xtask bench-bare`.
#[derive(Debug, Args)]
pub(crate) struct BenchBareArgs {
    /// How often each case runs.
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Round trip of the link in milliseconds.
    #[arg(long, default_value_t = 100)]
    rtt_ms: u64,
    /// Width of the link in Mbit/s.
    #[arg(long, default_value_t = 100)]
    mbit: u64,
}

struct Bench {
    env: CleanEnv,
    sshd: Sshd,
    link: SlowLink,
    program: PathBuf,
}

pub(crate) fn run(args: &BenchBareArgs) -> Result<(), TaskError> {
    let program = dist::build(dist::Profile::Release)?;
    let env = CleanEnv::new();
    // `login` hands the command on to a shell that has `treegraft` in its PATH or not, as the file `path` says.
    let options = SshdOptions {
        config_lines: vec![format!("ForceCommand {}", env.root().join("login").display())],
        ..SshdOptions::default()
    };
    let (Some(ostree), Some(sshd)) = (Ostree::find(), Sshd::start_with(&options)) else { return Ok(()) };
    let bytes_per_sec = Some(args.mbit * 1_000_000 / 8);
    let link = LinkOptions {
        one_way_delay: Duration::from_millis(args.rtt_ms) / 2,
        up_bytes_per_sec: bytes_per_sec,
        down_bytes_per_sec: bytes_per_sec,
    };
    let link = SlowLink::start(sshd.addr(), link);
    let bench = Bench { env, sshd, link, program };
    bench.prepare(&ostree)?;
    bench.all(args)
}

impl Bench {
    fn prepare(&self, ostree: &Ostree) -> Result<(), TaskError> {
        let root = self.env.root();
        let login = root.join("login");
        let home = self.sshd.home();
        let text = format!(
            "#!/bin/sh\nunset XDG_CACHE_HOME\nexport HOME='{}' PATH=\"$(cat '{}'):/usr/bin:/bin\"\n\
             exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
            home.display(),
            root.join("path").display()
        );
        write(&login, &text)?;
        fs::set_permissions(&login, fs::Permissions::from_mode(0o755))
            .map_err(|source| file("write", &login, source))?;
        let bin = self.env.make_folder("bin");
        symlink(&self.program, bin.join("treegraft")).map_err(|source| file("write", &bin, source))?;
        let tree = self.env.make_folder("tree");
        write(&tree.join("file"), "content\n")?;
        ostree.init(&root.join("worker"), RepoMode::Archive, None);
        ostree.commit(&root.join("worker"), &tree, "main", 1_700_000_000, &[]);
        shell::run(shell::command(&self.program).arg("init").arg(root.join("server")))?;
        self.let_find("bin")?;
        self.push().map(drop)
    }

    /// Lets the login find the program, or with another folder nothing.
    fn let_find(&self, folder: &str) -> Result<(), TaskError> {
        write(&self.env.root().join("path"), &self.env.root().join(folder).display().to_string())
    }

    fn all(&self, args: &BenchBareArgs) -> Result<(), TaskError> {
        let mut samples = [const { Vec::new() }; 4];
        for _ in 0..args.rounds {
            self.let_find("bin")?;
            samples[0].push(self.push()?);
            self.let_find("none")?;
            let cache = self.sshd.home().join(".cache/treegraft");
            let _ = fs::remove_dir_all(&cache);
            samples[1].push(self.push()?);
            samples[2].push(self.push()?);
            let mut ssh = Command::new("ssh");
            ssh.arg("-F").arg(self.sshd.client_config()).args(["-p", &self.link.port().to_string()]);
            samples[3].push(timed(ssh.args([self.sshd.host(), "true"]))?);
        }
        println!("| {} ms, {} Mbit/s | seconds (min, median, max of {}) |", args.rtt_ms, args.mbit, args.rounds);
        println!("|---|---|");
        let cases =
            ["treegraft is installed", "bare server, first push", "bare server, later push", "ssh login and `true`"];
        for (case, mut seconds) in cases.into_iter().zip(samples) {
            seconds.sort_by(f64::total_cmp);
            let (min, median, max) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
            println!("| {case} | {min:.2}, {median:.2}, {max:.2} |");
        }
        Ok(())
    }

    fn push(&self) -> Result<f64, TaskError> {
        let root = self.env.root();
        let mut push = self.env.command(&self.program);
        push.arg("push").arg("-q").arg("--repo").arg(root.join("worker")).arg("-F").arg(self.sshd.client_config());
        push.args(["-p", &self.link.port().to_string()]);
        timed(push.arg(format!("{}:{}", self.sshd.host(), root.join("server").display())))
    }
}

fn timed(command: &mut Command) -> Result<f64, TaskError> {
    let start = Instant::now();
    shell::read(command)?;
    Ok(start.elapsed().as_secs_f64())
}

fn write(path: &Path, text: &str) -> Result<(), TaskError> {
    fs::write(path, text).map_err(|source| file("write", path, source))
}

fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TaskError {
    TaskError::File { verb, path: path.display().to_string(), source }
}
