//! What the server's disk and configuration do to a push: no space, no writing, parents, partial commits, collections.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use treegraft_object::ObjectName;
use treegraft_repo::{Find, Repo, Staging};
use treegraft_testkit::{RepoMode, Run, SplitMix64, StaticServer};

use crate::{
    judge::refs,
    site::{Site, json, objects},
};

/// A small file system of its own, gone when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it, which only root can do; otherwise tells that the calling test is skipped.
    fn mount(path: PathBuf, kib: u64) -> Option<Self> {
        fs::create_dir_all(&path).expect("a folder can be made");
        let size = format!("size={kib}k");
        let run = Run::of(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path));
        if run.success() {
            return Some(Self(path));
        }
        let reason = run.stderr_text();
        std::io::Write::write_fmt(
            &mut std::io::stderr().lock(),
            format_args!("SKIPPED: a test of full disks needs the right to mount: {reason}\n"),
        )
        .expect("standard error of a test is open");
        None
    }

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        Run::of(Command::new("mount").args(["-o", &option]).arg(&self.0)).ok();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Run::of(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// Makes a site whose repository is on a small disk and keeps nothing free.
fn small_site(kib: u64) -> Option<(Site, SmallDisk)> {
    let mut site = Site::new()?;
    let disk = SmallDisk::mount(site.env.root().join("small"), kib)?;
    site.server = disk.0.join("repo");
    site.treegraft(["init".as_ref(), site.server.as_os_str()]).ok();
    set(&site, "core.min-free-space-percent", "0");
    Some((site, disk))
}

fn set(site: &Site, key: &str, value: &str) {
    site.ostree.at(&site.server, "config", ["set", key, value]).ok();
}

/// Makes a worker with two refs of a few random files each.
fn two_refs(site: &Site, seed: u64, files: usize, bytes: usize) -> PathBuf {
    let mut random = SplitMix64::new(seed);
    for name in ["one", "two"] {
        let tree = site.env.make_folder(name);
        for index in 0..files {
            fs::write(tree.join(index.to_string()), random.bytes(bytes)).expect("a file can be written");
        }
        site.worker("w", RepoMode::Archive, &tree, name, seed);
    }
    site.env.root().join("w")
}

/// A push must have failed for want of space, without a trace in what is published.
fn check_no_space(site: &Site, run: &Run, refs: &[&str]) {
    let error = json(run)["error"]["code"].clone();
    assert_eq!(error, "no-space", "it is said that the disk is full: {}", run.report());
    assert_eq!(run.code(), Some(1), "waiting makes no room: {}", run.report());
    assert_eq!(site.ostree.refs(&site.server), refs, "no ref has moved");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_full_disk_is_told_and_a_larger_one_completes_the_push() {
    let Some((site, disk)) = small_site(2_000) else { return };
    let worker = two_refs(&site, 1, 30, 50_000);
    let run = site.push_local(&worker, &["--json"]);
    check_no_space(&site, &run, &[]);
    disk.remount("size=20m");
    let report = json(&site.push_local(&worker, &["--json"]).ok());
    let (sent, resumed) = (&report["sent_objects"], &report["resumed"]["objects"]);
    assert!(resumed.as_u64() > Some(10), "what had found room is still there: {report}");
    assert_eq!(
        sent.as_u64().zip(resumed.as_u64()).map(|(sent, resumed)| sent + resumed),
        Some(objects(&worker).len() as u64),
        "only the rest is sent: {report}"
    );
    site.ostree.fsck(&site.server);
    assert_eq!(site.ostree.refs(&site.server), ["one", "two"], "both refs are there");
}

/// Leaves a little more room each time, so that the disk is full at one step after the other.
#[test]
fn a_disk_that_is_full_at_any_step_leaves_the_repository_intact() {
    let Some((site, disk)) = small_site(4_000) else { return };
    site.push_local(&two_refs(&site, 1, 3, 100), &[]).ok();
    let old = ["one", "two"].map(|name| site.ostree.rev_parse(&site.server, name));
    let worker = two_refs(&site, 2, 3, 10_000);
    let ballast = disk.0.join("ballast");
    let mut steps = 0;
    let left_blocks = |blocks: u64| {
        fs::remove_file(&ballast).ok();
        let free = rustix::fs::statvfs(&disk.0).expect("it is mounted");
        let bytes = free.f_bfree.saturating_sub(blocks) * free.f_frsize;
        fs::write(&ballast, vec![0; usize::try_from(bytes).expect("it is small")]).expect("there is room for it");
    };
    for blocks in 0.. {
        left_blocks(blocks);
        let run = site.push_local(&worker, &["--json"]);
        let moved = ["one", "two"].map(|name| site.ostree.rev_parse(&site.server, name));
        site.ostree.fsck(&site.server);
        if run.success() {
            assert!(moved.iter().zip(&old).all(|(new, old)| new != old), "both refs have moved: {}", run.report());
            break;
        }
        let error = json(&run)["error"]["code"].clone();
        if error == "summary-stale" {
            assert!(moved.iter().zip(&old).all(|(new, old)| new != old), "both refs have moved: {}", run.report());
        } else {
            assert_eq!(moved, old, "no ref has moved with {blocks} blocks left: {}", run.report());
            check_no_space(&site, &run, &["one", "two"]);
        }
        steps += 1;
    }
    assert!(steps > 5, "the disk was full at several steps, not only at {steps}");
    left_blocks(1_000);
    site.push_local(&worker, &[]).ok();
    let summary = site.ostree.at(&site.server, "summary", ["-v"]).text();
    for name in ["one", "two"] {
        assert!(summary.contains(&site.ostree.rev_parse(&site.server, name)), "the summary is up to date: {summary}");
    }
    assert!(!site.server.join(".treegraft/journal").exists(), "no journal is left");
}

/// Leaves a few more inodes each time: files and directories that cannot be made, although there is room for their bytes.
#[test]
fn a_disk_without_inodes_leaves_the_repository_intact() {
    let Some((site, disk)) = small_site(8_000) else { return };
    site.push_local(&two_refs(&site, 1, 3, 100), &[]).ok();
    let old = refs(&site.server);
    let worker = two_refs(&site, 2, 3, 10_000);
    let used = |disk: &SmallDisk| {
        let stat = rustix::fs::statvfs(&disk.0).expect("it is mounted");
        stat.f_files - stat.f_ffree
    };
    for more in 0.. {
        disk.remount(&format!("nr_inodes={}", used(&disk) + more));
        let run = site.push_local(&worker, &["--json"]);
        site.ostree.fsck(&site.server);
        if run.success() {
            assert!(more > 3, "some pushes had too few inodes");
            break;
        }
        let code = json(&run)["error"]["code"].clone();
        assert!(code == "no-space" || code == "summary-stale", "it is said that the disk is full: {}", run.report());
        assert_eq!(refs(&site.server) == old, code == "no-space", "all refs have moved or none: {}", run.report());
    }
    assert!(refs(&site.server).iter().all(|(name, head)| old[name] != *head), "both refs have moved");
    let summary = site.ostree.at(&site.server, "summary", ["-v"]).text();
    assert!(refs(&site.server).values().all(|head| summary.contains(head)), "the summary is up to date: {summary}");
}

/// Gives everything below a folder a time in the future, as a clock does that was wrong before it was set back.
fn postdate(folder: &Path, time: SystemTime) {
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).expect("it can be listed").flatten().map(|entry| entry.path()));
        }
        fs::File::open(&path).and_then(|file| file.set_modified(time)).expect("the time of an own file can be set");
    }
}

#[test]
fn a_clock_that_was_set_back_costs_nothing() {
    let Some(site) = Site::new() else { return };
    site.push_local(&two_refs(&site, 1, 3, 100), &[]).ok();
    let worker = two_refs(&site, 2, 3, 1_000);
    // What a push has left that died when the clock was wrong.
    let (from, repo) = (Repo::open(&worker).expect("a repository"), Repo::open(&site.server).expect("a repository"));
    let (staging, _) = Staging::open(&repo).expect("it can be staged");
    let mut left = 0;
    for commit in from.refs().expect("it has refs").into_values() {
        let tree = from.commit(commit).expect("it is there").root_tree;
        for name in [ObjectName::from(commit), tree.into()] {
            let data = from.metadata(name).expect("it can be read").expect("it is there");
            left += u64::from(staging.stage_metadata(name, &data).expect("it is sound").is_new);
        }
    }
    drop(staging);
    let future = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
    postdate(&site.server, future);

    let report = json(&site.push_local(&worker, &["--json"]).ok());
    assert_eq!(report["resumed"]["objects"], left, "what was left is taken over: {report}");
    // Clients and caches ask whether it is newer than the one that they have.
    let modified = fs::metadata(site.server.join("summary")).and_then(|metadata| metadata.modified());
    assert!(modified.expect("there is a summary") > future, "the summary is newer than the one before");
    site.ostree.fsck(&site.server);
    let summary = site.ostree.at(&site.server, "summary", ["-v"]).text();
    assert!(refs(&site.server).values().all(|head| summary.contains(head)), "the summary is up to date: {summary}");
    let staging = fs::read_dir(site.server.join(".treegraft/staging")).expect("the folder is there").count();
    assert_eq!(staging, 0, "nothing is left in the staging area");
}

#[test]
fn a_read_only_repository_is_named() {
    let Some((site, disk)) = small_site(2_000) else { return };
    let worker = two_refs(&site, 1, 1, 10);
    disk.remount("ro");
    let run = site.push_local(&worker, &["--json"]);
    assert_eq!(run.code(), Some(1), "it does not become writable by waiting: {}", run.report());
    assert!(run.text().contains("not writable"), "the reason is told: {}", run.report());
    disk.remount("rw");
    site.push_local(&worker, &[]).ok();
}

#[test]
fn what_must_stay_free_is_left_free() {
    let Some(site) = Site::new() else { return };
    let worker = two_refs(&site, 1, 3, 1_000);
    for (key, value) in [("core.min-free-space-size", "1000000GB"), ("core.min-free-space-percent", "99")] {
        set(&site, key, value);
        let run = site.push_local(&worker, &["--json"]);
        check_no_space(&site, &run, &[]);
        site.ostree.at(&site.server, "config", ["unset", key]).ok();
    }
    set(&site, "core.min-free-space-size", "1MB");
    site.push_local(&worker, &[]).ok();
}

#[test]
fn objects_of_the_parent_repository_count_as_there() {
    let Some(site) = Site::new() else { return };
    let parent = site.env.root().join("parent");
    site.ostree.init(&parent, RepoMode::Archive, None);
    let tree = site.tree("t", &[("same/a", "a"), ("same/b", "b"), ("c", "c")]);
    site.ostree.commit(&parent, &tree, "base", 1_000, &[]);
    set(&site, "core.parent", &parent.display().to_string());
    fs::write(tree.join("c"), "changed").expect("a file can be written");
    let worker = site.worker("w", RepoMode::Archive, &tree, "main", 2_000);
    let report = json(&site.push_local(&worker, &["main", "--json"]).ok());
    let lacking = objects(&worker).difference(&objects(&parent)).count() as u64;
    assert_eq!(report["sent_objects"], lacking, "what the parent has is not sent: {report}");
    assert!(lacking < objects(&worker).len() as u64, "the parent has something, otherwise this test shows nothing");
    site.ostree.fsck(&site.server);
    assert_eq!(site.ostree.ls(&site.server, "main"), site.ostree.ls(&worker, "main"), "the whole tree is there");
}

/// A server that has a ref's commit, but not its whole tree, as a partial pull leaves it.
#[test]
fn holes_of_partial_commits_are_filled() {
    let Some(site) = Site::new() else { return };
    let tree = site.tree("t", &[("a/1", "1"), ("b/2", "2")]);
    let worker = site.worker("w", RepoMode::Archive, &tree, "main", 1_000);
    let head = site.ostree.rev_parse(&worker, "main");
    let from = StaticServer::start(&worker);
    site.ostree.remote_add(&site.server, "from", &from.url(), None);
    site.ostree.at(&site.server, "pull", ["--mirror", "--subpath=/a", "from", "main"]).ok();
    let partial = site.server.join(format!("state/{head}.commitpartial"));
    assert!(partial.exists(), "the server has a part of the commit only");

    fs::write(tree.join("a/3"), "3").expect("a file can be written");
    site.worker("w", RepoMode::Archive, &tree, "main", 2_000);
    site.push_local(&worker, &["main:other"]).ok();
    assert_eq!(site.ostree.ls(&site.server, "other"), site.ostree.ls(&worker, "main"), "the whole tree is there");
    assert!(partial.exists(), "the other commit is what it was");

    // The partial commit itself: its ref is there, so that it has to go to another one.
    site.push_local(&worker, &[&format!("{head}:whole"), "--exact"]).ok();
    assert!(!partial.exists(), "the commit is complete now, and its mark is gone");
    site.ostree.fsck(&site.server);

    // The other way round: a worker that has only a part.
    let half = site.env.root().join("half");
    site.ostree.init(&half, RepoMode::Archive, None);
    site.ostree.remote_add(&half, "from", &from.url(), None);
    site.ostree.at(&half, "pull", ["--mirror", "--subpath=/a", "from", "main"]).ok();
    let empty = Site::new().expect("there was one before");
    let run = empty.push_local(&half, &["main", "--json"]);
    assert_eq!(run.code(), Some(1), "a part cannot be published: {}", run.report());
    assert_eq!(empty.ostree.refs(&empty.server), Vec::<String>::new(), "no ref is visible");
}

#[test]
fn a_commit_that_comes_back_loses_its_tombstone() {
    let Some(site) = Site::new() else { return };
    set(&site, "core.tombstone-commits", "true");
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    let head = site.ostree.rev_parse(&worker, "main");
    site.push_local(&worker, &["main", "--exact"]).ok();
    site.ostree.at(&site.server, "refs", ["--delete", "main"]).ok();
    site.ostree.at(&site.server, "prune", ["--refs-only"]).ok();
    let tombstone = site.server.join(format!("objects/{}/{}.commit-tombstone", &head[..2], &head[2..]));
    let is_marked = || list(&tombstone).iter().any(|name| name.starts_with(&head[2..]) && name.contains("tombstone"));
    assert!(is_marked(), "`ostree prune` leaves a tombstone: {:?}", list(&tombstone));
    site.push_local(&worker, &["main", "--exact"]).ok();
    assert!(!is_marked(), "the commit is there again");
    site.ostree.fsck(&site.server);
}

/// Lists the names beside a path.
fn list(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path.parent().expect("it is in a folder"))
        .map(|entries| entries.flatten().map(|entry| entry.file_name().display().to_string()).collect());
    names.unwrap_or_default()
}

/// A ref as Flatpak has them: only those may be bound to more than one collection.
const RUNTIME: &str = "runtime/org.example.Runtime/x86_64/stable";

#[test]
fn collections_are_bound_mirrored_and_verified_by_clients() {
    let Some(site) = Site::new() else { return };
    // What is tested is the repository's own summary.
    site.configure("flatpak-update = \"never\"");
    set(&site, "core.collection-id", "org.example.Own");
    let push = |content: &str, timestamp_secs: u64| {
        let tree = site.tree("t", &[("metadata", "[Runtime]\nname=org.example.Runtime\n"), ("files/a", content)]);
        let worker = site.worker("w", RepoMode::Archive, &tree, RUNTIME, timestamp_secs);
        site.push_local(&worker, &[RUNTIME, "--extra-collection-id=org.example.Other"]).ok();
        let head = site.ostree.rev_parse(&site.server, RUNTIME);
        let mirrored = site.server.join("refs/mirrors/org.example.Other").join(RUNTIME);
        let mirrored = fs::read_to_string(mirrored).expect("it is written");
        assert_eq!(mirrored.trim(), head, "the ref is mirrored under the other collection");
        site.ostree.fsck(&site.server);
    };
    push("1", 1_000);
    push("2", 2_000);
    let bound = site.ostree.metadata(&site.server, RUNTIME, "ostree.collection-binding");
    assert_eq!(bound, "'org.example.Own'", "the commit is bound to the server's collection");
    let bound = site.ostree.metadata(&site.server, RUNTIME, "ostree.collection-refs-binding");
    assert!(bound.contains(&format!("('org.example.Other', '{RUNTIME}')")), "and to the other one: {bound}");
    let summary = site.ostree.at(&site.server, "summary", ["-v"]).text();
    for collection in ["Own", "Other"] {
        let line = format!("* (org.example.{collection}, {RUNTIME})\n");
        assert!(summary.contains(&line), "the summary has the ref in `{collection}`: {summary}");
    }
    let from = StaticServer::start(&site.server);
    for (collection, is_taken) in [("org.example.Own", true), ("org.example.Wrong", false)] {
        let client = site.env.root().join(collection);
        site.ostree.init(&client, RepoMode::Archive, None);
        let option = format!("--collection-id={collection}");
        site.ostree.at(&client, "remote", ["add", "--no-gpg-verify", &option, "origin", &from.url()]).ok();
        let repo = format!("--repo={}", client.display());
        let run = site.ostree.run_raw([&*repo, "pull", "origin", RUNTIME]);
        assert_eq!(run.success(), is_taken, "clients of {collection} look at the binding: {}", run.report());
    }
}
