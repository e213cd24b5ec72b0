//! Random repositories: what is left is what the real programs leave.

use std::path::{Path, PathBuf};

use treegraft_repo::prune::{self, Depth, Report, Rules};
use treegraft_testkit::{Flatpak, Ostree, SplitMix64};

use crate::{
    scene::{BRANCHES, Shape, check_tombstones, contents, prune, prune_in_small_turns, random_repo, rounds},
    support::{copy, open},
};

/// Copies of one repository, to be pruned by different programs.
struct Copies {
    base: tempfile::TempDir,
}

impl Copies {
    fn of(ostree: &Ostree, seed: u64, shape: Shape) -> Self {
        let base = tempfile::tempdir().expect("a temporary directory");
        random_repo(ostree, &base.path().join("original"), seed, shape);
        Self { base }
    }

    fn original(&self) -> PathBuf {
        self.base.path().join("original")
    }

    fn copy(&self, name: &str) -> PathBuf {
        let path = self.base.path().join(name);
        copy(&self.original(), &path);
        path
    }
}

/// Prunes a copy and checks what is said about it.
fn pruned(ostree: &Ostree, copies: &Copies, rules: &Rules) -> PathBuf {
    let path = copies.copy("ours");
    let before = contents(&path);
    let preview = prune::preview(&open(&path), rules, &mut |_| {}).expect("it can be looked at");
    assert_eq!(contents(&path), before, "a preview changes nothing");
    let report = prune(&path, rules);
    let untimed = Report { lock_turns: 0, longest_turn: preview.longest_turn, ..report.clone() };
    assert_eq!(untimed, preview, "what a preview tells is what happens");
    let after = contents(&path);
    let objects = |all: &std::collections::BTreeSet<String>| {
        let extensions = ["commit", "dirtree", "dirmeta", "filez"];
        all.iter().filter(|path| extensions.iter().any(|e| path.ends_with(&format!(".{e}")))).count() as u64
    };
    assert_eq!(objects(&before), report.objects, "all objects are counted");
    assert_eq!(objects(&before) - objects(&after), report.deleted.all(), "and all that are deleted");
    assert_eq!(report.lock_turns > 0, before != after, "the lock is taken when there is something to delete");
    let again = prune(&path, rules);
    assert_eq!((again.deleted.all(), again.bytes), (0, 0), "a second prune finds nothing more");
    assert_eq!(contents(&path), after, "and changes nothing");
    let in_turns = copies.copy("turns");
    let report = prune_in_small_turns(&in_turns, rules).expect("it can be pruned");
    assert_eq!(contents(&in_turns), after, "in many turns the same is left");
    assert!(report.lock_turns >= report.deleted.all(), "one thing was deleted in each turn");
    check_tombstones(&path);
    fsck(ostree, &path);
    path
}

/// A random repository may have refs without a commit and partial commits, but nothing may be damaged.
fn fsck(ostree: &Ostree, path: &Path) {
    let run = ostree
        .run_raw(["fsck".as_ref(), "--quiet".as_ref(), format!("--repo={}", path.display()).as_ref()]
            as [&std::ffi::OsStr; 3]);
    assert!(run.success() || run.stderr_text().contains("partial commits"), "{}", run.report());
}

fn random_depth(rng: &mut SplitMix64) -> u32 {
    u32::try_from(rng.below(4)).expect("it is small")
}

#[test]
fn a_depth_leaves_what_ostree_leaves() {
    let Some(ostree) = Ostree::find() else { return };
    rounds(3, |seed| {
        let copies = Copies::of(&ostree, seed, Shape { has_common_history: false, has_mirrors: true });
        let parents = random_depth(&mut SplitMix64::new(seed));
        let theirs = copies.copy("theirs");
        ostree.prune(&theirs, &["--refs-only", &format!("--depth={parents}")]);
        let rules = Rules { depth: Depth::Parents(parents), ..Rules::default() };
        let ours = pruned(&ostree, &copies, &rules);
        assert_eq!(contents(&ours), contents(&theirs), "with the depth {parents}");
    });
}

#[test]
fn without_options_only_the_unreachable_goes() {
    let Some(ostree) = Ostree::find() else { return };
    rounds(2, |seed| {
        let copies = Copies::of(&ostree, seed, Shape { has_common_history: true, has_mirrors: true });
        let theirs = copies.copy("theirs");
        ostree.prune(&theirs, &["--refs-only"]);
        let ours = pruned(&ostree, &copies, &Rules::default());
        assert_eq!(contents(&ours), contents(&theirs), "all history that refs lead to is left");
    });
}

#[test]
fn common_history_is_kept_as_flatpak_keeps_it() {
    let (Some(ostree), Some(flatpak)) = (Ostree::find(), Flatpak::find()) else { return };
    rounds(3, |seed| {
        let copies = Copies::of(&ostree, seed, Shape { has_common_history: true, has_mirrors: true });
        let parents = random_depth(&mut SplitMix64::new(seed));
        let rules = Rules { depth: Depth::Parents(parents), ..Rules::default() };
        let ours = contents(&pruned(&ostree, &copies, &rules));
        let theirs = copies.copy("flatpak");
        let depth = format!("--prune-depth={parents}");
        flatpak.build_update_repo(&theirs, &["--no-update-summary", "--no-update-appstream", "--prune", &depth]);
        assert_eq!(ours, contents(&theirs), "with the depth {parents}");
        // `ostree prune` stops at a commit that it has met from another ref, however far that one's depth goes.
        let theirs = copies.copy("ostree");
        ostree.prune(&theirs, &["--refs-only", &format!("--depth={parents}")]);
        let theirs: Vec<_> =
            contents(&theirs).into_iter().filter(|path| !path.ends_with(".tombstone-commit")).collect();
        assert!(theirs.iter().all(|path| ours.contains(path)), "what `ostree prune` keeps is kept");
    });
}

#[test]
fn an_age_leaves_what_ostree_leaves() {
    let Some(ostree) = Ostree::find() else { return };
    rounds(3, |seed| {
        // `ostree prune` does not look at mirrors when an age is given.
        let mut rng = SplitMix64::new(seed);
        let has_common_history = rng.one_in(2);
        let copies = Copies::of(&ostree, seed, Shape { has_common_history, has_mirrors: false });
        let younger_than_secs = 1_000_000 + 1000 * rng.below(1000) as u64;
        let mut args = vec![format!("--keep-younger-than=@{younger_than_secs}")];
        let mut others = Vec::new();
        if !has_common_history {
            // libostree takes a depth of 0 for none, and then looks at the age after all.
            let (branch, parents) = (BRANCHES[rng.below(BRANCHES.len())], 1 + random_depth(&mut rng));
            args.push(format!("--retain-branch-depth={branch}={parents}"));
            others.push((branch.parse().expect("it is valid"), Depth::Parents(parents)));
        }
        let theirs = copies.copy("theirs");
        ostree.prune(&theirs, &args.iter().map(String::as_str).collect::<Vec<_>>());
        let rules = Rules { depth: Depth::Parents(0), younger_than_secs: Some(younger_than_secs), others };
        let ours = pruned(&ostree, &copies, &rules);
        assert_eq!(contents(&ours), contents(&theirs), "with {args:?}");
    });
}
