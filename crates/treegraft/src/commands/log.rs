//! `treegraft log`: the history of a ref.

use std::num::NonZero;

use clap::Args;
use serde::Serialize;
use treegraft_object::{Commit, CommitId};
use treegraft_repo::{Find, ReadError};

use crate::{
    cli::GlobalArgs,
    error::CommandError,
    exit::Exit,
    human, revision,
    ui::{Out, Ui},
};

const EXAMPLES: &str = "\
Example:

  treegraft log --repo /srv/repo app/org.example.App/x86_64/stable";

/// Show the history of a ref, newest commit first
///
/// REF is a ref, a commit's checksum or at least six of its first digits; `^` behind it stands for its parent.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct LogArgs {
    /// Ref or commit to begin with
    #[arg(value_name = "REF")]
    revision: String,
    /// Most commits to show
    #[arg(long, short = 'n', value_name = "COUNT")]
    max_count: Option<NonZero<usize>>,
}

#[derive(Debug, Serialize)]
struct Entry {
    commit: CommitId,
    parent: Option<CommitId>,
    timestamp_secs: u64,
    version: Option<String>,
    subject: String,
    body: String,
}

#[derive(Debug, Serialize)]
struct Document {
    commits: Vec<Entry>,
    /// Whether the history goes on with a commit that is not in the repository.
    is_shallow: bool,
}

impl Entry {
    fn of(id: CommitId, commit: Commit) -> Self {
        let version = commit.metadata.get_str("version").map(str::to_owned);
        let Commit { parent, timestamp_secs, subject, body, .. } = commit;
        Self { commit: id, parent, timestamp_secs, version, subject, body }
    }
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &LogArgs) -> Result<Exit, CommandError> {
    let repo = global.open_repo()?;
    let mut next = Some(revision::resolve(&repo, &args.revision)?);
    let mut document = Document { commits: Vec::new(), is_shallow: false };
    while let Some(id) = next.filter(|_| args.max_count.is_none_or(|max| document.commits.len() < max.get())) {
        let commit = match repo.commit(id) {
            Err(ReadError::NotFound { .. }) if !document.commits.is_empty() => {
                document.is_shallow = true;
                break;
            }
            result => result?,
        };
        next = commit.parent;
        document.commits.push(Entry::of(id, commit));
    }
    if ui.is_json() {
        ui.json(&document)?;
        return Ok(Exit::Done);
    }
    let mut out = ui.stdout();
    for (index, entry) in document.commits.iter().enumerate() {
        if index > 0 {
            out.line("")?;
        }
        write_entry(&mut out, entry)?;
    }
    if document.is_shallow {
        out.line("\nThe history before this commit is not in the repository")?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

fn write_entry(out: &mut Out, entry: &Entry) -> Result<(), CommandError> {
    out.line(format_args!("commit {}", entry.commit))?;
    if let Some(parent) = entry.parent {
        out.line(format_args!("Parent:   {parent}"))?;
    }
    out.line(format_args!("Date:     {}", human::date(entry.timestamp_secs)))?;
    if let Some(version) = &entry.version {
        out.line(format_args!("Version:  {version}"))?;
    }
    for text in [&entry.subject, &entry.body].into_iter().filter(|text| !text.trim().is_empty()) {
        out.line("")?;
        for line in text.trim_end().lines() {
            out.line(format_args!("    {line}").to_string().trim_end())?;
        }
    }
    Ok(())
}
