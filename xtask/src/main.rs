//! The tasks of the project: `cargo xtask TASK`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who runs it")]

mod bench;
mod bench_bare;
mod check;
mod company;
mod dist;
mod docs;
mod fuzz;
mod layers;
mod oracles;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the tests of the workspace against the real programs.
    Test(test::TestArgs),
    /// Check format, lints, documentation and layers, without running tests.
    Check,
    /// Check that crates know only the crates below them.
    CheckLayers,
    /// Build the program as one static file, and check that it is one.
    Dist(dist::DistArgs),
    /// Generate the reference of the command line.
    Docs(docs::DocsArgs),
    /// Measure pushes of real runtimes over ssh, side by side with rsync and flatpak.
    Bench(bench::BenchArgs),
    /// Run a program for `bench` and keep its peak memory.
    #[command(hide = true)]
    BenchPeak(bench::PeakArgs),
    /// Measure pushes to a server that has nothing but sshd and a shell.
    BenchBare(bench_bare::BenchBareArgs),
    /// Measure many pushes to one ref at once.
    Company(company::CompanyArgs),
    /// Run each fuzz target for some seconds.
    Fuzz(fuzz::FuzzArgs),
    /// Run everything that a change must pass: `check`, `test`, then `fuzz`.
    Ci,
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Check => check::run(),
        Task::CheckLayers => layers::run(),
        Task::Dist(args) => dist::run(&args),
        Task::Docs(args) => docs::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::BenchPeak(args) => bench::run_for_peak(&args),
        Task::BenchBare(args) => bench_bare::run(&args),
        Task::Company(args) => company::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Ci => check::run()
            .and_then(|()| test::run(&test::TestArgs::default()))
            .and_then(|()| fuzz::run(&fuzz::FuzzArgs::default())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                eprintln!("Caused by: {inner}");
                cause = inner.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Why a task did not succeed.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    /// A program is not there or cannot be executed.
    #[error("Could not start `{command_line}`")]
    Start { command_line: String, source: std::io::Error },
    /// A program ended with another status than success.
    #[error("Command failed with {status}: `{command_line}`")]
    Failed { command_line: String, status: std::process::ExitStatus },
    /// Programs that treegraft is compared with are missing.
    #[error("Could not find {}; install with `{install}`", programs.join(", "))]
    MissingOracles { programs: Vec<&'static str>, install: String },
    /// The output of `cargo metadata` is not what it is documented to be.
    #[error("Could not read the output of `cargo metadata`")]
    Metadata { source: serde_json::Error },
    /// Crates depend on what they must not know.
    #[error("The layers of the crates are broken:\n  {}", violations.join("\n  "))]
    Layers { violations: Vec<String> },
    /// A file or folder cannot be used.
    #[error("Could not {verb} `{path}`")]
    File { verb: &'static str, path: String, source: std::io::Error },
    /// The static program is not what it has to be.
    #[error("File `{path}` {what}")]
    Dist { path: String, what: &'static str },
    /// A fuzz target has found a mistake, or there is none of this name.
    #[error("The fuzz target `{target}` {what}")]
    Fuzz { target: String, what: &'static str },
    /// A generated page is not what the program generates now.
    #[error("Page `{path}` is stale; run `cargo xtask docs` and commit it")]
    StalePage { path: String },
}
