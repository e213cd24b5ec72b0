//! The program under the name `ostree-push`: that program's command line, as one of `treegraft push`.

use std::{ffi::OsString, path::Path};

use clap::Parser;
use treegraft_push::Destination;

use crate::{environment, error::CommandError};

/// The name under which the program takes this command line.
pub(crate) const NAME: &str = "ostree-push";

/// What ostree-push starts on the far side, which speaks another protocol than `treegraft receive`.
const RECEIVERS: [&str; 3] = ["ostree-receive", "ostree-receive-0", "ostree-receive-1"];

const DIFFERENCES: &str = "\
This is treegraft, called as ostree-push; the server needs treegraft as well. Other than with ostree-push:

  - A commit that is older than the head of its ref is an error and not a success, and no ref of the push moves then.
    `--command 'ostree-receive -f'` lets it in, where the server allows that.
  - A dry run sends nothing.
  - The far side is `treegraft receive`. A COMMAND that is one of ostree-push's receivers stands for it; any other one
    is called instead of `treegraft`, and there can be only one.
  - No port is opened on either side, and the local summary is not written.";

/// Push ostree refs to a remote repository
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = DIFFERENCES)]
struct OstreePushArgs {
    /// Remote host and repository: `[USER@]HOST:PATH` or `ssh://[USER@]HOST[:PORT]/PATH`
    #[arg(value_name = "DEST")]
    destination: String,
    /// Refs to push, all if none is specified
    #[arg(value_name = "REF")]
    refs: Vec<String>,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Port of the ssh server; it wins over the one in DEST
    #[arg(short, value_name = "PORT")]
    port: Option<u16>,
    /// Disable most messages
    #[arg(short, long, overrides_with = "verbose")]
    quiet: bool,
    /// Enable verbose messages
    #[arg(short, long, overrides_with = "quiet")]
    verbose: bool,
    /// Local repository [default: the current directory, if it is one, else that of the system]
    #[arg(long, value_name = "PATH")]
    repo: Option<OsString>,
    /// Command on the far side
    #[arg(long, value_name = "COMMAND")]
    command: Vec<String>,
    /// File with the private key, as for `ssh -i`
    #[arg(short, value_name = "FILE")]
    identity: Option<OsString>,
    /// Option, as for `ssh -o`; more than once
    #[arg(short = 'o', value_name = "OPTION")]
    ssh_option: Vec<OsString>,
}

/// Tells whether the program was called under this name.
pub(crate) fn is_meant(program: Option<&OsString>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == NAME))
}

/// Why a command line was not translated.
pub(crate) enum NotTranslated {
    /// It is not valid, or asks for help.
    Clap(clap::Error),
    /// It asks for something that cannot be done.
    Command(CommandError),
}

/// Writes the command line as one of `treegraft`.
pub(crate) fn translated(arguments: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, NotTranslated> {
    let args = OstreePushArgs::try_parse_from(arguments).map_err(NotTranslated::Clap)?;
    let repo = args.repo.clone().unwrap_or_else(|| environment::default_repo().into());
    translate(args, repo).map_err(NotTranslated::Command)
}

fn translate(args: OstreePushArgs, repo: OsString) -> Result<Vec<OsString>, CommandError> {
    if matches!(args.destination.parse()?, Destination::Local(_)) {
        let message = format!("The destination `{}` is not in the form `HOST:PATH`", args.destination);
        return Err(CommandError::usage(message).hint("for a repository on this machine call `treegraft push`"));
    }
    let far_side = FarSide::of(&args.command)?;
    let mut line: Vec<OsString> = ["treegraft", "push", "--repo"].map(OsString::from).into();
    line.push(repo);
    let flags = [
        ("--dry-run", args.dry_run || far_side.is_dry_run),
        ("--allow-older", far_side.is_forced),
        ("--quiet", args.quiet),
        ("--verbose", args.verbose),
    ];
    line.extend(flags.iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| OsString::from(flag)));
    let mut option = |name: &str, value: OsString| {
        // In one word, so that a value that begins with `-` stays a value.
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value);
        line.push(word);
    };
    if let Some(port) = args.port {
        option("--port", port.to_string().into());
    }
    if let Some(identity) = args.identity {
        option("--identity", identity);
    }
    for value in args.ssh_option {
        option("--ssh-option", value);
    }
    if let Some(command) = far_side.command {
        option("--remote-command", command.into());
    }
    line.push("--".into());
    line.push(args.destination.into());
    line.extend(args.refs.into_iter().map(OsString::from));
    Ok(line)
}

/// What `--command` asks for.
#[derive(Default)]
struct FarSide {
    command: Option<String>,
    is_forced: bool,
    is_dry_run: bool,
}

impl FarSide {
    fn of(commands: &[String]) -> Result<Self, CommandError> {
        let mut far_side = Self::default();
        for command in commands {
            let mut words = command.split_whitespace();
            let program = words.next().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
            if !RECEIVERS.contains(&program) {
                if far_side.command.replace(command.clone()).is_some() {
                    return Err(CommandError::usage("Of several commands on the far side only one can be called"));
                }
                continue;
            }
            for word in words {
                match word {
                    "-f" | "--force" => far_side.is_forced = true,
                    "-n" | "--dry-run" => far_side.is_dry_run = true,
                    "-q" | "--quiet" | "-v" | "--verbose" => {}
                    _ => {
                        let message = format!("The option `{word}` of `{program}` has no counterpart");
                        return Err(CommandError::usage(message)
                            .hint("what happens after a push is decided by the server's configuration"));
                    }
                }
            }
        }
        Ok(far_side)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn translated(line: &str) -> Result<String, String> {
        let args = OstreePushArgs::try_parse_from(["ostree-push"].into_iter().chain(line.split('|')))
            .map_err(|error| error.kind().to_string())?;
        let line = translate(args, "REPO".into()).map_err(|error| error.message())?;
        Ok(line.join(&OsString::from(" ")).into_string().expect("it is UTF-8"))
    }

    #[test]
    fn the_command_line_is_sound() {
        OstreePushArgs::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_counterpart() {
        for (line, expected) in [
            ("host:repo", "-- host:repo"),
            ("ci@host:/srv/repo|a|b/c", "-- ci@host:/srv/repo a b/c"),
            ("ssh://ci@host:22/srv/repo", "-- ssh://ci@host:22/srv/repo"),
            ("-n|host:repo", "--dry-run -- host:repo"),
            ("host:repo|--dry-run|a", "--dry-run -- host:repo a"),
            ("-p|2222|host:repo", "--port=2222 -- host:repo"),
            ("-q|host:repo", "--quiet -- host:repo"),
            ("-q|-v|host:repo", "--verbose -- host:repo"),
            ("-v|-q|host:repo", "--quiet -- host:repo"),
            ("-i|key|-o|A=b|-oC=d|host:repo", "--identity=key --ssh-option=A=b --ssh-option=C=d -- host:repo"),
            ("--command|ostree-receive-1|--command|ostree-receive|host:repo", "-- host:repo"),
            ("--command|/opt/bin/ostree-receive -f -v|host:repo", "--allow-older -- host:repo"),
            ("--command|ostree-receive --dry-run|host:repo", "--dry-run -- host:repo"),
            ("--command|/opt/treegraft|host:repo", "--remote-command=/opt/treegraft -- host:repo"),
        ] {
            assert_eq!(translated(line), Ok(format!("treegraft push --repo REPO {expected}")), "`{line}`");
        }
    }

    #[test]
    fn what_has_no_counterpart_is_said() {
        for (line, told) in [
            ("/srv/repo", "not in the form `HOST:PATH`"),
            ("repo", "not in the form `HOST:PATH`"),
            ("https://host/repo", "has the scheme `https`"),
            ("--command|ostree-receive --no-update|host:repo", "has no counterpart"),
            ("--command|a|--command|b|host:repo", "only one can be called"),
        ] {
            let error = translated(line).expect_err("it cannot be done");
            assert!(error.contains(told), "`{line}`: {error}");
        }
        for line in ["", "-i|a|-i|b|host:repo", "--unknown|host:repo", "-p|no|host:repo"] {
            assert!(translated(line).is_err(), "`{line}` is no command line of ostree-push either");
        }
    }
}
