//! What a push costs when it or the server's repository grows.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::plot::{Axis, Panel, Scale, draw};
use super::push::{Bench, Purpose, Push, Source};
use super::report::{Peak, Sample, spread, write_table};
use super::write;
use crate::{TaskError, shell};

/// How many files a first push has.
const PUSHED: [u32; 4] = [1_000, 10_000, 100_000, 300_000];
/// How many files the server of an update has.
const THERE: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// How many files each ref of that server has, but for the first ones.
const REF: u32 = 10_000;
/// How many files the update has, and the ref that is updated.
const UPDATE: u32 = 1_000;
/// When the commits of the server were made, so that the update is newer.
const EARLIER: &str = "2026-01-01";
/// How many files are in a directory.
const DIRECTORY: u32 = 100;

const FIRST: &str = "first push of so many files";
const LATER: &str = "a thousand new files to a server with so many";

/// What a push took at one size.
struct Point {
    case: &'static str,
    files: u32,
    samples: Vec<Sample>,
    peak: Peak,
}

/// Measures both, up to a number of files, and writes the figures and their plot into a folder.
pub(super) fn run(bench: &Bench, rounds: u32, up_to: u32, folder: &Path) -> Result<(), TaskError> {
    println!("| case | files | seconds (min, median, max) | client MiB | server MiB |");
    println!("|---|---|---|---|---|");
    let mut points = Vec::new();
    for files in PUSHED.into_iter().filter(|files| *files <= up_to) {
        let (worker, empty) = (bench.place(), bench.empty()?);
        commit(bench, &worker, "grow", "now", files)?;
        points.push(measure(bench, rounds, FIRST, files, &Push::new(Source::Repo(worker), &empty, None))?);
    }
    let worker = bench.place();
    commit(bench, &worker, "grow/0", "now", UPDATE)?;
    let server = bench.empty()?;
    let mut there = 0;
    for files in THERE.into_iter().filter(|files| *files <= up_to) {
        while there < files {
            let more = if there == 0 { UPDATE } else { REF.min(files - there) };
            commit(bench, &server, &format!("grow/{there}"), EARLIER, more)?;
            there += more;
        }
        let push = Push::new(Source::Repo(worker.clone()), &server, None);
        points.push(measure(bench, rounds, LATER, files, &push)?);
    }
    let rows: Vec<String> = points.iter().flat_map(Point::rows).collect();
    write_table(&folder.join("growth.csv"), "case,files,seconds,client_mib,server_mib", &rows)?;
    write(&folder.join("growth.svg"), &draw(&panels(&points)))
}

fn measure(bench: &Bench, rounds: u32, case: &'static str, files: u32, push: &Push) -> Result<Point, TaskError> {
    let peak = bench.push(push, Purpose::Memory)?.peak;
    let samples = (0..rounds).map(|_| bench.push(push, Purpose::Time)).collect::<Result<Vec<Sample>, TaskError>>()?;
    let point = Point { case, files, samples, peak };
    let (min, median, max) = spread(&point.samples);
    let (client, server) = point.mib();
    println!("| {case} | {files} | {min:.2}, {median:.2}, {max:.2} | {client} | {server} |");
    Ok(point)
}

impl Point {
    fn mib(&self) -> (u32, u32) {
        let number = |mib: Option<u64>| mib.and_then(|mib| u32::try_from(mib).ok()).unwrap_or(0);
        (number(self.peak.client_mib), number(self.peak.server_mib))
    }

    fn rows(&self) -> impl Iterator<Item = String> {
        let (client, server) = self.mib();
        let row =
            move |sample: &Sample| format!("{},{},{:.2},{client},{server}", self.case, self.files, sample.seconds);
        self.samples.iter().map(row)
    }
}

fn panels(points: &[Point]) -> [Panel; 2] {
    let x = || {
        let mut ticks: Vec<f64> = points.iter().map(|point| f64::from(point.files)).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        Axis { label: "files", scale: Scale::Logarithmic, ticks }
    };
    let times = points.iter().map(|point| {
        let (_, median, _) = spread(&point.samples);
        (point.case, f64::from(point.files), median)
    });
    let memory = points.iter().flat_map(|point| {
        let (client, server) = point.mib();
        let names = if point.case == FIRST {
            ["first push, client", "first push, server"]
        } else {
            ["1,000 new files, client", "1,000 new files, server"]
        };
        [(names[0], client), (names[1], server)].map(|(name, mib)| (name, f64::from(point.files), f64::from(mib)))
    });
    [
        Panel::new("Time", x(), ("seconds", Scale::Logarithmic), times),
        Panel::new("Peak memory", x(), ("MiB", Scale::Linear), memory),
    ]
}

/// Commits a tree of small files, whose content depends on ref and time, to an archive repository.
fn commit(bench: &Bench, repo: &Path, branch: &str, time: &str, files: u32) -> Result<(), TaskError> {
    let mut command = shell::command(&bench.treegraft);
    command.args(["commit", "--quiet", "--tar-autocreate-parents", "--tree-tar", "-", "--branch", branch]);
    command.args(["--timestamp", time]).arg("--repo").arg(repo);
    shell::feed(&mut command, |stdin| write_tar(stdin, &format!("{branch} {time}"), files))
}

/// Writes a tar archive with files of some hundred bytes, which differ from each other and by their seed.
fn write_tar(to: impl Write, seed: &str, files: u32) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::new(to));
    for number in 0..files {
        let content = format!("{seed} {number}\n").repeat(10);
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        let path = PathBuf::from(format!("{}/{number}", number / DIRECTORY));
        archive.append_data(&mut header, path, content.as_bytes())?;
    }
    archive.into_inner()?.flush()
}
