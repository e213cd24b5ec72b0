//! Commits into a local repository: what `treegraft commit` and `treegraft export` write is what `ostree` and `flatpak` do.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use rustix::fs::lgetxattr;
use treegraft_testkit::{
    BuildDir, Flatpak, RepoMode, Version,
    tree::{Directory, TreeShape},
};

use crate::site::{Site, json};

const MODES: [RepoMode; 2] = [RepoMode::Archive, RepoMode::BareUser];
const TIME_SECS: u64 = 1_577_836_800;

fn path(path: &Path) -> &str {
    path.to_str().expect("the test's paths are UTF-8")
}

/// Makes a tree with everything that files can be.
fn folder(site: &Site, seed: u64) -> std::path::PathBuf {
    let folder = site.env.root().join(format!("tree-{seed}"));
    Directory::from_seed(seed, &TreeShape::default()).write(&folder);
    symlink("a/b", folder.join("a link")).expect("the folder is ours");
    for (name, bytes, mode) in
        [("empty", 0, 0o644), ("setuid", 1, 0o4755), ("private", 4097, 0o600), ("large", 3 << 20, 0o664)]
    {
        fs::write(folder.join(name), vec![b'x'; bytes]).expect("the folder is ours");
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    folder
}

/// Tells what each object is on disk; of `.filez` only that they are there, since each program compresses in its own way.
fn on_disk(repo: &Path) -> BTreeMap<String, (u32, u64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for directory in fs::read_dir(repo.join("objects")).expect("a repository has objects") {
        let directory = directory.expect("it can be read");
        for file in fs::read_dir(directory.path()).expect("it can be read") {
            let file = file.expect("it can be read");
            let stat = file.metadata().expect("it can be looked at");
            let name = format!("{}/{}", directory.file_name().display(), file.file_name().display());
            let mut header = vec![0; 4096];
            let length = lgetxattr(file.path(), "user.ostreemeta", &mut header).unwrap_or(0);
            header.truncate(length);
            let kind = name.rsplit('.').next().unwrap_or_default();
            let times = if kind == "file" { stat.mtime() } else { 0 };
            let bytes = if kind == "filez" { 0 } else { stat.len() };
            if kind != "commit" {
                found.insert(name.clone(), (stat.mode(), bytes, times, header));
            }
        }
    }
    found
}

#[test]
fn a_commit_is_what_ostree_commits() {
    let Some(site) = Site::new() else { return };
    for (mode, seed) in MODES.into_iter().zip([5, 6]) {
        let folder = folder(&site, seed);
        let (ours, theirs) =
            (site.env.root().join(format!("ours-{seed}")), site.env.root().join(format!("theirs-{seed}")));
        for repo in [&ours, &theirs] {
            site.ostree.init(repo, mode, Some("org.example.Os"));
        }
        for (round, subject) in ["one", "two"].into_iter().enumerate() {
            fs::write(folder.join("changing"), subject).expect("the folder is ours");
            let time_secs = TIME_SECS + round as u64;
            let subject = format!("--subject={subject}");
            let same = ["--bind-ref=os/other", "--body=Body", &subject, "--owner-uid=0", "--owner-gid=0"];
            site.ostree.commit(&theirs, &folder, "os/stable", time_secs, &same);
            let time = format!("--timestamp=@{time_secs}");
            let named =
                ["commit", "--json", "--repo", path(&ours), "--tree", path(&folder), "--branch=os/stable", &time];
            let run = site.treegraft(named.iter().chain(&same)).ok();
            assert_eq!(json(&run)["refs"][0]["name"], "os/stable", "{}", run.text());
            let heads = [&ours, &theirs].map(|repo| site.ostree.rev_parse(repo, "os/stable"));
            assert_eq!(heads[0], heads[1], "the commit is the same, bit for bit ({mode:?})");
        }
        assert_eq!(on_disk(&ours), on_disk(&theirs), "the objects on disk are the same ({mode:?})");
        site.ostree.fsck(&ours);
        let again = ["commit", "--json", "--repo", path(&ours), "--tree", path(&folder), "--branch=again"];
        let again = json(&site.treegraft(again.iter().chain(&["--owner-uid=0", "--owner-gid=0"])).ok());
        assert_eq!(again["new_objects"], 1, "nothing but the commit is new: {again}");
        assert!(
            fs::read_dir(ours.join(".treegraft/staging")).is_ok_and(|mut left| left.next().is_none()),
            "no leftovers"
        );
    }
}

#[test]
fn options_mean_what_they_mean_for_ostree() {
    let Some(site) = Site::new() else { return };
    let folder = folder(&site, 9);
    let (ours, theirs) = (site.env.root().join("ours"), site.env.root().join("theirs"));
    for repo in [&ours, &theirs] {
        site.ostree.init(repo, RepoMode::Archive, None);
    }
    let file = |name: &str, content: &str| {
        fs::write(site.env.root().join(name), content).expect("the folder is ours");
        site.env.root().join(name).display().to_string()
    };
    fs::create_dir_all(folder.join("left/out")).expect("the folder is ours");
    fs::write(folder.join("left/out/file"), "x").expect("the folder is ours");
    fs::create_dir_all(folder.join("strict")).expect("the folder is ours");
    let modes = format!("--statoverride={}", file("modes", "2048 /empty\n=448 /strict\n\n=493 /large\n"));
    let skipped = format!("--skip-list={}", file("skipped", "/left/out\n/private\n"));
    let metadata = ["--add-metadata-string=version=1.2", "--add-metadata=key=(uint64 7, ['a', 'b'], <true>)"];
    for options in [
        vec!["--owner-uid=5", "--owner-gid=6"],
        vec!["--canonical-permissions"],
        vec!["--owner-uid=0", "--owner-gid=0", "--no-xattrs", &modes, &skipped],
        vec!["--canonical-permissions", &modes],
        [&["--owner-uid=0", "--owner-gid=0"], &metadata[..]].concat(),
    ] {
        let tree = format!("--tree=dir={}", folder.display());
        let same = [&["--branch=main", "--timestamp=@1577836800"], &options[..]].concat();
        let _ = site.ostree.at(&theirs, "commit", [&[tree.as_str()], &same[..]].concat());
        site.treegraft(["commit", "--repo", path(&ours), "--tree", path(&folder)].iter().chain(&same)).ok();
        let heads = [&ours, &theirs].map(|repo| site.ostree.rev_parse(repo, "main"));
        assert_eq!(heads[0], heads[1], "the commit is the same, bit for bit: {options:?}");
    }
    for (rule, reason) in
        [("1 /nowhere", "/nowhere"), ("x /empty", "no decimal number"), ("1 /strict", "cannot be added to")]
    {
        let modes = format!("--statoverride={}", file("modes", rule));
        let run = site.treegraft(["commit", "--repo", path(&ours), "--tree", path(&folder), "--branch=main", &modes]);
        assert_eq!(run.code(), Some(1), "`{rule}`: {}", run.report());
        assert!(run.stderr_text().contains(reason), "`{rule}`: {}", run.report());
    }
}

#[test]
fn a_build_directory_is_exported_as_flatpak_exports_it() {
    let Some(site) = Site::new() else { return };
    let Some(flatpak) = Flatpak::find() else { return };
    let folder = site.env.root().join("app");
    BuildDir::app("org.example.App", "org.example.Platform").write(&folder, Version::first());
    for mode in MODES {
        let name = mode.as_str();
        let (ours, theirs) =
            (site.env.root().join(format!("ours-{name}")), site.env.root().join(format!("theirs-{name}")));
        for repo in [&ours, &theirs] {
            site.ostree.init(repo, mode, None);
        }
        let options = [
            "--timestamp=2020-01-01T00:00:00Z",
            "--no-update-summary",
            "--end-of-life=gone",
            "--end-of-life-rebase=org.example.New",
            "--token-type=3",
            "--subset=verified",
        ];
        flatpak.build_export(&theirs, &folder, "stable", &options);
        site.treegraft(["export", path(&folder), path(&ours), "stable"].iter().chain(&options)).ok();
        let branch = format!("app/org.example.App/{}/stable", std::env::consts::ARCH);
        assert_eq!(site.ostree.ls(&ours, &branch), site.ostree.ls(&theirs, &branch), "the tree is the same ({name})");
        assert_eq!(on_disk(&ours), on_disk(&theirs), "the objects on disk are the same ({name})");
        for key in [
            "xa.ref",
            "xa.metadata",
            "xa.installed-size",
            "ostree.endoflife",
            "ostree.endoflife-rebase",
            "xa.token-type",
            "xa.subsets",
            "ostree.ref-binding",
            "ostree.collection-binding",
        ] {
            let values = [&ours, &theirs].map(|repo| site.ostree.metadata(repo, &branch, key));
            assert_eq!(values[0], values[1], "`{key}` is the same ({name})");
        }
        if mode == RepoMode::BareUser {
            let sizes = [&ours, &theirs].map(|repo| site.ostree.metadata(repo, &branch, "xa.download-size"));
            assert_eq!(sizes[0], sizes[1], "nothing is compressed, so the download size is the same as well");
        }
        site.ostree.fsck(&ours);
    }
}

#[test]
fn an_export_makes_a_repository_that_flatpak_installs_from() {
    let Some(site) = Site::new() else { return };
    let Some(flatpak) = Flatpak::find() else { return };
    let folder = site.env.root().join("runtime");
    BuildDir::runtime("org.example.Platform").write(&folder, Version::first());
    let repo = site.env.root().join("repo");
    site.treegraft(["export", path(&folder), path(&repo)]).ok();
    flatpak.remote_add("test", &format!("file://{}", repo.display()), None);
    flatpak.install("test", &format!("runtime/org.example.Platform/{}/master", std::env::consts::ARCH));
    let run = site.treegraft(["export", path(&folder), path(&repo), "--collection-id=org.example.Other"]);
    assert_eq!(run.code(), Some(1), "the repository has none: {}", run.report());
}
