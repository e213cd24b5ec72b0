//! `treegraft commit`: commits a directory to a local repository.

use clap::Args;
use treegraft_object::RefName;
use treegraft_tree::HashOptions;

use super::{
    push::timestamp_secs,
    tree::{
        HashArgs, local,
        plain::{PlainTreeArgs, Words},
    },
};
use crate::{cli::GlobalArgs, clock, error::CommandError, exit::Exit, ui::Ui};

const EXAMPLES: &str = "\
Example:

  treegraft commit --repo build/repo --tree build/root --branch os/x86_64/stable";

/// Commit a directory to a repository on this machine
///
/// The commit is the one that `ostree commit --tree=dir=DIR` makes, on top of what the ref has. Files are hashed and
/// compressed on all cores, and only those that the repository does not have. The repository is in archive or bare-user
/// mode; an archive repository is made where there is none.
///
/// To publish on a server, `treegraft push --tree` needs no repository in between.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    tree: PlainTreeArgs,
    /// Ref to commit to
    #[arg(long, short, value_name = "REF")]
    branch: RefName,
    /// Further ref that the commit may be published as
    #[arg(long, value_name = "REF")]
    bind_ref: Vec<RefName>,
    /// Subject
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    subject: String,
    /// Body
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "")]
    body: String,
    /// Time: `now`, `@SECONDS` since 1970, or a date like `2026-01-31T12:00:00Z` [default: now]
    #[arg(long, value_name = "TIME", value_parser = timestamp_secs)]
    timestamp: Option<u64>,
    #[command(flatten)]
    hash: HashArgs,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: CommitArgs) -> Result<Exit, CommandError> {
    if !args.tree.is_given() {
        return Err(CommandError::usage("There is nothing to commit").hint("name a directory with `--tree DIR`"));
    }
    let repo = local::open_or_init(global.repo_path(), None)?;
    let words = Words {
        subject: args.subject,
        body: args.body,
        timestamp_secs: args.timestamp.unwrap_or_else(clock::now_secs),
        bind_refs: args.bind_ref,
        collection_id: repo.collection_id().cloned(),
    };
    let make = |options: HashOptions<'_>| args.tree.make(&args.branch, &words, options);
    local::make_and_commit(ui, &repo, &args.hash, make)?.write(ui)
}
