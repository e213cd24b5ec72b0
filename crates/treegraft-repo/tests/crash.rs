//! A push that ends at any point, by an error or by death, leaves all refs old or all new.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use support::{Pair, commit, copy, lock, open, paths, push, refs};
use treegraft_object::{CommitId, gvariant::Dict};
use treegraft_repo::{
    fault::{self, Stop},
    summary,
};
use treegraft_testkit::Ostree;

const TARGET: &str = "TREEGRAFT_TEST_TARGET";
const SOURCE: &str = "TREEGRAFT_TEST_SOURCE";
const POINT: &str = "TREEGRAFT_TEST_POINT";

/// A push of three refs, one of them new, onto a repository with two.
struct Scene {
    ostree: Ostree,
    pair: Pair,
    old: BTreeMap<String, CommitId>,
    new: BTreeMap<String, CommitId>,
    /// All points that an undisturbed push passes.
    points: Vec<&'static str>,
}

impl Scene {
    fn new() -> Option<Self> {
        let ostree = Ostree::find()?;
        let pair = Pair::new(&ostree);
        let _ = commit(&ostree, &pair.source, "main", "one");
        let _ = commit(&ostree, &pair.source, "app/a", "two");
        push(&pair.target, &pair.source).expect("the push works");
        let old = refs(&pair.target);
        let _ = commit(&ostree, &pair.source, "main", "three");
        let _ = commit(&ostree, &pair.source, "app/a", "four");
        let _ = commit(&ostree, &pair.source, "new/b", "five");
        let new = refs(&pair.source);
        let undisturbed = pair.base.path().join("undisturbed");
        copy(&pair.target, &undisturbed);
        let (result, points) = fault::watch(|| push(&undisturbed, &pair.source));
        result.expect("the push works");
        assert_eq!(refs(&undisturbed), new, "an undisturbed push moves all refs");
        assert!(points.len() > 40, "the points are passed");
        Some(Self { ostree, pair, old, new, points })
    }

    fn fresh_target(&self, number: usize) -> PathBuf {
        let target = self.pair.base.path().join(format!("target-{number}"));
        copy(&self.pair.target, &target);
        target
    }

    /// Checks what was left by a push that ended at a point: reopening gives all or nothing, and the next push works.
    fn check(&self, target: &Path, at: &str) {
        self.ostree.fsck(target);
        {
            let repo = open(target);
            let mut lock = lock(&repo);
            let now = refs(target);
            assert!(now == self.old || now == self.new, "at {at}: after reopening all refs are old or all are new");
            if lock.recovered().is_some_and(treegraft_repo::Recovered::needs_summary) {
                assert_eq!(now, self.new, "at {at}: a journal that is carried out makes all refs new");
                let data = summary::build(&repo, support::NOW_SECS, &Dict::new()).expect("it can be built");
                summary::write(&repo, &lock, &data, None).expect("it can be written");
                lock.finish_recovery().expect("it ends");
            }
        }
        self.ostree.fsck(target);
        push(target, &self.pair.source).unwrap_or_else(|error| panic!("at {at}: the next push works: {error}"));
        assert_eq!(refs(target), self.new, "at {at}: the next push moves all refs");
        self.ostree.fsck(target);
        let listed = self.ostree.at(target, "summary", ["--view"]).text();
        for id in self.new.values() {
            assert!(listed.contains(&id.to_string()), "at {at}: the summary has the new commits");
        }
        assert_eq!(paths(&target.join(".treegraft")), ["publish.lock", "staging/"], "at {at}: nothing is left");
        let left: Vec<_> = paths(target).into_iter().filter(|path| path.contains("treegraft-new")).collect();
        assert_eq!(left, Vec::<String>::new(), "at {at}: no temporary file is left");
        fs::remove_dir_all(target).expect("it is ours");
    }
}

#[test]
fn an_error_at_any_point_leaves_all_or_nothing() {
    let Some(scene) = Scene::new() else { return };
    for (number, point) in scene.points.iter().enumerate() {
        let target = scene.fresh_target(number);
        let (result, passed) = fault::stop_at(number, Stop::Fail, || push(&target, &scene.pair.source));
        assert_eq!(passed.get(number), Some(point), "the same push passes the same points");
        let error = result.expect_err("the push fails at the point");
        let error = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source());
        let chain: Vec<_> = error.map(ToString::to_string).collect();
        assert!(chain.iter().any(|text| text.contains(point)), "the error says why: {chain:?}");
        let now = refs(&target);
        // Without a crash nobody has to reopen: a failed push is undone at once.
        assert!(now == scene.old || now == scene.new, "at {number} ({point}): all refs are old or all are new");
        scene.check(&target, &format!("{number} ({point})"));
    }
}

#[test]
fn death_at_any_point_leaves_all_or_nothing() {
    let Some(scene) = Scene::new() else { return };
    for (number, point) in scene.points.iter().enumerate() {
        let target = scene.fresh_target(number);
        let status = Command::new(std::env::current_exe().expect("it is running"))
            .args(["--ignored", "--exact", "dies_as_told"])
            .env(TARGET, &target)
            .env(SOURCE, &scene.pair.source)
            .env(POINT, number.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("it can be started");
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert!(signal.is_some(), "at {number} ({point}): the push died: {status}");
        scene.check(&target, &format!("{number} ({point})"));
    }
}

#[test]
fn every_step_waits_for_the_one_before() {
    let Some(scene) = Scene::new() else { return };
    let at = |name: &str| -> Vec<usize> {
        let numbers = scene.points.iter().enumerate().filter(|&(_, &point)| point == name).map(|(number, _)| number);
        numbers.collect()
    };
    let steps = [
        "staging:named",
        "transaction:staging-durable",
        "transaction:objects-durable",
        "journal-durable",
        "transaction:ref-written",
        "refs-durable",
        "summary:written",
        "summary:renamed",
        "summary:signatures-renamed",
        "journal-removed",
        "staging:emptied",
    ];
    for pair in steps.windows(2) {
        let (before, after) = (at(pair[0]), at(pair[1]));
        assert!(
            before.last().is_some() && before.last() < after.first(),
            "all of {} comes before {}",
            pair[0],
            pair[1]
        );
    }
    let durable = at("transaction:objects-durable");
    let linked_after = at("transaction:linked").into_iter().filter(|&number| number > durable[0]).count();
    assert_eq!(linked_after, 3, "the three commits come after everything else is durable");
}

#[test]
#[ignore = "started by another test in a process of its own, which dies"]
fn dies_as_told() {
    let variable = |key| std::env::var(key).expect("it is set by the other test");
    let number = variable(POINT).parse().expect("a number");
    let (target, source) = (variable(TARGET), variable(SOURCE));
    let (result, _) = fault::stop_at(number, Stop::Abort, || push(Path::new(&target), Path::new(&source)));
    result.expect("the push works");
}
