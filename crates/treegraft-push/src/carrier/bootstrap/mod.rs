//! Bringing the program to a server that does not have it, over the same ssh connection.
//!
//! A server with nothing but sshd and a POSIX shell is enough: the client's own program, or another one for the server's
//! kind of machine, is copied into a directory of the user there, once per version, and started.

mod failure;
mod program;
pub(super) mod script;

pub use failure::InstallFailure;
pub use program::{Program, ProgramError};

/// How a server that lacks the program gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// What is offered.
    pub program: Program,
    /// The directory on the server that keeps it, absolute or relative to the user's home; `~/.cache/treegraft` when
    /// there is none.
    pub directory: Option<String>,
}
