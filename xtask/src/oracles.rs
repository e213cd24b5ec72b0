//! The real programs that tests compare with: whether they are there, and how to install them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{TaskError, shell};

/// Each program with the Debian package that holds it.
const ORACLES: [(&str, &str); 14] = [
    ("ostree", "ostree"),
    ("flatpak", "flatpak"),
    ("gpg", "gnupg"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("rsync", "rsync"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("busybox", "busybox"),
    ("csh", "csh"),
    ("fish", "fish"),
    ("zsh", "zsh"),
    ("strace", "strace"),
];

/// GLib itself, through Debian's Python: what is to be run to see whether it is there, its name and its package.
const GLIB: ([&str; 3], &str, &str) =
    (["/usr/bin/python3", "-c", "from gi.repository import GLib"], "GLib for Python", "python3-gi");

/// Folders that hold `sshd` and are not in the `PATH` of ordinary users.
const EXTRA_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Programs that are not on this machine.
pub(crate) struct Missing {
    pub(crate) programs: Vec<&'static str>,
    packages: Vec<&'static str>,
}

impl Missing {
    /// Looks for all oracles.
    pub(crate) fn find() -> Self {
        let Self { mut programs, mut packages } = Self::of(&ORACLES);
        let ([python, arguments @ ..], name, package) = GLIB;
        let mut look = shell::command(python);
        look.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        if !look.status().is_ok_and(|status| status.success()) {
            programs.push(name);
            packages.push(package);
        }
        packages.dedup();
        Self { programs, packages }
    }

    /// Looks for programs, each of which comes with its package.
    pub(crate) fn of(wanted: &[(&'static str, &'static str)]) -> Self {
        let (programs, packages) = wanted.iter().copied().filter(|(program, _)| !is_installed(program)).unzip();
        Self { programs, packages }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    /// Returns the command line that installs the packages.
    pub(crate) fn install_line(&self) -> String {
        format!("apt-get update && apt-get install -y --no-install-recommends {}", self.packages.join(" "))
    }

    /// Returns the error that says what is missing.
    pub(crate) fn error(self) -> TaskError {
        TaskError::MissingOracles { install: self.install_line(), programs: self.programs }
    }

    /// Installs the packages where that needs no questions: as root of a machine with `apt-get`.
    pub(crate) fn install_if_possible(&self) -> Result<(), TaskError> {
        if !is_root()? || !is_installed("apt-get") {
            return Ok(());
        }
        let mut update = shell::command("apt-get");
        shell::run(update.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Acquire::Retries=3", "update"]))?;
        let mut install = shell::command("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Acquire::Retries=3"]);
        shell::run(install.args(["install", "-y", "--no-install-recommends"]).args(&self.packages))
    }
}

fn is_root() -> Result<bool, TaskError> {
    Ok(shell::read(shell::command("id").arg("-u"))?.trim_ascii() == b"0")
}

fn is_installed(program: &str) -> bool {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&search).chain(EXTRA_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).any(|path: PathBuf| Path::is_file(&path))
}
