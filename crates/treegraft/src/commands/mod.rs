//! One file per command.

use crate::{
    cli::{Command, GlobalArgs},
    error::CommandError,
    exit::Exit,
    ui::Ui,
};

pub(crate) mod caller;
pub(crate) mod check_program;
pub(crate) mod commit;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod fsck;
pub(crate) mod generate;
pub(crate) mod init;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod push;
pub(crate) mod receive;
pub(crate) mod refs;
pub(crate) mod shell;
pub(crate) mod show;
pub(crate) mod summary;
pub(crate) mod tree;

/// Runs a command.
pub(crate) fn run(ui: Ui, global: &GlobalArgs, command: Command) -> Result<Exit, CommandError> {
    match command {
        Command::Push(args) => push::run(ui, global, *args),
        Command::Receive(args) => receive::run(ui, global, &args),
        Command::Shell(args) => shell::run(ui, global, &args),
        Command::Commit(args) => commit::run(ui, global, *args),
        Command::Export(args) => export::run(ui, global, *args),
        Command::Init(args) => init::run(ui, global, &args),
        Command::Refs(args) => refs::run(ui, global, &args),
        Command::Log(args) => log::run(ui, global, &args),
        Command::Show(args) => show::run(ui, global, &args),
        Command::Ls(args) => ls::run(ui, global, &args),
        Command::Diff(args) => diff::run(ui, global, &args),
        Command::Summary(args) => summary::run(ui, global, &args),
        Command::Fsck(args) => fsck::run(ui, global, &args),
        Command::Prune(args) => prune::run(ui, global, &args),
        Command::Demo(args) => demo::run(ui, global, &args),
        Command::CheckProgram(args) => check_program::run(global, &args),
        Command::Generate(args) => generate::run(ui, global, &args),
    }
}
