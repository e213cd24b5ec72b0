//! `cargo xtask bench`: pushes real runtimes through a real sshd, side by side with what people use today.
//!
//! Every case runs in rounds, the ways in turn, so that a machine whose speed drifts is fair to all of them. The client,
//! the server and sshd share the machine; read the times as ratios. Memory is measured in a run of its own, since what
//! measures it takes time.
//!
//! Every run works in a place of its own, and all are removed at the end: ext4 does not give out the inodes of deleted
//! files for some minutes, and looks for others as long as a push takes.

use std::{
    cell::Cell,
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
    /// Folder with the build directories and repositories that `bench/make-runtimes.sh` makes.
    data: PathBuf,
    /// How often each case runs.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where the servers' repositories are made; it needs three times the data's size.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Only cases whose names have this text, `100 ms` for example.
    #[arg(long, default_value = "")]
    only: String,
}

/// A link with a round trip and a width that is the same both ways.
const fn link(rtt_ms: u64, mbit_per_sec: u64) -> LinkOptions {
    let bytes_per_sec = Some(mbit_per_sec * 1_000_000 / 8);
    let one_way_delay = Duration::from_millis(rtt_ms / 2);
    LinkOptions { one_way_delay, up_bytes_per_sec: bytes_per_sec, down_bytes_per_sec: bytes_per_sec }
}

/// The link of most cases.
const FAR: LinkOptions = link(100, 100);

/// What one run took.
struct Sample {
    seconds: f64,
    up_bytes: u64,
}

/// The memory that a push needs at most on each side.
#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    client_mib: Option<u64>,
    server_mib: Option<u64>,
}

/// What a push is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Time,
    Memory,
}

/// The runtimes, the smaller one first, as `bench/make-runtimes.sh` names their build directories.
const RUNTIMES: [&str; 2] = ["Platform", "Sdk"];

/// What is pushed.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The repository with this version.
    Repo(u32),
    /// The build directories of this version.
    BuildDirs(u32),
}

struct Bench {
    work: PathBuf,
    data: PathBuf,
    treegraft: PathBuf,
    sshd: Sshd,
    gpg: Gpg,
    config: PathBuf,
    places: Cell<u32>,
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
    let bench = Bench {
        work,
        data: args.data.clone(),
        treegraft: target.join("release/treegraft"),
        sshd,
        gpg,
        config,
        places: Cell::new(0),
    };
    bench.all(args.rounds, &args.only)?;
    fs::remove_dir_all(&bench.work).map_err(|source| file("remove", &bench.work, source))
}

/// One way of a case, of those that are run in turn.
struct Way<'b> {
    name: &'static str,
    run: Box<dyn Fn() -> Result<Sample, TaskError> + 'b>,
    /// A run that measures memory.
    peak: Option<Box<dyn Fn() -> Result<Peak, TaskError> + 'b>>,
}

impl<'b> Way<'b> {
    fn new(name: &'static str, run: impl Fn() -> Result<Sample, TaskError> + 'b) -> Self {
        Self { name, run: Box::new(run), peak: None }
    }
}

impl Bench {
    fn all(&self, rounds: u32, only: &str) -> Result<(), TaskError> {
        println!("| case | way | seconds (min, median, max) | MB up | client MiB | server MiB |");
        println!("|---|---|---|---|---|---|");
        let empty = self.work.join("empty");
        shell::run(shell::command(&self.treegraft).arg("init").arg(&empty))?;
        let base = self.copy_of(&empty)?;
        let relay = SlowLink::start(self.sshd.addr(), LinkOptions::default());
        let first_peak = self.push_into(&base, Source::Repo(1), &[], relay.port(), Purpose::Memory)?;
        let first_bytes = relay.carried_bytes(Direction::Up);
        drop(relay);
        let case =
            |name: &str, ways: &[Way<'_>]| if name.contains(only) { run_case(name, ways, rounds) } else { Ok(()) };

        let directly = || self.push_directly(&empty, Source::Repo(1), first_bytes);
        let first = Way { peak: Some(Box::new(|| Ok(first_peak))), ..Way::new("treegraft push", directly) };
        let by_hand = Way::new("rsync + `flatpak build-commit-from`", || self.rsync_and_commit_from(&empty));
        case("first push, loopback", &[first, by_hand])?;
        let first = self.pushing("treegraft push", &empty, Source::Repo(1), &[], link(100, 400));
        case("first push, 100 ms, 400 Mbit/s", &[first])?;

        let basis = self.data.join("repo-1").display().to_string();
        let basis = ["--basis", basis.as_str()];
        let update = |name, options, link| self.pushing(name, &base, Source::Repo(2), options, link);
        let server = base.as_path();
        let rsync = |link| Way::new("rsync of objects alone", move || self.rsync_objects(server, link));
        case(
            "version 2, 100 ms, 100 Mbit/s",
            &[
                update("treegraft push", &[], FAR),
                update("treegraft push --basis", &basis, FAR),
                update("treegraft push --compare never", &["--compare", "never"], FAR),
                rsync(FAR),
            ],
        )?;
        let near = link(20, 500);
        case("version 2, 20 ms, 500 Mbit/s", &[update("treegraft push", &[], near), rsync(near)])?;
        let nothing = self.pushing("treegraft push", &base, Source::Repo(1), &[], FAR);
        let login = Way::new("ssh login and `true`", || self.login(FAR));
        case("nothing new, 100 ms, 100 Mbit/s", &[nothing, login])?;
        let builds = self.pushing("treegraft push --build-dir", &base, Source::BuildDirs(2), &[], FAR);
        case("version 2 from build directories, 100 ms, 100 Mbit/s", &[builds])?;
        self.exports(rounds, only)
    }

    /// A push into a copy of a server's repository over a link.
    fn pushing<'b>(
        &'b self,
        name: &'static str,
        server: &'b Path,
        source: Source,
        options: &'b [&'b str],
        link: LinkOptions,
    ) -> Way<'b> {
        let peak = move || {
            let relay = SlowLink::start(self.sshd.addr(), link);
            self.push_into(&self.copy_of(server)?, source, options, relay.port(), Purpose::Memory)
        };
        let run = move || self.push(server, source, options, link);
        Way { peak: Some(Box::new(peak)), ..Way::new(name, run) }
    }

    /// Exports the build directories of version 2 into an empty repository. One round of `flatpak build-export` takes minutes.
    fn exports(&self, rounds: u32, only: &str) -> Result<(), TaskError> {
        let case = "both runtimes from build directories into an empty repository";
        if !case.contains(only) {
            return Ok(());
        }
        let mut ours = Vec::new();
        let mut repo = self.place();
        for _ in 0..rounds {
            repo = self.place();
            ours.push(self.export(&repo, |build, repo| {
                let mut export = shell::command(&self.treegraft);
                export.args(["export", "--no-update-summary", "--quiet"]).arg(build).arg(repo);
                export
            })?);
        }
        let theirs_repo = self.place();
        let theirs = self.export(&theirs_repo, |build, repo| {
            let mut export = shell::command("flatpak");
            export.args(["build-export", "--disable-sandbox", "--no-update-summary", "--runtime"]).arg(repo).arg(build);
            export
        })?;
        report(case, "treegraft export", &ours, &Peak::default());
        report(case, "flatpak build-export", &[theirs], &Peak::default());
        let (ours, theirs) = (objects_bytes(&repo)?, objects_bytes(&theirs_repo)?);
        println!("\nObjects take {} MB and {} MB.", tenths(ours / 100_000), tenths(theirs / 100_000));
        Ok(())
    }

    fn export(&self, repo: &Path, command: impl Fn(&Path, &Path) -> Command) -> Result<Sample, TaskError> {
        let mut seconds = 0.0;
        for runtime in RUNTIMES {
            seconds += timed(&mut command(&self.data.join(format!("{runtime}-2")), repo))?;
        }
        // The next run must not wait for what this one left to be written.
        shell::run(&mut shell::command("sync"))?;
        Ok(Sample { seconds, up_bytes: 0 })
    }

    /// Returns a path where nothing was before.
    fn place(&self) -> PathBuf {
        self.places.set(self.places.get() + 1);
        self.work.join(self.places.get().to_string())
    }

    /// Copies a repository by hard links: objects never change, everything else is replaced, not written to.
    fn copy_of(&self, repo: &Path) -> Result<PathBuf, TaskError> {
        let copy = self.place();
        shell::run(shell::command("cp").arg("-al").arg(repo).arg(&copy))?;
        // What a push may write to instead of replacing it.
        let _ = fs::remove_file(copy.join(".lock"));
        let private = copy.join(".treegraft");
        if private.exists() {
            let _ = fs::remove_dir_all(&private);
            shell::run(shell::command("cp").arg("-a").arg(repo.join(".treegraft")).arg(&private))?;
        }
        // The next run must not wait for what this one left to be written.
        shell::run(&mut shell::command("sync"))?;
        Ok(copy)
    }

    /// Pushes into a copy of a server's repository.
    fn push(&self, server: &Path, source: Source, options: &[&str], link: LinkOptions) -> Result<Sample, TaskError> {
        let copy = self.copy_of(server)?;
        let link = SlowLink::start(self.sshd.addr(), link);
        let start = Instant::now();
        self.push_into(&copy, source, options, link.port(), Purpose::Time)?;
        Ok(Sample { seconds: start.elapsed().as_secs_f64(), up_bytes: link.carried_bytes(Direction::Up) })
    }

    /// Pushes into a copy of a server's repository without a link in between, which would take a part of the machine.
    /// `up_bytes` were counted in another run.
    fn push_directly(&self, server: &Path, source: Source, up_bytes: u64) -> Result<Sample, TaskError> {
        let copy = self.copy_of(server)?;
        let start = Instant::now();
        self.push_into(&copy, source, &[], self.sshd.port(), Purpose::Time)?;
        Ok(Sample { seconds: start.elapsed().as_secs_f64(), up_bytes })
    }

    fn push_into(
        &self,
        server: &Path,
        source: Source,
        options: &[&str],
        port: u16,
        purpose: Purpose,
    ) -> Result<Peak, TaskError> {
        let receive = self.work.join("receive");
        let (client_peak, server_peak) = (self.work.join("client-peak"), self.work.join("server-peak"));
        let measured = |peak: &Path| match purpose {
            Purpose::Memory => format!("python3 -c '{MEASURE}' '{}' ", peak.display()),
            Purpose::Time => String::new(),
        };
        let program = self.treegraft.display();
        let config = self.config.display();
        let script = format!(
            "#!/bin/sh\nshift\nexec {}'{program}' receive --config '{config}' \"$@\"\n",
            measured(&server_peak)
        );
        fs::write(&receive, script).map_err(|source| file("write", &receive, source))?;
        let mut push = shell::command("sh");
        push.arg("-c").arg(format!("exec {}'{program}' \"$@\"", measured(&client_peak))).arg("sh");
        push.arg("push").args(options).arg("-F").arg(self.sshd.client_config());
        match source {
            Source::Repo(version) => {
                push.arg("--repo").arg(self.data.join(format!("repo-{version}")));
            }
            Source::BuildDirs(version) => {
                for runtime in RUNTIMES {
                    push.arg("--build-dir").arg(self.data.join(format!("{runtime}-{version}")));
                }
                push.args(["--timestamp", "now"]);
            }
        }
        push.args(["-p", &port.to_string()]).arg("--remote-command").arg(format!("sh {}", receive.display()));
        push.arg(format!("{}:{}", self.sshd.host(), server.display()));
        shell::read(&mut push)?;
        Ok(match purpose {
            Purpose::Memory => Peak { client_mib: peak_mib(&client_peak), server_mib: peak_mib(&server_peak) },
            Purpose::Time => Peak::default(),
        })
    }

    /// What people do without a push: everything to an empty place, then on top of the branch, signed and with a summary.
    fn rsync_and_commit_from(&self, server: &Path) -> Result<Sample, TaskError> {
        let (copy, incoming) = (self.copy_of(server)?, self.place());
        make_folder(&incoming)?;
        let mut seconds = timed(&mut self.rsync(self.sshd.port(), &self.data.join("repo-1"), &incoming))?;
        let mut commit = shell::command("flatpak");
        commit.arg("build-commit-from").arg(format!("--gpg-sign={}", self.gpg.fingerprint()));
        commit.arg(format!("--gpg-homedir={}", self.gpg.home().display()));
        commit.arg(format!("--src-repo={}", incoming.display())).arg(&copy);
        seconds += timed(&mut commit)?;
        Ok(Sample { seconds, up_bytes: 0 })
    }

    fn rsync_objects(&self, server: &Path, link: LinkOptions) -> Result<Sample, TaskError> {
        let copy = self.copy_of(server)?;
        let link = SlowLink::start(self.sshd.addr(), link);
        let mut rsync = self.rsync(link.port(), &self.data.join("repo-2/objects"), &copy.join("objects"));
        let seconds = timed(rsync.arg("--ignore-existing"))?;
        Ok(Sample { seconds, up_bytes: link.carried_bytes(Direction::Up) })
    }

    fn rsync(&self, port: u16, from: &Path, to: &Path) -> Command {
        let mut rsync = shell::command("rsync");
        rsync.arg("-a").arg("-e");
        rsync.arg(format!("ssh -F {} -p {}", self.sshd.client_config().display(), port));
        rsync.arg(format!("{}/", from.display())).arg(format!("{}:{}/", self.sshd.host(), to.display()));
        rsync
    }

    fn login(&self, link: LinkOptions) -> Result<Sample, TaskError> {
        let link = SlowLink::start(self.sshd.addr(), link);
        let mut ssh = shell::command("ssh");
        ssh.arg("-F").arg(self.sshd.client_config()).args(["-p", &link.port().to_string(), self.sshd.host(), "true"]);
        let seconds = timed(&mut ssh)?;
        Ok(Sample { seconds, up_bytes: link.carried_bytes(Direction::Up) })
    }
}

/// Runs the ways of a case in turn, and reports them.
fn run_case(case: &str, ways: &[Way<'_>], rounds: u32) -> Result<(), TaskError> {
    let mut peaks = Vec::new();
    for way in ways {
        peaks.push(way.peak.as_ref().map_or_else(|| Ok(Peak::default()), |peak| peak())?);
    }
    let mut samples: Vec<Vec<Sample>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (way, samples) in ways.iter().zip(&mut samples) {
            samples.push((way.run)()?);
        }
    }
    for ((way, samples), peak) in ways.iter().zip(&samples).zip(&peaks) {
        report(case, way.name, samples, peak);
    }
    Ok(())
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

fn report(case: &str, way: &str, samples: &[Sample], peak: &Peak) {
    let mut seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let (min, median, max) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    let up_bytes = samples.iter().map(|sample| sample.up_bytes).max().filter(|&bytes| bytes > 0);
    let up = up_bytes.map_or_else(|| "–".to_owned(), |bytes| tenths(bytes / 100_000));
    let shown = |mib: Option<u64>| mib.map_or_else(|| "–".to_owned(), |mib| mib.to_string());
    let (client, server) = (shown(peak.client_mib), shown(peak.server_mib));
    println!("| {case} | {way} | {min:.1}, {median:.1}, {max:.1} | {up} | {client} | {server} |");
}

/// Returns what the objects of a repository take, in bytes.
fn objects_bytes(repo: &Path) -> Result<u64, TaskError> {
    let listed = shell::read(shell::command("du").arg("-sb").arg(repo.join("objects")))?;
    let text = String::from_utf8_lossy(&listed);
    Ok(text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0))
}

fn tenths(count: u64) -> String {
    format!("{}.{}", count / 10, count % 10)
}

fn make_folder(path: &Path) -> Result<(), TaskError> {
    fs::create_dir_all(path).map_err(|source| file("make", path, source))
}

fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TaskError {
    TaskError::File { verb, path: path.display().to_string(), source }
}
