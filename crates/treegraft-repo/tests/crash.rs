//! A push that ends at any point, by an error or by death, leaves all refs old or all new.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use support::{
    AnyError, Pair, closure, commit, copy, finish_recovery, left_behind, open, paths, push, push_and_retire, refs,
    stage_all,
};
use treegraft_object::CommitId;
use treegraft_repo::{
    Staging,
    fault::{self, Stop},
};
use treegraft_testkit::Ostree;

const KIND: &str = "TREEGRAFT_TEST_KIND";
const TARGET: &str = "TREEGRAFT_TEST_TARGET";
const SOURCE: &str = "TREEGRAFT_TEST_SOURCE";
const STOPS: &str = "TREEGRAFT_TEST_STOPS";

/// Set to look at every time that a point is passed, not only at the first, the last and one between.
const ROUNDS: &str = "TREEGRAFT_ROUNDS";

/// Where points begin at which the server's tests stop (`faults.rs`), with the real `flatpak` and with hooks.
const OF_SERVER: [&str; 2] = ["draft:", "pending-"];

/// Points at which `prune_main.rs` and `staging.rs` stop.
const ELSEWHERE: [&str; 4] = ["prune:leftover-deleted", "prune:locked", "prune:superblock-deleted", "staging:cleared"];

/// How often a recovery dies at the same point before it may end.
const DEATHS: usize = 3;

/// What is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A push of three refs, one of them new, onto a repository with two.
    Push,
    /// The same, where pushes of an earlier boot have left objects.
    Resume,
    /// The same, where a push of the running boot has left objects, some of them of no use to this one.
    TakeOver,
    /// The opening of a repository after a push has died between two refs.
    Recovery,
    /// The end of a push that could not write its last ref.
    SettingBack,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Push, Self::Resume, Self::TakeOver, Self::Recovery, Self::SettingBack];

    fn work(self, target: &Path, source: &Path) -> Result<(), AnyError> {
        match self {
            Self::Push | Self::Resume | Self::SettingBack => push(target, source),
            Self::TakeOver => push_and_retire(target, source),
            Self::Recovery => finish_recovery(target),
        }
    }
}

/// A repository in which something is stopped.
struct Scene {
    kind: Kind,
    ostree: Ostree,
    pair: Pair,
    old: BTreeMap<String, CommitId>,
    new: BTreeMap<String, CommitId>,
    /// All points that are passed when nothing else is stopped.
    points: Vec<&'static str>,
    /// What is stopped in any case.
    before: Vec<(usize, Stop)>,
}

impl Scene {
    fn new(kind: Kind) -> Option<Self> {
        let ostree = Ostree::find()?;
        let pair = Pair::new(&ostree);
        let _ = commit(&ostree, &pair.source, "main", "one");
        let _ = commit(&ostree, &pair.source, "app/a", "two");
        push(&pair.target, &pair.source).expect("the push works");
        let old = refs(&pair.target);
        let main = commit(&ostree, &pair.source, "main", "three");
        let _ = commit(&ostree, &pair.source, "app/a", "four");
        let _ = commit(&ostree, &pair.source, "new/b", "five");
        let new = refs(&pair.source);
        let mut scene = Self { kind, ostree, pair, old, new, points: Vec::new(), before: Vec::new() };
        scene.prepare(main);
        let undisturbed = scene.pair.base.path().join("undisturbed");
        copy(&scene.pair.target, &undisturbed);
        let (result, points) = scene.stopped(&undisturbed, &[]);
        if kind == Kind::SettingBack {
            result.expect_err("the push cannot write its last ref");
        } else {
            result.expect("the push works");
            assert_eq!(refs(&undisturbed), scene.new, "an undisturbed push moves all refs");
        }
        scene.points = points;
        Some(scene)
    }

    /// Brings the target to where the work begins.
    fn prepare(&mut self, main: CommitId) {
        let target = &self.pair.target;
        let leave = |boot_id: Option<&str>| {
            let (staging, _) = Staging::open(&open(target)).expect("it can be staged");
            let source = open(&self.pair.source);
            let mut names = closure(&source, main);
            names.extend(closure(&source, self.old["main"]));
            stage_all(&staging, &source, &names);
            let area = staging.path().to_owned();
            if let Some(boot_id) = boot_id {
                fs::write(area.join("boot-id"), boot_id).expect("it is ours");
            }
            let directory =
                paths(&area).into_iter().find(|path| path.ends_with('/')).expect("objects are in directories");
            fs::write(area.join(directory).join(".9"), "was being received").expect("it is ours");
            // It was about to see which mode new files have.
            fs::write(area.join(".treegraft-new"), "").expect("it is ours");
            drop(staging);
        };
        match self.kind {
            // Refs that were deleted leave their directories.
            Kind::Push => fs::create_dir_all(target.join("refs/heads/new/b/c")).expect("it is ours"),
            Kind::Resume => leave(Some("another boot\n")),
            Kind::TakeOver => leave(None),
            Kind::Recovery => {
                let number = self.number_of("transaction:ref-written", 1);
                self.die(Kind::Push, target, &[(number, Stop::Abort)], "while it is prepared");
                assert!(target.join(".treegraft/journal").exists(), "the push has died between two refs");
            }
            Kind::SettingBack => self.before = vec![(self.number_of("transaction:ref-written", 2), Stop::Fail)],
        }
    }

    /// Returns the number that a point has in an undisturbed push when it is passed for the `nth` time.
    fn number_of(&self, name: &str, nth: usize) -> usize {
        let undisturbed = self.pair.base.path().join("counted");
        copy(&self.pair.target, &undisturbed);
        let (result, points) = fault::watch(|| push(&undisturbed, &self.pair.source));
        result.expect("the push works");
        let mut numbers = points.iter().enumerate().filter(|&(_, &point)| point == name);
        numbers.nth(nth).map(|(number, _)| number).expect("the point is passed")
    }

    fn stopped(&self, target: &Path, stops: &[(usize, Stop)]) -> (Result<(), AnyError>, Vec<&'static str>) {
        let stops = [&self.before, stops].concat();
        fault::stop_at_each(&stops, || self.kind.work(target, &self.pair.source))
    }

    /// Does the work in another process, which dies at the point. Tells whether it did.
    fn die(&self, kind: Kind, target: &Path, stops: &[(usize, Stop)], at: &str) -> bool {
        let stops = [&self.before, stops].concat();
        let stops: Vec<_> = stops.iter().map(|(number, stop)| format!("{number}{stop:?}")).collect();
        let status = Command::new(std::env::current_exe().expect("it is running"))
            .args(["--ignored", "--exact", "dies_as_told"])
            .env(KIND, format!("{kind:?}"))
            .env(TARGET, target)
            .env(SOURCE, &self.pair.source)
            .env(STOPS, stops.join(","))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("it can be started");
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert!(signal.is_some() || status.success(), "{at}: the work dies or works: {status}");
        signal.is_some()
    }

    /// Chooses the points to stop at: each name at its first and last time and one between, or all.
    fn chosen(&self) -> Vec<(usize, &'static str)> {
        let first = self.before.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let points = || self.points.iter().copied().enumerate().skip(first);
        if std::env::var_os(ROUNDS).is_some() {
            return points().collect();
        }
        let mut times: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, name) in points() {
            times.entry(name).or_default().push(number);
        }
        let is_chosen = |number: usize, name: &str| {
            let times = &times[name];
            [times[0], times[times.len() / 2], times[times.len() - 1]].contains(&number)
        };
        points().filter(|&(number, name)| is_chosen(number, name)).collect()
    }

    fn fresh_target(&self, number: usize) -> PathBuf {
        let target = self.pair.base.path().join(format!("target-{number}"));
        copy(&self.pair.target, &target);
        target
    }

    /// Checks what was left by work that ended at a point: reopening gives all or nothing, and the next push works.
    fn check(&self, target: &Path, at: &str) {
        self.ostree.fsck(target);
        finish_recovery(target).unwrap_or_else(|error| panic!("{at}: the repository can be opened again: {error}"));
        let now = refs(target);
        assert!(now == self.old || now == self.new, "{at}: after reopening all refs are old or all are new");
        self.ostree.fsck(target);
        push(target, &self.pair.source).unwrap_or_else(|error| panic!("{at}: the next push works: {error}"));
        assert_eq!(refs(target), self.new, "{at}: the next push moves all refs");
        self.ostree.fsck(target);
        let listed = self.ostree.at(target, "summary", ["--view"]).text();
        for id in self.new.values() {
            assert!(listed.contains(&id.to_string()), "{at}: the summary has the new commits");
        }
        assert_eq!(left_behind(target), Vec::<String>::new(), "{at}: nothing is left");
        let left: Vec<_> = paths(target).into_iter().filter(|path| path.contains("treegraft-new")).collect();
        assert_eq!(left, Vec::<String>::new(), "{at}: no temporary file is left");
        fs::remove_dir_all(target).expect("it is ours");
    }

    fn fail_at_each_point(&self) {
        for (number, point) in self.chosen() {
            let at = format!("{:?} at {number} ({point})", self.kind);
            let target = self.fresh_target(number);
            let (result, passed) = self.stopped(&target, &[(number, Stop::Fail)]);
            assert_eq!(passed.get(number), Some(&point), "{at}: the same work passes the same points");
            let error = result.expect_err("the work fails at the point");
            let error = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source());
            let chain: Vec<_> = error.map(ToString::to_string).collect();
            let is_told = chain.iter().any(|text| text.contains("a test stops at"));
            assert!(is_told, "{at}: the error says why: {chain:?}");
            let now = refs(&target);
            // Without a crash nobody has to reopen: a failed push is undone at once. Unless that fails as well.
            let is_settled = now == self.old || now == self.new;
            let has_journal = target.join(".treegraft/journal").exists();
            let may_be_unsettled = matches!(self.kind, Kind::Recovery | Kind::SettingBack) && has_journal;
            assert!(is_settled || may_be_unsettled, "{at}: all refs are old or all are new");
            self.check(&target, &at);
        }
    }

    fn die_at_each_point(&self) {
        let deaths = if self.kind == Kind::Recovery { DEATHS } else { 1 };
        for (number, point) in self.chosen() {
            let at = format!("{:?} at {number} ({point})", self.kind);
            let target = self.fresh_target(number);
            let died = (0..deaths).filter(|_| self.die(self.kind, &target, &[(number, Stop::Abort)], &at)).count();
            assert!(died > 0, "{at}: the work dies there");
            self.check(&target, &at);
        }
    }
}

#[test]
fn an_error_at_any_point_of_a_push_leaves_all_or_nothing() {
    let Some(scene) = Scene::new(Kind::Push) else { return };
    assert!(scene.points.len() > 40, "the points are passed");
    scene.fail_at_each_point();
}

#[test]
fn death_at_any_point_of_a_push_leaves_all_or_nothing() {
    let Some(scene) = Scene::new(Kind::Push) else { return };
    scene.die_at_each_point();
}

#[test]
fn a_push_that_takes_over_what_others_have_left_may_be_stopped_anywhere() {
    for kind in [Kind::Resume, Kind::TakeOver] {
        let Some(scene) = Scene::new(kind) else { return };
        scene.fail_at_each_point();
        scene.die_at_each_point();
    }
}

#[test]
fn a_recovery_may_be_stopped_anywhere_again_and_again() {
    let Some(scene) = Scene::new(Kind::Recovery) else { return };
    scene.fail_at_each_point();
    scene.die_at_each_point();
}

#[test]
fn setting_refs_back_may_be_stopped_anywhere() {
    let Some(scene) = Scene::new(Kind::SettingBack) else { return };
    scene.fail_at_each_point();
    scene.die_at_each_point();
}

#[test]
fn every_point_is_passed_by_what_the_tests_stop() {
    let mut passed = BTreeSet::new();
    for kind in Kind::ALL {
        let Some(scene) = Scene::new(kind) else { return };
        let first = scene.before.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        passed.extend(scene.points[first..].iter().map(|&point| point.to_owned()));
    }
    let named = treegraft_testkit::fault_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(named.len() > 20, "the points are found in the source");
    let is_elsewhere = |name: &str| ELSEWHERE.contains(&name) || OF_SERVER.iter().any(|begin| name.starts_with(begin));
    let missed: Vec<_> = named.difference(&passed).filter(|name| !is_elsewhere(name)).collect();
    assert_eq!(missed, Vec::<&String>::new(), "each point in the source is one at which the tests stop");
    assert_eq!(passed.difference(&named).count(), 0, "the search in the source finds all points");
}

#[test]
fn every_step_waits_for_the_one_before() {
    let Some(scene) = Scene::new(Kind::Push) else { return };
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
        "summary:part-written",
        "summary:written",
        "summary:renamed",
        "summary:signatures-renamed",
        "summary:durable",
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
    let linked_after: Vec<_> = at("transaction:linked").into_iter().filter(|&number| number > durable[0]).collect();
    assert_eq!(linked_after.len(), 3, "the three commits come after everything else is durable");
    let forgotten = at("transaction:absence-forgotten");
    let is_between = |number: &usize| (durable[0]..linked_after[0]).contains(number);
    assert!(forgotten.len() == 6 && forgotten.iter().all(is_between), "no commit is there with a tombstone");
}

#[test]
#[ignore = "started by another test in a process of its own, which dies"]
fn dies_as_told() {
    let variable = |key| std::env::var(key).expect("it is set by the other test");
    let kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == variable(KIND)).expect("a kind");
    let parse = |text: &str| {
        let (number, stop) = text.split_at(text.find(char::is_alphabetic).expect("a number and a word"));
        (number.parse().expect("a number"), if stop == "Fail" { Stop::Fail } else { Stop::Abort })
    };
    let stops: Vec<(usize, Stop)> = variable(STOPS).split(',').map(parse).collect();
    let (target, source) = (variable(TARGET), variable(SOURCE));
    let (result, _) = fault::stop_at_each(&stops, || kind.work(Path::new(&target), Path::new(&source)));
    result.expect("the work is done unless it dies");
}
