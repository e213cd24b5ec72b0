//! A login on a server without the program.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use treegraft_testkit::{CleanEnv, Ostree, RepoMode, Run, Sshd, SshdOptions, oracle};

/// Where the program is kept, below the home.
pub(crate) const CACHE: &str = ".cache/treegraft";

/// The version of the program under test.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The variables of a session that are not those of the test's own user.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A server's repository and a login with an empty home; a worker with a commit and the program as one static file.
pub(crate) struct Login {
    pub(crate) env: CleanEnv,
    pub(crate) sshd: Sshd,
    /// The program under test, which is the client and what it offers.
    pub(crate) program: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) shell: String,
    /// Shell code that runs on the server before the login shell does.
    pub(crate) setup: String,
}

impl Login {
    /// Makes a login whose shell is started by these words, or tells that the test is skipped.
    #[track_caller]
    pub(crate) fn new(shell: &str) -> Option<Self> {
        Self::with_repository(shell, "repo")
    }

    /// Makes a login, and a repository with this name.
    #[track_caller]
    pub(crate) fn with_repository(shell: &str, name: &str) -> Option<Self> {
        let (program, ostree, env) = (oracle::static_program()?, Ostree::find()?, CleanEnv::new());
        // sshd hands a command to the user's shell; this one hands it on to the shell of the test.
        let options = SshdOptions {
            config_lines: vec![format!("ForceCommand {}", env.root().join("login").display())],
            ..SshdOptions::default()
        };
        let sshd = Sshd::start_with(&options)?;
        let server = env.root().join("srv").join(name);
        fs::create_dir_all(env.root().join("srv")).expect("a folder can be made");
        Run::of(env.command(&program).arg("init").arg(&server)).ok();
        let (tree, worker) = (env.make_folder("tree"), env.root().join("worker"));
        fs::write(tree.join("file"), "content\n").expect("a file can be written");
        ostree.init(&worker, RepoMode::Archive, None);
        ostree.commit(&worker, &tree, "main", 1_700_000_000, &[]);
        let login = Self { env, sshd, program, server, shell: shell.to_owned(), setup: String::new() };
        login.write_login();
        Some(login)
    }

    /// Runs this code on the server before the login shell, in the session's environment.
    pub(crate) fn before_shell(&mut self, code: &str) {
        code.clone_into(&mut self.setup);
        self.write_login();
    }

    fn write_login(&self) {
        let (home, shell, setup) = (self.sshd.home(), &self.shell, &self.setup);
        let home = home.display();
        // As in a session of the user itself: no variable tells that another shell came before.
        let text = format!(
            "#!/bin/sh\nunset SHLVL XDG_CACHE_HOME\nexport HOME='{home}' PATH='{PATH}'\ncd \"$HOME\"\n{setup}\n\
             exec {shell} -c \"$SSH_ORIGINAL_COMMAND\"\n"
        );
        write_executable(&self.env.root().join("login"), &text);
    }

    /// Writes a file into the home.
    pub(crate) fn write_home(&self, name: &str, text: &str) {
        let path = self.home(name);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
        fs::write(path, text).expect("a file can be written");
    }

    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.sshd.home().join(name)
    }

    /// Returns what is in a folder of the server, by name.
    pub(crate) fn list(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().display().to_string()).collect();
        names.sort();
        names
    }

    /// Returns the programs that are kept on the server.
    pub(crate) fn kept(&self) -> Vec<String> {
        Self::list(&self.home(CACHE))
    }

    /// Returns the only program that is kept on the server.
    #[track_caller]
    pub(crate) fn kept_program(&self) -> PathBuf {
        let kept = self.kept();
        assert_eq!(kept.len(), 1, "one file for one program, and nothing else: {kept:?}");
        assert!(kept[0].starts_with(&format!("treegraft-{VERSION}-")), "its name has the version: {kept:?}");
        self.home(CACHE).join(&kept[0])
    }

    pub(crate) fn push_command(&self, port: u16, args: &[&str]) -> Command {
        let mut command = self.env.command(&self.program);
        command.arg("push").arg("--repo").arg(self.env.root().join("worker"));
        command.arg("-F").arg(self.sshd.client_config()).args(["-p", &port.to_string()]);
        command.arg(format!("{}:{}", self.sshd.host(), self.server.display())).args(args);
        command
    }

    pub(crate) fn push(&self, args: &[&str]) -> Run {
        Run::of(&mut self.push_command(self.sshd.port(), args))
    }

    /// Pushes, and expects that it succeeds and whether the program was installed for it.
    #[track_caller]
    pub(crate) fn push_ok(&self, args: &[&str], installs: Installs) {
        let run = self.push(args).ok();
        let is_told = run.stderr_text().contains(&format!("Installing treegraft on {}, ", self.sshd.host()));
        assert_eq!(is_told, installs == Installs::Yes, "installing is told, and nothing else is: {}", run.report());
        assert!(self.server.join("refs/heads/main").exists(), "the ref is published: {}", run.report());
    }

    /// Pushes once, and expects this exit code and these words.
    #[track_caller]
    pub(crate) fn push_fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let run = self.push(&[&["--retries", "0"], args].concat());
        assert_eq!(run.code(), Some(code), "the exit code says whether a retry helps: {}", run.report());
        let text = run.stderr_text();
        for word in words {
            assert!(text.contains(word), "the error has `{word}`: {text}");
        }
        assert!(text.contains("Hint: "), "and says what to do: {text}");
        assert!(!self.server.join("refs/heads/main").exists(), "nothing is published");
    }
}

/// Whether a push installs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installs {
    Yes,
    No,
}

/// Writes a program.
///
/// Another process does it: a test that starts a program at this moment would hand the open file on to it, and nothing can
/// be executed as long as somebody can write it.
pub(crate) fn write_executable(path: &Path, text: &str) {
    let write = "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"";
    Run::of(Command::new("sh").args(["-c", write, "sh", text]).arg(path)).ok();
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}
