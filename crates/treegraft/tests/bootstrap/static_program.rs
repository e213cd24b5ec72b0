//! The program as one static file, where there is nothing else.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use treegraft_testkit::{Oracle, Run, oracle};

use crate::login::{Installs, Login};

/// What a small server has, as links to busybox.
const TOOLS: [&str; 14] =
    ["sh", "uname", "id", "ls", "mkdir", "rm", "mv", "chmod", "touch", "find", "wc", "tr", "head", "sha256sum"];

/// Tells whether the test may change its root directory.
#[track_caller]
fn may_chroot() -> bool {
    // The right to mount goes with it.
    oracle::may_mount()
}

/// Copies a program and the libraries that it needs into a root directory.
fn copy_with_libraries(program: &Path, root: &Path, name: &str) {
    let target = root.join("bin").join(name);
    fs::create_dir_all(root.join("bin")).expect("a folder can be made");
    Run::of(Command::new("cp").arg(program).arg(&target)).ok();
    let libraries = Run::of(Command::new("ldd").arg(program)).text();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().expect("a file is in a folder")).expect("a folder can be made");
        Run::of(Command::new("cp").arg(library).arg(copy)).ok();
    }
}

#[test]
fn it_runs_where_nothing_else_is() {
    let Some(login) = Login::new("sh").filter(|_| may_chroot()) else { return };
    let root = login.env.make_folder("root");
    Run::of(Command::new("cp").arg(&login.program).arg(root.join("treegraft"))).ok();
    fs::create_dir(root.join("tmp")).expect("a folder can be made");
    let run = |args: &[&str]| {
        let mut command = login.env.command("chroot");
        Run::of(command.env("TMPDIR", "/tmp").arg(&root).arg("/treegraft").args(args)).ok()
    };
    assert_eq!(run(&["--version"]).text(), format!("treegraft {}", env!("CARGO_PKG_VERSION")));
    run(&["init", "/repo"]);
    run(&["fsck", "--repo", "/repo"]);
    run(&["demo"]);
}

/// A login whose root directory holds busybox with these tools, a repository and an empty home.
struct Bare {
    login: Login,
    root: std::path::PathBuf,
}

impl Bare {
    #[track_caller]
    fn new(tools: &[&str]) -> Option<Self> {
        let busybox = oracle::require(Oracle::Busybox)?;
        let login = Login::new("sh").filter(|_| may_chroot())?;
        let root = login.env.make_folder("root");
        copy_with_libraries(&busybox, &root, "busybox");
        for tool in tools {
            symlink("busybox", root.join("bin").join(tool)).expect("a symlink can be made");
        }
        fs::create_dir(root.join("dev")).expect("a folder can be made");
        fs::write(root.join("dev/null"), "").expect("a file can be written");
        fs::create_dir(root.join("home")).expect("a folder can be made");
        let mut bare = Self { login, root };
        // The repository is seen at the same path from inside and outside.
        let srv = bare.root.join(bare.login.env.root().strip_prefix("/").expect("it is absolute"));
        fs::create_dir_all(srv.join("srv")).expect("a folder can be made");
        fs::remove_dir_all(bare.login.env.root().join("srv")).expect("the folder can be removed");
        symlink(srv.join("srv"), bare.login.env.root().join("srv")).expect("a symlink can be made");
        let server = bare.login.server.clone();
        Run::of(bare.login.env.command(&bare.login.program).arg("init").arg(server)).ok();
        bare.enter_by("/bin/busybox sh");
        Some(bare)
    }

    /// Lets the session begin in the root directory with this shell.
    fn enter_by(&mut self, shell: &str) {
        let root = self.root.display();
        self.login.before_shell(&format!(
            "chroot=$(PATH=/usr/sbin:/sbin:$PATH; command -v chroot)\n\
             exec env -i HOME=/home PATH=/bin \"$chroot\" '{root}' {shell} -c \"$SSH_ORIGINAL_COMMAND\""
        ));
    }

    fn kept(&self) -> Vec<String> {
        Login::list(&self.root.join("home/.cache/treegraft"))
    }
}

#[test]
fn a_server_with_busybox_alone_is_enough() {
    let Some(bare) = Bare::new(&TOOLS) else { return };
    bare.login.push_ok(&[], Installs::Yes);
    assert_eq!(bare.kept().len(), 1, "the program is kept");
    bare.login.push_ok(&[], Installs::No);
}

#[test]
fn a_server_without_head_and_checksums_is_enough() {
    let mut tools = TOOLS.to_vec();
    tools.retain(|tool| !["head", "sha256sum", "find"].contains(tool));
    tools.push("dd");
    let Some(mut bare) = Bare::new(&tools) else { return };
    // Nothing is called by the name of busybox itself.
    fs::rename(bare.root.join("bin/busybox"), bare.root.join("bin/tools")).expect("it can be renamed");
    for tool in tools {
        let link = bare.root.join("bin").join(tool);
        fs::remove_file(&link).expect("a link can be removed");
        symlink("tools", link).expect("a symlink can be made");
    }
    bare.enter_by("/bin/sh");
    let login = &bare.login;
    login.push_ok(&[], Installs::Yes);
    login.push_ok(&[], Installs::No);
}

#[test]
fn a_server_that_can_copy_nothing_is_told_about() {
    let mut tools = TOOLS.to_vec();
    tools.retain(|tool| *tool != "head");
    let Some(bare) = Bare::new(&tools) else { return };
    bare.login.push_fails(&[], 1, &["neither `head` nor `dd`", "--no-bootstrap"]);
    assert_eq!(bare.kept(), Vec::<String>::new(), "nothing stays of it");
}
