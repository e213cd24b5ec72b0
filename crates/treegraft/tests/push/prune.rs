//! `treegraft prune` in a repository that is pushed to.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use treegraft_repo::{LockKind, Repo, RepoLock};
use treegraft_testkit::{BuildDir, Flatpak, RepoMode, Run, Version};

use crate::site::{Site, json, objects};

impl Site {
    fn prune(&self, args: &[&str]) -> Run {
        let fixed = ["prune", "--json", "--repo", &self.server.display().to_string()].map(str::to_owned);
        let config = ["--config".to_owned(), self.config().display().to_string()];
        self.treegraft(fixed.into_iter().chain(config).chain(args.iter().map(|&arg| arg.to_owned())))
    }

    /// Publishes commits with these numbers to `main`; returns their checksums in order.
    fn publish(&self, numbers: std::ops::Range<u64>) -> Vec<String> {
        let mut commits = Vec::new();
        for number in numbers {
            let tree = self.tree("tree", &[("number", &number.to_string()), ("same", "same")]);
            let worker = self.worker("worker", RepoMode::Archive, &tree, "main", 1_000 + number);
            self.push_local(&worker, &[]).ok();
            commits.push(self.ostree.rev_parse(&self.server, "main"));
        }
        commits
    }

    fn has_commit(&self, commit: &str) -> bool {
        self.server.join(format!("objects/{}/{}.commit", &commit[..2], &commit[2..])).exists()
    }

    fn summary_text(&self) -> String {
        self.ostree.at(&self.server, "summary", ["--view"]).text()
    }
}

#[test]
fn old_history_goes_and_clients_go_on() {
    let Some(site) = Site::new() else { return };
    let client = site.env.root().join("client");
    site.ostree.init(&client, RepoMode::Archive, None);
    site.ostree.remote_add(&client, "origin", &format!("file://{}", site.server.display()), None);
    let commits = site.publish(0..2);
    site.ostree.pull(&client, "origin", &["main"]);
    let commits = [commits, site.publish(2..6)].concat();
    let told = json(&site.prune(&["--depth", "1", "--dry-run"]).ok());
    assert_eq!(site.ostree.log(&site.server, "main").matches("commit ").count(), 6, "a dry run deletes nothing");
    let done = json(&site.prune(&["--depth", "1"]).ok());
    for key in ["objects", "kept_commits", "deleted", "bytes", "commits", "detached_metadata", "staging"] {
        assert_eq!(done[key], told[key], "what was told of {key} was done");
    }
    assert_eq!(done["deleted"]["commits"], 4, "the ref's own commit and one before are kept: {done}");
    let left: Vec<_> = commits.iter().map(|commit| site.has_commit(commit)).collect();
    assert_eq!(left, [false, false, false, false, true, true], "the older ones are gone");
    site.ostree.fsck(&site.server);
    site.ostree.pull(&client, "origin", &["main"]);
    assert_eq!(
        site.ostree.rev_parse(&client, "origin:main"),
        commits[5],
        "a client that has an old commit gets the new"
    );
    site.ostree.fsck(&client);
    let last = site.publish(6..7);
    assert!(site.has_commit(&last[0]), "pushes go on");
    site.ostree.fsck(&site.server);
}

#[test]
fn an_old_summary_is_written_before_what_it_names_goes() {
    let Some(site) = Site::new() else { return };
    let commits = site.publish(0..1);
    let tree = site.tree("by-hand", &[("by", "hand")]);
    let by_hand = site.ostree.commit(&site.server, &tree, "main", 2_000, &[]);
    assert!(site.summary_text().contains(&commits[0]), "`ostree commit` leaves the summary as it is");
    site.prune(&["--depth", "0"]).ok();
    let summary = site.summary_text();
    assert!(summary.contains(&by_hand) && !summary.contains(&commits[0]), "it names what refs lead to: {summary}");
    assert!(!site.has_commit(&commits[0]), "and what it does not name any more is gone");
    site.ostree.fsck(&site.server);
    // A repository that never had a summary gets none.
    fs::remove_file(site.server.join("summary")).expect("it is there");
    site.prune(&["--depth", "0"]).ok();
    assert!(!site.server.join("summary").exists(), "nobody asked for one");
}

#[test]
fn indexes_and_summary_forget_deleted_deltas() {
    let Some(site) = Site::new() else { return };
    let commits = site.publish(0..1);
    site.ostree.at(&site.server, "static-delta", ["generate", "--empty", &format!("--to={}", commits[0])]).ok();
    let commits = [commits, site.publish(1..2)].concat();
    site.ostree.at(&site.server, "static-delta", ["generate", "--empty", &format!("--to={}", commits[1])]).ok();
    site.ostree.summary_update(&site.server, &[]);
    let indexes = || -> usize {
        let directories = fs::read_dir(site.server.join("delta-indexes")).expect("it is there");
        directories.map(|entry| fs::read_dir(entry.expect("it is there").path()).expect("it is there").count()).sum()
    };
    let named =
        |commit: &str| site.summary_text().contains(&format!("'{commit}'")) || site.summary_text().contains(commit);
    assert_eq!((indexes(), named(&commits[0])), (2, true), "both deltas are announced");
    let done = json(&site.prune(&["--depth", "0"]).ok());
    assert_eq!(done["deltas"], serde_json::json!([commits[0]]), "the delta to the deleted commit is gone");
    assert_eq!((indexes(), named(&commits[0]), named(&commits[1])), (1, false, true), "nobody announces it any more");
    let listed = site.ostree.at(&site.server, "static-delta", ["list"]).text();
    assert_eq!(listed, commits[1], "`ostree` finds the other one");
    site.ostree.fsck(&site.server);
}

#[test]
fn an_interrupted_publish_is_finished_first() {
    let Some(site) = Site::new() else { return };
    let commits = site.publish(0..1);
    site.configure("update-command = [\"false\"]");
    let tree = site.tree("tree", &[("number", "interrupted")]);
    let worker = site.worker("worker", RepoMode::Archive, &tree, "main", 3_000);
    let run = site.push_local(&worker, &["--json"]);
    assert_eq!(json(&run.failed())["error"]["code"], "summary-stale", "the refs have moved, the summary is old");
    site.configure("");
    let done = json(&site.prune(&["--depth", "0"]).ok());
    assert!(done["notes"][0].as_str().is_some_and(|note| note.contains("`main` was found and finished")), "{done}");
    let head = site.ostree.rev_parse(&site.server, "main");
    assert!(site.summary_text().contains(&head), "the summary names the new commit");
    assert!(!site.server.join(".treegraft/journal").exists(), "the publish is over");
    assert!(site.has_commit(&head) && !site.has_commit(&commits[0]), "then the old commit goes");
    site.ostree.fsck(&site.server);
}

/// Makes what a push leaves that died two days ago.
fn dead_push(site: &Site) -> PathBuf {
    let area = site.server.join(".treegraft/staging/00000000deadbeef");
    let object = area.join("6e/340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d.dirtree");
    fs::create_dir_all(object.parent().expect("it is in a directory")).expect("it can be made");
    fs::write(area.join("lock"), "").expect("it can be written");
    fs::copy("/proc/sys/kernel/random/boot_id", area.join("boot-id")).expect("it can be written");
    fs::write(&object, [0]).expect("it can be written");
    let old = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    fs::File::options().append(true).open(object).and_then(|file| file.set_modified(old)).expect("it is ours");
    area
}

#[test]
fn what_a_push_left_that_died_long_ago_is_cleared() {
    let Some(site) = Site::new() else { return };
    site.publish(0..1);
    let area = dead_push(&site);
    let told = json(&site.prune(&["-n"]).ok());
    assert!(area.exists(), "a dry run deletes nothing");
    let done = json(&site.prune(&[]).ok());
    assert!(!area.exists(), "there need not be another push");
    assert_eq!(done["staging"], serde_json::json!({ "areas": 1, "objects": 1, "bytes": 1 }), "it is told");
    assert_eq!(done["staging"], told["staging"], "as it was before");
    let area = dead_push(&site);
    let tree = site.tree("tree", &[("number", "another")]);
    let worker = site.worker("worker", RepoMode::Archive, &tree, "main", 4_000);
    let pushed = json(&site.push_local(&worker, &["--json"]).ok());
    assert!(!area.exists(), "a push clears it as well");
    assert_eq!(pushed["resumed"]["objects"], 0, "before it looks for what it can use");
    let area = dead_push(&site);
    site.push_local(&worker, &[]).ok();
    assert!(!area.exists(), "also one that has nothing to publish");
}

#[test]
fn a_prune_of_flatpaks_repository_leaves_what_flatpak_needs() {
    let (Some(site), Some(flatpak)) = (Site::new(), Flatpak::find()) else { return };
    let build = BuildDir::runtime("org.example.Platform").with_files(1, 20);
    let name = &build.flatpak_ref();
    for number in 0..3_u64 {
        let directory = site.env.root().join(format!("build-{number}"));
        build.write(&directory, Version::numbered(number, 5));
        let worker = site.env.root().join("worker");
        let time = format!("--timestamp=2020-01-0{}T00:00:00Z", number + 1);
        flatpak.build_export(&worker, &directory, &build.branch, &["--runtime", &time]);
        site.push_local(&worker, &[]).ok();
    }
    let update = |extra: &[&str]| drop(flatpak.build_update_repo(&site.server, extra));
    update(&["--prune"]);
    assert!(objects(&site.server).iter().any(|path| path.ends_with(".commitmeta2")), "Flatpak's prune leaves caches");
    let before = site.ostree.refs(&site.server);
    let done = json(&site.prune(&["--depth", "0"]).ok());
    assert!(done["deleted"]["commits"].as_u64() >= Some(2), "old commits go: {done}");
    assert!(!objects(&site.server).iter().any(|path| path.ends_with(".commitmeta2")), "its caches are not believed");
    assert_eq!(site.ostree.refs(&site.server), before, "all refs are there");
    site.ostree.fsck(&site.server);
    flatpak.remote_add("site", &format!("file://{}", site.server.display()), None);
    flatpak.install("site", name);
    assert_eq!(flatpak.installed_commit(name), site.ostree.rev_parse(&site.server, name), "a client installs it");
    let left = objects(&site.server);
    update(&["--no-update-summary", "--no-update-appstream", "--prune", "--prune-depth=0"]);
    let now: Vec<_> = objects(&site.server).into_iter().filter(|path| !path.ends_with(".commitmeta2")).collect();
    assert!(left.iter().eq(now.iter()), "Flatpak's own prune finds nothing more");
}

#[test]
fn a_prune_that_cannot_get_the_lock_says_so() {
    let Some(site) = Site::new() else { return };
    site.publish(0..2);
    site.ostree.at(&site.server, "config", ["set", "core.lock-timeout-secs", "1"]).ok();
    let lock = hold_lock(&site.server);
    let run = site.prune(&["--depth", "0"]);
    assert_eq!(run.code(), Some(4), "another try may succeed: {}", run.report());
    assert!(run.stderr_text().contains("Waiting for 0 s"), "it says that it waits: {}", run.report());
    assert_eq!(json(&run)["error"]["is_temporary"], true, "{}", run.report());
    drop(lock);
    site.prune(&["--depth", "0"]).ok();
    site.ostree.fsck(&site.server);
}

/// Holds the lock as a push does.
fn hold_lock(repo: &Path) -> RepoLock {
    let repo = Repo::open(repo).expect("it is a repository");
    RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {}).expect("it is free")
}
