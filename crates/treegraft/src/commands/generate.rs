//! `treegraft generate`: writes the reference, manual pages and completions from the command line itself.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory, ValueEnum as _};
use clap_complete::Shell;

use crate::{
    cli::{Cli, GlobalArgs},
    error::CommandError,
    exit::Exit,
    ui::Ui,
};

/// Width of the reference in columns, whatever the terminal's.
const REFERENCE_COLUMNS: usize = 100;

/// Write the reference, manual pages and completions
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Directory to write to; it is made if it does not exist
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
}

/// A generated file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("Could not write `{path}`", path = path.display())]
struct GenerateError {
    path: PathBuf,
    source: io::Error,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &GenerateArgs) -> Result<Exit, CommandError> {
    global.refuse_repo("it works on no repository")?;
    let out = &args.out_dir;
    write(&out.join("cli.md"), reference().as_bytes())?;
    write(&out.join("server.toml"), server_reference().as_bytes())?;
    let command = built_command();
    let man = out.join("man");
    make_dir(&man)?;
    clap_mangen::generate_to(command.clone(), &man).map_err(|source| failure(&man, source))?;
    let completions = out.join("completions");
    make_dir(&completions)?;
    for &shell in Shell::value_variants() {
        let mut command = command.clone();
        clap_complete::generate_to(shell, &mut command, "treegraft", &completions)
            .map_err(|source| failure(&completions, source))?;
    }
    ui.status(format_args!("Wrote `{}`", out.display()));
    Ok(Exit::Done)
}

fn built_command() -> Command {
    let mut command = Cli::command().term_width(REFERENCE_COLUMNS);
    command.build();
    command
}

/// Returns the reference of the command line in Markdown.
fn reference() -> String {
    let mut text = String::from(
        "# Command line\n\n<!-- Written by `treegraft generate`; `cargo xtask docs` brings it up to date. Manual pages and \
         completions for shells\n     come from the same command, and are made for a release only. -->\n",
    );
    append(&mut text, &built_command());
    text
}

fn append(text: &mut String, command: &Command) {
    let name = command.get_bin_name().unwrap_or("treegraft").to_owned();
    let mut command = command.clone().term_width(REFERENCE_COLUMNS);
    let help = command.render_long_help().to_string();
    let _ = write!(text, "\n## `{name}`\n\n```text\n");
    for line in help.trim_end().lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str("```\n");
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        append(text, subcommand);
    }
}

/// Returns the reference of the server's configuration.
fn server_reference() -> String {
    treegraft_server::config::reference()
}

fn make_dir(path: &Path) -> Result<(), CommandError> {
    fs::create_dir_all(path).map_err(|source| failure(path, source))
}

fn write(path: &Path, data: &[u8]) -> Result<(), CommandError> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    fs::write(path, data).map_err(|source| failure(path, source))
}

fn failure(path: &Path, source: io::Error) -> CommandError {
    CommandError::user(GenerateError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when help texts or settings were changed without `cargo xtask docs`.
    #[test]
    fn the_committed_reference_is_what_would_be_generated() {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
        for (file, generated) in [("cli.md", reference()), ("server.toml", server_reference())] {
            let text = fs::read_to_string(committed.join(file)).expect("the reference is committed");
            assert!(text == generated, "docs/reference/{file} is out of date: run `cargo xtask docs`");
        }
    }
}
