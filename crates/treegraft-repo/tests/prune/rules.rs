//! What is kept and what is refused.

use std::{fs, path::Path};

use treegraft_object::{CommitId, ObjectKind, ObjectName, gvariant::Dict};
use treegraft_repo::{
    Find, LockKind, RepoLock, deltas,
    prune::{Depth, Event, PruneError, Rules, Selector},
    summary,
};
use treegraft_testkit::{Ostree, RepoMode};

use crate::{
    scene::{contents, depth, has, mark_partial, prune, sibling, try_prune},
    support::{self, Pair, commit, open},
};

/// A repository whose branch `main` has commits, the oldest first.
fn history(count: usize) -> Option<(Ostree, Pair, Vec<CommitId>)> {
    let ostree = Ostree::find()?;
    let pair = Pair::new(&ostree);
    let commits = (0..count).map(|number| commit(&ostree, &pair.target, "main", &format!("commit {number}"))).collect();
    Some((ostree, pair, commits))
}

fn selector(text: &str) -> Selector {
    text.parse().expect("it is valid")
}

fn there(repo: &Path, commits: &[CommitId]) -> Vec<bool> {
    commits.iter().map(|&commit| has(repo, commit)).collect()
}

/// Prunes and returns the error's code. Nothing may have been deleted.
fn refused(repo: &Path, rules: &Rules) -> &'static str {
    let before = contents(repo);
    let error = try_prune(&open(repo), rules, &mut |_| {}).expect_err("it is refused");
    assert_eq!(contents(repo), before, "nothing is deleted: {error}");
    error.code()
}

#[test]
fn whole_names_are_compared() {
    let Some((ostree, pair, commits)) = history(2) else { return };
    let repo = &pair.target;
    let before = contents(repo);
    let mut forged = Vec::new();
    for name in open(repo).objects() {
        let ObjectName { kind, checksum } = name.expect("it can be listed");
        // All but the last bit are alike, and the kinds are, too.
        for kind in [kind, ObjectKind::File, ObjectKind::DirMeta] {
            let path = repo.join(ObjectName::new(kind, sibling(checksum, 1)).loose_path("filez"));
            fs::write(&path, "").expect("it can be written");
            forged.push(path);
        }
    }
    prune(repo, &Rules::default());
    assert_eq!(contents(repo), before, "all that is kept is there, all that is named nearly so is gone");
    assert!(forged.len() > 10 && forged.iter().all(|path| !path.exists()), "nothing that was forged is left");
    assert_eq!(there(repo, &commits), [true, true], "no commit was taken for another");
    ostree.fsck(repo);
}

#[test]
fn an_object_of_another_kind_with_the_same_checksum_is_another_object() {
    let Some((ostree, pair, commits)) = history(1) else { return };
    let repo = &pair.target;
    let tree = open(repo).commit(commits[0]).expect("it is there").root_tree;
    for kind in [ObjectKind::File, ObjectKind::DirMeta] {
        let same = ObjectName::new(kind, tree.0);
        fs::write(repo.join(same.loose_path("filez")), "").expect("it can be written");
        prune(repo, &Rules::default());
        assert!(!has(repo, same), "`{same}` is not what the commit needs");
    }
    assert!(has(repo, tree), "the dirtree is");
    ostree.fsck(repo);
}

#[test]
fn what_the_summary_names_is_kept_until_it_names_something_else() {
    let Some((ostree, pair, commits)) = history(3) else { return };
    let repo = &pair.target;
    fs::write(repo.join("refs/heads/main"), format!("{}\n", commits[1])).expect("it can be written");
    ostree.summary_update(repo, &[]);
    fs::write(repo.join("refs/heads/main"), format!("{}\n", commits[2])).expect("it can be written");
    prune(repo, &depth(0));
    assert_eq!(there(repo, &commits), [false, true, true], "clients read the summary, which is older than the ref");
    ostree.fsck(repo);
    ostree.summary_update(repo, &[]);
    prune(repo, &depth(0));
    assert_eq!(there(repo, &commits), [false, false, true], "now it leads nobody there");
    ostree.fsck(repo);
}

#[test]
fn the_summary_names_commits_of_other_collections_as_well() {
    let Some((ostree, pair, commits)) = history(2) else { return };
    let repo = &pair.target;
    let mirror = repo.join("refs/mirrors/org.example.Other/app");
    fs::create_dir_all(mirror.parent().expect("it is in a directory")).expect("it can be made");
    fs::write(&mirror, format!("{}\n", commits[0])).expect("it can be written");
    {
        let repo = open(repo);
        let lock = support::lock(&repo);
        let data = summary::build(&repo, support::NOW_SECS, &Dict::new()).expect("it can be built");
        summary::write(&repo, &lock, &data, None).expect("it can be written");
    }
    fs::remove_file(mirror).expect("it is there");
    prune(repo, &depth(0));
    assert_eq!(there(repo, &commits), [true, true], "the summary still names the mirrored commit");
    ostree.fsck(repo);
}

#[test]
fn a_summary_that_is_none_keeps_nothing() {
    let Some((_ostree, pair, commits)) = history(2) else { return };
    fs::write(pair.target.join("summary"), "rubbish").expect("it can be written");
    prune(&pair.target, &depth(0));
    assert_eq!(there(&pair.target, &commits), [false, true], "no client can read it");
}

#[test]
fn depth_and_age_together_keep_what_either_keeps() {
    let Some(ostree) = Ostree::find() else { return };
    let pair = Pair::new(&ostree);
    let tree = tempfile::tempdir().expect("a temporary directory");
    let times = [50, 400, 100, 300, 200];
    let commits: Vec<CommitId> = times
        .map(|time| ostree.commit(&pair.target, tree.path(), "main", time, &[]).parse().expect("it is a checksum"))
        .into();
    for (rules, expected) in [
        (
            Rules { depth: Depth::Parents(0), younger_than_secs: Some(150), others: vec![] },
            [false, false, false, true, true],
        ),
        (
            Rules { depth: Depth::Parents(2), younger_than_secs: Some(150), others: vec![] },
            [false, false, true, true, true],
        ),
        (
            Rules { depth: Depth::Parents(1), younger_than_secs: Some(60), others: vec![] },
            [false, true, true, true, true],
        ),
        (
            Rules { depth: Depth::All, younger_than_secs: Some(1), others: vec![(selector("m*"), Depth::Parents(0))] },
            [false, false, false, false, true],
        ),
    ] {
        let repo = pair.base.path().join("copy");
        support::copy(&pair.target, &repo);
        prune(&repo, &rules);
        assert_eq!(there(&repo, &commits), expected, "with {rules:?}");
        ostree.fsck(&repo);
        fs::remove_dir_all(repo).expect("it is ours");
    }
}

#[test]
fn refs_with_common_history_keep_what_each_of_them_keeps() {
    let Some(ostree) = Ostree::find() else { return };
    let pair = Pair::new(&ostree);
    let tree = tempfile::tempdir().expect("a temporary directory");
    let commits: Vec<CommitId> = [10, 20, 30, 40, 50]
        .map(|time| ostree.commit(&pair.target, tree.path(), "m", time, &[]).parse().expect("it is a checksum"))
        .into();
    // Refs are looked at in the order of their names, so that each kind comes first once.
    for other in ["a", "z"] {
        for (depth_of_other, younger_than_secs, expected) in [
            (Depth::Parents(1), 15, [false, true, true, true, true]),
            (Depth::Parents(3), 35, [false, true, true, true, true]),
            (Depth::All, 60, [true; 5]),
            (Depth::Parents(0), 60, [false, false, false, false, true]),
        ] {
            let repo = pair.base.path().join("copy");
            support::copy(&pair.target, &repo);
            fs::write(repo.join("refs/heads").join(other), format!("{}\n", commits[4])).expect("it can be written");
            let others = vec![(selector(other), depth_of_other)];
            let rules = Rules { younger_than_secs: Some(younger_than_secs), others, ..depth(0) };
            prune(&repo, &rules);
            assert_eq!(there(&repo, &commits), expected, "with {rules:?}");
            ostree.fsck(&repo);
            fs::remove_dir_all(repo).expect("it is ours");
        }
    }
}

#[test]
fn mirrors_and_remotes_are_refs_with_names_of_their_own() {
    let Some((ostree, pair, commits)) = history(4) else { return };
    let repo = &pair.target;
    for (path, commit) in [("mirrors/org.example.Other/x", commits[1]), ("remotes/origin/x", commits[3])] {
        let file = repo.join("refs").join(path);
        fs::create_dir_all(file.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(file, format!("{commit}\n")).expect("it can be written");
    }
    fs::remove_file(repo.join("refs/heads/main")).expect("it is there");
    let others = vec![
        (selector("org.example.Other:*"), Depth::Parents(0)),
        (selector("origin:x"), Depth::Parents(0)),
        (selector("*"), Depth::All),
    ];
    prune(repo, &Rules { others, ..depth(0) });
    assert_eq!(there(repo, &commits), [false, true, false, true], "each ref keeps its own commit");
    ostree.fsck(repo);
}

#[test]
fn a_partial_commit_may_lack_dirtrees_and_another_one_not() {
    let Some((ostree, pair, commits)) = history(2) else { return };
    let repo = &pair.target;
    let dead = commit(&ostree, repo, "dead", "dead");
    fs::remove_file(repo.join("refs/heads/dead")).expect("it is there");
    let root = open(repo).commit(commits[1]).expect("it is there").root_tree;
    let below = open(repo).dirtree(root).expect("it is there").dirs[0].1;
    fs::remove_file(repo.join(ObjectName::from(below).loose_path("filez"))).expect("it is there");
    assert_eq!(refused(repo, &depth(0)), "missing-object", "what is below the missing dirtree is not known");
    mark_partial(repo, commits[1]);
    prune(repo, &depth(0));
    assert_eq!(
        there(repo, &[commits[0], commits[1], dead]),
        [false, true, false],
        "the mark says that it may be missing"
    );
    assert!(repo.join(format!("state/{}.commitpartial", commits[1])).exists(), "the mark is kept");
    let kept = open(repo).dirtree(root).expect("the rest of the tree is there");
    assert!(has(repo, kept.files[0].1), "what is there of it is kept");
}

#[test]
fn a_ref_that_cannot_be_read_stops_everything() {
    let Some((_ostree, pair, _)) = history(2) else { return };
    let bad = pair.target.join("refs/heads/bad");
    fs::write(&bad, "no checksum").expect("it can be written");
    assert_eq!(refused(&pair.target, &depth(0)), "invalid-ref", "it may lead to anything");
    fs::remove_file(&bad).expect("it is there");
    std::os::unix::fs::symlink("nowhere", &bad).expect("it can be made");
    assert_eq!(refused(&pair.target, &depth(0)), "dangling-alias", "so may an alias");
}

#[test]
fn refs_elsewhere_keep_their_commits_and_refs_that_are_lost_stop_everything() {
    let Some((ostree, pair, commits)) = history(2) else { return };
    let (repo, elsewhere) = (&pair.target, pair.base.path().join("elsewhere"));
    let heads = repo.join("refs/heads");
    fs::rename(&heads, &elsewhere).expect("it is ours");
    std::os::unix::fs::symlink(&elsewhere, &heads).expect("it can be made");
    assert_eq!(ostree.refs(repo), ["main"], "libostree follows the symlink");
    assert_eq!(support::refs(repo).len(), 1, "and so does treegraft");
    prune(repo, &depth(0));
    assert_eq!(there(repo, &commits), [false, true], "the ref keeps its commit");
    ostree.fsck(repo);

    fs::rename(&elsewhere, pair.base.path().join("lost")).expect("it is ours");
    assert_eq!(refused(repo, &depth(0)), "io", "the symlink leads nowhere");
    fs::remove_file(&heads).expect("it is a symlink");
    assert_eq!(refused(repo, &depth(0)), "io", "`refs/heads` is missing");
    fs::write(&heads, "").expect("it can be written");
    assert_eq!(refused(repo, &depth(0)), "io", "`refs/heads` is a file");
    fs::remove_file(&heads).expect("it is a file");
    fs::create_dir(&heads).expect("it can be made");
    assert_eq!(refused(repo, &depth(0)), "no-refs", "`refs/heads` is empty, as where something is not mounted");

    let empty = pair.base.path().join("empty");
    ostree.init(&empty, RepoMode::Archive, None);
    prune(&empty, &depth(0));
}

#[test]
fn refs_keep_their_commits_whatever_their_names_are() {
    let Some((ostree, pair, commits)) = history(4) else { return };
    let repo = &pair.target;
    // libostree lists the first two as refs; the third one is there while treegraft writes a ref.
    let names = ["tmp.abcdef", &"ab".repeat(32), "app/.treegraft-new"];
    for (name, commit) in names.iter().zip(&commits) {
        let file = repo.join("refs/heads").join(name);
        fs::create_dir_all(file.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(file, format!("{commit}\n")).expect("it can be written");
    }
    fs::write(repo.join("refs/heads/.rsync_info"), "not for us").expect("it can be written");
    prune(repo, &depth(0));
    assert_eq!(there(repo, &commits), [true; 4], "each of them leads to a commit");
    ostree.prune(repo, &["--refs-only", "--depth=0"]);
    assert_eq!(there(repo, &commits), [true, true, false, true], "`ostree prune` sees the first two as well");
}

#[test]
fn refs_without_a_commit_and_aliases_are_no_hindrance() {
    let Some((ostree, pair, commits)) = history(3) else { return };
    let repo = &pair.target;
    fs::write(repo.join("refs/heads/lost"), format!("{}\n", sibling(commits[0].0, 1))).expect("it can be written");
    fs::remove_file(repo.join(ObjectName::from(commits[1]).loose_path("filez"))).expect("it is there");
    std::os::unix::fs::symlink("main", repo.join("refs/heads/alias")).expect("it can be made");
    prune(repo, &Rules::default());
    assert_eq!(there(repo, &commits), [false, false, true], "the history ends where a commit is missing");
    fs::remove_file(repo.join("refs/heads/lost")).expect("it is there");
    ostree.fsck(repo);
}

#[test]
fn a_parent_repository_is_looked_at_and_not_touched() {
    let Some((ostree, pair, commits)) = history(2) else { return };
    let child = pair.base.path().join("child");
    ostree.init(&child, RepoMode::Archive, None);
    let _ = ostree.at(&child, "config", ["set", "core.parent", &pair.target.display().to_string()]);
    let before = contents(&pair.target);
    // The child has the newest commit on top of the parent's, and of its tree only what the parent lacks.
    let tree = tempfile::tempdir().expect("a temporary directory");
    fs::write(tree.path().join("file"), "of the child").expect("it is ours");
    let parent = format!("--parent={}", commits[1]);
    let dead: CommitId =
        ostree.commit(&child, tree.path(), "main", 1, &["--subject=dead", &parent]).parse().expect("it is a checksum");
    let alive: CommitId =
        ostree.commit(&child, tree.path(), "main", 1, &["--subject=alive", &parent]).parse().expect("it is a checksum");
    let of_parent = ObjectName::commit_meta(commits[1]);
    let file = child.join(of_parent.loose_path("filez"));
    fs::create_dir_all(file.parent().expect("it is in a directory")).expect("it can be made");
    fs::write(file, "").expect("it can be written");
    prune(&child, &Rules::default());
    assert_eq!(there(&child, &[dead, alive]), [false, true], "the child's own commit is kept, the dead one is gone");
    assert!(has(&child, of_parent), "metadata that the child has for a commit of the parent is no orphan");
    assert_eq!(contents(&pair.target), before, "the parent is not touched");
    ostree.fsck(&child);
}

#[test]
fn other_modes_are_refused() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in [RepoMode::BareUser, RepoMode::BareUserOnly] {
        let repo = base.path().join(mode.as_str());
        ostree.init(&repo, mode, None);
        commit(&ostree, &repo, "main", "one");
        assert_eq!(refused(&repo, &depth(0)), "not-archive", "only archive repositories are written");
    }
}

#[test]
fn without_locking_nothing_is_deleted() {
    let Some((ostree, pair, _)) = history(2) else { return };
    let _ = ostree.at(&pair.target, "config", ["set", "core.locking", "false"]);
    assert_eq!(refused(&pair.target, &depth(0)), "no-locking", "nothing would keep pushes away");
}

#[test]
fn waiting_for_the_lock_is_bounded_and_told() {
    let Some((ostree, pair, _)) = history(2) else { return };
    let _ = ostree.at(&pair.target, "config", ["set", "core.lock-timeout-secs", "1"]);
    let repo = open(&pair.target);
    let lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {}).expect("it is free");
    let before = contents(&pair.target);
    let mut waited = 0;
    let error = try_prune(&repo, &depth(0), &mut |event| waited += u32::from(matches!(event, Event::Waiting { .. })));
    let error = error.expect_err("a push holds the lock");
    assert!(matches!(error, PruneError::Lock(_)) && error.is_temporary(), "a later try helps: {error}");
    assert!(waited > 0, "it is told that it waits");
    assert_eq!(contents(&pair.target), before, "nothing is deleted");
    drop(lock);
    prune(&pair.target, &depth(0));
    // With nothing to delete nobody is kept waiting.
    let _lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {}).expect("it is free");
    assert_eq!(prune(&pair.target, &depth(0)).lock_turns, 0, "the lock is not even asked for");
}

#[test]
fn leftovers_go_and_what_is_libostrees_stays() {
    let Some((ostree, pair, commits)) = history(2) else { return };
    let repo = &pair.target;
    let beside = |commit: CommitId, extension: &str| {
        let path = repo.join(ObjectName::from(commit).loose_path("filez"));
        path.with_extension(extension)
    };
    let lost = CommitId(sibling(commits[0].0, 1));
    let going = [
        beside(lost, "commitmeta"),
        beside(commits[0], "commitmeta"),
        beside(lost, "commitmeta2"),
        beside(commits[0], "commitmeta2"),
        beside(commits[1], "commitmeta2"),
        beside(commits[1], "x").with_file_name(".treegraft-new"),
        beside(commits[1], "x").with_file_name(".treegraft-tombstone"),
    ];
    let staying = [
        beside(commits[1], "commitmeta"),
        beside(commits[1], "payload-link"),
        repo.join("objects/zz"),
        repo.join("tmp/cache/summaries/x"),
        repo.join("tmp/something"),
        repo.join("extensions/x"),
    ];
    for path in going.iter().chain(&staying) {
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(path, "").expect("it can be written");
    }
    let report = prune(repo, &depth(0));
    let left: Vec<_> = going.iter().filter(|path| path.exists()).collect();
    assert_eq!(left, Vec::<&std::path::PathBuf>::new(), "what belongs to nothing is gone, and all of Flatpak's caches");
    assert!(staying.iter().all(|path| path.exists()), "everything else is there");
    assert_eq!((report.detached_metadata, report.flatpak_caches, report.temporaries), (2, 3, 2), "they are counted");
    ostree.fsck(repo);
}

#[test]
fn a_mark_without_a_commit_waits_for_what_libostree_has_staged() {
    let Some((_ostree, pair, commits)) = history(2) else { return };
    let repo = &pair.target;
    let lost = CommitId(sibling(commits[0].0, 1));
    mark_partial(repo, lost);
    mark_partial(repo, commits[0]);
    let staged = repo.join("tmp/staging-0-abcdef");
    fs::create_dir(&staged).expect("it can be made");
    prune(repo, &depth(0));
    let mark = |commit| repo.join(format!("state/{commit}.commitpartial")).exists();
    assert!(mark(lost) && mark(commits[0]), "an interrupted pull that goes on relies on it");
    fs::remove_dir(staged).expect("it is there");
    let report = prune(repo, &depth(0));
    assert!(!mark(lost) && !mark(commits[0]), "without it they mean nothing");
    assert_eq!(report.partial_marks, 2, "they are counted");
}

#[test]
fn static_deltas_to_deleted_commits_go() {
    let Some((ostree, pair, commits)) = history(3) else { return };
    let repo = &pair.target;
    let generate = |from: Option<CommitId>, to: CommitId| {
        let from = from.map_or_else(|| "--empty".to_owned(), |from| format!("--from={from}"));
        let _ = ostree.at(repo, "static-delta", ["generate", &from, &format!("--to={to}")]);
    };
    generate(None, commits[0]);
    generate(Some(commits[0]), commits[1]);
    generate(Some(commits[1]), commits[2]);
    generate(None, commits[2]);
    let interrupted = repo.join("deltas/ab").join("c".repeat(41));
    fs::create_dir_all(&interrupted).expect("it can be made");
    fs::write(interrupted.join("0"), "a part").expect("it can be written");
    let theirs = pair.base.path().join("theirs");
    support::copy(repo, &theirs);
    ostree.prune(&theirs, &["--refs-only", "--depth=0"]);
    let report = prune(repo, &depth(0));
    let left: Vec<_> = deltas::list(&open(repo)).expect("they can be listed").into_keys().collect();
    assert_eq!(left.len(), 2, "a client that has the deleted commit can still use a delta from it");
    assert!(left.iter().all(|name| name.to == commits[2]), "all lead to the commit that is kept");
    assert_eq!(report.deltas.len(), 3, "those that are deleted are named");
    assert!(!interrupted.exists(), "what was half deleted is gone as well");
    let mut theirs = contents(&theirs);
    theirs.retain(|path| !path.ends_with(&format!("{}/0", "c".repeat(41))));
    assert_eq!(contents(repo), theirs, "`ostree prune` leaves the same");
    ostree.fsck(repo);
}
