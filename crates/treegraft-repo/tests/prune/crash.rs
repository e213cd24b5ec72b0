//! A prune that ends at any point, by an error or by death, leaves a sound repository; so does one after a publish that did.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use treegraft_object::{CommitId, DirTreeId, ObjectKind, ObjectName};
use treegraft_repo::{
    Closure, PublishLock, Recovered,
    fault::{self, Stop},
    fsck,
};
use treegraft_testkit::Ostree;

use crate::{
    scene::{check_tombstones, contents, depth, mark_partial, prune, sibling, try_prune},
    support::{Pair, commit, copy, open, push, refs},
};

const TARGET: &str = "TREEGRAFT_TEST_TARGET";
const SOURCE: &str = "TREEGRAFT_TEST_SOURCE";
const POINT: &str = "TREEGRAFT_TEST_POINT";

/// A repository with something of everything to delete.
struct Scene {
    ostree: Ostree,
    pair: Pair,
    /// What an undisturbed prune leaves.
    left: BTreeSet<String>,
    /// All points that it passes.
    points: Vec<&'static str>,
}

impl Scene {
    fn new() -> Option<Self> {
        let ostree = Ostree::find()?;
        let pair = Pair::new(&ostree);
        let repo = &pair.target;
        let _ = ostree.at(repo, "config", ["set", "core.tombstone-commits", "true"]);
        let first = commit(&ostree, repo, "main", "one");
        let _ = ostree.at(repo, "static-delta", ["generate", "--empty", &format!("--to={first}")]);
        let last = commit(&ostree, repo, "main", "two");
        let dead = commit(&ostree, repo, "dead", "three");
        fs::remove_file(repo.join("refs/heads/dead")).expect("it is there");
        // The dead commit is incomplete, which its mark says.
        mark_partial(repo, dead);
        let file = open_dirtree_file(repo, dead);
        fs::remove_file(repo.join(file.loose_path("filez"))).expect("it is there");
        for commit in [first, last, CommitId(sibling(first.0, 1))] {
            let path = repo.join(ObjectName::commit_meta(commit).loose_path("filez"));
            fs::write(&path, "").expect("it can be written");
            fs::write(path.with_extension("commitmeta2"), "").expect("it can be written");
        }
        let undisturbed = pair.base.path().join("undisturbed");
        copy(repo, &undisturbed);
        let (report, points) = fault::watch(|| prune(&undisturbed, &depth(0)));
        assert_eq!((report.deleted.commits, report.tombstones, report.partial_marks), (2, 2, 1), "there is much to do");
        assert_eq!(
            (report.deltas.len(), report.flatpak_caches, report.detached_metadata),
            (1, 3, 2),
            "and to clear up"
        );
        assert!(points.len() > 15, "the points are passed");
        Some(Self { left: contents(&undisturbed), ostree, pair, points })
    }

    fn fresh(&self, number: usize) -> PathBuf {
        let path = self.pair.base.path().join(format!("target-{number}"));
        copy(&self.pair.target, &path);
        path
    }

    fn check(&self, path: &Path, at: &str) {
        fsck_allows_partial(&self.ostree, path);
        check_tombstones(path);
        check_dirtrees(path, at);
        prune(path, &depth(0));
        // A commit that was deleted just before the death has no tombstone; nobody knows of it any more.
        let without_tombstones = |all: &BTreeSet<String>| -> BTreeSet<String> {
            all.iter().filter(|path| !path.ends_with(".tombstone-commit")).cloned().collect()
        };
        let after = contents(path);
        assert_eq!(
            without_tombstones(&after),
            without_tombstones(&self.left),
            "at {at}: the next prune deletes the rest, and no more"
        );
        assert!(after.is_subset(&self.left), "at {at}: no tombstone of a living commit");
        self.ostree.fsck(path);
        fs::remove_dir_all(path).expect("it is ours");
    }
}

/// Returns the file in the directory of a test's commit, which no other commit has.
fn open_dirtree_file(repo: &Path, id: CommitId) -> ObjectName {
    use treegraft_repo::Find;
    let repo = open(repo);
    let root = repo.dirtree(repo.commit(id).expect("it is there").root_tree).expect("it is there");
    repo.dirtree(root.dirs[0].1).expect("it is there").files[0].1.into()
}

/// `ostree fsck` fails when there are partial commits, which is no damage.
fn fsck_allows_partial(ostree: &Ostree, path: &Path) {
    let run = ostree.run_raw(["fsck".to_owned(), "--quiet".to_owned(), format!("--repo={}", path.display())]);
    assert!(run.success() || run.stderr_text().contains("partial commits"), "{}", run.report());
    let report = fsck::run(&open(path), &mut |_| {}).expect("it can be checked");
    assert!(report.problems.is_empty(), "nothing is wrong: {:?}", report.problems);
}

/// Every dirtree that is there has all below it, but for the one that had not from the beginning.
fn check_dirtrees(path: &Path, at: &str) {
    let repo = open(path);
    let mut closure = Closure::new(&repo);
    let mut incomplete = 0;
    for name in repo.objects() {
        let name = name.expect("it can be listed");
        if name.kind == ObjectKind::DirTree {
            incomplete += u32::from(!closure.check_dirtree(DirTreeId(name.checksum)).expect("it can be read"));
        }
    }
    assert!(incomplete <= 2, "at {at}: a dirtree goes before what is below it");
}

#[test]
fn an_error_at_any_point_leaves_a_sound_repository() {
    let Some(scene) = Scene::new() else { return };
    for (number, point) in scene.points.iter().enumerate() {
        let target = scene.fresh(number);
        let (result, passed) = fault::stop_at(number, Stop::Fail, || try_prune(&open(&target), &depth(0), &mut |_| {}));
        assert_eq!(passed.get(number), Some(point), "the same prune passes the same points");
        let error = result.expect_err("the prune fails at the point");
        let chain: Vec<_> = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect();
        assert!(chain.iter().any(|text| text.contains(point)), "the error says why: {chain:?}");
        scene.check(&target, &format!("{number} ({point})"));
    }
}

#[test]
fn death_at_any_point_leaves_a_sound_repository() {
    let Some(scene) = Scene::new() else { return };
    for (number, point) in scene.points.iter().enumerate() {
        let target = scene.fresh(number);
        die("crash::prune_dies_as_told", &target, &target, number);
        scene.check(&target, &format!("{number} ({point})"));
    }
}

/// Starts a test of this program that dies at a point.
fn die(test: &str, target: &Path, source: &Path, number: usize) {
    let status = Command::new(std::env::current_exe().expect("it is running"))
        .args(["--ignored", "--exact", test])
        .env(TARGET, target)
        .env(SOURCE, source)
        .env(POINT, number.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("it can be started");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert!(signal.is_some(), "at {number}: it died: {status}");
}

fn told() -> (PathBuf, PathBuf, usize) {
    let variable = |key| std::env::var(key).expect("it is set by the other test");
    (variable(TARGET).into(), variable(SOURCE).into(), variable(POINT).parse().expect("a number"))
}

#[test]
#[ignore = "started by another test in a process of its own, which dies"]
fn prune_dies_as_told() {
    let (target, _, number) = told();
    fault::stop_at(number, Stop::Abort, || prune(&target, &depth(0)));
}

#[test]
#[ignore = "started by another test in a process of its own, which dies"]
fn push_dies_as_told() {
    let (target, source, number) = told();
    let (result, _) = fault::stop_at(number, Stop::Abort, || push(&target, &source));
    result.expect("the push works");
}

#[test]
fn every_step_waits_for_the_one_before() {
    let Some(scene) = Scene::new() else { return };
    let at = |name: &str| -> Vec<usize> {
        scene.points.iter().enumerate().filter(|&(_, &point)| point == name).map(|(number, _)| number).collect()
    };
    for (before, after) in [
        ("prune:locked", "prune:commit-deleted"),
        ("prune:commit-deleted", "prune:commits-durable"),
        ("prune:commits-durable", "prune:leftover-deleted"),
        ("prune:commits-durable", "prune:superblock-deleted"),
        ("prune:commits-durable", "prune:dirtree-deleted"),
        ("prune:dirtree-deleted", "prune:trees-durable"),
        ("prune:trees-durable", "prune:leaf-deleted"),
    ] {
        let (before_at, after_at) = (at(before), at(after));
        assert!(!before_at.is_empty() && !after_at.is_empty(), "{before} and {after} are passed");
        let last_before = if before == "prune:locked" { before_at.first() } else { before_at.last() };
        assert!(last_before < after_at.first(), "all of {before} comes before {after}");
    }
}

#[test]
fn a_publish_that_died_anywhere_can_be_finished_after_a_prune() {
    let Some(ostree) = Ostree::find() else { return };
    let pair = Pair::new(&ostree);
    let _ = commit(&ostree, &pair.source, "main", "one");
    push(&pair.target, &pair.source).expect("the push works");
    let old = refs(&pair.target);
    let _ = commit(&ostree, &pair.source, "main", "two");
    let _ = commit(&ostree, &pair.source, "new", "three");
    let new = refs(&pair.source);
    let undisturbed = pair.base.path().join("undisturbed");
    copy(&pair.target, &undisturbed);
    let (result, points) = fault::watch(|| push(&undisturbed, &pair.source));
    result.expect("the push works");
    // From the first object in its place on there is something that a prune could take away.
    let first = points.iter().position(|&point| point == "transaction:staging-durable").expect("it is passed");
    for (number, point) in points.iter().enumerate().skip(first) {
        let at = format!("{number} ({point})");
        let target = pair.base.path().join(format!("target-{number}"));
        copy(&pair.target, &target);
        die("crash::push_dies_as_told", &target, &pair.source, number);
        prune(&target, &depth(0));
        ostree.fsck(&target);
        let is_journaled = target.join(".treegraft/journal").exists();
        let lock = PublishLock::acquire(&open(&target), &mut |_| {}).expect("it can be recovered");
        let now = refs(&target);
        assert!(now == old || now == new, "at {at}: all refs are old or all are new");
        if is_journaled && lock.recovered().is_some_and(Recovered::needs_summary) {
            assert_eq!(now, new, "at {at}: what the journal wants is all there");
        }
        drop(lock);
        ostree.fsck(&target);
        push(&target, &pair.source).expect("the next push works");
        assert_eq!(refs(&target), new, "at {at}: and moves all refs");
        ostree.fsck(&target);
        fs::remove_dir_all(target).expect("it is ours");
    }
}
