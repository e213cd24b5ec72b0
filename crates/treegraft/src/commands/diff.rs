//! `treegraft diff`: what changed from one commit to another.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use treegraft_object::{CommitId, ContentId, DirMetaId, DirTree, DirTreeId, limits::MAX_TREE_DEPTH};
use treegraft_repo::{Find, ReadError, Repo};

use crate::{cli::GlobalArgs, error::CommandError, exit::Exit, human, revision, ui::Ui};

const EXAMPLES: &str = "\
Example: what the newest commit of a ref changed

  treegraft diff --repo /srv/repo os/x86_64/stable^ os/x86_64/stable";

/// List the files that differ between two commits
///
/// Each line has `A` (added), `D` (deleted) or `M` (modified), the path, and the size before and after.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DiffArgs {
    /// Ref or commit before
    #[arg(value_name = "OLD")]
    old: String,
    /// Ref or commit after
    #[arg(value_name = "NEW")]
    new: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Added,
    Deleted,
    Modified,
}

impl Status {
    const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Deleted => 'D',
            Self::Modified => 'M',
        }
    }
}

#[derive(Debug, Serialize)]
struct Change {
    status: Status,
    /// The path; that of a directory ends with `/`.
    path: String,
    /// Size of the file before; nothing for a directory.
    old_bytes: Option<u64>,
    /// Size of the file after.
    new_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Document {
    old: CommitId,
    new: CommitId,
    added: usize,
    deleted: usize,
    modified: usize,
    changes: Vec<Change>,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &DiffArgs) -> Result<Exit, CommandError> {
    let repo = global.open_repo()?;
    let (old, new) = (revision::resolve(&repo, &args.old)?, revision::resolve(&repo, &args.new)?);
    let (before, after) = (repo.commit(old)?, repo.commit(new)?);
    let mut diff = Diff { repo: &repo, changes: Vec::new(), depth: 0 };
    diff.directories("/", Some((before.root_tree, before.root_meta)), Some((after.root_tree, after.root_meta)))?;
    let mut changes = diff.changes;
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    let count = |status| changes.iter().filter(|change| change.status == status).count();
    let (added, deleted, modified) = (count(Status::Added), count(Status::Deleted), count(Status::Modified));
    if ui.is_json() {
        ui.json(&Document { old, new, added, deleted, modified, changes })?;
        return Ok(Exit::Done);
    }
    let mut out = ui.stdout();
    for change in &changes {
        let sizes = match (change.old_bytes, change.new_bytes) {
            (None, None) => String::new(),
            (Some(bytes), None) | (None, Some(bytes)) => format!("  ({})", human::bytes(bytes)),
            (Some(old), Some(new)) => format!("  ({} → {})", human::bytes(old), human::bytes(new)),
        };
        out.line(format_args!("{}  {}{sizes}", change.status.letter(), change.path))?;
    }
    out.finish()?;
    ui.status(if changes.is_empty() {
        "Both commits have the same tree".to_owned()
    } else {
        format!("{added} added, {deleted} deleted, {modified} modified")
    });
    Ok(Exit::Done)
}

/// Compares two trees; equal subtrees are not looked into.
struct Diff<'r> {
    repo: &'r Repo,
    changes: Vec<Change>,
    /// How many directories are above the current ones.
    depth: usize,
}

type Directory = (DirTreeId, DirMetaId);

impl Diff<'_> {
    /// Compares two directories at `path`, one of which may be missing. The path ends with `/`.
    fn directories(&mut self, path: &str, old: Option<Directory>, new: Option<Directory>) -> Result<(), ReadError> {
        let status = match (old, new) {
            (None, _) => Some(Status::Added),
            (_, None) => Some(Status::Deleted),
            (Some((_, old)), Some((_, new))) => (old != new).then_some(Status::Modified),
        };
        if let Some(status) = status {
            self.changes.push(Change { status, path: path.to_owned(), old_bytes: None, new_bytes: None });
        }
        let (old, new) = (old.map(|(tree, _)| tree), new.map(|(tree, _)| tree));
        if old == new {
            return Ok(());
        }
        if let Some(dirtree) = new.or(old).filter(|_| self.depth == MAX_TREE_DEPTH) {
            return Err(ReadError::TooDeep { dirtree, limit: MAX_TREE_DEPTH });
        }
        let listing =
            |tree: Option<DirTreeId>| tree.map_or_else(|| Ok(DirTree::default()), |tree| self.repo.dirtree(tree));
        let (old, new) = (listing(old)?, listing(new)?);
        for (name, (old, new)) in joined(&old.files, &new.files, |(name, id)| (name, *id)) {
            if old != new {
                self.file(format!("{path}{name}"), old, new)?;
            }
        }
        self.depth += 1;
        for (name, (old, new)) in joined(&old.dirs, &new.dirs, |(name, tree, meta)| (name, (*tree, *meta))) {
            self.directories(&format!("{path}{name}/"), old, new)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn file(&mut self, path: String, old: Option<ContentId>, new: Option<ContentId>) -> Result<(), ReadError> {
        let status = match (old, new) {
            (None, _) => Status::Added,
            (_, None) => Status::Deleted,
            _ => Status::Modified,
        };
        let size = |id: Option<ContentId>| id.map(|id| Ok(self.repo.open_content(id)?.content_bytes)).transpose();
        let (old_bytes, new_bytes) = (size(old)?, size(new)?);
        self.changes.push(Change { status, path, old_bytes, new_bytes });
        Ok(())
    }
}

/// Brings the entries of two directories together by their names.
fn joined<'e, E, V>(
    old: &'e [E],
    new: &'e [E],
    entry: impl Fn(&'e E) -> (&'e String, V),
) -> BTreeMap<&'e String, (Option<V>, Option<V>)> {
    let mut all: BTreeMap<&String, (Option<V>, Option<V>)> = BTreeMap::new();
    for (name, value) in old.iter().map(&entry) {
        all.entry(name).or_default().0 = Some(value);
    }
    for (name, value) in new.iter().map(&entry) {
        all.entry(name).or_default().1 = Some(value);
    }
    all
}
