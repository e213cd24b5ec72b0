//! `cargo xtask company`: many pushes to one ref at once, and how long each of them waits.
//!
//! Every pusher has a repository of its own and pushes one small commit after the other to the same ref of one server, on
//! this machine. So next to nothing is transferred, and what is measured is the line at the publish lock.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{TaskError, shell};

/// Arguments of `cargo xtask company`.
#[derive(Debug, Args)]
pub(crate) struct CompanyArgs {
    /// How many push at a time.
    #[arg(long, default_values_t = [8, 64])]
    pushers: Vec<u32>,
    /// How often each of them pushes.
    #[arg(long, default_value_t = 4)]
    pushes: u32,
    /// Another build of the program, to compare with.
    #[arg(long)]
    program: Option<PathBuf>,
}

pub(crate) fn run(args: &CompanyArgs) -> Result<(), TaskError> {
    let program = if let Some(program) = &args.program {
        program.clone()
    } else {
        shell::run(shell::cargo().args(["build", "--release", "--locked", "-p", "treegraft"]))?;
        shell::target().join("release/treegraft")
    };
    println!("| pushers | pushes | pushes a second | seconds of a push (min, median, 95 %, max) |");
    println!("|---|---|---|---|");
    for &pushers in &args.pushers {
        let place = tempfile::tempdir().map_err(|source| file("make a folder in", &std::env::temp_dir(), source))?;
        let (took, mut times) = measure(place.path(), &program, pushers, args.pushes)?;
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64();
        let count = times.len();
        println!(
            "| {pushers} | {count} | {:.1} | {:.2}, {:.2}, {:.2}, {:.2} |",
            f64::from(pushers * args.pushes) / took.as_secs_f64(),
            at(0),
            at(50),
            at(95),
            at(100),
        );
    }
    Ok(())
}

fn measure(
    place: &Path,
    program: &Path,
    pushers: u32,
    times_each: u32,
) -> Result<(Duration, Vec<Duration>), TaskError> {
    let server = place.join("server");
    shell::read(shell::command(program).arg("init").arg(&server))?;
    for pusher in 0..pushers {
        make_worker(place, pusher, times_each)?;
    }
    let started = Instant::now();
    let results: Vec<Result<Vec<Duration>, TaskError>> = thread::scope(|scope| {
        let push = |pusher: u32| {
            let server = &server;
            scope.spawn(move || {
                let mut times = Vec::new();
                for number in 0..times_each {
                    let started = Instant::now();
                    let mut command = shell::command(program);
                    command.args(["push", "--quiet", "--allow-older", "--config", "/dev/null", "--repo"]);
                    command.arg(worker(place, pusher)).arg(server).arg(format!("push-{number}:shared"));
                    shell::read(&mut command)?;
                    times.push(started.elapsed());
                }
                Ok(times)
            })
        };
        let threads: Vec<_> = (0..pushers).map(push).collect();
        threads.into_iter().map(|thread| thread.join().expect("a pusher does not panic")).collect()
    });
    let took = started.elapsed();
    let mut times = Vec::new();
    for result in results {
        times.extend(result?);
    }
    Ok((took, times))
}

fn worker(place: &Path, pusher: u32) -> PathBuf {
    place.join(format!("worker-{pusher}"))
}

/// Makes a repository with one commit for each push, each with a file of its own.
fn make_worker(place: &Path, pusher: u32, commits: u32) -> Result<(), TaskError> {
    let repo = format!("--repo={}", worker(place, pusher).display());
    shell::read(shell::command("ostree").args(["init", &repo, "--mode=archive"]))?;
    for number in 0..commits {
        let tree = place.join("tree");
        fs::create_dir_all(&tree).map_err(|source| file("make", &tree, source))?;
        let content = tree.join("file");
        fs::write(&content, format!("{pusher} {number}")).map_err(|source| file("write", &content, source))?;
        let branch = format!("--branch=push-{number}");
        shell::read(shell::command("ostree").args(["commit", &repo, &branch]).arg(&tree))?;
    }
    Ok(())
}

fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TaskError {
    TaskError::File { verb, path: path.display().to_string(), source }
}
