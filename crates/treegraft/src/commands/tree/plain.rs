//! A plain tree, as `ostree commit` takes it.

use std::path::PathBuf;

use clap::Args;
use treegraft_flatpak::{COLLECTION_BINDING, GraftOptions, REF_BINDING};
use treegraft_object::{
    CollectionId, Commit, RefName,
    gvariant::{Dict, Variant},
};
use treegraft_tree::{Attributes, HashOptions, Rules, Tree, scan};

use super::Made;
use crate::{clock, error::CommandError};

/// A directory or an archive that becomes a commit.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A directory instead of a repository")]
pub(crate) struct PlainTreeArgs {
    /// Commit this directory to the ref `--branch`
    #[arg(long, value_name = "DIR")]
    pub(crate) tree: Option<PathBuf>,
    /// User id of all files and directories
    #[arg(long, value_name = "UID", requires = "tree")]
    owner_uid: Option<u32>,
    /// Group id of all files and directories
    #[arg(long, value_name = "GID", requires = "tree")]
    owner_gid: Option<u32>,
    /// Commit no extended attributes
    #[arg(long, requires = "tree")]
    no_xattrs: bool,
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
        self.tree.is_some()
    }

    /// Hashes the tree and makes the commit.
    pub(crate) fn make(&self, branch: &RefName, words: &Words, options: HashOptions<'_>) -> Result<Made, CommandError> {
        let mut made = Made::default();
        let mut tree = Tree::new();
        if let Some(directory) = &self.tree {
            let mut rules = Plain { args: self };
            scan(&mut tree, Tree::ROOT, directory, &mut rules)?;
        }
        let root = made.objects.add(tree, options)?;
        let mut metadata = Dict::new();
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

struct Plain<'a> {
    args: &'a PlainTreeArgs,
}

impl Rules for Plain<'_> {
    fn apply(&mut self, _path: &str, found: Attributes) -> Option<Attributes> {
        let uid = self.args.owner_uid.unwrap_or(found.uid);
        let gid = self.args.owner_gid.unwrap_or(found.gid);
        Some(Attributes { uid, gid, mode: found.mode })
    }

    fn keeps_xattrs(&self) -> bool {
        !self.args.no_xattrs
    }
}
