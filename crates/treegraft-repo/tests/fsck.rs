//! `fsck` finds every kind of damage, tells it by its own code, and finds nothing in sound repositories.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use treegraft_object::{Checksum, Commit, CommitId, ContentId, DirTree, ObjectKind, ObjectName, tombstone};
use treegraft_repo::{
    Find, Repo,
    fsck::{self, Phase, Progress, Report},
};
use treegraft_testkit::{
    Ostree, RepoMode,
    tree::{Directory, TreeShape, WithXattrs},
};

struct Fixture {
    ostree: Ostree,
    base: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Option<Self> {
        Some(Self { ostree: Ostree::find()?, base: tempfile::tempdir().expect("a temporary directory") })
    }

    /// Makes a repository with two commits on `main`.
    fn repository(&self, name: &str, mode: RepoMode) -> PathBuf {
        let (path, tree) = (self.base.path().join(name), self.base.path().join(format!("{name}-tree")));
        Directory::from_seed(3, &TreeShape { xattrs: WithXattrs::None, ..TreeShape::default() }).write(&tree);
        fs::write(tree.join("text"), "some text ".repeat(100)).expect("the tree is ours");
        symlink("text", tree.join("link")).expect("the tree is ours");
        self.ostree.init(&path, mode, None);
        self.ostree.commit(&path, &tree, "main", 1, &["--mode-ro-executables"]);
        fs::write(tree.join("second"), "more").expect("the tree is ours");
        self.ostree.commit(&path, &tree, "main", 2, &["--mode-ro-executables"]);
        path
    }
}

fn check(path: &Path) -> Report {
    let repo = Repo::open(path).expect("it can be opened");
    fsck::run(&repo, &mut |_| {}).expect("damage is no error")
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.problems.iter().map(fsck::Problem::code).collect()
}

/// Returns an object's file.
fn file_of(path: &Path, name: ObjectName) -> PathBuf {
    path.join(name.loose_path("filez"))
}

/// Returns the content object at the root of `main` with this file name.
fn content_object(path: &Path, file_name: &str) -> ObjectName {
    let repo = Repo::open(path).expect("it can be opened");
    let tree = repo.dirtree(head(&repo).root_tree).expect("it is sound");
    tree.files.iter().find(|(name, _)| name == file_name).expect("the file is committed").1.into()
}

fn head_id(repo: &Repo) -> CommitId {
    *repo.refs().expect("they can be read").values().next().expect("there is one")
}

fn head(repo: &Repo) -> Commit {
    repo.commit(head_id(repo)).expect("it is sound")
}

#[test]
fn sound_repositories_have_no_problems() {
    let Some(fixture) = Fixture::new() else { return };
    for mode in RepoMode::ALL {
        if mode == RepoMode::Bare && !rustix::process::geteuid().is_root() {
            continue;
        }
        let path = fixture.repository(mode.as_str(), mode);
        let repo = Repo::open(&path).expect("it can be opened");
        let mut calls: Vec<Progress> = Vec::new();
        let report = fsck::run(&repo, &mut |progress| calls.push(progress)).expect("it can be checked");
        let texts: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts, Vec::<String>::new(), "mode {mode:?}: `ostree` writes sound repositories");
        assert_eq!((report.commits, report.partial_commits, report.refs), (2, 0, 1), "mode {mode:?}: all is seen");
        assert_eq!(report.objects, repo.objects().count() as u64, "mode {mode:?}: all objects are seen");
        assert!(calls.is_sorted_by_key(|progress| progress.phase), "phases come in their order");
        for phase in [Phase::Objects, Phase::Commits, Phase::Refs] {
            let last = calls.iter().rfind(|progress| progress.phase == phase).expect("each phase is told");
            assert_eq!(last.done, last.total, "{phase:?} ends with everything done");
        }
    }
}

#[test]
fn a_missing_object_is_told_with_its_commit() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let name = content_object(&path, "second");
    fs::remove_file(file_of(&path, name)).expect("the repository is ours");
    let report = check(&path);
    assert_eq!(codes(&report), ["missing-object"], "one object is missing");
    assert_eq!((report.problems[0].object(), report.missing_objects), (Some(name), 1), "it is named and counted");
    let commit = head_id(&Repo::open(&path).expect("it can be opened"));
    let text = report.problems[0].to_string();
    assert!(text.contains(&commit.to_string()), "the commit that needs it is named: {text}");
}

#[test]
fn missing_dirtrees_dirmetas_and_commits_are_told() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let repo = Repo::open(&path).expect("it can be opened");
    let commit = head(&repo);
    for name in [ObjectName::from(commit.root_tree), commit.root_meta.into()] {
        let sound = fs::read(file_of(&path, name)).expect("it is there");
        fs::remove_file(file_of(&path, name)).expect("the repository is ours");
        let report = check(&path);
        assert_eq!(codes(&report), ["missing-object"], "{name} is missing");
        assert_eq!(report.problems[0].object(), Some(name), "{name} is named");
        fs::write(file_of(&path, name), sound).expect("the repository is ours");
    }
    fs::remove_file(file_of(&path, head_id(&repo).into())).expect("the repository is ours");
    let report = check(&path);
    assert_eq!(codes(&report), ["dangling-ref"], "a missing commit shows at its ref");
    assert_eq!(report.problems[0].ref_path(), Some("refs/heads/main"), "which is named");
}

/// Damages a content object with `change` and expects `fsck` to find just that, and `ostree fsck` to agree if it looks.
fn expect_content_problem(file_name: &str, code: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let name = content_object(&path, file_name);
    let mut data = fs::read(file_of(&path, name)).expect("it is there");
    change(&mut data);
    fs::write(file_of(&path, name), data).expect("the repository is ours");
    let report = check(&path);
    assert_eq!(codes(&report), [code], "just this damage is found: {:?}", report.problems);
    assert_eq!(report.problems[0].object(), Some(name), "the damaged object is named");
    assert_eq!(report.missing_objects, 0, "a damaged object is not missing");
}

#[test]
fn a_flipped_byte_in_the_header_is_found() {
    // The last byte of the user id.
    expect_content_problem("text", "checksum-mismatch", |data| data[19] ^= 1);
}

#[test]
fn a_flipped_byte_in_a_symlink_is_found() {
    expect_content_problem("link", "checksum-mismatch", |data| {
        let target = data.windows(4).position(|four| four == b"text").expect("the target is plain");
        data[target] ^= 1;
    });
}

#[test]
fn truncated_content_is_found() {
    expect_content_problem("text", "deflate", |data| data.truncate(data.len() - 3));
}

#[test]
fn a_truncated_header_is_found() {
    expect_content_problem("text", "header-frame", |data| data.truncate(20));
}

#[test]
fn an_empty_file_is_found() {
    expect_content_problem("text", "header-frame", Vec::clear);
}

#[test]
fn bytes_behind_the_deflate_stream_are_found() {
    expect_content_problem("text", "trailing-bytes", |data| data.push(0));
}

#[test]
fn bytes_behind_a_symlink_are_found() {
    expect_content_problem("link", "trailing-bytes", |data| data.push(0));
}

#[test]
fn a_wrong_size_is_found() {
    expect_content_problem("text", "content-size", |data| data[15] ^= 1);
}

#[test]
fn damaged_metadata_is_found() {
    let Some(fixture) = Fixture::new() else { return };
    for kind in [ObjectKind::DirTree, ObjectKind::DirMeta, ObjectKind::Commit] {
        for is_truncated in [false, true] {
            let path = fixture.repository(&format!("{kind}-{is_truncated}"), RepoMode::Archive);
            let repo = Repo::open(&path).expect("it can be opened");
            let commit = head(&repo);
            let name = match kind {
                ObjectKind::DirTree => commit.root_tree.into(),
                ObjectKind::DirMeta => commit.root_meta.into(),
                _ => ObjectName::from(head_id(&repo)),
            };
            let mut data = fs::read(file_of(&path, name)).expect("it is there");
            if is_truncated {
                data.pop();
            } else {
                data[0] ^= 1;
            }
            fs::write(file_of(&path, name), data).expect("the repository is ours");
            let report = check(&path);
            assert_eq!(codes(&report), ["checksum-mismatch"], "{kind}, truncated {is_truncated}: told once");
            assert_eq!(report.problems[0].object(), Some(name), "the damaged object is named");
        }
    }
}

#[test]
fn damage_in_bare_repositories_is_found() {
    let Some(fixture) = Fixture::new() else { return };
    for mode in [RepoMode::BareUser, RepoMode::BareUserOnly] {
        let path = fixture.repository(mode.as_str(), mode);
        let name = content_object(&path, "text");
        let file = path.join(name.loose_path("file"));
        fs::write(&file, "other text").expect("the repository is ours");
        let report = check(&path);
        assert_eq!(codes(&report), ["checksum-mismatch"], "mode {mode:?}: changed content is found");
        assert_eq!(report.problems[0].object(), Some(name), "mode {mode:?}: the object is named");
    }
}

/// An object whose checksum is right, but whose format is not: libostree takes such dirtrees.
#[test]
fn an_unsorted_dirtree_is_found() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let repo = Repo::open(&path).expect("it can be opened");
    let mut commit = head(&repo);
    let mut tree: DirTree = repo.dirtree(commit.root_tree).expect("it is sound");
    tree.files.reverse();
    commit.root_tree = tree.id();
    for (name, data) in [(ObjectName::from(tree.id()), tree.encode()), (commit.id().into(), commit.encode())] {
        let file = file_of(&path, name);
        fs::create_dir_all(file.parent().expect("it has one")).expect("the repository is ours");
        fs::write(file, data).expect("the repository is ours");
    }
    fs::write(path.join("refs/heads/main"), format!("{}\n", commit.id())).expect("the repository is ours");
    fixture.ostree.fsck(&path);
    let report = check(&path);
    assert_eq!(codes(&report), ["entry-order"], "we are stricter than libostree");
    assert_eq!(report.problems[0].object(), Some(tree.id().into()), "the dirtree is named");
}

#[test]
fn wrong_refs_are_found() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let missing = Checksum::of(b"no commit");
    for (file, text) in [
        ("refs/heads/dangling", format!("{missing}\n")),
        ("refs/heads/garbage", "garbage\n".to_owned()),
        ("refs/mirrors/org.example.Other/main", format!("{missing}\n")),
        ("refs/remotes/origin/main", format!("{missing}\n")),
    ] {
        fs::create_dir_all(path.join(file).parent().expect("it has one")).expect("the repository is ours");
        fs::write(path.join(file), text).expect("the repository is ours");
    }
    symlink("nowhere", path.join("refs/heads/alias")).expect("the repository is ours");
    let report = check(&path);
    let found: Vec<_> = report.problems.iter().map(|p| (p.ref_path().unwrap_or_default(), p.code())).collect();
    let expected = [
        ("refs/heads/alias", "dangling-alias"),
        ("refs/heads/dangling", "dangling-ref"),
        ("refs/heads/garbage", "invalid-ref"),
        ("refs/mirrors/org.example.Other/main", "dangling-ref"),
        ("refs/remotes/origin/main", "dangling-ref"),
    ];
    assert_eq!(found, expected, "refs of all kinds are checked, each problem by its name");
    assert_eq!(report.refs, 6, "all refs are counted");
}

#[test]
fn partial_commits_may_be_incomplete() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let name = content_object(&path, "second");
    fs::remove_file(file_of(&path, name)).expect("the repository is ours");
    let commit = head_id(&Repo::open(&path).expect("it can be opened"));
    fs::write(path.join(format!("state/{commit}.commitpartial")), "").expect("the repository is ours");
    let report = check(&path);
    assert_eq!(codes(&report), [""; 0], "the mark says that the tree may be incomplete");
    assert_eq!((report.commits, report.partial_commits), (1, 1), "it is counted apart");
}

#[test]
fn tombstones_are_checked() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let commit = head_id(&Repo::open(&path).expect("it can be opened"));
    let gone = CommitId(Checksum::of(b"gone"));
    let write = |of: CommitId, data: &[u8]| {
        let file = file_of(&path, ObjectName::new(ObjectKind::TombstoneCommit, of.0));
        fs::create_dir_all(file.parent().expect("it has one")).expect("the repository is ours");
        fs::write(&file, data).expect("the repository is ours");
        file
    };
    let file = write(gone, &tombstone::encode(gone));
    assert_eq!(codes(&check(&path)), [""; 0], "a tombstone of a commit that is gone is right");
    write(gone, &tombstone::encode(commit));
    assert_eq!(codes(&check(&path)), ["checksum-mismatch"], "a tombstone names its commit");
    fs::remove_file(file).expect("it was just made");
    write(commit, &tombstone::encode(commit));
    assert_eq!(codes(&check(&path)), ["tombstone-of-live-commit"], "a commit is not both deleted and there");
}

#[test]
fn something_else_in_place_of_an_object_is_found() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.repository("repo", RepoMode::Archive);
    let name = content_object(&path, "text");
    let id = ContentId(name.checksum);
    fs::remove_file(file_of(&path, id.into())).expect("the repository is ours");
    symlink("/etc/passwd", file_of(&path, id.into())).expect("the repository is ours");
    let report = check(&path);
    assert_eq!(codes(&report), ["file-type"], "a symlink is no object");
    assert_eq!(report.problems[0].object(), Some(name), "it is named");
}

/// The commit and its ref are in the repository, its tree only in the parent.
#[test]
fn trees_go_on_in_the_parent() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = fixture.repository("parent", RepoMode::Archive);
    let repo = Repo::open(&parent).expect("it can be opened");
    let (id, root) = (head_id(&repo), ObjectName::from(head(&repo).root_tree));
    let child = fixture.base.path().join("child");
    Repo::init(&child, None).expect("the path is free");
    let config = format!("[core]\nrepo_version=1\nmode=archive-z2\nparent={}\n", parent.display());
    fs::write(child.join("config"), config).expect("the repository is ours");
    fs::create_dir(file_of(&child, id.into()).parent().expect("it has one")).expect("the repository is ours");
    fs::copy(file_of(&parent, id.into()), file_of(&child, id.into())).expect("the repositories are ours");
    fs::write(child.join("refs/heads/main"), format!("{id}\n")).expect("the repository is ours");
    let report = check(&child);
    assert_eq!(codes(&report), [""; 0], "what the parent has is there: {:?}", report.problems);
    assert_eq!((report.objects, report.commits), (1, 1), "the parent's objects are not verified");

    let sound = fs::read(file_of(&parent, root)).expect("it is there");
    fs::write(file_of(&parent, root), &sound[1..]).expect("the repository is ours");
    let report = check(&child);
    assert_eq!(codes(&report), ["checksum-mismatch"], "but dirtrees are, to be walked");
    assert_eq!((report.problems[0].object(), report.missing_objects), (Some(root), 0), "the damaged one is named");
    fs::remove_file(file_of(&parent, root)).expect("the repository is ours");
    assert_eq!(codes(&check(&child)), ["missing-object"], "an object that neither has is missing");
}
