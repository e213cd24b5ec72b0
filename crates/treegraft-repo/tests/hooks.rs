//! What hooks rest on: records of work that has to follow, and a look at what is about to be published.

mod support;

use std::fs;

use support::{commit, lock, open, turn};
use treegraft_object::RefName;
use treegraft_repo::{Closure, Find, Pending, Preview, Repo, Staging};
use treegraft_testkit::{Ostree, RepoMode};

fn names(repo: &Repo) -> Vec<String> {
    let entries = fs::read_dir(repo.path().join(".treegraft/pending")).into_iter().flatten();
    entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_record_is_found_when_its_owner_is_dead_and_by_one_only() {
    let _turn = turn();
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = Repo::init(&base.path().join("repo"), None).expect("a repository can be made");
    assert!(Pending::orphans(&repo).expect("there is nothing").is_empty(), "no directory is no error");
    let publish = lock(&repo);
    let create = |name: &str| Pending::create(&repo, &publish, name, name.as_bytes()).expect("it can be recorded");
    let (first, second) = (create("first").expect("it is new"), create("second").expect("it is new"));
    assert!(Pending::orphans(&repo).expect("it can be looked").is_empty(), "both owners are alive");
    drop(first);
    assert!(create("first").is_none(), "what is on record is not recorded again");
    let orphans = Pending::orphans(&repo).expect("it can be looked");
    assert_eq!(orphans.len(), 1, "the dead one's record is found");
    assert_eq!(orphans[0].data().expect("it can be read"), b"first", "as it was recorded");
    assert!(Pending::orphans(&repo).expect("it can be looked").is_empty(), "whoever found it is its owner");
    for orphan in orphans {
        orphan.finish().expect("it can be removed");
    }
    assert_eq!(names(&repo), ["second"], "work that is done is not on record any more");
    second.finish().expect("it can be removed");
    assert!(names(&repo).is_empty(), "nothing is left");
    assert!(create("first").is_some(), "a name can be used again");
}

#[test]
fn what_a_crash_leaves_of_a_record_is_no_record() {
    let _turn = turn();
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = Repo::init(&base.path().join("repo"), None).expect("a repository can be made");
    drop(Pending::create(&repo, &lock(&repo), "one", b"1").expect("it can be recorded"));
    fs::write(repo.path().join(".treegraft/pending/.treegraft-new"), "a part").expect("it is ours");
    let orphans = Pending::orphans(&repo).expect("it can be looked");
    assert_eq!(orphans.len(), 1, "a file that was being written is none");
    drop(orphans);
    drop(Pending::create(&repo, &lock(&repo), "two", b"2").expect("it can be recorded"));
    let orphans = Pending::orphans(&repo).expect("it can be looked");
    let found: Vec<_> = orphans.iter().map(|orphan| orphan.data().expect("it can be read")).collect();
    assert_eq!(found, [b"1", b"2"], "the oldest comes first");
}

#[test]
fn a_preview_is_a_repository_for_ostree_and_for_us() {
    let _turn = turn();
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    // A path that a key file has to quote.
    let folder = base.path().join(r" a \s folder ");
    fs::create_dir(&folder).expect("it is empty");
    let (target, source) = (folder.join("target"), folder.join("source"));
    ostree.init(&target, RepoMode::Archive, None);
    ostree.init(&source, RepoMode::Archive, None);
    let old = commit(&ostree, &target, "main", "old");
    let new = commit(&ostree, &source, "main", "new");
    let (repo, from) = (open(&target), open(&source));
    let (staging, _) = Staging::open(&repo).expect("it can be opened");
    support::stage_all(&staging, &from, &support::closure(&from, new));
    let publish = lock(&repo);
    let name = RefName::new("deep/er/main").expect("it is a ref");
    let preview = Preview::make(&repo, &publish, &staging, [(&name, new)]).expect("it can be made");
    let path = preview.path().to_owned();
    assert!(path.is_absolute(), "hooks run elsewhere");
    assert_eq!(ostree.refs(&path), ["deep/er/main"], "the refs that will move");
    assert_eq!(ostree.at(&path, "cat", ["deep/er/main", "/directory/file"]).text(), "new", "staged objects");
    assert_eq!(ostree.at(&path, "cat", [&old.to_string(), "/directory/file"]).text(), "old", "published objects");
    let seen = open(&path);
    assert!(seen.has(new.into()).expect("it can be looked"), "we read it, too");
    assert!(Closure::new(&seen).check_commit(new).expect("it can be looked"), "and it is complete");
    let again = Preview::make(&repo, &publish, &staging, []).expect("what a crash leaves is replaced");
    assert_eq!(ostree.refs(&path), Vec::<String>::new(), "by what is asked for now");
    drop((preview, again));
    assert!(!path.exists(), "it is gone with its owner");
    assert!(staging.has(new), "what it led to is not");
    ostree.fsck(&target);
}
