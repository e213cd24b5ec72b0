//! `cargo xtask fuzz`: every fuzz target for some seconds, with the ordinary toolchain.
//!
//! Targets are built as `cargo fuzz` does, but without a sanitizer, for which the compiler would have to be another.
//! All crates are instrumented, and build scripts are not: that is what `--target` is for.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use clap::Args;
use serde_json::Value;
use tempfile::TempDir;

use crate::{TaskError, oracles::Missing, shell};

/// What libFuzzer itself is compiled by, with its Debian package.
const COMPILER: [(&str, &str); 1] = [("c++", "g++")];

/// The program beside the targets that writes valid inputs to begin with.
const SEEDS: &str = "seeds";

/// What the compiler needs to be told for libFuzzer to see which code an input reaches.
const RUST_FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Where repositories for one input each are made: in memory if possible.
const MEMORY: &str = "/dev/shm";

/// How each target is run: an input has some kilobytes, may take some seconds, and a gigabyte of memory in all.
const LIMITS: [&str; 3] = ["-max_len=4096", "-timeout=20", "-rss_limit_mb=1024"];

/// How long each target is run in CI: with the time that they are built in, all of them take about two minutes.
const DEFAULT_SECS: u32 = 2;

/// Run fuzz targets; see fuzz/README.md.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// The targets; all of them when none is named.
    targets: Vec<String>,
    /// How long each is run, in seconds.
    #[arg(long, default_value_t = DEFAULT_SECS)]
    secs: u32,
}

impl Default for FuzzArgs {
    fn default() -> Self {
        Self { targets: Vec::new(), secs: DEFAULT_SECS }
    }
}

/// Builds the targets, and runs as many at a time as there are processors. Fails when one finds something.
pub(crate) fn run(args: &FuzzArgs) -> Result<(), TaskError> {
    let mut missing = Missing::of(&COMPILER);
    if !missing.is_empty() {
        missing.install_if_possible()?;
        missing = Missing::of(&COMPILER);
    }
    if !missing.is_empty() {
        return Err(TaskError::MissingOracles { install: missing.install_line(), programs: missing.programs });
    }
    let known = targets()?;
    if let Some(unknown) = args.targets.iter().find(|name| !known.contains(name)) {
        return Err(TaskError::Fuzz { target: unknown.clone(), what: "is no target; fuzz/README.md lists them" });
    }
    let wanted = if args.targets.is_empty() { known } else { args.targets.clone() };
    let programs = build(&wanted)?;
    let temporary = temporary()?;
    // It is libFuzzer's, too, and has to be told when to end.
    shell::read(command(&programs, SEEDS, &temporary).args(["-runs=1", "-verbosity=0"]))?;

    let queue = Mutex::new(wanted.iter());
    let failed = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some(target) = { lock(&queue).next() } {
                    if let Err(error) = fuzz(&programs, target, args.secs, &temporary) {
                        lock(&failed).get_or_insert(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks cargo for the names of the targets.
fn targets() -> Result<Vec<String>, TaskError> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--manifest-path", "fuzz/Cargo.toml"];
    let output = shell::read(shell::cargo().args(arguments))?;
    let metadata: Value = serde_json::from_slice(&output).map_err(|source| TaskError::Metadata { source })?;
    let programs = metadata["packages"][0]["targets"].as_array().into_iter().flatten();
    let programs = programs.filter(|target| target["kind"][0] == "bin").filter_map(|target| target["name"].as_str());
    Ok(programs.filter(|name| *name != SEEDS).map(str::to_owned).collect())
}

/// Builds targets and seeds, and returns the folder of their programs.
fn build(targets: &[String]) -> Result<PathBuf, TaskError> {
    let version = shell::read(shell::command("rustc").arg("-vV"))?;
    let version = String::from_utf8_lossy(&version);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let folder = shell::root().join("fuzz/target");
    let mut build = shell::cargo();
    // Not `--locked`: what a crate has come to need is not in this workspace's lock file yet.
    build.env("RUSTFLAGS", RUST_FLAGS).args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    build.args(["--target", host]).arg("--target-dir").arg(&folder);
    for name in targets.iter().map(String::as_str).chain([SEEDS]) {
        build.args(["--bin", name]);
    }
    shell::run(&mut build)?;
    Ok(folder.join(host).join("release"))
}

/// Makes a folder for what the targets write. They end without taking it away.
fn temporary() -> Result<TempDir, TaskError> {
    let prefix = "treegraft-fuzz-";
    let made = TempDir::with_prefix_in(prefix, MEMORY).or_else(|_| TempDir::with_prefix(prefix));
    made.map_err(|source| TaskError::File { verb: "make a folder in", path: MEMORY.to_owned(), source })
}

fn command(programs: &Path, name: impl AsRef<OsStr>, temporary: &TempDir) -> Command {
    let mut command = shell::command(programs.join(name.as_ref()));
    command.env("TMPDIR", temporary.path());
    command
}

/// Runs one target; what it says is shown when it finds something.
fn fuzz(programs: &Path, target: &str, secs: u32, temporary: &TempDir) -> Result<(), TaskError> {
    let (corpus, artifacts) = (format!("fuzz/corpus/{target}"), format!("fuzz/artifacts/{target}/"));
    for path in [&corpus, &artifacts] {
        let fail = |source| TaskError::File { verb: "make", path: path.clone(), source };
        fs::create_dir_all(shell::root().join(path)).map_err(fail)?;
    }
    let mut command = command(programs, target, temporary);
    command.arg(corpus).args(LIMITS).arg(format!("-max_total_time={secs}"));
    let output = command.arg(format!("-artifact_prefix={artifacts}")).output();
    let output = output.map_err(|source| TaskError::Start { command_line: target.to_owned(), source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        println!("{said}");
        for path in said.lines().filter_map(|line| Some(line.split_once("Test unit written to ")?.1)) {
            // A machine of CI is gone before somebody looks for the file.
            let input = fs::read(shell::root().join(path)).unwrap_or_default();
            let digits = input.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            println!("{path} in hexadecimal digits: {digits}");
        }
        return Err(TaskError::Fuzz { target: target.to_owned(), what: "has found something, see above" });
    }
    let covered = said.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
    let done = said.lines().rev().find(|line| line.starts_with("Done ")).unwrap_or_default();
    println!("FUZZED: {target}: {}, {} places reached", done.to_lowercase(), covered.unwrap_or("no"));
    Ok(())
}
