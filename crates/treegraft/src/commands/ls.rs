//! `treegraft ls`: lists files of a commit, as `ostree ls` does.

use clap::Args;
use serde::Serialize;
use treegraft_object::{ContentId, DirMeta, DirMetaId, DirTreeId, FileHeader, ObjectName};
use treegraft_repo::{Find, ReadError, Repo};

use crate::{
    cli::GlobalArgs,
    error::CommandError,
    exit::Exit,
    revision,
    ui::{Out, Ui},
};

/// The bits of a mode that say what may be done with a file; the others say what it is.
const PERMISSION_BITS: u32 = 0o7777;

const EXAMPLES: &str = "\
Example: everything below `/files/bin`, with checksums

  treegraft ls --repo /srv/repo -RC app/org.example.App/x86_64/stable /files/bin";

/// List the files of a commit
///
/// Each line has mode, user id, group id, size in bytes, name, and where a symlink leads to. The output is that of
/// `ostree ls`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct LsArgs {
    /// Ref or commit
    #[arg(value_name = "REF")]
    revision: String,
    /// File or directory within the commit
    #[arg(value_name = "DIR", default_value = "/")]
    path: String,
    /// List directories below directories
    #[arg(long, short = 'R')]
    recursive: bool,
    /// Show checksums: of a file, and of a directory's listing and its metadata
    #[arg(long, short = 'C')]
    checksum: bool,
}

/// A file or directory of a commit.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Entry {
    File { path: String, mode: u32, uid: u32, gid: u32, bytes: u64, checksum: ContentId },
    Symlink { path: String, mode: u32, uid: u32, gid: u32, target: String, checksum: ContentId },
    Directory { path: String, mode: u32, uid: u32, gid: u32, tree: DirTreeId, meta: DirMetaId },
}

/// What is found at a path.
enum Node {
    File(ContentId),
    Directory(DirTreeId, DirMetaId),
}

/// A path that is not in a commit.
#[derive(Debug, thiserror::Error)]
#[error("The commit of `{revision}` has no `{path}`")]
struct NoSuchPath {
    revision: String,
    path: String,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &LsArgs) -> Result<Exit, CommandError> {
    let repo = global.open_repo()?;
    let commit = repo.commit(revision::resolve(&repo, &args.revision)?)?;
    let path = format!("/{}", args.path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"));
    let node = find(&repo, Node::Directory(commit.root_tree, commit.root_meta), &path)?.ok_or_else(|| {
        let error = NoSuchPath { revision: args.revision.clone(), path: path.clone() };
        CommandError::user(error).hint("list what there is with `treegraft ls REF`, or all of it with `-R`")
    })?;
    let mut list = List { repo: &repo, is_recursive: args.recursive, depth: 0 };
    if ui.is_json() {
        let mut entries = Vec::new();
        list.node(path, &node, &mut |entry| {
            entries.push(entry);
            Ok(())
        })?;
        ui.json(&serde_json::json!({ "entries": entries }))?;
        return Ok(Exit::Done);
    }
    let mut out = ui.stdout();
    list.node(path, &node, &mut |entry| write_entry(&mut out, &entry, args.checksum))?;
    out.finish()?;
    Ok(Exit::Done)
}

fn find(repo: &Repo, root: Node, path: &str) -> Result<Option<Node>, ReadError> {
    let mut node = root;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let Node::Directory(tree, _) = node else { return Ok(None) };
        let tree = repo.dirtree(tree)?;
        let file = tree.files.iter().find(|(name, _)| name == part).map(|&(_, id)| Node::File(id));
        let dir = tree.dirs.iter().find(|(name, ..)| name == part).map(|&(_, tree, meta)| Node::Directory(tree, meta));
        match file.or(dir) {
            Some(found) => node = found,
            None => return Ok(None),
        }
    }
    Ok(Some(node))
}

/// Goes through a tree in the order of `ostree ls`: a directory, its files, its directories.
struct List<'r> {
    repo: &'r Repo,
    is_recursive: bool,
    /// How many directories are above the current one.
    depth: usize,
}

type Visit<'v> = dyn FnMut(Entry) -> Result<(), CommandError> + 'v;

impl List<'_> {
    fn node(&mut self, path: String, node: &Node, visit: &mut Visit<'_>) -> Result<(), CommandError> {
        match *node {
            Node::File(id) => visit(self.file(path, id)?),
            Node::Directory(tree, meta) => {
                visit(self.directory(path.clone(), tree, meta)?)?;
                self.children(&path, tree, visit)
            }
        }
    }

    fn children(&mut self, path: &str, tree: DirTreeId, visit: &mut Visit<'_>) -> Result<(), CommandError> {
        let limit = treegraft_object::limits::MAX_TREE_DEPTH;
        if self.depth == limit {
            return Err(ReadError::TooDeep { dirtree: tree, limit }.into());
        }
        let listing = self.repo.dirtree(tree)?;
        let below = |name: &str| format!("{}/{name}", path.trim_end_matches('/'));
        for (name, id) in &listing.files {
            visit(self.file(below(name), *id)?)?;
        }
        self.depth += 1;
        for (name, tree, meta) in &listing.dirs {
            visit(self.directory(below(name), *tree, *meta)?)?;
            if self.is_recursive {
                self.children(&below(name), *tree, visit)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn file(&self, path: String, id: ContentId) -> Result<Entry, ReadError> {
        let content = self.repo.open_content(id)?;
        let bytes = content.content_bytes;
        let FileHeader { uid, gid, mode, .. } = content.header;
        Ok(match content.header.symlink_target() {
            Some(target) => Entry::Symlink { path, mode, uid, gid, target: target.to_owned(), checksum: id },
            None => Entry::File { path, mode, uid, gid, bytes, checksum: id },
        })
    }

    fn directory(&self, path: String, tree: DirTreeId, meta: DirMetaId) -> Result<Entry, ReadError> {
        let name = ObjectName::from(meta);
        let data = self.repo.metadata(name)?.ok_or(ReadError::NotFound { name })?;
        let DirMeta { uid, gid, mode, .. } =
            DirMeta::decode(&data).map_err(|source| ReadError::Invalid { name, source })?;
        Ok(Entry::Directory { path, mode, uid, gid, tree, meta })
    }
}

fn write_entry(out: &mut Out, entry: &Entry, has_checksum: bool) -> Result<(), CommandError> {
    let (letter, mode, uid, gid, bytes, path) = match entry {
        Entry::File { path, mode, uid, gid, bytes, .. } => ('-', mode, uid, gid, *bytes, path),
        Entry::Symlink { path, mode, uid, gid, .. } => ('l', mode, uid, gid, 0, path),
        Entry::Directory { path, mode, uid, gid, .. } => ('d', mode, uid, gid, 0, path),
    };
    let checksum = match entry {
        _ if !has_checksum => String::new(),
        Entry::File { checksum, .. } | Entry::Symlink { checksum, .. } => format!("{checksum} "),
        Entry::Directory { tree, meta, .. } => format!("{tree} {meta} "),
    };
    let target = match entry {
        Entry::Symlink { target, .. } => format!(" -> {target}"),
        _ => String::new(),
    };
    let mode = mode & PERMISSION_BITS;
    out.line(format_args!("{letter}{mode:05o} {uid} {gid} {bytes:6} {checksum}{path}{target}"))
}
