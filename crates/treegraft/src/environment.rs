//! What the program takes from its environment.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    path::PathBuf,
};

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

/// Returns the repository that ostree's own programs take when none is named.
pub(crate) fn default_repo() -> PathBuf {
    let here = PathBuf::from(".");
    if here.join("objects").is_dir() && here.join("config").is_file() {
        return here;
    }
    env::var_os("OSTREE_REPO")
        .filter(|path| !path.is_empty())
        .map_or_else(|| PathBuf::from("/ostree/repo"), PathBuf::from)
}

/// Returns the command that a client of ssh has asked for, where its key has another one.
pub(crate) fn original_command() -> Option<OsString> {
    env::var_os("SSH_ORIGINAL_COMMAND")
}

/// Returns what a receiver needs of the environment: what sshd sets itself, after everything that a client may send.
pub(crate) fn of_login() -> Vec<(&'static str, OsString)> {
    ["HOME", "LOGNAME", "PATH", "USER"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))).collect()
}

/// Returns the home directory. Over ssh it is sshd that sets it, after everything that a client may send.
pub(crate) fn home_dir() -> Option<PathBuf> {
    env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}
