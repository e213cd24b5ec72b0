//! Pruning while others push: what they rely on is there in the end.

use std::{
    fs,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use treegraft_object::{Commit, CommitId, ObjectName, RefName, gvariant::Dict};
use treegraft_repo::{
    Find, LockKind, PublishLock, RefEdit, RefTarget, Repo, RepoLock, Staging, Transaction,
    prune::{Depth, Event, Rules},
};
use treegraft_testkit::{Ostree, SplitMix64};

use crate::{
    scene::{depth, has, prune, prune_in_small_turns, rounds, try_prune},
    support::{self, Pair, closure, commit, open},
};

/// Generous: it only ends a test that would hang.
const LIMIT: Duration = Duration::from_secs(120);

/// A commit that is not published yet, with the tree of another one, which it relies on altogether.
struct Grafted {
    id: CommitId,
    data: Vec<u8>,
}

fn graft(repo: &Repo, tree_of: CommitId, parent: Option<CommitId>, subject: &str) -> Grafted {
    let base = repo.commit(tree_of).expect("it is there");
    let grafted = Commit { parent, subject: subject.to_owned(), metadata: Dict::new(), ..base };
    Grafted { id: grafted.id(), data: grafted.encode() }
}

/// Publishes a commit whose tree is in the repository, as a push does that was told so. The lock is the caller's.
fn publish(repo: &Repo, grafted: &Grafted, name: &str) {
    let (staging, _) = Staging::open(repo).expect("it can be opened");
    staging.stage_metadata(grafted.id, &grafted.data).expect("it is valid");
    let lock = PublishLock::acquire(repo, &mut |_| {}).expect("nobody dies with it");
    let target = RefTarget::Head(RefName::new(name).expect("it is a ref"));
    let mut transaction = Transaction::new(repo, &lock, &staging);
    transaction.link([ObjectName::from(grafted.id)]);
    transaction.set_ref(RefEdit { expected: repo.resolve(&target).expect("it can be read"), target, new: grafted.id });
    let committed = transaction.prepare().and_then(treegraft_repo::Prepared::commit).expect("it can be published");
    committed.finish().expect("it ends");
    drop(lock);
    staging.remove().expect("it can be removed");
}

/// Puts a commit's objects into the repository, and dies before a ref moves.
fn publish_without_ref(repo: &Repo, grafted: &Grafted) {
    let (staging, _) = Staging::open(repo).expect("it can be opened");
    staging.stage_metadata(grafted.id, &grafted.data).expect("it is valid");
    let lock = PublishLock::acquire(repo, &mut |_| {}).expect("nobody dies with it");
    let mut transaction = Transaction::new(repo, &lock, &staging);
    transaction.link([ObjectName::from(grafted.id)]);
    drop(transaction.prepare().expect("it can be prepared"));
    drop(lock);
    staging.remove().expect("it can be removed");
}

/// A repository whose `main` has two commits; pruned with depth 0, the first one goes.
fn two_commits() -> Option<(Ostree, Pair, CommitId, CommitId)> {
    let ostree = Ostree::find()?;
    let pair = Pair::new(&ostree);
    let first = commit(&ostree, &pair.target, "main", "first and only here");
    let second = commit(&ostree, &pair.target, "main", "second");
    Some((ostree, pair, first, second))
}

/// Checks that all of a commit is there.
fn check_whole(ostree: &Ostree, repo: &Path, id: CommitId) {
    let opened = open(repo);
    assert!(has(repo, id), "the commit is there");
    assert!(treegraft_repo::Closure::new(&opened).check_commit(id).expect("it can be read"), "and all it needs");
    ostree.fsck(repo);
}

#[test]
fn a_push_from_before_the_prune_keeps_what_it_was_told_to_be_there() {
    let Some((ostree, pair, first, second)) = two_commits() else { return };
    let target = pair.target.clone();
    let repo = open(&target);
    // The push asks, under the shared lock, and hears that all of the first commit's tree is there.
    let lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {}).expect("it is free");
    assert!(closure(&repo, first).iter().all(|&name| repo.has(name).expect("it can be looked up")), "all is there");
    let (tell, told) = mpsc::channel();
    let pruner = thread::spawn({
        let target = target.clone();
        move || {
            try_prune(&open(&target), &depth(0), &mut |event| {
                if matches!(event, Event::Waiting { .. }) {
                    tell.send(()).ok();
                }
            })
        }
    });
    told.recv_timeout(LIMIT).expect("the prune has marked everything, and waits for the push");
    let pushed = graft(&repo, first, Some(second), "on the first one's tree");
    publish(&repo, &pushed, "main");
    drop(lock);
    let report = pruner.join().expect("it does not panic").expect("the prune goes on then");
    check_whole(&ostree, &target, pushed.id);
    assert!(!has(&target, first), "the first commit itself is gone");
    assert_eq!(report.deleted.files + report.deleted.dirtrees + report.deleted.dirmetas, 0, "its tree is all in use");
}

#[test]
fn a_push_in_the_middle_of_the_prune_keeps_what_it_uses() {
    let Some((ostree, pair, first, second)) = two_commits() else { return };
    let repo = open(&pair.target);
    let pushed = graft(&repo, first, Some(second), "on the first one's tree");
    try_prune(&repo, &depth(0), &mut |event| {
        if matches!(event, Event::Marked { .. }) {
            let _lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {}).expect("it is free");
            publish(&repo, &pushed, "main");
        }
    })
    .expect("it can be pruned");
    check_whole(&ostree, &pair.target, pushed.id);
    assert!(!has(&pair.target, first), "what nobody used is gone");
}

#[test]
fn a_commit_that_another_prune_deleted_and_a_push_brought_back_stays_whole() {
    let Some((ostree, pair, first, _)) = two_commits() else { return };
    let repo = open(&pair.target);
    let file = pair.target.join(ObjectName::from(first).loose_path("filez"));
    let data = fs::read(&file).expect("it is there");
    try_prune(&repo, &depth(0), &mut |event| match event {
        Event::Marked { .. } => fs::remove_file(&file).expect("it is there"),
        // Commits are over, and what they need comes next.
        Event::Deleted { .. } if !file.exists() => fs::write(&file, &data).expect("it can be written"),
        _ => {}
    })
    .expect("it can be pruned");
    check_whole(&ostree, &pair.target, first);
}

#[test]
fn a_publish_that_died_before_its_ref_keeps_its_commit_whole() {
    let Some((ostree, pair, first, second)) = two_commits() else { return };
    let repo = open(&pair.target);
    let pushed = graft(&repo, first, Some(second), "on the first one's tree");
    try_prune(&repo, &depth(0), &mut |event| {
        if matches!(event, Event::Marked { .. }) {
            let _lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {}).expect("it is free");
            publish_without_ref(&repo, &pushed);
        }
    })
    .expect("it can be pruned");
    // `ostree fsck` looks at every commit, whether a ref leads to it or not.
    check_whole(&ostree, &pair.target, pushed.id);
    let report = prune(&pair.target, &depth(0));
    assert!(!has(&pair.target, pushed.id), "the next prune finds it, and that nothing leads to it");
    assert!(report.deleted.files > 0, "its tree goes with it");
    ostree.fsck(&pair.target);
}

#[test]
fn a_ref_that_moves_back_in_the_middle_keeps_its_commit() {
    let Some((ostree, pair, first, _)) = two_commits() else { return };
    let repo = open(&pair.target);
    try_prune(&repo, &depth(0), &mut |event| {
        if matches!(event, Event::Marked { .. }) {
            fs::write(pair.target.join("refs/heads/other"), format!("{first}\n")).expect("it can be written");
        }
    })
    .expect("it can be pruned");
    check_whole(&ostree, &pair.target, first);
}

#[test]
fn what_was_missing_while_marking_is_looked_at_again() {
    let Some((ostree, pair, _, second)) = two_commits() else { return };
    let repo = open(&pair.target);
    // Under a dirtree that is gone for a moment there is a file that nothing else leads to.
    let root = repo.commit(second).expect("it is there").root_tree;
    let below = repo.dirtree(root).expect("it is there").dirs[0].1;
    let path = pair.target.join(ObjectName::from(below).loose_path("filez"));
    let aside = pair.base.path().join("aside");
    fs::rename(&path, &aside).expect("it is there");
    try_prune(&repo, &depth(0), &mut |event| {
        if matches!(event, Event::Marked { .. }) {
            fs::rename(&aside, &path).expect("it is aside");
        }
    })
    .expect("it can be pruned");
    check_whole(&ostree, &pair.target, second);
}

#[test]
fn staged_objects_of_a_living_push_are_not_touched() {
    let Some((_ostree, pair, first, second)) = two_commits() else { return };
    let repo = open(&pair.target);
    let (staging, _) = Staging::open(&repo).expect("it can be opened");
    let pushed = graft(&repo, first, Some(second), "staged");
    staging.stage_metadata(pushed.id, &pushed.data).expect("it is valid");
    prune(&pair.target, &depth(0));
    assert!(staging.has(pushed.id), "the push goes on with it");
}

#[test]
fn pushes_and_prunes_in_loops_do_no_harm() {
    let Some(ostree) = Ostree::find() else { return };
    rounds(1, |seed| {
        let pair = Pair::new(&ostree);
        let _ = ostree.at(&pair.target, "config", ["set", "core.fsync", "false"]);
        let trees: Vec<CommitId> =
            (0..6).map(|number| commit(&ostree, &pair.source, "trees", &format!("tree {number}"))).collect();
        support::push(&pair.target, &pair.source).expect("the push works");
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let pushers: Vec<_> = (0..3_u64)
                .map(|pusher| {
                    let (pair, trees) = (&pair, &trees);
                    scope.spawn(move || {
                        let mut rng = SplitMix64::new(seed ^ pusher);
                        for number in 0..25 {
                            push_tree(pair, trees[rng.below(trees.len())], &format!("own-{pusher}"), number);
                        }
                    })
                })
                .collect();
            for small in [true, false] {
                let (target, is_done) = (&pair.target, &is_done);
                scope.spawn(move || {
                    while !is_done.load(Ordering::SeqCst) {
                        if small {
                            prune_in_small_turns(target, &depth(0)).expect("it waits for its turns");
                        } else {
                            prune(target, &Rules { depth: Depth::Parents(1), ..Rules::default() });
                        }
                    }
                });
            }
            let results: Vec<_> = pushers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            is_done.store(true, Ordering::SeqCst);
            for result in results {
                result.expect("no push fails");
            }
        });
        ostree.fsck(&pair.target);
        prune(&pair.target, &depth(0));
        ostree.fsck(&pair.target);
        assert_eq!(ostree.refs(&pair.target).len(), 4, "no ref is lost");
    });
}

/// Pushes a commit with a tree of which some objects may be there, as a real push: it asks, and sends what is missing.
fn push_tree(pair: &Pair, tree_of: CommitId, name: &str, number: u32) {
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let _lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {}).expect("no prune holds it for long");
    let (staging, _) = Staging::open(&repo).expect("it can be opened");
    let target = RefTarget::Head(RefName::new(name).expect("it is a ref"));
    let head = repo.resolve(&target).expect("it can be read");
    let grafted = graft(&source, tree_of, head, &format!("{name} {number}"));
    let names: Vec<_> = closure(&source, tree_of).into_iter().filter(|&name| name != tree_of.into()).collect();
    for &name in &names {
        if !repo.has(name).expect("it can be looked up") {
            let _ = support::stage(&staging, name, &support::bytes(&source, name)).expect("it is valid");
        }
    }
    staging.stage_metadata(grafted.id, &grafted.data).expect("it is valid");
    let lock = PublishLock::acquire(&repo, &mut |_| {}).expect("nobody dies with it");
    let mut transaction = Transaction::new(&repo, &lock, &staging);
    transaction.link(names.into_iter().chain([grafted.id.into()]));
    transaction.set_ref(RefEdit { target, expected: head, new: grafted.id });
    let committed = transaction.prepare().and_then(treegraft_repo::Prepared::commit);
    committed.expect("what was there is there").finish().expect("it ends");
    drop(lock);
    staging.remove().expect("it can be removed");
}
