//! What tests of pruning need: calling it, and repositories with much to delete.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use treegraft_object::{Checksum, CommitId, ObjectKind, ObjectName, tombstone};
use treegraft_repo::{
    Repo,
    prune::{self, Depth, Event, Pace, PruneError, Report, Rules},
};
use treegraft_testkit::{Ostree, SplitMix64};

use crate::support::{self, paths};

/// A clock that stands still: a turn ends when everything is done.
const STANDING: &dyn Fn() -> Duration = &|| Duration::ZERO;

pub(crate) fn depth(parents: u32) -> Rules {
    Rules { depth: Depth::Parents(parents), ..Rules::default() }
}

/// Prunes a repository.
pub(crate) fn try_prune(repo: &Repo, rules: &Rules, events: &mut dyn FnMut(Event)) -> Result<Report, PruneError> {
    let wait = repo.config().lock_timeout;
    let pace = Pace { wait, turn: Duration::from_secs(1), rest: Duration::ZERO, elapsed: STANDING };
    prune::run(repo, rules, pace, events)
}

/// Prunes a repository, which must go well.
pub(crate) fn prune(path: &Path, rules: &Rules) -> Report {
    try_prune(&support::open(path), rules, &mut |_| {}).expect("it can be pruned")
}

/// Prunes a repository and deletes one thing in each turn.
pub(crate) fn prune_in_small_turns(path: &Path, rules: &Rules) -> Result<Report, PruneError> {
    let time = std::cell::Cell::new(Duration::ZERO);
    let elapsed = || {
        time.set(time.get() + Duration::from_secs(1));
        time.get()
    };
    let repo = support::open(path);
    let wait = repo.config().lock_timeout;
    let pace = Pace { wait, turn: Duration::from_secs(1), rest: Duration::ZERO, elapsed: &elapsed };
    prune::run(&repo, rules, pace, &mut |_| {})
}

/// Returns the files of all objects and marks in a repository, without Flatpak's caches.
pub(crate) fn contents(repo: &Path) -> BTreeSet<String> {
    let below = |directory: &str| {
        let names = paths(&repo.join(directory)).into_iter().filter(|path| !path.ends_with('/'));
        names.map(|path| format!("{directory}/{path}")).collect::<Vec<_>>()
    };
    let all = ["objects", "state", "deltas", "delta-indexes"].into_iter().flat_map(below);
    all.filter(|path| !path.ends_with(".commitmeta2")).collect()
}

/// Tells whether an object's file is in the repository.
pub(crate) fn has(repo: &Path, name: impl Into<ObjectName>) -> bool {
    repo.join(name.into().loose_path("filez")).exists()
}

/// Marks a commit as partial.
pub(crate) fn mark_partial(repo: &Path, commit: CommitId) {
    fs::write(repo.join(format!("state/{commit}.commitpartial")), "").expect("it can be written");
}

/// Checks that every tombstone is what libostree writes, and of a commit that is gone.
pub(crate) fn check_tombstones(repo: &Path) {
    for path in contents(repo).into_iter().filter(|path| path.ends_with(".tombstone-commit")) {
        let commit = tombstone::decode(&fs::read(repo.join(&path)).expect("it is there")).expect("it is valid");
        let name = ObjectName::new(ObjectKind::TombstoneCommit, commit.0);
        assert_eq!(name.loose_path("filez"), path, "a tombstone names its commit");
        assert!(!has(repo, commit), "the commit is gone");
    }
}

/// Runs `work` with another seed in each round; a failure shows it.
pub(crate) fn rounds(usual: u64, mut work: impl FnMut(u64)) {
    struct Shown(u64);
    impl Drop for Shown {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let text = format!("failed in the round with TREEGRAFT_SEED={}\n", self.0);
                std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).ok();
            }
        }
    }
    let number = |variable| -> Option<u64> {
        let text: String = std::env::var(variable).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("`{variable}` is a number, not `{text}`")))
    };
    let first = number("TREEGRAFT_SEED").unwrap_or_else(|| {
        u64::from(SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").subsec_nanos()) << 20
    });
    for seed in first..first + number("TREEGRAFT_ROUNDS").unwrap_or(usual) {
        let _shown = Shown(seed);
        work(seed);
    }
}

/// What a random repository may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Refs with the same history behind them.
    pub(crate) has_common_history: bool,
    /// Refs of other collections.
    pub(crate) has_mirrors: bool,
}

/// Names of refs in random repositories.
pub(crate) const BRANCHES: [&str; 5] = ["main", "app/a/x86_64/stable", "app/b/x86_64/beta", "os/x", "test"];

/// Makes a repository with branches, dead commits, gaps in the history, and refs of every kind.
pub(crate) fn random_repo(ostree: &Ostree, path: &Path, seed: u64, shape: Shape) {
    let mut rng = SplitMix64::new(seed);
    ostree.init(path, treegraft_testkit::RepoMode::Archive, None);
    let set = |key: &str, value: &str| drop(ostree.at(path, "config", ["set", key, value]));
    set("core.fsync", "false");
    if rng.one_in(2) {
        set("core.tombstone-commits", "true");
    }
    let mut commits: Vec<String> = Vec::new();
    let mut branches: Vec<&str> = Vec::new();
    for _ in 0..8 + rng.below(16) {
        let branch = BRANCHES[rng.below(BRANCHES.len())];
        if !branches.contains(&branch) {
            if shape.has_common_history
                && let Some(&other) = branches.get(rng.below(branches.len() + 1))
            {
                let _ = ostree.at(path, "refs", [&format!("--create={branch}"), other]);
            }
            branches.push(branch);
        }
        let tree = random_tree(&mut rng);
        let time = 1_000_000 + 1000 * rng.below(1000) as u64;
        let subject = format!("--subject={}", rng.next_u64());
        commits.push(ostree.commit(path, tree.path(), branch, time, &[&subject, "--no-xattrs"]));
    }
    let pick = |rng: &mut SplitMix64| commits[rng.below(commits.len())].clone();
    let write_ref = |name: &str, commit: &str| {
        let file = path.join("refs").join(name);
        fs::create_dir_all(file.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(file, format!("{commit}\n")).expect("it can be written");
    };
    // Without common history every commit may be behind one ref only: `ostree prune` keeps less otherwise.
    if shape.has_common_history {
        write_ref("remotes/origin/main", &pick(&mut rng));
        if shape.has_mirrors {
            write_ref("mirrors/org.example.Other/app/c", &pick(&mut rng));
        }
    } else if rng.one_in(2) && branches.len() > 1 {
        let (branch, kind) =
            (branches[0], if shape.has_mirrors { "mirrors/org.example.Other" } else { "remotes/origin" });
        write_ref(&format!("{kind}/{branch}"), &ostree.rev_parse(path, branch));
        fs::remove_file(path.join("refs/heads").join(branch)).expect("it is there");
    }
    if branches.len() > 2 && rng.one_in(2) {
        fs::remove_file(path.join("refs/heads").join(branches[1])).expect("it is there");
    }
    for commit in &commits {
        let id: CommitId = commit.parse().expect("it is a checksum");
        if rng.one_in(4) {
            fs::write(path.join(ObjectName::commit_meta(id).loose_path("filez")), "").expect("it can be written");
        }
        if rng.one_in(6) {
            mark_partial(path, id);
        }
        // `ostree prune` does not look for orphaned metadata, so a commit that is lost has none.
        if rng.one_in(12) && !is_head(path, commit) {
            for name in [ObjectName::from(id), ObjectName::commit_meta(id)] {
                fs::remove_file(path.join(name.loose_path("filez"))).ok();
            }
            fs::remove_file(path.join(format!("state/{id}.commitpartial"))).ok();
        }
    }
}

fn is_head(repo: &Path, commit: &str) -> bool {
    let files = paths(&repo.join("refs")).into_iter().filter(|path| !path.ends_with('/'));
    files
        .into_iter()
        .any(|file| fs::read_to_string(repo.join("refs").join(file)).is_ok_and(|text| text.trim() == commit))
}

/// Makes a small tree out of few contents and directories, so that commits have much in common.
fn random_tree(rng: &mut SplitMix64) -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("a temporary directory");
    for _ in 0..=rng.below(6) {
        let directory = ["", "a", "b", "a/c", "a/c/d", "e"][rng.below(6)];
        fs::create_dir_all(tree.path().join(directory)).expect("it can be made");
        let file = tree.path().join(directory).join(format!("file-{}", rng.below(4)));
        let content = if rng.one_in(4) { rng.next_u64() } else { rng.below(12) as u64 };
        fs::write(file, content.to_string()).expect("it is ours");
    }
    tree
}

/// Returns a checksum that differs from another one in its last bits only.
pub(crate) fn sibling(checksum: Checksum, number: u8) -> Checksum {
    let mut bytes = *checksum.as_bytes();
    bytes[31] ^= number;
    Checksum::from_bytes(bytes)
}
