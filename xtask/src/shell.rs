//! Runs programs from the root of the workspace and shows what is run.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use crate::TaskError;

/// Returns the root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Returns the folder that cargo builds in.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Makes a command that starts in the root of the workspace and has no standard input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Makes a command of the cargo that runs this task.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Shows the command, runs it with the terminal as its output, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<(), TaskError> {
    let command_line = command_line(command);
    println!("$ {command_line}");
    let status = command.status().map_err(|source| TaskError::Start { command_line: command_line.clone(), source })?;
    if status.success() { Ok(()) } else { Err(TaskError::Failed { command_line, status }) }
}

/// Runs the command without showing it and returns its standard output; fails unless it succeeds.
pub(crate) fn read(command: &mut Command) -> Result<Vec<u8>, TaskError> {
    let command_line = command_line(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| TaskError::Start { command_line: command_line.clone(), source })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(TaskError::Failed { command_line, status: output.status })
    }
}

/// Runs the command without showing it, with what `write` writes as its standard input; fails unless it succeeds.
pub(crate) fn feed(command: &mut Command, write: impl FnOnce(ChildStdin) -> io::Result<()>) -> Result<(), TaskError> {
    let command_line = command_line(command);
    let failed = |source| TaskError::Start { command_line: command_line.clone(), source };
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(failed)?;
    let written = write(child.stdin.take().expect("it is a pipe"));
    let status = child.wait().map_err(failed)?;
    // A program that fails reads no further, which is no cause of its own.
    if !status.success() {
        return Err(TaskError::Failed { command_line, status });
    }
    written.map_err(failed)
}

fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words: Vec<_> = std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
