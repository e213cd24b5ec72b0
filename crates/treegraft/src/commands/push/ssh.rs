//! The options of a push over ssh.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use clap::Args;
use data_encoding::HEXLOWER;
use treegraft_push::{
    Bootstrap, SshOptions, SshTarget,
    carrier::bootstrap::{Program, ProgramError},
};

use crate::{environment, error::CommandError};

/// Random bytes of the word that tells our lines from everything else that a login prints. What a broken installation leaves
/// is known by the number of its digits.
const NONCE_BYTES: usize = 16;

/// How ssh is called.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection over ssh")]
pub(super) struct SshArgs {
    /// Port of the ssh server
    #[arg(long, short, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// File with the private key, as for `ssh -i`
    #[arg(long, short, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Configuration file, as for `ssh -F`
    #[arg(long, short = 'F', value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// Option, as for `ssh -o`
    #[arg(long, short = 'o', value_name = "OPTION")]
    ssh_option: Vec<String>,
    /// Program to call instead of `ssh`
    #[arg(long, value_name = "PROGRAM")]
    ssh: Option<PathBuf>,
    /// Command to call on the host instead of `treegraft`; it is read by the host's shell, and nothing is installed
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["no_bootstrap", "bootstrap_program", "bootstrap_dir"])]
    remote_command: Option<String>,
    /// Call the host's `treegraft`, whatever its version, and install nothing
    #[arg(long, conflicts_with_all = ["bootstrap_program", "bootstrap_dir"])]
    no_bootstrap: bool,
    /// Program to install on the host [default: this one]
    #[arg(long, value_name = "FILE")]
    bootstrap_program: Option<PathBuf>,
    /// Directory on the host to install it in, one of its own [default: ~/.cache/treegraft]
    #[arg(long, value_name = "DIR", value_parser = remote_directory)]
    bootstrap_dir: Option<String>,
}

impl SshArgs {
    pub(super) const fn is_any_given(&self) -> bool {
        self.port.is_some()
            || !self.identity.is_empty()
            || self.ssh_config.is_some()
            || !self.ssh_option.is_empty()
            || self.ssh.is_some()
            || self.remote_command.is_some()
            || self.no_bootstrap
            || self.bootstrap_program.is_some()
            || self.bootstrap_dir.is_some()
    }

    pub(super) fn apply(self, target: &mut SshTarget) -> Result<SshOptions, CommandError> {
        target.port = self.port.or(target.port);
        let bootstrap = if self.no_bootstrap || self.remote_command.is_some() {
            None
        } else {
            program(self.bootstrap_program)?.map(|program| Bootstrap { program, directory: self.bootstrap_dir })
        };
        let nonce = HEXLOWER.encode(&environment::random_bytes().map_err(CommandError::temporary)?[..NONCE_BYTES]);
        let mut options = SshOptions {
            remote_command: self.remote_command,
            bootstrap: bootstrap.map(Arc::new),
            nonce,
            ..SshOptions::default()
        };
        options.program = self.ssh.unwrap_or(options.program);
        let mut add = |option: &str, value: OsString| options.arguments.extend([option.into(), value]);
        if let Some(file) = self.ssh_config {
            add("-F", file.into());
        }
        for file in self.identity {
            add("-i", file.into());
        }
        for option in self.ssh_option {
            add("-o", option.into());
        }
        Ok(options)
    }
}

/// Looks at the program to offer. When this one cannot be read, as without `/proc`, none is offered.
fn program(named: Option<PathBuf>) -> Result<Option<Program>, CommandError> {
    match named {
        Some(path) => Ok(Some(Program::inspect(&path)?)),
        None => Ok(Program::inspect(environment::running_program()).ok()),
    }
}

impl From<ProgramError> for CommandError {
    fn from(error: ProgramError) -> Self {
        Self::user(error)
            .hint("`--bootstrap-program` names a treegraft that was built for the server's kind of machine")
    }
}

fn remote_directory(text: &str) -> Result<String, &'static str> {
    let text = text.strip_prefix("~/").unwrap_or(text).trim_end_matches('/');
    if text.is_empty() || text.starts_with('~') {
        return Err("it is neither absolute nor below the user's home");
    }
    if text.chars().any(char::is_control) {
        return Err("it has control characters");
    }
    Ok(text.to_owned())
}
