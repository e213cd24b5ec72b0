//! The cases of the table: each is run in several ways, which take turns.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
};

use treegraft_testkit::LinkOptions;

use super::push::{Bench, Purpose, Push, Source, link};
use super::report::{Peak, Sample, print_header, print_row};
use super::{apps, export};
use crate::TaskError;

/// The runtimes, the smaller one first, as `bench/make-runtimes.sh` names their build directories.
pub(super) const RUNTIMES: [&str; 2] = ["Platform", "Sdk"];

/// The link of most cases.
pub(super) const FAR: LinkOptions = link(100, 100);

/// Which cases are run, and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) rounds: u32,
    /// A part of the case's name.
    pub(super) only: &'a str,
}

impl Choice<'_> {
    pub(super) fn has(self, case: &str) -> bool {
        case.contains(self.only)
    }

    /// Runs the ways of a case in turn and prints their rows.
    pub(super) fn run<'b>(
        self,
        case: &str,
        ways: impl FnOnce() -> Result<Vec<Way<'b>>, TaskError>,
    ) -> Result<(), TaskError> {
        if !self.has(case) {
            return Ok(());
        }
        let ways = ways()?;
        let mut peaks = Vec::new();
        for way in &ways {
            peaks.push(if way.has_peak { (way.run)(Purpose::Memory)?.peak } else { Peak::default() });
        }
        let samples = time_in_turn(&ways, self.rounds)?;
        for ((way, samples), peak) in ways.iter().zip(&samples).zip(&peaks) {
            print_row(case, way.name, samples, peak);
        }
        Ok(())
    }
}

/// Runs the ways in turn and returns what each of them took in each round.
pub(super) fn time_in_turn(ways: &[Way<'_>], rounds: u32) -> Result<Vec<Vec<Sample>>, TaskError> {
    let mut samples: Vec<Vec<Sample>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (way, samples) in ways.iter().zip(&mut samples) {
            if round < way.most_rounds {
                samples.push((way.run)(Purpose::Time)?);
            }
        }
    }
    Ok(samples)
}

/// One way of a case.
pub(super) struct Way<'b> {
    pub(super) name: &'static str,
    run: Box<dyn Fn(Purpose) -> Result<Sample, TaskError> + 'b>,
    /// Whether a run can measure memory.
    has_peak: bool,
    most_rounds: u32,
}

impl<'b> Way<'b> {
    /// A push with `treegraft`.
    pub(super) fn push(name: &'static str, bench: &'b Bench, push: Push) -> Self {
        let run = move |purpose| bench.push(&push, purpose);
        Self { name, run: Box::new(run), has_peak: true, most_rounds: u32::MAX }
    }

    /// Something else, which is timed alone.
    pub(super) fn other(name: &'static str, run: impl Fn() -> Result<Sample, TaskError> + 'b) -> Self {
        Self { name, run: Box::new(move |_| run()), has_peak: false, most_rounds: u32::MAX }
    }

    /// Runs it in the first round alone, since it takes minutes.
    pub(super) fn once(mut self) -> Self {
        self.most_rounds = 1;
        self
    }
}

/// The runtimes and a server that has version 1 of them.
pub(super) struct Runtimes<'b> {
    bench: &'b Bench,
    data: &'b Path,
    base: OnceCell<PathBuf>,
}

impl<'b> Runtimes<'b> {
    pub(super) fn new(bench: &'b Bench, data: &'b Path) -> Self {
        Self { bench, data, base: OnceCell::new() }
    }

    /// Returns the worker's repository with a version.
    pub(super) fn repo(&self, version: u32) -> PathBuf {
        self.data.join(format!("repo-{version}"))
    }

    pub(super) fn build_dirs(&self, version: u32) -> Vec<PathBuf> {
        RUNTIMES.iter().map(|runtime| self.data.join(format!("{runtime}-{version}"))).collect()
    }

    /// Returns the repository of a server that has version 1; the first call makes it.
    pub(super) fn base(&self) -> Result<&Path, TaskError> {
        if self.base.get().is_none() {
            let server = self.bench.empty()?;
            let push = Push::new(Source::Repo(self.repo(1)), &server, None);
            self.bench.push_into(&server, &push, Purpose::Time)?;
            return Ok(self.base.get_or_init(|| server));
        }
        Ok(self.base.get().expect("it was looked at"))
    }

    /// Returns the ways of an update to version 2 that a sweep compares.
    pub(super) fn updates(&'b self, link: LinkOptions) -> Result<Vec<Way<'b>>, TaskError> {
        let (bench, server, worker) = (self.bench, self.base()?, self.repo(2));
        let basis = self.repo(1).display().to_string();
        let update = |name, options: &[&str]| {
            let push = Push::new(Source::Repo(worker.clone()), server, Some(link));
            Way::push(name, bench, push.with_options(options.iter().copied()))
        };
        Ok(vec![
            update("treegraft push", &[]),
            update("treegraft push --basis", &["--basis", &basis]),
            update("treegraft push --compare never", &["--compare", "never"]),
            Way::other("rsync of objects alone", move || bench.rsync_objects(&self.repo(2), server, link)),
        ])
    }
}

/// Runs all cases.
pub(super) fn run(bench: &Bench, data: &Path, choice: Choice<'_>) -> Result<(), TaskError> {
    print_header();
    let runtimes = Runtimes::new(bench, data);
    let (repo_1, repo_2) = (runtimes.repo(1), runtimes.repo(2));
    let empty = bench.empty()?;
    choice.run("first push, loopback", || {
        let push = Push::new(Source::Repo(repo_1.clone()), &empty, None);
        let by_hand = || bench.rsync_and_commit_from(&repo_1, &empty);
        Ok(vec![Way::push("treegraft push", bench, push), Way::other("rsync + `flatpak build-commit-from`", by_hand)])
    })?;
    choice.run("first push, 100 ms, 400 Mbit/s", || {
        let push = Push::new(Source::Repo(repo_1.clone()), &empty, Some(link(100, 400)));
        Ok(vec![Way::push("treegraft push", bench, push)])
    })?;
    choice.run("version 2, 100 ms, 100 Mbit/s", || {
        let server = runtimes.base()?;
        let mut ways = runtimes.updates(FAR)?;
        ways.push(Way::other("ostree-push", || bench.ostree_push(&repo_2, server, FAR)).once());
        Ok(ways)
    })?;
    choice.run("version 2, 20 ms, 500 Mbit/s", || {
        let (server, near) = (runtimes.base()?, link(20, 500));
        let push = Push::new(Source::Repo(repo_2.clone()), server, Some(near));
        let rsync = || bench.rsync_objects(&repo_2, server, link(20, 500));
        Ok(vec![Way::push("treegraft push", bench, push), Way::other("rsync of objects alone", rsync)])
    })?;
    choice.run("nothing new, 100 ms, 100 Mbit/s", || {
        let push = Push::new(Source::Repo(repo_1.clone()), runtimes.base()?, Some(FAR));
        Ok(vec![Way::push("treegraft push", bench, push), Way::other("ssh login and `true`", || bench.login(FAR))])
    })?;
    choice.run("version 2 from build directories, 100 ms, 100 Mbit/s", || {
        let push = Push::new(Source::BuildDirs(runtimes.build_dirs(2)), runtimes.base()?, Some(FAR));
        Ok(vec![Way::push("treegraft push --build-dir", bench, push)])
    })?;
    apps::run(bench, choice)?;
    export::run(bench, &runtimes.build_dirs(2), choice)
}
