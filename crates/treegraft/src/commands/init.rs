//! `treegraft init`: makes a repository to push to.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use treegraft_object::CollectionId;
use treegraft_repo::Repo;

use crate::{cli::GlobalArgs, error::CommandError, exit::Exit, ui::Ui};

const EXAMPLES: &str = "\
Example:

  treegraft init /srv/repo";

/// Make an empty repository to push to
///
/// The repository is in archive mode, the only one that can be served to clients over HTTP. It is an ordinary OSTree
/// repository: `ostree` and `flatpak` work with it.
///
/// With a collection id, every commit that is pushed is bound to it; Flatpak clients can then take updates from other
/// places than this server. It cannot be changed later without breaking those clients.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Directory of the new repository, which may exist if it is empty
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Collection id of the refs, like `org.example.Apps`
    #[arg(long, value_name = "ID")]
    collection_id: Option<CollectionId>,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &InitArgs) -> Result<Exit, CommandError> {
    let path = match (&args.path, global.named_repo()) {
        (Some(path), None) => path,
        (None, Some(path)) => path,
        (Some(_), Some(_)) => {
            return Err(CommandError::usage("The repository is named twice, as PATH and with `--repo`"));
        }
        (None, None) => {
            return Err(CommandError::usage("The command needs the PATH of the new repository")
                .hint("for example `treegraft init /srv/repo`"));
        }
    };
    let repo = Repo::init(path, args.collection_id.as_ref())?;
    if ui.is_json() {
        ui.json(
            &json!({ "path": repo.path(), "mode": repo.mode().to_string(), "collection_id": repo.collection_id() }),
        )?;
        return Ok(Exit::Done);
    }
    let mut out = ui.stdout();
    out.line(format_args!("Made an empty repository at `{}`", repo.path().display()))?;
    out.finish()?;
    Ok(Exit::Done)
}
