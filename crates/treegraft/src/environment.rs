//! What the program takes from its environment.

use std::{
    env,
    io::{self, IsTerminal},
    path::Path,
};

use rustix::rand::{GetRandomFlags, getrandom};

/// The program that runs, also when its file was replaced since it was started.
const RUNNING_PROGRAM: &str = "/proc/self/exe";

/// The environment as far as the program looks at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment {
    /// Whether messages may be coloured: a terminal, and `NO_COLOR` is not set.
    pub(crate) has_colored_stderr: bool,
    /// Whether progress may be drawn over and over: a terminal that can, and nobody keeps a log of it (`CI`).
    pub(crate) has_live_stderr: bool,
}

impl Environment {
    /// Looks at the environment variables and at standard error.
    pub(crate) fn read() -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_terminal = io::stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { has_colored_stderr: is_terminal && !is_set("NO_COLOR"), has_live_stderr: is_terminal && !is_set("CI") }
    }
}

/// Returns the file of the running program.
pub(crate) fn running_program() -> &'static Path {
    Path::new(RUNNING_PROGRAM)
}

/// The system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("Could not get random bytes from the system")]
pub(crate) struct RandomError(#[source] io::Error);

/// Takes 32 bytes from the system's source of randomness.
pub(crate) fn random_bytes() -> Result<[u8; 32], RandomError> {
    let mut bytes = [0; 32];
    // So few bytes come at once or not at all.
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| RandomError(errno.into()))?;
    Ok(bytes)
}
