//! `treegraft fsck`: checks a repository.

use std::time::Instant;

use clap::Args;
use serde::Serialize;
use treegraft_repo::{
    LockKind, RepoLock,
    fsck::{self, Report},
};

use crate::{cli::GlobalArgs, error::CommandError, exit::Exit, human, progress::CheckProgress, ui::Ui};

const EXAMPLES: &str = "\
Example:

  treegraft fsck --repo /srv/repo";

/// Check every object, commit and ref of a repository
///
/// The bytes of every object are compared with its name and with the rules of its format; every commit must have its
/// whole tree, and every ref must lead to a commit. Nothing is changed. The repository's lock is held, so that nobody
/// deletes objects meanwhile; pushes may go on.
///
/// Ends with exit code 1 when something is wrong.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct FsckArgs {}

#[derive(Debug, Serialize)]
struct Document {
    is_sound: bool,
    objects: u64,
    commits: u64,
    partial_commits: u64,
    refs: u64,
    missing_objects: u64,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    ref_path: Option<String>,
    message: String,
}

impl Problem {
    fn of(problem: &fsck::Problem) -> Self {
        Self {
            code: problem.code(),
            object: problem.object().map(|name| name.to_string()),
            ref_path: problem.ref_path().map(str::to_owned),
            message: problem.to_string(),
        }
    }
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, _: &FsckArgs) -> Result<Exit, CommandError> {
    let repo = global.open_repo()?;
    let mut is_told = false;
    let _lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {
        if !is_told {
            ui.status("Waiting for another process that holds the repository's lock");
            is_told = true;
        }
    })?;
    let started = Instant::now();
    let progress = CheckProgress::start(ui);
    let report = fsck::run(&repo, &mut |step| progress.step(step))?;
    drop(progress);
    let exit = if report.problems.is_empty() { Exit::Done } else { Exit::Failed };
    if ui.is_json() {
        ui.json(&document(&report))?;
        return Ok(exit);
    }
    let mut out = ui.stdout();
    for problem in &report.problems {
        out.line(format_args!("{}: {problem}", problem.code()))?;
    }
    let partial = match report.partial_commits {
        0 => String::new(),
        count => format!(" ({} not walked, marked partial)", human::things(count, "commit")),
    };
    out.line(format_args!(
        "Checked {}, {}{partial} and {} in {}: {}",
        human::things(report.objects, "object"),
        human::things(report.commits, "commit"),
        human::things(report.refs, "ref"),
        human::duration(started.elapsed()),
        match report.problems.len() {
            0 => "all is sound".to_owned(),
            count => format!("{} found", human::things(count as u64, "problem")),
        },
    ))?;
    out.finish()?;
    Ok(exit)
}

fn document(report: &Report) -> Document {
    Document {
        is_sound: report.problems.is_empty(),
        objects: report.objects,
        commits: report.commits,
        partial_commits: report.partial_commits,
        refs: report.refs,
        missing_objects: report.missing_objects,
        problems: report.problems.iter().map(Problem::of).collect(),
    }
}
