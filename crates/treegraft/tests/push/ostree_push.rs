//! Those who come from ostree-push: its configuration on the server, its command line on the worker.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use treegraft_testkit::{Gpg, RepoMode, Run, Sshd, SshdOptions};

use crate::site::{Site, TREEGRAFT};

/// A server to which both programs can be called by their usual names.
struct Server {
    site: Site,
    sshd: Sshd,
}

impl Server {
    fn new() -> Option<Self> {
        let site = Site::new()?;
        let bin = site.env.make_folder("bin");
        symlink(TREEGRAFT, bin.join("ostree-push")).expect("a symlink can be made");
        symlink(TREEGRAFT, bin.join("treegraft")).expect("a symlink can be made");
        let path = format!("{}:/usr/bin:/bin:/usr/sbin", bin.display());
        let options = SshdOptions {
            set_env: vec![("PATH".to_owned(), path)],
            config_lines: vec!["AcceptEnv *".to_owned()],
            ..SshdOptions::default()
        };
        let sshd = Sshd::start_with(&options)?;
        Some(Self { site, sshd })
    }

    /// Writes the configuration where ostree-push's receiver of the user has it.
    fn configure(&self, text: &str) -> PathBuf {
        let file = self.sshd.home().join(".config/ostree/ostree-receive.conf");
        fs::create_dir_all(file.parent().expect("it is in a directory")).expect("a directory can be made");
        fs::write(&file, text).expect("a file can be written");
        file
    }

    /// Calls the program as `ostree-push`, with `here` as the current directory.
    fn ostree_push(&self, here: &Path, args: &[&str]) -> Run {
        let mut command = self.site.env.command(self.site.env.root().join("bin/ostree-push"));
        command.current_dir(here).args(args);
        Run::of(&mut command)
    }

    /// Returns options that log in, in the way of ostree-push.
    fn login(&self) -> Vec<String> {
        let options = self.sshd.client_options();
        // `-F none` and `-p PORT` come first.
        let mut login = vec!["-p".to_owned(), self.sshd.port().to_string()];
        login.extend(options.into_iter().skip(4));
        login
    }

    fn worker(&self, content: &str, timestamp_secs: u64) -> PathBuf {
        let tree = self.site.tree("tree", &[("file", content)]);
        self.site.worker("w", RepoMode::Archive, &tree, "main", timestamp_secs)
    }

    fn head(&self) -> String {
        self.site.ostree.rev_parse(&self.site.server, "main")
    }
}

#[test]
fn the_command_line_of_ostree_push_pushes() {
    let Some(server) = Server::new() else { return };
    let worker = server.worker("1", 1_000);
    let path = server.site.server.display().to_string();
    let (scp, url) = (format!("{}:{path}", server.sshd.host()), format!("ssh://{}:1{path}", server.sshd.host()));
    let login = server.login();
    let push = |here: &Path, args: &[&str]| {
        let all: Vec<&str> = login.iter().map(String::as_str).chain(args.iter().copied()).collect();
        server.ostree_push(here, &all)
    };
    let dry = push(&worker, &["-n", &scp]).ok();
    assert!(server.site.ostree.refs(&server.site.server).is_empty(), "a dry run publishes nothing: {}", dry.report());
    let _ = push(&worker, &[&scp, "main"]).ok();
    let first = server.head();
    server.worker("2", 2_000);
    // The port on the command line wins over the one in DEST, and a repository may be named.
    let repo = worker.display().to_string();
    let _ = push(server.site.env.root(), &["--repo", &repo, &url]).ok();
    assert_ne!(server.head(), first, "the second form of DEST leads there as well");
    let quiet = push(&worker, &["-q", &scp, "main"]).ok();
    assert_eq!(quiet.stderr_text(), "", "nothing is said when nothing is wrong");

    server.worker("older", 500);
    let older = push(&worker, &[&scp, "main"]);
    assert_eq!(older.code(), Some(1), "what was not published is no success: {}", older.report());
    let _ = push(&worker, &["--command", "ostree-receive -f", &scp, "main"]).ok();
    let missing = push(&worker, &[&scp, "missing"]);
    assert_eq!(missing.code(), Some(1), "a ref that is not there: {}", missing.report());
    let version = server.ostree_push(&worker, &["--version"]).ok();
    assert!(version.text().starts_with("ostree-push "), "it says its name: {}", version.text());
    let usage = server.ostree_push(&worker, &["--unknown"]);
    assert_eq!(usage.code(), Some(2), "{}", usage.report());
    let local = server.ostree_push(&worker, &[&path]);
    assert_eq!(local.code(), Some(2), "a path is no destination of ostree-push: {}", local.report());
    server.site.ostree.fsck(&server.site.server);
}

/// A server of ostree-push with nothing changed but the program.
#[test]
fn a_configuration_of_ostree_push_is_followed() {
    if Path::new("/etc/treegraft/server.toml").exists() || Path::new("/etc/ostree/ostree-receive.conf").exists() {
        // Both are read before the one of the test.
        return;
    }
    let (Some(server), Some(gpg)) = (Server::new(), Gpg::with_key("Repo <repo@example.org>")) else { return };
    let hook = server.site.env.root().join("hook");
    let told = server.site.env.root().join("told");
    let script =
        format!("#!/bin/sh\necho \"$# $1 $OSTREE_RECEIVE_REPO $OSTREE_RECEIVE_REFS\" >>'{}'\n", told.display());
    fs::write(&hook, script).expect("a file can be written");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let root = server.site.server.parent().expect("it is in a directory");
    let text = format!(
        "root: {}\ngpg_sign:\n  - {}\ngpg_homedir: {}\nrepos:\n  repo:\n    update_hook: {} --now\nsign_trigger: x\n",
        root.display(),
        gpg.fingerprint(),
        gpg.home().display(),
        hook.display()
    );
    server.configure(&text);
    let worker = server.worker("1", 2_000);
    let push = |path: &str, args: &[&str]| {
        let mut command = server.site.env.command(TREEGRAFT);
        command.args(["push", "--repo"]).arg(&worker).arg("-F").arg(server.sshd.client_config());
        command.args(["--remote-command", "treegraft"]).arg(format!("{}:{path}", server.sshd.host())).args(args);
        Run::of(&mut command)
    };
    let run = push("repo", &["main"]).ok();
    assert!(run.stderr_text().contains("unknown key `sign_trigger`"), "the pusher is told: {}", run.report());
    assert!(server.site.ostree.show(&server.site.server, "main").contains("Found 1 signature"), "the commit is signed");
    let said = fs::read_to_string(&told).expect("the hook ran");
    assert_eq!(said, format!("1 --now {} main\n", server.site.server.canonicalize().expect("it is there").display()));

    let code = |path: &str, args: &[&str]| {
        let run = push(path, &[args, &["--json"]].concat());
        let document: serde_json::Value = serde_json::from_str(&run.text()).expect("the output is JSON");
        document["error"]["code"].as_str().unwrap_or("published").to_owned()
    };
    let outside = server.site.env.root().join("outside");
    server.site.treegraft(["init".as_ref(), outside.as_os_str()]).ok();
    symlink(&outside, root.join("leads-out")).expect("a symlink can be made");
    for path in ["../outside", "leads-out", &outside.display().to_string()] {
        assert_eq!(code(path, &["main"]), "repository", "`{path}` is not below the root");
    }
    assert_eq!(server.site.ostree.refs(&outside), Vec::<String>::new(), "nothing is written there");
    server.worker("2", 1_000);
    assert_eq!(code("repo", &["main", "--allow-older"]), "not-allowed", "without `force` no older commit");
    assert_eq!(code("repo", &["main", "--allow-older", "--exact"]), "not-allowed", "ostree-push has no exact pushes");

    // A client that sends variables does not choose the file.
    let open = server.site.env.root().join("open.conf");
    fs::write(&open, "force: yes\n").expect("a file can be written");
    let variable = format!("SetEnv=OSTREE_RECEIVE_CONF={} XDG_CONFIG_HOME=/nonexistent", open.display());
    assert_eq!(code("repo", &["main", "--allow-older", "-o", &variable]), "not-allowed", "the file is the server's");
    server.configure(&format!("{text}force: yes\n"));
    assert_eq!(code("repo", &["main", "--allow-older"]), "published", "with `force` it is let in");
    let head = server.head();
    server.worker("3", 3_000);
    server.configure(&format!("{text}dry_run: yes\n"));
    assert_eq!(code("repo", &["main"]), "not-allowed", "nothing is published");
    assert_eq!(code("repo", &["main", "--dry-run"]), "published", "a dry run is answered");
    assert_eq!(server.head(), head, "and nothing has moved");
    server.configure(&format!("{text}force: maybe\n"));
    assert_eq!(code("repo", &["main"]), "repository", "a file that is wrong lets nobody in");
    server.site.ostree.fsck(&server.site.server);
}
