//! What the program takes from its environment.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use rustix::rand::{GetRandomFlags, getrandom};
use treegraft_server::Account;

/// The program that runs, also when its file was replaced since it was started.
const RUNNING_PROGRAM: &str = "/proc/self/exe";

/// Where accounts are listed. Names from other places (LDAP, for example) are not known, and hooks do without.
const ACCOUNTS: &str = "/etc/passwd";

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

/// Finds the account that this process runs as.
///
/// Environment variables are not asked: over ssh, a client may have a word in them.
pub(crate) fn account() -> Account {
    let accounts = fs::read_to_string(ACCOUNTS).unwrap_or_default();
    find_account(&accounts, rustix::process::geteuid().as_raw()).unwrap_or_default()
}

/// Says who runs this process where: `user@host`.
pub(crate) fn who() -> String {
    let user = account().user.unwrap_or_else(|| format!("user {}", rustix::process::geteuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

fn find_account(accounts: &str, uid: u32) -> Option<Account> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (user, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(2)?;
        (id.parse() == Ok(uid)).then(|| Account { user: Some(user.to_owned()), home: Some(PathBuf::from(home)) })
    })
}

/// Returns where temporary files are made.
pub(crate) fn temporary_dir() -> PathBuf {
    env::temp_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_number() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\nbroken\n# comment\nci:x:1000:1000:,,,:/home/ci:/bin/sh\n";
        let found = |uid| find_account(accounts, uid).map(|account| (account.user, account.home));
        assert_eq!(found(1000), Some((Some("ci".to_owned()), Some(PathBuf::from("/home/ci")))));
        assert_eq!(found(7), None, "who is not listed has no name");
    }
}
