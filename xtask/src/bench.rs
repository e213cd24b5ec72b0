//! `cargo xtask bench`: pushes real runtimes through a real sshd, side by side with what people use today.
//!
//! Every case runs in rounds, the ways in turn, so that a machine whose speed drifts is fair to all of them. The client,
//! the server and sshd share the machine; read the times as ratios.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;
use treegraft_testkit::{Direction, Gpg, LinkOptions, SlowLink, Sshd};

use crate::{TaskError, shell};

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Folder with the repositories `repo-1` and `repo-2`, as `bench/make-runtimes.sh` makes them.
    data: PathBuf,
    /// How often each case runs.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where the servers' repositories are made; it needs three times the data's size.
    #[arg(long)]
    work: Option<PathBuf>,
}

/// Round trip and width of the long link.
const LONG_RTT: Duration = Duration::from_millis(100);
const LONG_BYTES_PER_SEC: u64 = 100_000_000 / 8;

/// What one run took.
struct Sample {
    seconds: f64,
    up_bytes: u64,
    client_mib: Option<u64>,
    server_mib: Option<u64>,
}

struct Bench {
    work: PathBuf,
    data: PathBuf,
    treegraft: PathBuf,
    sshd: Sshd,
    config: PathBuf,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), TaskError> {
    shell::run(shell::cargo().args(["build", "--release", "--locked", "-p", "treegraft"]))?;
    let (Some(sshd), Some(gpg)) = (Sshd::start(), Gpg::with_key("Bench <bench@example.org>")) else {
        return Ok(());
    };
    let work = args.work.clone().unwrap_or_else(|| args.data.join("work"));
    let _ = fs::remove_dir_all(&work);
    make_folder(&work)?;
    let config = work.join("server.toml");
    let keys =
        format!("[defaults]\ngpg-keys = [\"{}\"]\ngpg-homedir = \"{}\"\n", gpg.fingerprint(), gpg.home().display());
    fs::write(&config, keys).map_err(|source| file("write", &config, source))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);
    let bench = Bench { work, data: args.data.clone(), treegraft: target.join("release/treegraft"), sshd, config };
    bench.all(args.rounds)?;
    fs::remove_dir_all(&bench.work).map_err(|source| file("remove", &bench.work, source))
}

impl Bench {
    fn all(&self, rounds: u32) -> Result<(), TaskError> {
        println!("| case | way | seconds (min, median, max) | MB up | client MiB | server MiB |");
        println!("|---|---|---|---|---|---|");
        let here = LinkOptions::default();
        let far = LinkOptions {
            one_way_delay: LONG_RTT / 2,
            up_bytes_per_sec: Some(LONG_BYTES_PER_SEC),
            down_bytes_per_sec: Some(LONG_BYTES_PER_SEC),
        };
        let empty = self.work.join("empty");
        shell::run(shell::command(&self.treegraft).arg("init").arg(&empty))?;
        let mut first = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            first[0].push(self.push(&empty, "repo-1", here)?);
            first[1].push(self.rsync_and_commit_from(&empty, here)?);
        }
        report("first push, loopback", "treegraft push", &first[0]);
        report("first push, loopback", "rsync + flatpak build-commit-from", &first[1]);

        let base = self.work.join("base");
        link_copy(&empty, &base)?;
        self.push_into(&base, "repo-1", self.sshd.port())?;
        let mut update = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            update[0].push(self.push(&base, "repo-2", far)?);
            update[1].push(self.rsync_objects(&base, far)?);
            update[2].push(self.push(&base, "repo-1", far)?);
            update[3].push(self.login(far)?);
        }
        report("version 2, 100 ms, 100 Mbit/s", "treegraft push", &update[0]);
        report("version 2, 100 ms, 100 Mbit/s", "rsync of objects alone", &update[1]);
        report("nothing new, 100 ms, 100 Mbit/s", "treegraft push", &update[2]);
        report("nothing new, 100 ms, 100 Mbit/s", "ssh login and `true`", &update[3]);
        Ok(())
    }

    /// Pushes into a copy of a server's repository.
    fn push(&self, server: &Path, version: &str, link: LinkOptions) -> Result<Sample, TaskError> {
        let copy = self.work.join("server");
        link_copy(server, &copy)?;
        let link = SlowLink::start(self.sshd.addr(), link);
        let mut sample = self.push_into(&copy, version, link.port())?;
        sample.up_bytes = link.carried_bytes(Direction::Up);
        Ok(sample)
    }

    fn push_into(&self, server: &Path, version: &str, port: u16) -> Result<Sample, TaskError> {
        let receive = self.work.join("receive");
        let server_peak = self.work.join("server-peak");
        let client_peak = self.work.join("client-peak");
        let program = self.treegraft.display();
        let script = format!(
            "#!/bin/sh\nshift\nexec python3 -c '{MEASURE}' '{}' '{program}' receive --config '{}' \"$@\"\n",
            server_peak.display(),
            self.config.display()
        );
        fs::write(&receive, script).map_err(|source| file("write", &receive, source))?;
        let mut push = shell::command("python3");
        push.args(["-c", MEASURE]).arg(&client_peak).arg(&self.treegraft);
        push.arg("push").arg("--repo").arg(self.data.join(version)).arg("-F").arg(self.sshd.client_config());
        push.args(["-p", &port.to_string()]).arg("--remote-command").arg(format!("sh {}", receive.display()));
        push.arg(format!("{}:{}", self.sshd.host(), server.display()));
        let seconds = timed(&mut push)?;
        Ok(Sample { seconds, up_bytes: 0, client_mib: peak_mib(&client_peak), server_mib: peak_mib(&server_peak) })
    }

    /// What people do without a push: everything to an empty place, then on top of the branch.
    fn rsync_and_commit_from(&self, server: &Path, link: LinkOptions) -> Result<Sample, TaskError> {
        let (copy, incoming) = (self.work.join("server"), self.work.join("incoming"));
        link_copy(server, &copy)?;
        let _ = fs::remove_dir_all(&incoming);
        make_folder(&incoming)?;
        let link = SlowLink::start(self.sshd.addr(), link);
        let mut seconds = timed(&mut self.rsync(&link, &self.data.join("repo-1"), &incoming))?;
        let mut commit = shell::command("flatpak");
        commit.args(["build-commit-from", "--no-update-summary"]);
        commit.arg(format!("--src-repo={}", incoming.display())).arg(&copy);
        seconds += timed(&mut commit)?;
        Ok(Sample { seconds, up_bytes: link.carried_bytes(Direction::Up), client_mib: None, server_mib: None })
    }

    fn rsync_objects(&self, server: &Path, link: LinkOptions) -> Result<Sample, TaskError> {
        let copy = self.work.join("server");
        link_copy(server, &copy)?;
        let link = SlowLink::start(self.sshd.addr(), link);
        let mut rsync = self.rsync(&link, &self.data.join("repo-2/objects"), &copy.join("objects"));
        let seconds = timed(rsync.arg("--ignore-existing"))?;
        Ok(Sample { seconds, up_bytes: link.carried_bytes(Direction::Up), client_mib: None, server_mib: None })
    }

    fn rsync(&self, link: &SlowLink, from: &Path, to: &Path) -> Command {
        let mut rsync = shell::command("rsync");
        rsync.arg("-a").arg("-e");
        rsync.arg(format!("ssh -F {} -p {}", self.sshd.client_config().display(), link.port()));
        rsync.arg(format!("{}/", from.display())).arg(format!("{}:{}/", self.sshd.host(), to.display()));
        rsync
    }

    fn login(&self, link: LinkOptions) -> Result<Sample, TaskError> {
        let link = SlowLink::start(self.sshd.addr(), link);
        let mut ssh = shell::command("ssh");
        ssh.arg("-F").arg(self.sshd.client_config()).args(["-p", &link.port().to_string(), self.sshd.host(), "true"]);
        let seconds = timed(&mut ssh)?;
        Ok(Sample { seconds, up_bytes: link.carried_bytes(Direction::Up), client_mib: None, server_mib: None })
    }
}

/// Copies a repository by hard links: objects never change, everything else is replaced, not written to.
fn link_copy(from: &Path, to: &Path) -> Result<(), TaskError> {
    let _ = fs::remove_dir_all(to);
    shell::run(shell::command("cp").arg("-al").arg(from).arg(to))?;
    let _ = fs::remove_file(to.join(".lock"));
    let _ = fs::remove_dir_all(to.join(".treegraft"));
    // The next run must not wait for what this one left to be written.
    shell::run(&mut shell::command("sync"))
}

/// Runs a program and writes the peak memory of its process to a file, in KiB.
const MEASURE: &str = "import resource,subprocess,sys; code=subprocess.call(sys.argv[2:]); \
    open(sys.argv[1],\"w\").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)); sys.exit(code)";

fn peak_mib(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

fn timed(command: &mut Command) -> Result<f64, TaskError> {
    let start = Instant::now();
    shell::read(command)?;
    Ok(start.elapsed().as_secs_f64())
}

fn report(case: &str, way: &str, samples: &[Sample]) {
    let mut seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let (min, median, max) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    let up = samples.iter().map(|sample| sample.up_bytes).max().unwrap_or(0) / 100_000;
    let peak = |of: fn(&Sample) -> Option<u64>| {
        samples.iter().filter_map(of).max().map_or_else(|| "–".to_owned(), |mib| mib.to_string())
    };
    let (client, server) = (peak(|sample| sample.client_mib), peak(|sample| sample.server_mib));
    println!("| {case} | {way} | {min:.1}, {median:.1}, {max:.1} | {}.{} | {client} | {server} |", up / 10, up % 10);
}

fn make_folder(path: &Path) -> Result<(), TaskError> {
    fs::create_dir_all(path).map_err(|source| file("make", path, source))
}

fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TaskError {
    TaskError::File { verb, path: path.display().to_string(), source }
}
