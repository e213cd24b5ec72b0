//! Directories that were never committed: what is published is what `ostree commit` would have made of them.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use treegraft_testkit::{
    BuildDir, Flatpak, RepoMode, Run, Sshd, Version,
    tree::{Directory, TreeShape},
};

use crate::site::{Site, json, objects};

const BRANCH: &str = "os/x86_64/stable";

/// Commits a folder with `ostree` and tells all that is in the commit.
fn committed(site: &Site, folder: &Path, args: &[&str]) -> String {
    let repo = site.env.root().join("reference");
    if !repo.exists() {
        site.ostree.init(&repo, RepoMode::Archive, None);
    }
    site.ostree.commit(&repo, folder, "reference", 1_700_000_000, args);
    site.ostree.ls(&repo, "reference")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the test's paths are UTF-8")
}

#[test]
fn a_directory_becomes_what_ostree_commit_makes_of_it() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    for seed in [3, 77] {
        let folder = site.env.root().join(format!("tree-{seed}"));
        Directory::from_seed(seed, &TreeShape::default()).write(&folder);
        symlink("a/b", folder.join("a link")).expect("the folder is ours");
        fs::write(folder.join("setuid"), "x").expect("the folder is ours");
        fs::set_permissions(folder.join("setuid"), fs::Permissions::from_mode(0o4755)).expect("it is ours");
        let args = ["--tree", path(&folder), "--branch", BRANCH, "--owner-uid=0", "--owner-gid=0"];
        site.push_unstored(&args).ok();
        assert_eq!(site.ostree.ls(&site.server, BRANCH), committed(&site, &folder, &[]), "seed {seed}");

        let other = ["--tree", path(&folder), "--branch=over/ssh", "--owner-uid=0", "--owner-gid=0", "--no-xattrs"];
        Run::of(&mut site.push_unstored_ssh_command(&sshd, sshd.port(), &other)).ok();
        let without = committed(&site, &folder, &["--no-xattrs"]);
        assert_eq!(site.ostree.ls(&site.server, "over/ssh"), without, "seed {seed}, over ssh");
    }
    assert_eq!(site.ostree.log(&site.server, BRANCH).matches("commit ").count(), 2, "one on top of the other");
    site.ostree.fsck(&site.server);
}

#[test]
fn an_archive_becomes_what_the_directory_becomes() {
    let Some(site) = Site::new() else { return };
    let folder = site.tree("tree", &[("a/one", "1"), ("a/two", "2"), ("three", "3")]);
    let archive = site.env.root().join("tree.tar.gz");
    Run::of(site.env.command("tar").arg("-C").arg(&folder).arg("-czf").arg(&archive).arg(".")).ok();
    site.push_unstored(&["--tree", path(&folder), "--branch=from/directory"]).ok();
    site.push_unstored(&["--tree-tar", path(&archive), "--branch=from/archive"]).ok();
    let command = site.push_unstored_command(&["--tree-tar", "-", "--branch=from/pipe"]);
    let mut piped = site.env.command("sh");
    piped.args(["-c", "archive=$1; shift; exec \"$@\" < \"$archive\"", "sh"]).arg(&archive);
    Run::of(piped.arg(command.get_program()).args(command.get_args())).ok();
    let listed = site.ostree.ls(&site.server, "from/directory");
    for branch in ["from/archive", "from/pipe"] {
        assert_eq!(site.ostree.ls(&site.server, branch), listed, "`{branch}`");
    }
    let compressed = site.tree("other", &[("x.tar.zst", "")]).join("x.tar.zst");
    fs::write(&compressed, b"\x28\xb5\x2f\xfd").expect("the folder is ours");
    let run = site.push_unstored(&["--tree-tar", path(&compressed), "--branch=x"]);
    assert!(run.code() == Some(1) && run.stderr_text().contains("zstd -dc"), "a way is told: {}", run.report());
}

#[test]
fn a_build_directory_becomes_what_its_export_becomes() {
    let (Some(site), Some(sshd), Some(flatpak)) = (Site::new(), Sshd::start(), Flatpak::find()) else { return };
    let app = BuildDir::app("org.example.App", "org.example.Platform");
    let runtime = BuildDir::runtime("org.example.Platform").with_files(3, 10);
    let folders = ["app", "runtime"].map(|name| site.env.root().join(name));
    let refs = [app.flatpak_ref(), runtime.flatpak_ref()];
    let exported = site.env.root().join("exported");
    for (version, time) in [(Version::first(), "2020-01-01"), (Version::next(2), "2020-01-02")] {
        for (plan, folder) in [&app, &runtime].into_iter().zip(&folders) {
            let _ = fs::remove_dir_all(folder);
            plan.write(folder, version);
        }
        let timestamp = format!("--timestamp={time}T00:00:00Z");
        let both = ["--build-dir", path(&folders[0]), "--build-dir", path(&folders[1]), &timestamp, "--json"];
        let report = json(&Run::of(&mut site.push_unstored_ssh_command(&sshd, sshd.port(), &both)).ok());
        assert_eq!(report["refs"].as_array().map(Vec::len), Some(2), "both in one push: {report}");
        for (folder, name) in folders.iter().zip(&refs) {
            flatpak.build_export(&exported, folder, "master", &[&timestamp]);
            let listed = site.ostree.ls(&exported, name);
            assert_eq!(site.ostree.ls(&site.server, name), listed, "the tree of `{name}` is that of its export");
            for key in ["xa.metadata", "xa.installed-size", "xa.ref", "ostree.ref-binding"] {
                let values = [&site.server, &exported].map(|repo| site.ostree.metadata(repo, name, key));
                assert_eq!(values[0], values[1], "`{key}` of `{name}` is that of its export");
            }
        }
        let sent = report["sent_objects"].as_u64();
        assert!(version == Version::first() || sent <= Some(60), "only what is new travels: {report}");
        site.ostree.fsck(&site.server);
        if version == Version::first() {
            flatpak.remote_add("test", &format!("file://{}", site.server.display()), None);
        }
        for name in [&refs[1], &refs[0]] {
            if time.ends_with("01") { flatpak.install("test", name) } else { flatpak.update(name) }.ok();
            let head = site.ostree.rev_parse(&site.server, name);
            assert_eq!(flatpak.installed_commit(name), head, "a client has the new version of `{name}`");
        }
    }
}

#[test]
fn mistakes_with_build_directories_are_told() {
    let Some(site) = Site::new() else { return };
    let folder = site.env.root().join("app");
    BuildDir::app("org.example.App", "org.example.Platform").write(&folder, Version::first());
    let told = |args: &[&str], code: i32, text: &str| {
        let run = site.push_unstored(args);
        assert!(run.code() == Some(code) && run.stderr_text().contains(text), "{args:?}: {}", run.report());
    };
    let build = ["--build-dir", path(&folder)];
    told(&[&build[..], &["--branch=a b"]].concat(), 1, "`--branch` and `--arch` say the rest");
    told(&[&build[..], &build].concat(), 2, "Two build directories are for the ref");
    told(&[&build[..], &["some/ref"]].concat(), 2, "cannot be used with");
    told(&[&build[..], &["--exact"]].concat(), 2, "cannot be used with");
    fs::remove_dir_all(folder.join("export")).expect("the folder is ours");
    told(&build, 1, "`flatpak build-finish`");
    told(&["--build-dir", path(site.env.root())], 1, "`flatpak build-init` or flatpak-builder");
}

#[test]
fn only_what_is_new_is_sent() {
    let Some(site) = Site::new() else { return };
    let folder = site.tree("tree", &[("a/one", "1"), ("a/two", "2"), ("b/three", "3"), ("four", "4")]);
    let args = ["--tree", path(&folder), "--branch", BRANCH, "--json"];
    let first = json(&site.push_unstored(&args).ok());
    assert_eq!(first["sent_objects"], 9, "a commit, three dirtrees, a dirmeta, four files: {first}");
    let again = json(&site.push_unstored(&args).ok());
    assert_eq!((&again["sent_objects"], &again["refs"][0]["status"]), (&0.into(), &"unchanged".into()), "{again}");
    fs::write(folder.join("a/one"), "another").expect("the folder is ours");
    let before = objects(&site.server);
    let changed = json(&site.push_unstored(&args).ok());
    assert_eq!(changed["sent_objects"], 4, "a commit, two dirtrees, a file: {changed}");
    assert_eq!(objects(&site.server).difference(&before).count(), 4, "the graft is there instead of the commit");
}

#[test]
fn words_and_bindings_are_those_of_the_command_line() {
    let Some(site) = Site::new() else { return };
    let folder = site.tree("tree", &[("file", "1")]);
    let args = ["--tree", path(&folder), "--branch", BRANCH, "--subject=S", "--body=B", "--timestamp=@1700000000"];
    site.push_unstored(&[&args[..], &["--bind-ref=os/x86_64/testing"]].concat()).ok();
    let shown = site.ostree.show(&site.server, BRANCH);
    for part in ["    S", "    B", "2023-11-14 22:13:20"] {
        assert!(shown.contains(part), "`{part}` is in the commit: {shown}");
    }
    let bound = site.ostree.metadata(&site.server, BRANCH, "ostree.ref-binding");
    assert_eq!(bound, "['os/x86_64/stable', 'os/x86_64/testing']", "both refs, sorted");
}

#[test]
fn a_dry_run_tells_what_would_be_sent() {
    let Some(site) = Site::new() else { return };
    let folder = site.tree("tree", &[("file", "1")]);
    let run = site.push_unstored(&["--tree", path(&folder), "--branch", BRANCH, "--dry-run", "--json"]).ok();
    assert_eq!(json(&run)["planned"]["objects"].as_array().map(Vec::len), Some(4), "{}", run.text());
    assert!(site.ostree.refs(&site.server).is_empty(), "nothing was published");
}

/// A file that something still writes: the push waits for a quiet moment instead of publishing a torn one.
#[test]
fn a_file_that_changes_is_hashed_again() {
    let Some(site) = Site::new() else { return };
    // It takes longer to hash than between two writes.
    let folder = site.tree("tree", &[("log", &"x".repeat(48 << 20))]);
    let log = fs::OpenOptions::new().write(true).open(folder.join("log")).expect("the folder is ours");
    let is_over = AtomicBool::new(false);
    let write = || {
        for number in 0_u64.. {
            log.write_all_at(&number.to_be_bytes(), 40 << 20).expect("it can be written");
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    };
    let args = ["--tree", path(&folder), "--branch", BRANCH];
    thread::scope(|scope| {
        scope.spawn(write);
        let run = site.push_unstored(&args);
        assert_eq!(run.code(), Some(4), "without another try, it may succeed later: {}", run.report());
        assert!(run.stderr_text().contains("log` changed while it was read"), "it is named: {}", run.report());
        assert!(site.ostree.refs(&site.server).is_empty(), "nothing was published");
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(1));
            is_over.store(true, Ordering::Relaxed);
        });
        site.push_unstored(&[&args[..], &["--retries=9"]].concat()).ok();
    });
    site.ostree.fsck(&site.server);
    assert_eq!(
        site.ostree.ls(&site.server, BRANCH),
        committed_as_it_is(&site, &folder),
        "the last content is published"
    );
}

/// As [`committed`], with the owner that the files have.
fn committed_as_it_is(site: &Site, folder: &Path) -> String {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    committed(site, folder, &[&format!("--owner-uid={uid}"), &format!("--owner-gid={gid}")])
}
