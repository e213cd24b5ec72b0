//! `treegraft shell`: a login that can do nothing but push, over a real sshd and as a login shell.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use treegraft_testkit::{RepoMode, Run, Sshd, SshdOptions};
use treegraft_wire::login_command::{encoded_command, posix_word};

use crate::site::{Site, TREEGRAFT};

/// A server whose configuration names one repository, with another one beside it.
struct Server {
    site: Site,
    sshd: Sshd,
    worker: PathBuf,
    other: PathBuf,
    config: PathBuf,
}

impl Server {
    fn new(settings: &str) -> Option<Self> {
        let site = Site::new()?;
        // The worst that an administrator can do: clients may send any variable.
        let options = SshdOptions { config_lines: vec!["AcceptEnv *".to_owned()], ..SshdOptions::default() };
        let sshd = Sshd::start_with(&options)?;
        let other = site.env.root().join("srv/other");
        site.treegraft(["init".as_ref(), other.as_os_str()]).ok();
        let config = site.env.root().join("shell.toml");
        let text = format!("[[repository]]\npath = \"{}\"\n{settings}", site.server.display());
        fs::write(&config, text).expect("a file can be written");
        let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("file", "1")]), "main", 1_000);
        Some(Self { site, sshd, worker, other, config })
    }

    fn key(&self, name: &str, arguments: &str) -> PathBuf {
        let config = self.config.display();
        let command = format!("restrict,command=\"{TREEGRAFT} shell --config {config} {arguments}\"");
        self.sshd.add_client_key(name, &command)
    }

    fn push(&self, key: &Path, path: &str, args: &[&str]) -> Run {
        let mut command = self.site.env.command(TREEGRAFT);
        command.args(["push", "--repo"]).arg(&self.worker).arg("-i").arg(key).arg("-F").arg(self.sshd.client_config());
        command.arg(format!("{}:{path}", self.sshd.host())).args(["main", "--json"]).args(args);
        Run::of(&mut command)
    }

    fn code(&self, key: &Path, path: &str, args: &[&str]) -> String {
        let run = self.push(key, path, args);
        let document: serde_json::Value =
            serde_json::from_str(&run.text()).unwrap_or_else(|error| panic!("{error}: {}", run.report()));
        document["error"]["code"].as_str().unwrap_or("published").to_owned()
    }

    /// Asks for any command with a key.
    fn ask(&self, key: &Path, command: &str) -> Run {
        let mut ssh = self.sshd.ssh();
        ssh.arg("-i").arg(key).args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]).arg(command);
        Run::with_input(&mut ssh, b"")
    }
}

#[test]
fn only_repositories_of_the_configuration_can_be_asked_for() {
    let Some(server) = Server::new("") else { return };
    let key = server.key("key", "--as ci");
    let named = server.site.server.display().to_string();
    let root = server.site.env.root().display().to_string();
    symlink(&server.site.server, server.site.env.root().join("link")).expect("a symlink can be made");
    symlink(&server.other, server.site.env.root().join("other-link")).expect("a symlink can be made");
    for path in [
        "/".to_owned(),
        "/etc".to_owned(),
        "missing".to_owned(),
        "..".to_owned(),
        server.other.display().to_string(),
        format!("{named}/../other"),
        format!("{root}/other-link"),
        format!("{named}/objects"),
        format!("{named}\\"),
        format!("{named} "),
        format!("{named};id"),
        "$(id)".to_owned(),
        "--config=/dev/null".to_owned(),
        "ü".to_owned(),
    ] {
        assert_eq!(server.code(&key, &path, &[]), "not-allowed", "`{path}` has no entry");
    }
    assert_eq!(server.site.ostree.refs(&server.other), Vec::<String>::new(), "nothing is written elsewhere");
    for path in [named.clone(), format!("{named}/"), format!("{root}/link"), format!("{named}/../repo")] {
        assert_eq!(server.code(&key, &path, &[]), "published", "`{path}` is the repository");
    }
    assert_eq!(server.site.ostree.refs(&server.site.server), ["main"], "it was pushed to");
}

#[test]
fn an_odd_name_is_no_trouble_where_the_configuration_has_it() {
    let Some(server) = Server::new("") else { return };
    let key = server.key("key", "");
    let odd = server.site.env.root().join("it's $(an) \"odd\" näme; \\ !");
    server.site.treegraft(["init".as_ref(), odd.as_os_str()]).ok();
    fs::write(&server.config, format!("[[repository]]\npath = '''{}'''\n", odd.display())).expect("it can be written");
    let path = odd.display().to_string();
    assert_eq!(server.code(&key, &path, &[]), "published", "its name is only a name");
    assert_eq!(server.site.ostree.refs(&odd), ["main"]);
    // What a client that brings the program with it asks for.
    let encoded = encoded_command("exit 7", &["x", "y z"], &path);
    let run = server.ask(&key, &encoded);
    assert!(
        run.text().starts_with("treegraft-receive 1\n"),
        "the script is not run, the path is read: {}",
        run.report()
    );
}

#[test]
fn no_other_command_is_run() {
    let Some(server) = Server::new("") else { return };
    let key = server.key("key", "--as ci");
    let touched = server.site.env.root().join("touched");
    let (named, touch) =
        (posix_word(&server.site.server.display().to_string()), format!("touch {}", touched.display()));
    for command in [
        "id".to_owned(),
        touch.clone(),
        "sh".to_owned(),
        "scp -t /tmp".to_owned(),
        "internal-sftp".to_owned(),
        "/usr/lib/openssh/sftp-server".to_owned(),
        format!("treegraft receive -- {named}; {touch}"),
        format!("treegraft receive -- {named}\n{touch}"),
        format!("treegraft receive -- $({touch})"),
        format!("treegraft receive -- `{touch}`"),
        format!("treegraft receive --as release -- {named}"),
        format!("treegraft receive --repo {named}"),
        format!("treegraft shell --as release -c {named}"),
        format!("{touch} receive -- {named}"),
        format!("A=b treegraft push {named}"),
        "treegraft receive -- ''".to_owned(),
        "treegraft receive --".to_owned(),
        "x".repeat(60_000),
    ] {
        let run = server.ask(&key, &command);
        assert_eq!(run.code(), Some(1), "`{command:.60}` is refused: {}", run.report());
        assert!(
            run.stderr_text().contains("takes pushes of `treegraft push` only"),
            "it is said why: {}",
            run.report()
        );
        assert_eq!(run.text(), "", "nothing is printed that a program would read");
    }
    let mut ssh = server.sshd.ssh();
    ssh.arg("-i").arg(&key);
    let run = Run::with_input(&mut ssh, b"touch touched\n");
    assert_eq!(run.code(), Some(1), "a login without a command: {}", run.report());
    assert!(run.stderr_text().contains("there is no shell behind it"), "it is friendly: {}", run.report());
    assert!(!touched.exists(), "nothing was run");
    // A script that is run nowhere may say what it likes.
    let encoded = encoded_command(&touch, &[], &server.site.server.display().to_string());
    assert!(server.ask(&key, &encoded).text().starts_with("treegraft-receive 1\n"), "the path is read");
    assert!(!touched.exists(), "and the script is not run");
}

#[test]
fn rights_are_those_of_the_name_and_the_command() {
    let rules = "[[repository.rule]]\nkeys = [\"ci\"]\nrefs = [\"main\"]\nallow = [\"rebase\", \"exact\"]\n";
    let Some(server) = Server::new(rules) else { return };
    let named = server.site.server.display().to_string();
    let ci = server.key("ci", "--as ci");
    let nameless = server.key("nameless", "");
    let narrowed = server.key("narrowed", "--as ci --deny-exact --allow-ref main --max-push-objects 9");
    assert_eq!(server.code(&nameless, &named, &[]), "not-allowed", "a key without a name has no rule");
    assert_eq!(server.code(&ci, &named, &["main:other"]), "not-allowed", "another ref");
    assert_eq!(server.code(&narrowed, &named, &["--exact"]), "not-allowed", "the command takes it away");
    assert_eq!(server.code(&narrowed, &named, &[]), "published");
    assert_eq!(server.code(&ci, &named, &["--exact", "--force"]), "not-allowed");
}

/// What a client sends as environment reaches neither the receiver nor what that starts.
#[test]
fn nothing_of_the_clients_environment_gets_through() {
    let Some(server) = Server::new("") else { return };
    let key = server.key("key", "--as ci");
    let (script, told) = (server.site.env.root().join("update"), server.site.env.root().join("environment"));
    fs::write(&script, format!("#!/bin/sh\nenv >'{}'\n", told.display())).expect("a file can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let text = format!(
        "[[repository]]\npath = \"{}\"\nupdate-command = [\"{}\"]\n",
        server.site.server.display(),
        script.display()
    );
    fs::write(&server.config, text).expect("a file can be written");
    let variables = [
        "LD_PRELOAD=/nonexistent.so",
        "GNUPGHOME=/nonexistent",
        "HOME=/nonexistent",
        "PATH=/nonexistent",
        "TMPDIR=/nonexistent",
        "XDG_CONFIG_HOME=/nonexistent",
        "OSTREE_RECEIVE_CONF=/nonexistent",
        "OSTREE_REPO=/nonexistent",
        "TREEGRAFT_REPO=/nonexistent",
        "SSH_ORIGINAL_COMMAND=id",
        "BASH_ENV=/nonexistent",
    ];
    let sent = format!("SetEnv={}", variables.join(" "));
    let named = server.site.server.display().to_string();
    assert_eq!(server.code(&key, &named, &["-o", &sent]), "published", "the push is as any other");
    let environment = fs::read_to_string(told).expect("the command ran");
    assert!(!environment.contains("nonexistent"), "no value of the client's is there: {environment}");
    for line in environment.lines() {
        let name = line.split('=').next().unwrap_or_default();
        let is_known =
            ["HOME", "LOGNAME", "PATH", "USER", "TREEGRAFT_REPO", "OSTREE_RECEIVE_REPO", "OSTREE_RECEIVE_REFS"];
        let is_of_sh = ["PWD", "OLDPWD", "SHLVL", "_"];
        assert!(is_known.contains(&name) || is_of_sh.contains(&name), "`{line}` is not known: {environment}");
    }
}

#[test]
fn it_is_a_login_shell_under_its_own_name() {
    let Some(server) = Server::new("") else { return };
    if Path::new("/etc/treegraft/server.toml").exists() || Path::new("/etc/ostree/ostree-receive.conf").exists() {
        // A login shell has no options, and reads what there is.
        return;
    }
    let shell = server.site.env.root().join("treegraft-shell");
    symlink(TREEGRAFT, &shell).expect("a symlink can be made");
    // What sshd does with the command for a login whose shell it is; the home has ostree-push's configuration.
    let home = server.site.env.make_folder("home-of-login");
    let conf = home.join(".config/ostree/ostree-receive.conf");
    fs::create_dir_all(conf.parent().expect("it is in a directory")).expect("a directory can be made");
    fs::write(&conf, format!("root: {}\n", server.site.env.root().join("srv").display())).expect("it can be written");
    let ssh = server.site.env.root().join("ssh");
    let script = format!(
        "#!/bin/sh\nfor command; do :; done\nHOME='{}' exec '{}' -c \"$command\"\n",
        home.display(),
        shell.display()
    );
    fs::write(&ssh, script).expect("a file can be written");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let push = |path: &str| {
        let mut command = server.site.env.command(TREEGRAFT);
        command.args(["push", "--repo"]).arg(&server.worker).arg("--ssh").arg(&ssh);
        Run::of(command.args(["--remote-command", "treegraft"]).arg(format!("host:{path}")).arg("main"))
    };
    let _ = push("repo").ok();
    assert_eq!(server.site.ostree.refs(&server.site.server), ["main"], "`root` says where the repository is");
    assert!(!push("../home-of-login").success(), "and what is outside is not found");
    fs::write(&conf, "force: no\n").expect("it can be written");
    assert!(!push(&server.site.server.display().to_string()).success(), "without `root` or an entry nothing is named");
    let interactive = Run::of(&mut server.site.env.command(&shell));
    assert_eq!(interactive.code(), Some(1), "{}", interactive.report());
    assert!(interactive.stderr_text().contains("there is no shell behind it"), "{}", interactive.report());
}
