//! `cargo xtask bench`: pushes real runtimes through a real sshd, side by side with what people use today.
//!
//! Every case runs in rounds, the ways in turn, so that a machine whose speed drifts is fair to all of them. The client,
//! the server and sshd share the machine; read the times as ratios. Memory is measured in a run of its own, since what
//! measures it takes time.
//!
//! Every run works in a place of its own, and all are removed at the end: ext4 does not give out the inodes of deleted
//! files for some minutes, and looks for others as long as a push takes.

mod apps;
mod cases;
mod export;
mod grow;
mod memory;
mod peers;
mod plot;
mod push;
mod report;
mod sweep;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::oracles::Missing;
use crate::{TaskError, shell};
use cases::Choice;
use push::Bench;

pub(crate) use memory::{PeakArgs, run as run_for_peak};

/// What every push needs, with the Debian package that holds it.
const ENDS: [(&str, &str); 3] = [("sshd", "openssh-server"), ("ssh", "openssh-client"), ("gpg", "gnupg")];

/// What is measured beside `treegraft`.
const PEERS: [(&str, &str); 3] = [("rsync", "rsync"), ("flatpak", "flatpak"), ("ostree-push", "ostree-push")];

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:

  All cases, or some of them, as a table in Markdown; the first time, 1.2 GB are downloaded for it:
    cargo xtask bench /var/tmp/runtimes
    cargo xtask bench /var/tmp/runtimes --only loopback
  Plots over round trips and widths of links, for docs/performance.md:
    cargo xtask bench /var/tmp/runtimes --sweep
  Plots over the number of files:
    cargo xtask bench --grow --work /var/tmp/grow

Each way of a case runs once for its memory, then in rounds. Nothing else should run on the machine.")]
pub(crate) struct BenchArgs {
    /// Folder with the build directories and repositories that `bench/make-runtimes.sh` makes; it is called if they are not
    /// there.
    #[arg(required_unless_present = "grow")]
    data: Option<PathBuf>,
    /// How often each case runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the repositories are made, which is cleared: it needs three times the data's size [default: `work` in DATA
    /// or in the target folder].
    #[arg(long)]
    work: Option<PathBuf>,
    /// Only cases whose names have this text, `100 ms` for example.
    #[arg(long, default_value = "", hide_default_value = true)]
    only: String,
    /// Instead of the cases, measure an update over links of several lengths and widths.
    #[arg(long, conflicts_with_all = ["only", "grow"])]
    sweep: bool,
    /// Instead of the cases, measure first pushes and updates of small files, with up to a million on the server.
    #[arg(long, conflicts_with_all = ["only", "data"])]
    grow: bool,
    /// The largest number of files for `--grow`.
    #[arg(long, default_value_t = 1_000_000, requires = "grow")]
    up_to: u32,
    /// Where `--sweep` and `--grow` write their figures (CSV) and plots (SVG).
    #[arg(long, default_value_os_t = shell::root().join("docs/performance"), hide_default_value = true)]
    plots: PathBuf,
}

/// Measures what the arguments say.
pub(crate) fn run(args: &BenchArgs) -> Result<(), TaskError> {
    require(&ENDS)?;
    if !args.grow {
        require(&PEERS)?;
    }
    let default_work = || args.data.clone().unwrap_or_else(shell::target).join("work");
    let bench = Bench::start(args.work.clone().unwrap_or_else(default_work))?;
    make_folder(&args.plots)?;
    if let Some(data) =
        args.data.as_deref().filter(|data| !(1..=2).all(|version| data.join(format!("repo-{version}")).exists()))
    {
        shell::run(shell::command("bench/make-runtimes.sh").current_dir(shell::root()).arg(data).arg("full"))?;
    }
    match &args.data {
        Some(data) if args.sweep => sweep::run(&bench, data, args.rounds, &args.plots)?,
        Some(data) => cases::run(&bench, data, Choice { rounds: args.rounds, only: &args.only })?,
        None => grow::run(&bench, args.rounds, args.up_to, &args.plots)?,
    }
    bench.end()
}

/// Installs programs where that needs no questions, and fails where they are missing then.
fn require(programs: &[(&'static str, &'static str)]) -> Result<(), TaskError> {
    let missing = Missing::of(programs);
    if missing.is_empty() {
        return Ok(());
    }
    missing.install_if_possible()?;
    let missing = Missing::of(programs);
    if missing.is_empty() { Ok(()) } else { Err(missing.error()) }
}

fn make_folder(path: &Path) -> Result<(), TaskError> {
    fs::create_dir_all(path).map_err(|source| file("make", path, source))
}

fn write(path: &Path, text: &str) -> Result<(), TaskError> {
    fs::write(path, text).map_err(|source| file("write", path, source))
}

fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TaskError {
    TaskError::File { verb, path: path.display().to_string(), source }
}
