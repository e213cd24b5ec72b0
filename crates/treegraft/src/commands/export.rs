//! `treegraft export`: commits a flatpak build directory to a local repository.

use std::path::PathBuf;

use clap::Args;
use treegraft_flatpak::{AppId, CommitWords};
use treegraft_object::CollectionId;
use treegraft_repo::Mode;
use treegraft_tree::HashOptions;

use super::{
    push::{carry::local_receiver, timestamp_secs},
    tree::{
        HashArgs,
        build_dir::{self, BuildDirArgs},
        local,
    },
};
use crate::{cli::GlobalArgs, clock, error::CommandError, exit::Exit, ui::Ui};

const EXAMPLES: &str = "\
Example:

  treegraft export build/org.example.App repo stable";

/// Commit a flatpak build directory to a repository on this machine
///
/// BUILDDIR is what `flatpak build-finish` or flatpak-builder leave. The commit is the one that `flatpak build-export`
/// makes, on top of what the ref has; what flatpak-builder has taken out of the build (translations, debug information,
/// sources, the runtime of an SDK) is exported as well. Files are hashed and compressed on all cores, and only those that
/// the repository does not have.
///
/// To publish on a server, `treegraft push --build-dir` needs no repository in between.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// The build directory
    #[arg(value_name = "BUILDDIR")]
    build_dir: PathBuf,
    /// Repository to commit to, which is made if there is none [default: that of `--repo`]
    #[arg(value_name = "REPO")]
    repository: Option<PathBuf>,
    /// Branch [default: master]
    #[arg(value_name = "BRANCH")]
    branch: Option<String>,
    /// Subject [default: `Export ID`]
    #[arg(long, short, value_name = "TEXT")]
    subject: Option<String>,
    /// Body [default: id, architecture and branch]
    #[arg(long, short, value_name = "TEXT")]
    body: Option<String>,
    /// Time: `now`, `@SECONDS` since 1970, or a date like `2026-01-31T12:00:00Z` [default: now]
    #[arg(long, value_name = "TIME", value_parser = timestamp_secs)]
    timestamp: Option<u64>,
    /// Collection id, which must be the repository's
    #[arg(long, value_name = "ID")]
    collection_id: Option<CollectionId>,
    /// Reason why the ref gets no more updates
    #[arg(long, value_name = "REASON")]
    end_of_life: Option<String>,
    /// Id that clients move to
    #[arg(long, value_name = "ID")]
    end_of_life_rebase: Option<AppId>,
    /// Type of token that clients need for downloading, 0 for none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    token_type: Option<i32>,
    /// Subset of the repository that the commit belongs to
    #[arg(long, value_name = "SUBSET")]
    subset: Vec<String>,
    /// Leave the summary as it is
    #[arg(long)]
    no_update_summary: bool,
    #[command(flatten)]
    build: BuildDirArgs,
    #[command(flatten)]
    hash: HashArgs,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: ExportArgs) -> Result<Exit, CommandError> {
    let path = match (args.repository, global.named_repo()) {
        (Some(path), None) => path,
        (None, Some(path)) => path.to_owned(),
        (Some(_), Some(_)) => {
            return Err(CommandError::usage("The repository is named twice, as REPO and with `--repo`"));
        }
        (None, None) => {
            return Err(CommandError::usage("The command needs the REPO to commit to")
                .hint("for example `treegraft export build repo`"));
        }
    };
    let builds = args.build.open(ui, &[args.build_dir], args.branch.as_deref())?;
    let repo = local::open_or_init(&path, args.collection_id.as_ref())?;
    if args.collection_id.is_some() && args.collection_id.as_ref() != repo.collection_id() {
        return Err(CommandError::user(OtherCollection {
            asked: args.collection_id.map(|id| id.to_string()).unwrap_or_default(),
            found: repo.collection_id().map_or_else(|| "none".to_owned(), |id| format!("`{id}`")),
        }));
    }
    let words = CommitWords {
        subject: args.subject,
        body: args.body,
        timestamp_secs: args.timestamp.unwrap_or_else(clock::now_secs),
        collection_id: repo.collection_id().cloned(),
        end_of_life: args.end_of_life,
        end_of_life_rebase: args.end_of_life_rebase,
        token_type: args.token_type,
        subsets: args.subset,
    };
    let make = |options: HashOptions<'_>| build_dir::make(&builds, &words, options);
    let committed = local::make_and_commit(ui, &repo, &args.hash, make)?;
    if !args.no_update_summary && repo.mode() == Mode::Archive {
        local_receiver(&path, None)?.update_summary(&mut |_| ())?;
    }
    committed.write(ui)
}

/// The repository has another collection id than was asked for.
#[derive(Debug, thiserror::Error)]
#[error("The collection id `{asked}` is not the repository's, which is {found}")]
struct OtherCollection {
    asked: String,
    found: String,
}
