//! A cleaned environment for the programs that tests start.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The only folders that programs are found in.
const FIXED_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The folder for temporary folders that hold sockets.
///
/// The path of a socket has at most 107 bytes, and a long `TMPDIR` would use them up.
pub(crate) const SHORT_TEMP_FOLDER: &str = "/tmp";

/// Where the kernel keeps files in memory on most machines.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Makes a temporary folder in memory where the machine has room for it there.
///
/// Syncs take no time in it, and those of a whole file system do not wait for what others write.
pub fn memory_folder() -> TempDir {
    let made = tempfile::Builder::new().prefix("tgmem").tempdir_in(MEMORY_FOLDER);
    made.or_else(|_| tempfile::tempdir()).expect("a temporary folder can be made")
}

/// An environment of its own: nothing of the caller's, and every folder inside one temporary folder.
///
/// It has `HOME`, the `XDG_*` folders and `TMPDIR` in the temporary folder, `LC_ALL=C.UTF-8`, `TZ=UTC` and a fixed
/// `PATH`. The folder is removed when the value is dropped.
#[derive(Debug)]
pub struct CleanEnv {
    folder: TempDir,
    variables: BTreeMap<OsString, OsString>,
}

impl CleanEnv {
    /// Makes the temporary folder and the variables that point into it.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("tgenv")
            .tempdir_in(SHORT_TEMP_FOLDER)
            .expect("a temporary folder can be made");
        let mut made = Self { folder, variables: BTreeMap::new() };
        made.set("PATH", FIXED_PATH).set("LC_ALL", "C.UTF-8").set("TZ", "UTC").set("USER", "tester");
        for (variable, name) in [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_CACHE_HOME", "home/.cache"),
            ("XDG_CONFIG_HOME", "home/.config"),
            ("XDG_DATA_HOME", "home/.local/share"),
            ("XDG_STATE_HOME", "home/.local/state"),
            ("XDG_RUNTIME_DIR", "run"),
        ] {
            let path = made.make_folder(name);
            made.set(variable, path);
        }
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(made.root().join("run"), private).expect("the mode of an own folder can be changed");
        made
    }

    /// Returns the temporary folder that holds everything.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the home folder.
    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// Makes a folder of that name inside the temporary folder and returns its path.
    pub fn make_folder(&self, name: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::create_dir_all(&path).expect("a folder can be made in a temporary folder");
        path
    }

    /// Sets a variable for the commands made from now on.
    pub fn set(&mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.variables.insert(key.into(), value.into());
        self
    }

    /// Takes a variable out of the commands made from now on.
    pub fn remove(&mut self, key: impl AsRef<OsStr>) -> &mut Self {
        self.variables.remove(key.as_ref());
        self
    }

    /// Puts a folder in front of the search path for programs.
    pub fn prepend_path(&mut self, folder: &Path) -> &mut Self {
        let old = self.variables.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&old));
        let joined = env::join_paths(folders).expect("a temporary folder has no colon in its name");
        self.set("PATH", joined)
    }

    /// Makes a command that sees this environment alone and has no standard input.
    ///
    /// It starts in the temporary folder, so that a file written to the current folder by mistake stays in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.variables).current_dir(self.root()).stdin(Stdio::null());
        command
    }
}

impl Default for CleanEnv {
    fn default() -> Self {
        Self::new()
    }
}
