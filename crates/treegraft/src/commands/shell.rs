//! `treegraft shell`: a login that can do nothing but push.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use treegraft_wire::{ApiError, ErrorCode, login_command};

use super::{caller::CallerArgs, receive};
use crate::{cli::GlobalArgs, environment, error::CommandError, exit::Exit, server_side::ServerSide, ui::Ui};

/// The name under which the program is a login shell, which gets no other arguments than a command.
const NAME: &str = "treegraft-shell";

const EXAMPLES: &str = "\
For one key, which may push to every repository that the server's configuration
names, write this line into `~/.ssh/authorized_keys`:

  restrict,command=\"treegraft shell --as ci\" ssh-ed25519 AAAA… ci@example.org

For all keys of an account, make it the login shell; they have no names then:

  ln -s treegraft /usr/local/bin/treegraft-shell
  chsh -s /usr/local/bin/treegraft-shell ci";

/// Let a login push, and nothing else
///
/// The command that the client asks for is read, not run: it must be the one of `treegraft push`, and the repository in it
/// one that the server's configuration has an entry for. Nothing that the client sends as environment gets any further.
///
/// The options only ever take away from what the server's configuration allows.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ShellArgs {
    /// Command that the client asks for [default: that of the ssh session]
    #[arg(short = 'c', value_name = "COMMAND", allow_hyphen_values = true)]
    command: Option<OsString>,
    /// Configuration of the server [default: /etc/treegraft/server.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Configuration of ostree-push's receiver, instead of one of treegraft's [default: where ostree-push has it, if there is
    /// no /etc/treegraft/server.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    ostree_receive_conf: Option<PathBuf>,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Why nothing is done for a client.
#[derive(Debug, thiserror::Error)]
enum ShellError {
    #[error("Hello! This login takes pushes of `treegraft push`, and there is no shell behind it")]
    Interactive,
    #[error("This login takes pushes of `treegraft push` only, and runs no other command")]
    OtherCommand,
    #[error("Could not start the receiver")]
    Start(#[source] io::Error),
}

/// Inserts the name of the command where the program was called as a login shell. sshd writes a dash before the name for a
/// login without a command.
pub(crate) fn with_own_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|program| Path::new(program).file_name()).map(OsStr::to_string_lossy);
    if name.is_some_and(|name| name.strip_prefix('-').unwrap_or(&name) == NAME) {
        arguments.insert(1, "shell".into());
    }
    arguments
}

pub(crate) fn run(_: Ui, global: &GlobalArgs, args: &ShellArgs) -> Result<Exit, CommandError> {
    global.refuse_repo("the client names the repository, and the server's configuration must have an entry for it")?;
    let Some(command) = args.command.clone().or_else(environment::original_command) else {
        return Err(CommandError::user(ShellError::Interactive)
            .hint("on the machine that has the build, call `treegraft push USER@HOST:PATH`"));
    };
    let Some(asked) = command.to_str().and_then(login_command::requested_path) else {
        return Err(CommandError::user(ShellError::OtherCommand));
    };
    match repository(args, Path::new(&asked)) {
        Ok(Some(path)) => become_receiver(args, &path).map(|never| match never {}),
        Ok(None) => receive::serve(Err(unknown(&asked))),
        Err(error) => receive::serve(Err(receive::refusal(&error))),
    }
}

/// Returns the path that the configuration has for what the client asks for.
fn repository(args: &ShellArgs, asked: &Path) -> Result<Option<PathBuf>, CommandError> {
    let server = ServerSide::read(args.config.as_deref(), args.ostree_receive_conf.as_deref())?;
    Ok(server.named(asked))
}

fn unknown(asked: &str) -> ApiError {
    let shown: String = asked.chars().flat_map(char::escape_debug).collect();
    ApiError::new(ErrorCode::NotAllowed, format!("There is no repository `{shown}` to push to"))
        .hint("repositories need an entry in the server's configuration; its administrator can change that")
}

/// Goes on as `treegraft receive` for this repository, with nothing of the client's environment.
fn become_receiver(args: &ShellArgs, path: &Path) -> Result<Infallible, CommandError> {
    let mut command = Command::new(environment::running_program());
    command.arg0("treegraft").arg("receive").args(args.caller.command_line());
    for (option, file) in [("--config", &args.config), ("--ostree-receive-conf", &args.ostree_receive_conf)] {
        if let Some(file) = file {
            command.arg(option).arg(file);
        }
    }
    command.arg("--repo").arg(path).env_clear().envs(environment::of_login());
    Err(CommandError::user(ShellError::Start(command.exec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_shell_is_called_by_its_name() {
        let called = |line: &str| {
            let words = with_own_name(line.split(' ').map(OsString::from).collect());
            words.join(OsStr::new(" ")).into_string().expect("it is UTF-8")
        };
        assert_eq!(called("treegraft-shell -c ls"), "treegraft-shell shell -c ls");
        assert_eq!(called("/usr/bin/treegraft-shell -c ls"), "/usr/bin/treegraft-shell shell -c ls");
        assert_eq!(called("-treegraft-shell"), "-treegraft-shell shell", "a login without a command");
        assert_eq!(called("treegraft push"), "treegraft push", "the usual name");
        assert_eq!(called("treegraft-shells x"), "treegraft-shells x", "another name");
    }
}
