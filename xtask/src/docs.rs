//! `cargo xtask docs`: the reference of the command line, as the program itself writes it.

use std::fs;
use std::path::Path;

use clap::Args;

use crate::{TaskError, shell};

/// Where the reference is kept, relative to the root of the workspace.
const REFERENCE_FOLDER: &str = "docs/reference";
/// The page of the reference that is committed; manual pages and completions are made for a release.
const COMMITTED_PAGE: &str = "cli.md";

/// Generate the reference of the command line.
#[derive(Debug, Args)]
pub(crate) struct DocsArgs {
    /// Change nothing, and fail when the committed page is not what the program generates now.
    #[arg(long)]
    check: bool,
}

/// Generates the reference, or compares the committed page with what would be generated.
pub(crate) fn run(args: &DocsArgs) -> Result<(), TaskError> {
    let committed_folder = shell::root().join(REFERENCE_FOLDER);
    if !args.check {
        return generate(&committed_folder);
    }
    let fresh = tempfile::tempdir().map_err(|source| TaskError::File {
        verb: "make a folder in",
        path: std::env::temp_dir().display().to_string(),
        source,
    })?;
    generate(fresh.path())?;
    if read(&committed_folder.join(COMMITTED_PAGE))? == read(&fresh.path().join(COMMITTED_PAGE))? {
        Ok(())
    } else {
        Err(TaskError::StalePage { path: format!("{REFERENCE_FOLDER}/{COMMITTED_PAGE}") })
    }
}

fn generate(folder: &Path) -> Result<(), TaskError> {
    let program = ["run", "--quiet", "--locked", "--package", "treegraft", "--", "generate", "--out-dir"];
    shell::run(shell::cargo().args(program).arg(folder))
}

fn read(path: &Path) -> Result<Vec<u8>, TaskError> {
    fs::read(path).map_err(|source| TaskError::File { verb: "read", path: path.display().to_string(), source })
}
