//! `treegraft refs`: lists refs.

use clap::Args;
use serde::Serialize;
use treegraft_object::{CollectionId, CommitId, ObjectName, RefName};
use treegraft_repo::{Find, Repo};

use crate::{cli::GlobalArgs, error::CommandError, exit::Exit, human, ui::Ui};

const EXAMPLES: &str = "\
Example:

  treegraft refs --repo /srv/repo";

/// List the refs with their commits
///
/// Refs of other collections (in `refs/mirrors`) are listed with their collection id.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct RefsArgs {}

#[derive(Debug, Serialize)]
struct Row {
    name: RefName,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection_id: Option<CollectionId>,
    commit: CommitId,
    /// Nothing when the commit is missing.
    timestamp_secs: Option<u64>,
}

impl Row {
    fn shown_name(&self) -> String {
        match &self.collection_id {
            Some(collection) => format!("({collection}, {})", self.name),
            None => self.name.to_string(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Document {
    refs: Vec<Row>,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, _: &RefsArgs) -> Result<Exit, CommandError> {
    let repo = global.open_repo()?;
    let rows = rows(&repo)?;
    if ui.is_json() {
        ui.json(&Document { refs: rows })?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        ui.status(format_args!("The repository `{}` has no refs", repo.path().display()));
    }
    let width = rows.iter().map(|row| row.shown_name().chars().count()).max().unwrap_or(0);
    let mut out = ui.stdout();
    for row in &rows {
        let commit = if ui.is_verbose() { row.commit.to_string() } else { human::short(row.commit.0) };
        let date = row.timestamp_secs.map_or_else(|| "the commit is missing".to_owned(), human::date);
        out.line(format_args!("{:width$}  {commit}  {date}", row.shown_name()))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

fn rows(repo: &Repo) -> Result<Vec<Row>, CommandError> {
    let mut rows = Vec::new();
    let mut add = |collection_id: Option<&CollectionId>, name: RefName, commit: CommitId| {
        let is_there = repo.has(ObjectName::from(commit))?;
        let timestamp_secs = if is_there { Some(repo.commit(commit)?.timestamp_secs) } else { None };
        rows.push(Row { name, collection_id: collection_id.cloned(), commit, timestamp_secs });
        Ok::<_, CommandError>(())
    };
    for (name, commit) in repo.refs()? {
        add(None, name, commit)?;
    }
    for (collection, refs) in repo.mirror_refs()? {
        for (name, commit) in refs {
            add(Some(&collection), name, commit)?;
        }
    }
    Ok(rows)
}
