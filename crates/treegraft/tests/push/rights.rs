//! Rights over a real sshd: forced commands, and clients that want more.

use std::{fs, path::PathBuf};

use treegraft_testkit::{RepoMode, Run, Sshd, SshdOptions};

use crate::site::{Site, TREEGRAFT, json};

/// A server with keys of which each may do something else.
struct Server {
    site: Site,
    sshd: Sshd,
    config: PathBuf,
}

impl Server {
    fn new(rules: &str) -> Option<Self> {
        let site = Site::new()?;
        // A server that lets clients set any variable.
        let options = SshdOptions { config_lines: vec!["AcceptEnv *".to_owned()], ..SshdOptions::default() };
        let sshd = Sshd::start_with(&options)?;
        let config = site.env.root().join("rights.toml");
        fs::write(&config, format!("[[repository]]\npath = \"{}\"\n{rules}", site.server.display()))
            .expect("a file can be written");
        Some(Self { site, sshd, config })
    }

    /// Makes a key that can do nothing but call `treegraft receive` with these arguments.
    fn key(&self, name: &str, arguments: &str) -> PathBuf {
        let config = self.config.display();
        let command = format!("restrict,command=\"{TREEGRAFT} receive --config {config} {arguments}\"");
        self.sshd.add_client_key(name, &command)
    }

    fn repo_key(&self, name: &str, arguments: &str) -> PathBuf {
        self.key(name, &format!("--repo {} {arguments}", self.site.server.display()))
    }

    fn push(&self, key: &PathBuf, worker: &PathBuf, args: &[&str]) -> Run {
        self.push_to(key, worker, &self.site.server.display().to_string(), args)
    }

    fn push_to(&self, key: &PathBuf, worker: &PathBuf, path: &str, args: &[&str]) -> Run {
        let mut command = self.site.env.command(TREEGRAFT);
        command.arg("push").arg("--repo").arg(worker).arg("-i").arg(key).arg("-F").arg(self.sshd.client_config());
        command.arg(format!("{}:{path}", self.sshd.host())).args(args).arg("--json");
        Run::of(&mut command)
    }

    fn code(&self, key: &PathBuf, worker: &PathBuf, args: &[&str]) -> String {
        let run = self.push(key, worker, args);
        let document = json(&run);
        assert_eq!(run.success(), document["error"].is_null(), "an error is a failure: {}", run.report());
        document["error"]["code"].as_str().unwrap_or("published").to_owned()
    }
}

const RULES: &str = r#"
flatpak-update = "never"
[[repository.rule]]
keys = ["gnome-ci"]
refs = ["app/org.gnome.*"]
[[repository.rule]]
keys = ["release"]
refs = ["*"]
allow = ["rebase", "exact", "force", "older"]
"#;

const MAPS: &str = "app/org.gnome.Maps/x86_64/stable";
const KATE: &str = "app/org.kde.Kate/x86_64/stable";

#[test]
fn each_key_has_the_rights_of_its_name_and_its_command() {
    let Some(server) = Server::new(RULES) else { return };
    let site = &server.site;
    let tree = |content: &str| site.tree("tree", &[("file", content)]);
    let worker = site.worker("w", RepoMode::Archive, &tree("1"), MAPS, 1_000);
    site.worker("w", RepoMode::Archive, &tree("1"), KATE, 1_000);
    let gnome = server.repo_key("gnome", "--as gnome-ci");
    let release = server.repo_key("release", "--as release");
    let narrowed = server.repo_key("narrowed", "--as release --allow-ref 'app/org.gnome.*' --deny-exact");
    let nameless = server.repo_key("nameless", "");
    let stranger = server.repo_key("stranger", "--as stranger");
    let small = server.repo_key("small", "--as release --max-push-objects 1");
    let cases: [(&str, &PathBuf, &[&str], &str); 14] = [
        ("without a name", &nameless, &[MAPS], "not-allowed"),
        ("an unknown name", &stranger, &[MAPS], "not-allowed"),
        ("a ref of another", &gnome, &[KATE], "not-allowed"),
        ("a ref of another beside an own one", &gnome, &[MAPS, KATE], "not-allowed"),
        ("an exact push", &gnome, &["--exact", MAPS], "not-allowed"),
        ("a ref of another, dry", &gnome, &["--dry-run", KATE], "not-allowed"),
        ("an own ref, dry", &gnome, &["--dry-run", MAPS], "published"),
        ("more objects than the command allows", &small, &[KATE], "too-large"),
        ("a subset", &release, &["--subset=verified", MAPS], "not-allowed"),
        ("a further collection", &release, &["--extra-collection-id=org.example.Extra", MAPS], "not-allowed"),
        ("an own ref", &gnome, &[MAPS], "published"),
        ("a command with another pattern", &narrowed, &[KATE], "not-allowed"),
        ("a command that denies it", &narrowed, &["--exact", MAPS], "not-allowed"),
        ("all rights", &release, &["--exact", KATE], "published"),
    ];
    for (what, key, args, expected) in cases {
        assert_eq!(server.code(key, &worker, args), expected, "{what}: {args:?}");
    }
    assert_eq!(site.ostree.refs(&site.server), [MAPS, KATE], "and nothing else was published");
    assert!(!site.server.join("refs/mirrors/org.example.Extra").exists(), "no mirror was written");

    site.worker("w", RepoMode::Archive, &tree("older"), MAPS, 500);
    site.worker("w", RepoMode::Archive, &tree("other"), KATE, 400);
    let unrelated = site.worker("unrelated", RepoMode::Archive, &tree("unrelated"), KATE, 3_000);
    let no_older = server.repo_key("no-older", "--as release --deny-older");
    let no_force = server.repo_key("no-force", "--as release --deny-force");
    for (what, key, worker, args, expected) in [
        ("an older commit", &gnome, &worker, &["--allow-older", MAPS][..], "not-allowed"),
        ("an older commit that was not meant", &gnome, &worker, &[MAPS], "older-than-head"),
        ("a command without older ones", &no_older, &worker, &["--allow-older", MAPS], "not-allowed"),
        ("an older commit with the right", &release, &worker, &["--allow-older", MAPS], "published"),
        ("a command without force", &no_force, &unrelated, &["--exact", "--force", KATE], "not-allowed"),
        ("force with the right", &release, &unrelated, &["--exact", "--force", KATE], "published"),
    ] {
        assert_eq!(server.code(key, worker, args), expected, "{what}: {args:?}");
    }
    site.ostree.fsck(&site.server);
}

/// The command that a client asks for, the path in it and its environment are not looked at.
#[test]
fn a_forced_command_is_not_changed_by_what_the_client_asks_for() {
    let Some(server) = Server::new(RULES) else { return };
    let site = &server.site;
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("file", "1")]), KATE, 1_000);
    site.worker("w", RepoMode::Archive, &site.tree("t", &[("file", "1")]), MAPS, 1_000);
    let other = site.env.root().join("srv/other");
    site.treegraft(["init".as_ref(), other.as_os_str()]).ok();
    let gnome = server.repo_key("gnome", "--as gnome-ci");
    let refused = |what: &str, args: &[&str]| {
        let run = server.push(&gnome, &worker, args);
        assert_eq!(json(&run)["error"]["code"], "not-allowed", "{what}: {}", run.report());
    };
    for command in [
        "treegraft receive --as release --config /dev/null",
        "sh -c 'treegraft receive --as release'",
        "treegraft receive --as release; treegraft",
        "SSH_ORIGINAL_COMMAND='' treegraft",
    ] {
        refused(command, &["--remote-command", command, KATE]);
    }
    for variable in [
        "SSH_ORIGINAL_COMMAND=treegraft receive --as release",
        "TREEGRAFT_AS=release",
        "TREEGRAFT_CONFIG=/dev/null",
        "HOME=/nonexistent",
        "XDG_CONFIG_HOME=/nonexistent",
        "OSTREE_RECEIVE_CONF=/dev/null",
        "OSTREE_REPO=/nonexistent",
        "PATH=/nonexistent",
        "USER=release",
    ] {
        refused(variable, &["-o", &format!("SetEnv={variable:?}"), KATE]);
    }
    let run = server.push_to(&gnome, &worker, &other.display().to_string(), &[MAPS]);
    assert!(run.success(), "the path of the client is not looked at: {}", run.report());
    assert_eq!(site.ostree.refs(&other), Vec::<String>::new(), "the push does not go where the client wants it");
    assert_eq!(site.ostree.refs(&site.server), [MAPS], "but where the command has it");
}

/// Rules are for a repository on disk, however its path is written.
#[test]
fn a_repository_has_its_rules_under_every_name() {
    let Some(server) = Server::new(RULES) else { return };
    let site = &server.site;
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("file", "1")]), KATE, 1_000);
    let real = site.server.display().to_string();
    let link = site.env.root().join("link");
    std::os::unix::fs::symlink(&site.server, &link).expect("a symlink can be made");
    let parent_link = site.env.root().join("parent");
    std::os::unix::fs::symlink(site.env.root().join("srv"), &parent_link).expect("a symlink can be made");
    let names = [
        real.clone(),
        link.display().to_string(),
        format!("{}/repo", parent_link.display()),
        format!("{real}/"),
        format!("{real}//."),
        format!("{real}/../repo"),
        format!("{real}/objects/.."),
    ];
    for (at, path) in names.iter().enumerate() {
        let key = server.key(&format!("key{at}"), &format!("--repo {path} --as gnome-ci"));
        let run = server.push(&key, &worker, &[KATE]);
        assert_eq!(json(&run)["error"]["code"], "not-allowed", "`{path}` is the same repository: {}", run.report());
    }
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "nothing is published");
}
