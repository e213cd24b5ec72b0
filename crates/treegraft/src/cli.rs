//! The command line as a whole: global options, the commands, and how the program ends.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use treegraft_repo::Repo;

use crate::{
    commands,
    environment::Environment,
    error::CommandError,
    exit::Exit,
    ostree_push::{self, NotTranslated},
    ui::{Format, Ui, Verbosity},
};

/// The repository that is meant when none is named.
const DEFAULT_REPO: &str = ".";

const EXAMPLES: &str = "\
Publish everything that was built to a server:

  treegraft push --repo build/repo ci@example.org:/srv/repo

See all of it on this machine, with nothing else installed:

  treegraft demo

Exit codes:

  0   done
  1   failed
  2   wrong usage
  3   nobody reads the output any more
  4   failed, but another try may succeed
  70  a mistake in treegraft";

/// Publish OSTree and Flatpak builds from CI to a permanent repository server
///
/// A build in CI ends with commits in an OSTree repository that is gone with the machine. `treegraft push` sends them
/// over ssh to the server's repository: only the objects that it lacks, each one checked on arrival. The server puts them
/// on top of what it has, signs them with a key that the worker never sees, and makes all refs visible at once.
#[derive(Debug, Parser)]
#[command(after_long_help = EXAMPLES)]
#[command(name = "treegraft", version, propagate_version = false)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command understands, before or behind its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// OSTree repository to work on [default: the current directory]
    #[arg(long, value_name = "PATH", global = true)]
    repo: Option<PathBuf>,
    /// Write the result as one JSON document, an error as well
    #[arg(long, global = true)]
    json: bool,
    /// Say more: whole checksums, lists
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Say nothing unless it fails
    #[arg(long, short, global = true)]
    quiet: bool,
}

impl GlobalArgs {
    /// Returns what was given with `--repo`.
    pub(crate) fn named_repo(&self) -> Option<&Path> {
        self.repo.as_deref()
    }

    /// Returns the path of the repository to work on.
    pub(crate) fn repo_path(&self) -> &Path {
        self.repo.as_deref().unwrap_or(Path::new(DEFAULT_REPO))
    }

    /// Opens the repository to work on.
    pub(crate) fn open_repo(&self) -> Result<Repo, CommandError> {
        Ok(Repo::open(self.repo_path())?)
    }

    /// Refuses `--repo` for a command that has another way to say it, or no repository at all.
    pub(crate) fn refuse_repo(&self, instead: &'static str) -> Result<(), CommandError> {
        match self.repo {
            Some(_) => Err(CommandError::usage("The option `--repo` means nothing for this command").hint(instead)),
            None => Ok(()),
        }
    }

    fn ui(&self, environment: Environment) -> Ui {
        let format = if self.json { Format::Json } else { Format::Text };
        let verbosity = match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        };
        Ui::new(format, verbosity, environment)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Push(Box<commands::push::PushArgs>),
    Export(Box<commands::export::ExportArgs>),
    Commit(Box<commands::commit::CommitArgs>),
    Receive(commands::receive::ReceiveArgs),
    Shell(commands::shell::ShellArgs),
    Init(commands::init::InitArgs),
    Refs(commands::refs::RefsArgs),
    Log(commands::log::LogArgs),
    Show(commands::show::ShowArgs),
    Ls(commands::ls::LsArgs),
    Diff(commands::diff::DiffArgs),
    Summary(commands::summary::SummaryArgs),
    Fsck(commands::fsck::FsckArgs),
    Prune(commands::prune::PruneArgs),
    Demo(commands::demo::DemoArgs),
    #[command(hide = true)]
    CheckProgram(commands::check_program::CheckProgramArgs),
    #[command(hide = true)]
    Generate(commands::generate::GenerateArgs),
}

/// Runs the program with its own arguments.
pub(crate) fn main() -> Exit {
    let environment = Environment::read();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed = if ostree_push::is_meant(arguments.first()) {
        match ostree_push::translated(arguments.into_iter()) {
            Ok(arguments) => parse(arguments.into_iter()),
            Err(NotTranslated::Clap(error)) => Err(error),
            Err(NotTranslated::Command(error)) => {
                Ui::new(Format::Text, Verbosity::Normal, environment).error(&error);
                return error.kind().exit();
            }
        }
    } else {
        parse(commands::shell::with_own_name(arguments).into_iter())
    };
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // It knows itself whether it is help for standard output or an error; nobody is left to hear that it fails.
            let _ = error.print();
            if !error.use_stderr() {
                return Exit::Done;
            }
            if std::env::args_os().any(|argument| argument == "--json") {
                Ui::new(Format::Json, Verbosity::Normal, environment).error_document(&usage_error(&error));
            }
            return Exit::Usage;
        }
    };
    let ui = cli.global.ui(environment);
    commands::run(ui, &cli.global, cli.command).unwrap_or_else(|error| {
        ui.error(&error);
        error.kind().exit()
    })
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&Cli::command().try_get_matches_from(arguments)?)
}

/// Takes what is wrong out of a message that goes on with the usage.
fn usage_error(error: &clap::Error) -> CommandError {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    CommandError::usage(message.strip_prefix("error: ").unwrap_or(message).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
