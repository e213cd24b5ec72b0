//! The wrappers of the oracle programs really drive the programs.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use treegraft_testkit::tree::{Directory, TreeShape};
use treegraft_testkit::{
    BuildDir, Flatpak, Gpg, LinkOptions, Ostree, RepoMode, Run, SlowLink, Sshd, SshdOptions, StaticServer, Version,
};

/// 2020-09-13, a time that no test passes by chance.
const TIME_SECS: u64 = 1_600_000_000;

fn temp() -> TempDir {
    TempDir::new().expect("a temporary folder can be made")
}

#[test]
fn ostree_commits_the_same_tree_to_the_same_checksum_in_archive_and_bare_user() {
    let Some(ostree) = Ostree::find() else { return };
    let folder = temp();
    let tree = folder.path().join("tree");
    Directory::from_seed(3, &TreeShape::default()).write(&tree);
    let mut checksums = Vec::new();
    for mode in [RepoMode::Archive, RepoMode::BareUser] {
        let repo = folder.path().join(mode.as_str());
        ostree.init(&repo, mode, None);
        checksums.push(ostree.commit(&repo, &tree, "main", TIME_SECS, &["--subject=First"]));
        ostree.fsck(&repo);
        assert_eq!(ostree.refs(&repo), ["main"], "a commit to a branch makes the ref");
        assert_eq!(ostree.rev_parse(&repo, "main"), checksums[0], "the ref points to the commit that was told");
        assert!(ostree.log(&repo, "main").contains("First"), "the log has the subject");
    }
    assert_eq!(checksums[0], checksums[1], "the mode of a repository does not change a commit");
    let second = ostree.commit(&folder.path().join("archive"), &tree, "main", TIME_SECS + 1, &[]);
    assert_ne!(second, checksums[0], "a commit at another time, on a parent, has another checksum");
}

#[test]
fn ostree_fails_with_its_own_words() {
    let Some(ostree) = Ostree::find() else { return };
    let folder = temp();
    let repo = folder.path().join("repo");
    ostree.init(&repo, RepoMode::Archive, Some("org.example.Collection"));
    let run = ostree.run_raw(["rev-parse", &format!("--repo={}", repo.display()), "missing"]).failed();
    assert_eq!(run.code(), Some(1), "ostree fails with exit code 1");
    assert!(run.stderr_text().contains("'missing' not found"), "the reason is kept:\n{}", run.report());
}

#[test]
fn ostree_pulls_a_signed_commit_from_the_web_server() {
    let Some(ostree) = Ostree::find() else { return };
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let folder = temp();
    let (tree, server, client) =
        (folder.path().join("tree"), folder.path().join("server"), folder.path().join("client"));
    let written = Directory::from_seed(5, &TreeShape::default());
    written.write(&tree);
    ostree.init(&server, RepoMode::Archive, None);
    let [key, homedir] = gpg.sign_args();
    let commit = ostree.commit(&server, &tree, "main", TIME_SECS, &[&key, &homedir]);
    ostree.summary_update(&server, &[&key, &homedir]);

    let web = StaticServer::start(&server);
    let key_file = folder.path().join("key");
    gpg.write_public_key(&key_file);
    ostree.init(&client, RepoMode::BareUser, None);
    ostree.remote_add(&client, "origin", &web.url(), Some(&key_file));
    ostree.pull(&client, "origin", &["main"]);
    ostree.fsck(&client);
    assert_eq!(ostree.rev_parse(&client, "origin:main"), commit, "the client has the commit that was served");
    let asked: Vec<String> = web.requests().into_iter().map(|request| request.path).collect();
    assert!(asked.contains(&"/summary.sig".to_owned()), "a remote with a key checks the summary: {asked:?}");

    let checkout = folder.path().join("checkout");
    ostree.checkout(&client, "origin:main", &checkout);
    let read = Directory::read(&checkout);
    assert_eq!(read.count_files(), written.count_files(), "a checkout has every file of the tree");
}

#[test]
fn flatpak_installs_and_updates_a_runtime_from_the_web_server() {
    let Some(flatpak) = Flatpak::find() else { return };
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let folder = temp();
    let (repo, first, next) = (folder.path().join("repo"), folder.path().join("first"), folder.path().join("next"));
    let plan = BuildDir::runtime("org.example.Platform").with_files(11, 30);
    let written = plan.write(&first, Version::first());
    assert_eq!(written.files, 30, "the plan's number of files is written");
    assert!(written.symlinks > 0, "a runtime has links");
    let [key, homedir] = gpg.sign_args();
    let _ = flatpak.build_export(&repo, &first, "master", &[&key, &homedir]);
    let web = StaticServer::start(&repo);
    let key_file = folder.path().join("key");
    gpg.write_public_key(&key_file);
    flatpak.remote_add("origin", &web.url(), Some(&key_file));
    let name = plan.flatpak_ref();
    let _ = flatpak.install("origin", &name);
    let installed = flatpak.installed_commit(&name);

    let written = plan.write(&next, Version::next(4));
    assert_eq!(written.changed.len(), 4, "exactly the asked number of files differs");
    let _ = flatpak.build_export(&repo, &next, "master", &[&key, &homedir]);
    let _ = flatpak.update(&name);
    assert_ne!(flatpak.installed_commit(&name), installed, "an update installs another commit");
    for path in &written.changed {
        let inside = path.strip_prefix("usr").expect("the files of a runtime are below usr");
        let read = fs::read(flatpak.location(&name).join("files").join(inside)).expect("the file is installed");
        let wanted = fs::read(next.join(path)).expect("the file was written");
        assert!(read == wanted, "`{}` is installed as it was built", path.display());
    }
}

#[test]
fn flatpak_installs_an_app_with_exports_and_appstream() {
    let (Some(flatpak), Some(ostree)) = (Flatpak::find(), Ostree::find()) else { return };
    let folder = temp();
    let (repo, pushed) = (folder.path().join("repo"), folder.path().join("pushed"));
    let runtime = BuildDir::runtime("org.example.Platform");
    let app = BuildDir::app("org.example.App", "org.example.Platform").with_files(2, 5);
    for plan in [&runtime, &app] {
        let build = folder.path().join(&plan.id);
        plan.write(&build, Version::first());
        let _ = flatpak.build_export(&pushed, &build, "master", &[]);
    }
    ostree.init(&repo, RepoMode::Archive, None);
    let _ = flatpak.build_commit_from(&repo, &[&format!("--src-repo={}", pushed.display())], &[]);
    let _ = flatpak.build_update_repo(&repo, &[]);
    let branch = format!("appstream2/{}", app.arch);
    assert!(ostree.refs(&repo).contains(&branch), "the app brings the appstream branch into being");
    let listing = ostree.ls(&repo, &branch);
    assert!(listing.contains("/icons/64x64/org.example.App.png"), "the app's icon is in appstream:\n{listing}");

    flatpak.remote_add("local", &format!("file://{}", repo.display()), None);
    for plan in [&runtime, &app] {
        let _ = flatpak.install("local", &plan.flatpak_ref());
        let head = ostree.rev_parse(&repo, &plan.flatpak_ref());
        assert_eq!(flatpak.installed_commit(&plan.flatpak_ref()), head, "the head of the ref is installed");
    }
    assert!(flatpak.user_repo().join("config").is_file(), "the installation has its own repository");
}

#[test]
fn a_build_directory_is_the_same_for_the_same_plan() {
    let folder = temp();
    let plan = BuildDir::app("org.example.App", "org.example.Platform").with_files(9, 12);
    let trees: Vec<Directory> = ["a", "b"]
        .iter()
        .map(|name| {
            plan.write(&folder.path().join(name), Version::next(3));
            Directory::read(&folder.path().join(name))
        })
        .collect();
    assert!(trees[0] == trees[1], "a plan and a version decide every byte");
}

#[test]
fn gpg_accepts_its_signature_and_no_other() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let signature = gpg.sign_detached(b"summary");
    let good = gpg.verify_detached(b"summary", &signature).ok();
    assert!(good.text().contains(&format!("VALIDSIG {}", gpg.fingerprint())), "the key made it:\n{}", good.report());
    let bad = gpg.verify_detached(b"Summary", &signature).failed();
    assert!(bad.text().contains("BADSIG"), "other data has no good signature:\n{}", bad.report());
    assert_ne!(gpg.add_key("Other <other@example.org>"), gpg.fingerprint(), "a second key is another key");
    assert!(gpg.home().as_os_str().len() < 40, "the folder leaves room for the names of sockets");
}

#[test]
fn sshd_runs_commands_with_its_environment() {
    let options =
        SshdOptions { set_env: vec![("TESTKIT_WORD".to_owned(), "graft it".to_owned())], ..SshdOptions::default() };
    let Some(sshd) = Sshd::start_with(&options) else { return };
    let run = sshd.run("echo \"$TESTKIT_WORD\" \"$HOME\"; exit 7").failed();
    assert_eq!(run.code(), Some(7), "the exit code of the remote command comes back:\n{}", run.report());
    assert_eq!(run.text(), format!("graft it {}", sshd.home().display()), "the session has the variables");
    assert!(sshd.log().contains("Accepted publickey"), "the log tells of the login:\n{}", sshd.log());
}

#[test]
fn sshd_forces_the_command_of_a_key_also_through_a_link() {
    let options = SshdOptions { key_options: "restrict,command=\"echo forced\"".to_owned(), ..SshdOptions::default() };
    let Some(sshd) = Sshd::start_with(&options) else { return };
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    let mut command = Command::new("ssh");
    command.args(sshd.client_options_for_port(link.port())).args([sshd.host(), "echo wanted"]);
    let run = Run::of(&mut command).ok();
    assert_eq!(run.text(), "forced", "the key's command runs instead of the asked one");
    assert_eq!(link.connections(), 1, "the login went through the link");

    let free = sshd.add_client_key("free_key", "");
    let mut wrapper = Command::new(sshd.ssh_wrapper());
    wrapper.args(["-o", "IdentityFile=none", "-i"]).arg(&free).args([sshd.host(), "echo wanted"]);
    // The configuration names the forced key too; `ssh` offers the one of its command line first.
    let run = Run::of(&mut wrapper).ok();
    assert_eq!(run.text(), "wanted", "another key has its own options");
}

#[test]
fn sshd_sessions_can_be_killed() {
    let Some(sshd) = Sshd::start() else { return };
    let mut command = sshd.ssh();
    command.arg("echo ready; exec sleep 1000").stdout(Stdio::piped());
    let mut session = command.spawn().expect("ssh can be started");
    let mut output = session.stdout.take().expect("standard output was asked to be a pipe");
    output.read_exact(&mut [0; 6]).expect("the session says that it is ready");
    sshd.kill_sessions();
    let status = session.wait().expect("a child can be waited for");
    assert_eq!(status.code(), Some(255), "ssh reports a lost connection with 255");
    assert_eq!(sshd.run("echo again").ok().text(), "again", "the server still takes new sessions");
}
