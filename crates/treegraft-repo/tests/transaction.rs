//! Publishing: what real `ostree` sees afterwards, and what is refused without a trace.

mod support;

use std::{fs, path::Path, process::Command};

use support::{Pair, bytes, closure, commit, head, left_behind, lock, open, paths, push, refs, stage, stage_all};
use treegraft_object::{
    Checksum, CollectionId, CommitId, ObjectKind, ObjectName, RefName,
    gvariant::{Dict, Variant},
};
use treegraft_repo::{
    Committed, Find, FoundRef, Outcome, PublishLock, Recovered, RefEdit, RefEditError, RefTarget, Repo, Staging,
    Transaction, TransactionError, write_detached_metadata,
};
use treegraft_testkit::Ostree;

fn edit(target: RefTarget, expected: Option<CommitId>, new: CommitId) -> RefEdit {
    RefEdit { target, expected, new }
}

/// Publishes refs to commits that are in the repository or staged.
fn publish<'r>(
    repo: &'r Repo,
    lock: &'r PublishLock,
    staging: &'r Staging,
    objects: &[ObjectName],
    edits: &[RefEdit],
) -> Result<Committed<'r>, TransactionError> {
    let mut transaction = Transaction::new(repo, lock, staging);
    transaction.link(objects.iter().copied());
    edits.iter().cloned().for_each(|edit| transaction.set_ref(edit));
    transaction.prepare()?.commit()
}

/// A target that has `main` at the first commit, and the second commit in the source.
struct Published {
    ostree: Ostree,
    pair: Pair,
    first: CommitId,
    second: CommitId,
}

impl Published {
    fn new() -> Option<Self> {
        let ostree = Ostree::find()?;
        let pair = Pair::new(&ostree);
        let first = commit(&ostree, &pair.source, "main", "the first");
        push(&pair.target, &pair.source).expect("the push works");
        let second = commit(&ostree, &pair.source, "main", "the second");
        Some(Self { ostree, pair, first, second })
    }

    fn target(&self) -> &Path {
        &self.pair.target
    }

    /// Tries to publish edits together with all objects of the second commit.
    fn try_publish(&self, edits: &[RefEdit]) -> Result<(), TransactionError> {
        let (repo, source) = (open(self.target()), open(&self.pair.source));
        let (staging, _) = Staging::open(&repo).expect("it can be opened");
        let names = closure(&source, self.second);
        stage_all(&staging, &source, &names);
        let lock = lock(&repo);
        publish(&repo, &lock, &staging, &names, edits)?.finish()
    }
}

#[test]
fn real_ostree_reads_what_was_published() {
    let Some(ostree) = Ostree::find() else { return };
    let pair = Pair::new(&ostree);
    let mut expected = Vec::new();
    for (branch, text) in [("main", "one"), ("app/org.example.App/x86_64/master", "two"), ("main", "three")] {
        expected.push((branch, commit(&ostree, &pair.source, branch, text)));
        push(&pair.target, &pair.source).expect("the push works");
    }
    ostree.fsck(&pair.target);
    assert_eq!(refs(&pair.target), refs(&pair.source), "both have the same refs");
    assert_eq!(ostree.refs(&pair.target).len(), 2, "`ostree refs` lists them");
    for (branch, text) in [("main", "three"), ("app/org.example.App/x86_64/master", "two")] {
        assert_eq!(ostree.rev_parse(&pair.target, branch), ostree.rev_parse(&pair.source, branch), "{branch}");
        assert_eq!(ostree.log(&pair.target, branch), ostree.log(&pair.source, branch), "the history of {branch}");
        assert!(ostree.show(&pair.target, branch).contains(text), "`ostree show` finds the commit of {branch}");
        assert_eq!(ostree.ls(&pair.target, branch), ostree.ls(&pair.source, branch), "the tree of {branch}");
    }
    assert_eq!(left_behind(&pair.target), Vec::<String>::new(), "no journal and no staged object is left");
    let ref_files: Vec<_> =
        paths(&pair.target.join("refs")).into_iter().filter(|path| path.contains("treegraft")).collect();
    assert_eq!(ref_files, Vec::<String>::new(), "no temporary ref is left");
}

#[test]
fn files_have_libostrees_modes_whatever_the_umask() {
    // The umask belongs to the whole process, so this runs in one of its own.
    let Some(ostree) = Ostree::find() else { return };
    let pair = Pair::new(&ostree);
    let _ = commit(&ostree, &pair.source, "a/b", "one");
    let status = Command::new("sh")
        .args(["-c", "umask 077 && exec \"$0\" --ignored --exact pushes_as_told"])
        .arg(std::env::current_exe().expect("it is running"))
        .env("TEST_TARGET", &pair.target)
        .env("TEST_SOURCE", &pair.source)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("it can be started");
    assert!(status.success(), "the push works");
    for path in ["summary", "summary.sig", "refs/heads/a/b"].map(str::to_owned).into_iter().chain(
        paths(&pair.target.join("objects")).into_iter().filter(|p| !p.ends_with('/')).map(|p| format!("objects/{p}")),
    ) {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(pair.target.join(&path)).expect("it is there").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o644, "{path} can be read by a web server");
    }
}

#[test]
#[ignore = "started by other tests in a process of its own"]
fn pushes_as_told() {
    let path = |key| std::env::var_os(key).map(std::path::PathBuf::from).expect("it is set by the other test");
    push(&path("TEST_TARGET"), &path("TEST_SOURCE")).expect("the push works");
}

#[test]
fn a_moved_ref_stops_everything() {
    let Some(test) = Published::new() else { return };
    let before = refs(test.target());
    let other = CommitId(Checksum::of(b"other"));
    for wrong in [None, Some(other), Some(test.second)] {
        let edits = [edit(head("new"), None, test.second), edit(head("main"), wrong, test.second)];
        match test.try_publish(&edits).expect_err("the ref is elsewhere") {
            TransactionError::RefMoved { target, expected, found } => {
                assert_eq!(target, head("main"), "the moved ref is named");
                assert_eq!((expected, found), (wrong, Some(test.first)), "so are both values");
            }
            error => panic!("unexpected: {error}"),
        }
        assert_eq!(refs(test.target()), before, "no ref is written, not even the one before it");
    }
    assert!(!open(test.target()).has(test.second.into()).expect("read"), "not even objects are published");
}

#[test]
fn a_ref_that_moves_between_prepare_and_commit_stops_everything() {
    let Some(test) = Published::new() else { return };
    let (repo, source) = (open(test.target()), open(&test.pair.source));
    let (staging, _) = Staging::open(&repo).expect("it can be opened");
    let names = closure(&source, test.second);
    stage_all(&staging, &source, &names);
    let lock = lock(&repo);
    let mut transaction = Transaction::new(&repo, &lock, &staging);
    transaction.link(names);
    transaction.set_ref(edit(head("a"), None, test.second));
    transaction.set_ref(edit(head("main"), Some(test.first), test.second));
    let prepared = transaction.prepare().expect("nothing has moved");
    let foreign = commit(&test.ostree, test.target(), "main", "by another program");
    let error = prepared.commit().expect_err("the ref has moved");
    assert_eq!(error.code(), "ref-moved", "{error}");
    assert!(error.is_temporary(), "a push on top of the new value can succeed");
    assert_eq!(refs(test.target()).into_values().collect::<Vec<_>>(), [foreign], "no ref is written");
    assert!(!test.target().join(".treegraft/journal").exists(), "nothing is left to recover");
    test.ostree.fsck(test.target());
}

#[test]
fn refs_and_directories_do_not_share_a_name() {
    let Some(test) = Published::new() else { return };
    test.try_publish(&[edit(head("a/b"), None, test.second)]).expect("there is no conflict");
    let before = refs(test.target());
    let new = |name: &str| edit(head(name), None, test.second);
    for (edits, what) in [
        (vec![new("main/below")], "below a ref"),
        (vec![new("main/below/deep")], "deep below a ref"),
        (vec![new("a")], "above a ref"),
        (vec![new("x"), new("x/y")], "above another new ref"),
        (vec![new("x/y/z"), new("x")], "above another new ref, in the other order"),
    ] {
        let error = test.try_publish(&edits).expect_err("it is in conflict");
        assert_eq!(error.code(), "ref-conflict", "{what}: {error}");
        assert!(!error.is_temporary(), "a retry does not help");
        assert_eq!(refs(test.target()), before, "nothing is written for a ref {what}");
    }
    let error = test.try_publish(&[new("x"), new("x")]).expect_err("it is in conflict");
    assert_eq!(error.code(), "ref-twice", "{error}");
    let error = test.try_publish(&[new("é")]).expect_err("it is not portable");
    assert!(matches!(error, TransactionError::Ref(RefEditError::NotPortable { .. })), "{error}");
    assert_eq!(refs(test.target()), before, "nothing is written");
}

#[test]
fn a_directory_that_refs_were_deleted_from_is_no_obstacle() {
    let Some(test) = Published::new() else { return };
    test.try_publish(&[edit(head("a/b/c"), None, test.second)]).expect("there is no conflict");
    let _ = test.ostree.at(test.target(), "refs", ["--delete", "a/b/c"]);
    assert!(test.target().join("refs/heads/a/b").is_dir(), "`ostree refs --delete` leaves directories");
    test.try_publish(&[edit(head("a"), None, test.second)]).expect("an empty directory is no obstacle");
    assert_eq!(test.ostree.rev_parse(test.target(), "a"), test.second.to_string(), "the ref is written");
}

#[test]
fn an_object_that_is_nowhere_stops_the_publish() {
    let Some(test) = Published::new() else { return };
    let (repo, source) = (open(test.target()), open(&test.pair.source));
    let (staging, _) = Staging::open(&repo).expect("it can be opened");
    let names = closure(&source, test.second);
    let tree = *names.iter().find(|name| name.kind == ObjectKind::DirTree).expect("there is one");
    for &name in names.iter().filter(|&&name| name != tree) {
        let _ = stage(&staging, name, &bytes(&source, name)).expect("it is valid");
    }
    let lock = lock(&repo);
    let edits = [edit(head("main"), Some(test.first), test.second)];
    let error = publish(&repo, &lock, &staging, &names, &edits).map(drop).expect_err("an object is missing");
    assert!(matches!(error, TransactionError::Missing { name } if name == tree), "the object is named: {error}");
    assert!(!repo.has(test.second.into()).expect("read"), "the incomplete commit is not published");
    test.ostree.fsck(test.target());
    let _ = stage(&staging, tree, &bytes(&source, tree)).expect("it is valid");
    publish(&repo, &lock, &staging, &names, &edits).expect("now it is complete").finish().expect("it ends");
    test.ostree.fsck(test.target());
}

#[test]
fn a_published_commit_is_neither_partial_nor_deleted() {
    let Some(test) = Published::new() else { return };
    let tombstone = test.target().join(ObjectName::new(ObjectKind::TombstoneCommit, test.second.0).loose_path("filez"));
    fs::create_dir_all(tombstone.parent().expect("it has one")).expect("it is ours");
    fs::write(&tombstone, treegraft_object::tombstone::encode(test.second)).expect("it is ours");
    let partial = test.target().join(format!("state/{}.commitpartial", test.second));
    fs::write(&partial, "").expect("it is ours");
    test.try_publish(&[edit(head("main"), Some(test.first), test.second)]).expect("it works");
    assert!(!tombstone.exists(), "writing a commit again revives it, as in libostree");
    assert!(!partial.exists(), "the commit is complete now");
    test.ostree.fsck(test.target());
}

#[test]
fn detached_metadata_is_replaced() {
    let Some(test) = Published::new() else { return };
    let (repo, name) = (open(test.target()), ObjectName::commit_meta(test.first));
    let metadata = |text: &str| Dict::from_iter([("x.test", Variant::string(text))]);
    let shown = || test.ostree.detached_metadata(test.target(), "main", "x.test");
    {
        let lock = lock(&repo);
        write_detached_metadata(&repo, &lock, test.first, &metadata("one")).expect("it can be written");
        assert_eq!(shown(), "'one'", "`ostree show` reads it");
        let (staging, _) = Staging::open(&repo).expect("it can be opened");
        let _ = stage(&staging, name, &metadata("two").encode()).expect("it is valid");
        let _ = stage(&staging, name, &metadata("three").encode()).expect("the last one counts");
        publish(&repo, &lock, &staging, &[name], &[]).expect("it works").finish().expect("it ends");
        assert_eq!(shown(), "'three'", "a push replaces what is there");
        write_detached_metadata(&repo, &lock, test.first, &Dict::new()).expect("it can be written");
    }
    assert_eq!(fs::read(test.target().join(name.loose_path("filez"))).expect("it is there"), b"", "an empty file");
    test.ostree.fsck(test.target());
}

#[test]
fn mirrors_are_written_where_libostree_looks() {
    let Some(test) = Published::new() else { return };
    let name = RefName::new("a/b").expect("it is a ref");
    let own = CollectionId::new("org.example.Own").expect("it is an id");
    let other = CollectionId::new("org.example.Other").expect("it is an id");
    let config = test.target().join("config");
    fs::write(&config, fs::read_to_string(&config).expect("read") + "collection-id=org.example.Own\n").expect("write");
    let targets = [RefTarget::Mirror(own.clone(), name.clone()), RefTarget::Mirror(other, name)];
    test.try_publish(&targets.map(|target| edit(target, None, test.second))).expect("it works");
    let listed = test.ostree.at(test.target(), "refs", ["--collections"]).lines();
    assert!(listed.contains(&"(org.example.Other, a/b)".to_owned()), "`ostree refs` finds the mirror: {listed:?}");
    assert!(test.target().join("refs/heads/a/b").exists(), "the own collection is in refs/heads");
    let both = [
        edit(head("c"), None, test.second),
        edit(RefTarget::Mirror(own, RefName::new("c").expect("a ref")), None, test.second),
    ];
    let error = test.try_publish(&both).expect_err("both are one file");
    assert_eq!(error.code(), "ref-twice", "{error}");
}

/// Publishes up to the refs, and drops everything as if the process had ended before the summary. Returns the old values.
fn stop_before_summary(test: &Published, edits: &[RefEdit]) {
    let (repo, source) = (open(test.target()), open(&test.pair.source));
    let (staging, _) = Staging::open(&repo).expect("it can be opened");
    let names = closure(&source, test.second);
    stage_all(&staging, &source, &names);
    let lock = lock(&repo);
    let _ = publish(&repo, &lock, &staging, &names, edits).expect("it works");
}

fn set_ref(test: &Published, name: &str, to: Option<CommitId>) {
    let path = test.target().join("refs/heads").join(name);
    match to {
        Some(to) => fs::write(path, format!("{to}\n")).expect("it is ours"),
        None => fs::remove_file(path).expect("it is ours"),
    }
}

#[test]
fn recovery_goes_on_when_refs_are_old_or_new() {
    let Some(test) = Published::new() else { return };
    let edits = [edit(head("a"), None, test.second), edit(head("main"), Some(test.first), test.second)];
    stop_before_summary(&test, &edits);
    // As if the crash had come between the two refs.
    set_ref(&test, "main", Some(test.first));
    let repo = open(test.target());
    let mut lock = lock(&repo);
    let recovered = lock.recovered().expect("there is a journal").clone();
    assert_eq!(recovered.outcome, Outcome::Completed, "all refs are old or new");
    assert!(recovered.needs_summary(), "the summary is old");
    let found: Vec<_> = recovered.refs.iter().map(|recovered| recovered.found).collect();
    assert_eq!(found, [FoundRef::New, FoundRef::Old], "what was found is told");
    assert_eq!(refs(test.target()).into_values().collect::<Vec<_>>(), [test.second; 2], "all refs are new");
    drop(lock);
    lock = support::lock(&repo);
    assert!(lock.recovered().is_some_and(Recovered::needs_summary), "until the summary is written");
    lock.finish_recovery().expect("it ends");
    drop(lock);
    assert_eq!(support::lock(&repo).recovered(), None, "nothing is left to recover");
    test.ostree.fsck(test.target());
}

#[test]
fn recovery_undoes_what_had_not_begun_when_a_ref_moved() {
    let Some(test) = Published::new() else { return };
    let edits = [edit(head("a"), None, test.second), edit(head("main"), Some(test.first), test.second)];
    stop_before_summary(&test, &edits);
    set_ref(&test, "a", None);
    let foreign = commit(&test.ostree, test.target(), "main", "by another program");
    let repo = open(test.target());
    let recovered = lock(&repo).recovered().expect("there is a journal").clone();
    assert_eq!(recovered.outcome, Outcome::Undone, "no ref was written");
    assert_eq!(recovered.refs[1].found, FoundRef::Moved { to: Some(foreign) }, "the foreign value is told");
    assert!(!recovered.needs_summary(), "nothing was published");
    assert_eq!(refs(test.target()).into_values().collect::<Vec<_>>(), [foreign], "nothing is written");
    assert_eq!(lock(&repo).recovered(), None, "it is undone once");
}

#[test]
fn recovery_keeps_foreign_values_when_it_must_go_on() {
    let Some(test) = Published::new() else { return };
    let edits = [
        edit(head("a"), None, test.second),
        edit(head("b"), None, test.second),
        edit(head("main"), Some(test.first), test.second),
    ];
    stop_before_summary(&test, &edits);
    set_ref(&test, "b", None);
    let foreign = commit(&test.ostree, test.target(), "main", "by another program");
    let recovered = lock(&open(test.target())).recovered().expect("there is a journal").clone();
    assert_eq!(recovered.outcome, Outcome::Completed, "`a` was visible already");
    let now: Vec<_> = refs(test.target()).into_iter().collect();
    let expected = [("a", test.second), ("b", test.second), ("main", foreign)];
    assert_eq!(now, expected.map(|(name, id)| (name.to_owned(), id)), "`b` follows, `main` stays");
    test.ostree.fsck(test.target());
}

#[test]
fn recovery_never_points_a_ref_at_a_pruned_commit() {
    let Some(test) = Published::new() else { return };
    let edits = [edit(head("main"), Some(test.first), test.second)];
    stop_before_summary(&test, &edits);
    set_ref(&test, "main", Some(test.first));
    let _ = test.ostree.prune(test.target(), &["--refs-only"]);
    let repo = open(test.target());
    assert!(!repo.has(test.second.into()).expect("read"), "the prune has deleted the commit");
    let recovered = lock(&repo).recovered().expect("there is a journal").clone();
    assert_eq!(recovered.outcome, Outcome::Undone, "there is nothing to point at");
    assert_eq!(recovered.refs[0].found, FoundRef::Pruned, "the reason is told");
    assert_eq!(refs(test.target()).into_values().collect::<Vec<_>>(), [test.first], "the ref stays");
    test.ostree.fsck(test.target());
}

#[test]
fn a_torn_journal_is_removed_and_an_unknown_one_is_not() {
    let Some(test) = Published::new() else { return };
    let before = refs(test.target());
    let journal = test.target().join(".treegraft/journal");
    let repo = open(test.target());
    for torn in ["", "treegraft journal 1\n", "garbage"] {
        fs::write(&journal, torn).expect("it is ours");
        let lock = lock(&repo);
        assert_eq!(lock.recovered().map(|recovered| recovered.outcome), Some(Outcome::Torn), "{torn:?}");
        assert!(!journal.exists(), "it is removed");
        assert_eq!(refs(test.target()), before, "no ref is touched");
    }
    let body = "treegraft journal 9\n";
    fs::write(&journal, format!("{body}sha256 {}\n", Checksum::of(body.as_bytes()))).expect("it is ours");
    let error = PublishLock::acquire(&repo, &mut |_| {}).expect_err("it is of another version");
    assert!(matches!(error, treegraft_repo::PublishError::JournalVersion { .. }), "{error}");
    assert!(journal.exists(), "the newer program can still recover");
}

#[test]
fn there_is_one_publish_at_a_time() {
    let Some(test) = Published::new() else { return };
    let config = test.target().join("config");
    fs::write(&config, fs::read_to_string(&config).expect("read") + "lock-timeout-secs=0\n").expect("write");
    let repo = open(test.target());
    let held = lock(&repo);
    let mut waits = 0;
    let error = PublishLock::acquire(&repo, &mut |_| waits += 1).expect_err("the lock is held");
    assert!(error.is_temporary(), "a retry can help: {error}");
    assert!(waits > 0, "the caller is told that it waits");
    drop(held);
    assert_eq!(lock(&repo).recovered(), None, "now it is free");
}
