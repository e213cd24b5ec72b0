//! `treegraft check-program`: what a server runs once to be sure of a program that it was given.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use treegraft_object::Checksum;

use crate::{cli::GlobalArgs, error::CommandError, exit::Exit};

/// Check that a file has a checksum, and write it to the disk
///
/// The script that brings a program to a server calls this: a server may have no tool for checksums, and none that
/// writes a single file to the disk.
#[derive(Debug, Args)]
pub(crate) struct CheckProgramArgs {
    /// File to check
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// SHA-256 that it must have
    #[arg(value_name = "CHECKSUM")]
    checksum: Checksum,
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("Could not use the file `{path}`", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("The file `{path}` has another checksum: {found}", path = path.display())]
    Checksum { path: PathBuf, found: Checksum },
}

pub(crate) fn run(global: &GlobalArgs, args: &CheckProgramArgs) -> Result<Exit, CommandError> {
    global.refuse_repo("it works on no repository")?;
    let found = written(&args.file)
        .map_err(|source| CommandError::user(CheckError::File { path: args.file.clone(), source }))?;
    if found == args.checksum {
        return Ok(Exit::Done);
    }
    Err(CommandError::user(CheckError::Checksum { path: args.file.clone(), found }))
}

/// Makes a file durable and returns its checksum.
fn written(path: &Path) -> io::Result<Checksum> {
    let mut file = File::open(path)?;
    file.sync_all()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Checksum::of(&bytes))
}
