//! Why there is no connection to `treegraft receive` behind ssh.

use std::{io, path::PathBuf};

use super::bootstrap::InstallFailure;
use crate::SshTarget;

/// What ssh says when it will not get through the next time either.
const REFUSALS: [&str; 5] = [
    "Permission denied",
    "Host key verification failed",
    "Too many authentication failures",
    "Unable to negotiate",
    "Bad configuration option",
];

/// ssh could not be started, or ended without a connection to `treegraft receive`.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The program could not be started.
    #[error("Could not start `{program}`", program = program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// ssh itself failed: no connection, no permission, or a connection that broke.
    #[error("`ssh` has no connection to `{target}`{}", told(messages))]
    Connect {
        /// The destination.
        target: Box<SshTarget>,
        /// What it printed.
        messages: String,
    },
    /// The far side has no such program.
    #[error("`{command}` was not found on `{target}`{}", told(messages))]
    NoReceiver {
        /// The destination.
        target: Box<SshTarget>,
        /// The program that was called.
        command: String,
        /// What was printed.
        messages: String,
    },
    /// The program cannot be brought to a server that does not have it.
    #[error("Could not install treegraft on `{target}`: {reason}{}", told(messages))]
    Install {
        /// The destination.
        target: Box<SshTarget>,
        /// The program that was offered.
        program: PathBuf,
        /// The directory on the server, when one was named.
        directory: Option<String>,
        /// Why the server does not take it.
        reason: Box<InstallFailure>,
        /// What was printed.
        messages: String,
    },
    /// Neither a shell nor a forced command has started a receiver: the account is restricted.
    #[error("The login on `{target}` does not run `treegraft receive` ({status}){}", told(messages))]
    NoShell {
        /// The destination.
        target: Box<SshTarget>,
        /// How it ended.
        status: String,
        /// What was printed.
        messages: String,
    },
    /// The program on the far side ended early or is something else.
    #[error("`treegraft receive` on `{target}` ended ({status}){}", told(messages))]
    Ended {
        /// The destination.
        target: Box<SshTarget>,
        /// How it ended.
        status: String,
        /// What was printed.
        messages: String,
        /// Whether it ended by itself without having begun, as it will the next time.
        is_refusal: bool,
    },
}

fn told(messages: &str) -> String {
    if messages.is_empty() { String::new() } else { format!(": {messages}") }
}

impl SshError {
    /// Tells whether another try may succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { messages, .. } => !REFUSALS.iter().any(|refusal| messages.contains(refusal)),
            Self::Install { reason, .. } => reason.is_temporary(),
            Self::Ended { is_refusal, .. } => !is_refusal,
            Self::Start { .. } | Self::NoReceiver { .. } | Self::NoShell { .. } => false,
        }
    }

    /// Returns what was printed on the far side and by ssh.
    pub fn messages(&self) -> &str {
        match self {
            Self::Start { .. } => "",
            Self::Connect { messages, .. }
            | Self::NoReceiver { messages, .. }
            | Self::Install { messages, .. }
            | Self::NoShell { messages, .. }
            | Self::Ended { messages, .. } => messages,
        }
    }
}
