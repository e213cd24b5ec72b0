//! `treegraft summary`: shows or writes the list of refs that clients download.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use treegraft_object::{CommitId, DecodeError, RefName, gvariant::Variant, summary::Summary};
use treegraft_repo::{Repo, summary};
use treegraft_server::Receiver;

use super::push::carry::local_receiver;
use crate::{cli::GlobalArgs, error::CommandError, exit::Exit, human, ui::Ui, variant_text};

const EXAMPLES: &str = "\
Example:

  treegraft summary --repo /srv/repo --update";

/// Show the summary that clients download, or write it anew
///
/// The summary lists the repository's refs. A push keeps it up to date; `--update` is for after `ostree prune` or other
/// changes by hand. It is written and signed as the server's configuration says; where Flatpak refs are in the repository
/// and `flatpak` is installed, `flatpak build-update-repo` does it.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct SummaryArgs {
    /// Write and sign the summary anew before it is shown
    #[arg(long, short)]
    update: bool,
    /// With `--update`: configuration of the server [default: /etc/treegraft/server.toml, if it exists]
    #[arg(long, value_name = "FILE", requires = "update")]
    config: Option<PathBuf>,
}

/// A summary that cannot be shown.
#[derive(Debug, thiserror::Error)]
enum ShowError {
    #[error("The repository `{path}` has no summary", path = path.display())]
    Missing { path: PathBuf },
    #[error("The summary of `{path}` is not valid", path = path.display())]
    Invalid { path: PathBuf, source: DecodeError },
}

#[derive(Debug, Serialize)]
struct Document {
    refs: Vec<RefRow>,
    metadata: Value,
    signatures: usize,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RefRow {
    name: RefName,
    commit: CommitId,
    commit_bytes: u64,
    metadata: Value,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &SummaryArgs) -> Result<Exit, CommandError> {
    let mut notes = Vec::new();
    if args.update {
        let receiver = local_receiver(global.repo_path(), args.config.as_deref())?;
        notes = update(ui, &receiver)?;
    }
    let repo = global.open_repo()?;
    let (summary, signatures) = read(&repo)?;
    if ui.is_json() {
        let row = |entry: treegraft_object::summary::SummaryRef| RefRow {
            name: entry.name,
            commit: entry.commit,
            commit_bytes: entry.commit_bytes,
            metadata: variant_text::dict_to_json(&entry.metadata),
        };
        ui.json(&Document {
            refs: summary.refs.into_iter().map(row).collect(),
            metadata: variant_text::dict_to_json(&summary.metadata),
            signatures,
            notes,
        })?;
        return Ok(Exit::Done);
    }
    let width = summary.refs.iter().map(|entry| entry.name.as_str().chars().count()).max().unwrap_or(0);
    let mut out = ui.stdout();
    for entry in &summary.refs {
        let commit = if ui.is_verbose() { entry.commit.to_string() } else { human::short(entry.commit.0) };
        let time = entry.metadata.get("ostree.commit.timestamp").and_then(Variant::as_uint64_be);
        let date = time.map(|secs| format!("  {}", human::date(secs))).unwrap_or_default();
        out.line(format_args!("{:width$}  {commit}{date}", entry.name.as_str()))?;
    }
    if !summary.refs.is_empty() {
        out.line("")?;
    }
    out.line(format_args!("Signatures: {signatures}"))?;
    for (key, value) in summary.metadata.iter() {
        let text = match (key, value.as_uint64_be()) {
            ("ostree.summary.last-modified", Some(secs)) => human::date(secs),
            _ => variant_text::to_text(value),
        };
        out.line(format_args!("{key}: {text}"))?;
    }
    out.finish()?;
    for note in &notes {
        ui.note(note);
    }
    Ok(Exit::Done)
}

fn update(ui: Ui, receiver: &Receiver) -> Result<Vec<String>, CommandError> {
    let mut is_told = false;
    let notes = receiver.update_summary(&mut |_| {
        if !is_told {
            ui.status("Waiting for a push that publishes to this repository");
            is_told = true;
        }
    })?;
    Ok(notes)
}

/// Reads the summary and counts its signatures.
fn read(repo: &Repo) -> Result<(Summary, usize), CommandError> {
    let path = repo.path().to_owned();
    let Some((data, signatures)) = summary::read(repo)? else {
        return Err(CommandError::user(ShowError::Missing { path }).hint("make one with `treegraft summary --update`"));
    };
    let decoded = Summary::decode(&data).map_err(|source| CommandError::user(ShowError::Invalid { path, source }))?;
    let count = signatures.iter().filter_map(|(_, value)| value.as_byte_arrays()).map(|all| all.len()).sum();
    Ok((decoded, count))
}
