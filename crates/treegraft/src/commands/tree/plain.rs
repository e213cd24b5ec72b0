//! A plain tree, as `ostree commit` takes it.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use clap::Args;
use treegraft_flatpak::{COLLECTION_BINDING, GraftOptions, REF_BINDING};
use treegraft_object::{
    CollectionId, Commit, RefName,
    gvariant::{Dict, Variant, parse_text},
};
use treegraft_tree::{CommitRules, HashOptions, RuleError, TarOptions, Tree, read_tar, scan};

use super::Made;
use crate::{clock, environment, error::CommandError};

/// A directory or an archive that becomes a commit.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A directory instead of a repository")]
pub(crate) struct PlainTreeArgs {
    /// Commit this directory to the ref `--branch`
    #[arg(long, value_name = "DIR", group = "plain")]
    tree: Option<PathBuf>,
    /// Commit what is in this tar archive, plain or compressed with gzip; `-` for standard input
    #[arg(long, value_name = "FILE", group = "plain", conflicts_with = "tree")]
    tree_tar: Option<PathBuf>,
    /// Make directories that the archive does not list
    #[arg(long, requires = "tree_tar")]
    tar_autocreate_parents: bool,
    /// User id of all files and directories
    #[arg(long, value_name = "UID", requires = "plain")]
    owner_uid: Option<u32>,
    /// Group id of all files and directories
    #[arg(long, value_name = "GID", requires = "plain")]
    owner_gid: Option<u32>,
    /// Owned by root, writable to its owner alone, no set-user-id or extended attributes
    #[arg(long, requires = "plain", conflicts_with_all = ["owner_uid", "owner_gid"])]
    canonical_permissions: bool,
    /// Commit no extended attributes
    #[arg(long, requires = "plain")]
    no_xattrs: bool,
    /// File with modes: `=MODE PATH` sets one, `MODE PATH` adds bits, in decimal numbers
    #[arg(long, value_name = "FILE", requires = "plain")]
    statoverride: Option<PathBuf>,
    /// File with paths to leave out, one in each line
    #[arg(long, value_name = "FILE", requires = "plain")]
    skip_list: Option<PathBuf>,
    /// Add a text to the commit's metadata
    #[arg(long, value_name = "KEY=TEXT", requires = "plain", value_parser = string_entry)]
    add_metadata_string: Vec<(String, Variant)>,
    /// Add a value to the commit's metadata, in GVariant's text format: `KEY=uint32 7`, `KEY=['a', 'b']`
    #[arg(long, value_name = "KEY=VALUE", requires = "plain", value_parser = value_entry)]
    add_metadata: Vec<(String, Variant)>,
}

/// Reads `KEY=TEXT`.
fn string_entry(text: &str) -> Result<(String, Variant), String> {
    let (key, value) = split(text)?;
    Ok((key.to_owned(), Variant::string(value)))
}

/// Reads `KEY=VALUE`.
fn value_entry(text: &str) -> Result<(String, Variant), String> {
    let (key, value) = split(text)?;
    let value = parse_text(value).map_err(|error| format!("{error}; a text has quotes, `{key}='text'`"))?;
    Ok((key.to_owned(), value))
}

fn split(text: &str) -> Result<(&str, &str), String> {
    let (key, value) = text.split_once('=').ok_or("it has no `=` between key and value")?;
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok((key, value)) }
}

/// What a commit says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    pub(crate) subject: String,
    pub(crate) body: String,
    pub(crate) timestamp_secs: u64,
    pub(crate) bind_refs: Vec<RefName>,
    /// The repository's collection id.
    pub(crate) collection_id: Option<CollectionId>,
}

impl Words {
    /// Takes what the graft will say; the pushed commit itself is only a step on the way.
    pub(crate) fn of(graft: &GraftOptions) -> Self {
        Self {
            subject: graft.subject.clone().unwrap_or_default(),
            body: graft.body.clone().unwrap_or_default(),
            timestamp_secs: graft.timestamp_secs.unwrap_or_else(clock::now_secs),
            bind_refs: graft.bind_refs.clone(),
            collection_id: None,
        }
    }
}

impl PlainTreeArgs {
    pub(crate) const fn is_given(&self) -> bool {
        self.tree.is_some() || self.tree_tar.is_some()
    }

    /// Hashes the tree and makes the commit.
    pub(crate) fn make(&self, branch: &RefName, words: &Words, options: HashOptions<'_>) -> Result<Made, CommandError> {
        let mut made = Made::default();
        let mut tree = Tree::new();
        let mut rules = self.rules()?;
        match (&self.tree, &self.tree_tar) {
            (Some(directory), _) => scan(&mut tree, Tree::ROOT, directory, &mut rules)?,
            (None, Some(path)) => {
                let temporary = environment::temporary_dir();
                let options = TarOptions { makes_parents: self.tar_autocreate_parents, temporary: &temporary };
                read_tar(&mut tree, open_archive(path)?, path, &mut rules, options)?;
            }
            (None, None) => {}
        }
        rules.check().map_err(CommandError::user)?;
        let root = made.objects.add(tree, options)?;
        let mut metadata: Dict = self.add_metadata_string.iter().chain(&self.add_metadata).cloned().collect();
        let mut bound: Vec<&RefName> = words.bind_refs.iter().chain([branch]).collect();
        bound.sort();
        metadata.set(REF_BINDING, Variant::strings(bound));
        if let Some(id) = &words.collection_id {
            metadata.set(COLLECTION_BINDING, Variant::string(id.as_str()));
        }
        let commit = Commit {
            metadata,
            parent: None,
            subject: words.subject.clone(),
            body: words.body.clone(),
            timestamp_secs: words.timestamp_secs,
            root_tree: root.tree,
            root_meta: root.meta,
        };
        made.commits.push((branch.clone(), commit));
        Ok(made)
    }
}

/// Opens a file, or standard input.
fn open_archive(path: &Path) -> Result<fs::File, CommandError> {
    let fail = |source| CommandError::user(UnreadableFile { path: path.to_owned(), source });
    if path == Path::new("-") {
        return io::stdin().as_fd().try_clone_to_owned().map(fs::File::from).map_err(fail);
    }
    fs::File::open(path).map_err(fail)
}

impl PlainTreeArgs {
    fn rules(&self) -> Result<CommitRules, CommandError> {
        let mut rules = CommitRules::default();
        (rules.owner_uid, rules.owner_gid) = (self.owner_uid, self.owner_gid);
        (rules.is_canonical, rules.keeps_xattrs) = (self.canonical_permissions, !self.no_xattrs);
        let read = |path: &Path| {
            fs::read_to_string(path)
                .map_err(|source| CommandError::user(UnreadableFile { path: path.to_owned(), source }))
        };
        if let Some(path) = &self.statoverride {
            let invalid = |source| CommandError::user(InvalidFile { path: path.clone(), source });
            rules.read_modes(&read(path)?).map_err(invalid)?;
        }
        if let Some(path) = &self.skip_list {
            rules.read_skipped(&read(path)?);
        }
        Ok(rules)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("Could not read `{path}`", path = path.display())]
struct UnreadableFile {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug, thiserror::Error)]
#[error("`{path}` is not valid", path = path.display())]
struct InvalidFile {
    path: PathBuf,
    source: RuleError,
}
