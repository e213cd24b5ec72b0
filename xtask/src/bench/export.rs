//! Exports of build directories into a repository of the same machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::cases::Choice;
use super::peers::timed;
use super::push::Bench;
use super::report::{Peak, Sample, megabytes, print_row};
use crate::{TaskError, shell};

/// Exports the build directories into an empty repository, `flatpak` once alone, since it takes minutes.
pub(super) fn run(bench: &Bench, build_dirs: &[PathBuf], choice: Choice<'_>) -> Result<(), TaskError> {
    let case = "both runtimes from build directories into an empty repository";
    if !choice.has(case) {
        return Ok(());
    }
    let mut ours = Vec::new();
    let repos: Vec<_> = (0..choice.rounds.max(1)).map(|_| bench.place()).collect();
    for repo in &repos {
        ours.push(export(build_dirs, |build| {
            let mut export = shell::command(&bench.treegraft);
            export.args(["export", "--no-update-summary", "--quiet"]).arg(build).arg(repo);
            export
        })?);
    }
    let theirs_repo = bench.place();
    let theirs = export(build_dirs, |build| {
        let mut export = shell::command("flatpak");
        export.args(["build-export", "--disable-sandbox", "--no-update-summary", "--runtime"]);
        export.arg(&theirs_repo).arg(build);
        export
    })?;
    print_row(case, "treegraft export", &ours, &Peak::default());
    print_row(case, "flatpak build-export", &[theirs], &Peak::default());
    let (ours, theirs) = (objects_bytes(&repos[0])?, objects_bytes(&theirs_repo)?);
    println!("\nObjects take {} MB and {} MB.", megabytes(ours), megabytes(theirs));
    Ok(())
}

fn export(build_dirs: &[PathBuf], command: impl Fn(&Path) -> Command) -> Result<Sample, TaskError> {
    let mut seconds = 0.0;
    for build_dir in build_dirs {
        seconds += timed(&mut command(build_dir))?;
    }
    // The next run must not wait for what this one left to be written.
    shell::read(&mut shell::command("sync"))?;
    Ok(Sample { seconds, ..Sample::default() })
}

/// Returns what the objects of a repository take, in bytes.
fn objects_bytes(repo: &Path) -> Result<u64, TaskError> {
    let listed = shell::read(shell::command("du").arg("-sb").arg(repo.join("objects")))?;
    let text = String::from_utf8_lossy(&listed);
    Ok(text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0))
}
