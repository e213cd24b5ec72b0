//! Refs, mirrors and aliases are those that `ostree refs` lists.

use std::{fs, os::unix::fs::symlink, path::Path};

use treegraft_object::{CollectionId, CommitId, RefName};
use treegraft_repo::{RefError, RefTarget, Repo};
use treegraft_testkit::{Ostree, RepoMode};

fn commit_empty_tree(ostree: &Ostree, repo: &Path, branch: &str, subject: &str) -> CommitId {
    let tree = tempfile::tempdir().expect("a temporary directory");
    ostree.commit(repo, tree.path(), branch, 1, &["--subject", subject]).parse().expect("a checksum")
}

fn name(name: &str) -> RefName {
    RefName::new(name).expect("it is valid")
}

#[test]
fn refs_are_those_of_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, Some("org.example.Own"));
    let branches = ["a", "app/org.example.App/x86_64/master", "b..c", "d.", "_e", "é/ü", "tmp.abc", "f/g", "f/h"];
    for branch in branches {
        commit_empty_tree(&ostree, &path, branch, branch);
    }
    let _ = ostree.at(&path, "refs", ["--alias", "--create=alias/one", "f/g"]);
    let _ = ostree.at(&path, "refs", ["--alias", "--create=two", "a"]);
    // Neither libostree nor we take these for refs.
    fs::write(path.join("refs/heads/.hidden"), "x").expect("the repository is ours");
    fs::write(path.join("refs/heads/a b"), "x").expect("the repository is ours");

    let repo = Repo::open(&path).expect("it can be opened");
    let refs = repo.refs().expect("they can be read");
    let mut listed = ostree.refs(&path);
    listed.sort();
    let names: Vec<String> = refs.keys().map(ToString::to_string).collect();
    assert_eq!(names, listed, "`ostree refs` lists the same, aliases included");
    assert_eq!(names.len(), branches.len() + 2, "nothing is lost in both");
    for (name, commit) in &refs {
        assert_eq!(commit.to_string(), ostree.rev_parse(&path, name.as_str()), "`ostree rev-parse {name}` agrees");
        assert_eq!(repo.resolve_ref(name).expect("it can be read"), Some(*commit), "one by one as all at once");
    }
    assert_eq!(repo.resolve_ref(&name("nothing")).expect("absent is no error"), None, "there is no such ref");
    assert_eq!(repo.resolve_ref(&name("a/below")).expect("absent is no error"), None, "a ref has no refs below it");
    assert_eq!(repo.resolve_ref(&name("f")).expect("absent is no error"), None, "a directory is no ref");
}

#[test]
fn mirrors_are_those_of_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, Some("org.example.Own"));
    let own = commit_empty_tree(&ostree, &path, "main", "own");
    let other = commit_empty_tree(&ostree, &path, "side", "other");
    for reference in ["org.example.Other:main", "org.example.Other:x/y", "org.example.Third:main"] {
        let _ = ostree.at(&path, "refs", ["--collections", &format!("--create={reference}"), &other.to_string()]);
    }
    fs::create_dir_all(path.join("refs/mirrors/org.example.Empty/x")).expect("the repository is ours");
    fs::create_dir(path.join("refs/mirrors/no-collection")).expect("the repository is ours");

    let repo = Repo::open(&path).expect("it can be opened");
    let mut ours: Vec<String> = Vec::new();
    for (collection, refs) in repo.mirror_refs().expect("they can be read") {
        for (name, commit) in refs {
            assert_eq!(commit, other, "the mirror is read");
            let target = RefTarget::Mirror(collection.clone(), name);
            assert_eq!(repo.resolve(&target).expect("it can be read"), Some(other), "one by one as all at once");
            ours.push(target.to_string());
        }
    }
    let own_id = CollectionId::new("org.example.Own").expect("it is valid");
    for (ref_name, commit) in repo.refs().expect("they can be read") {
        let target = RefTarget::Mirror(own_id.clone(), ref_name);
        let resolved = repo.resolve(&target).expect("it can be read");
        assert_eq!(resolved, Some(commit), "a ref of the repository's own collection is in `refs/heads`");
        ours.push(target.to_string());
    }
    let mut theirs = ostree.at(&path, "refs", ["--collections"]).lines();
    theirs.sort();
    ours.sort();
    assert_eq!(ours, theirs, "`ostree refs --collections` lists the same");
    assert_eq!(repo.resolve(&RefTarget::Head(name("main"))).expect("it can be read"), Some(own), "heads stay heads");
}

#[test]
fn refs_that_are_being_written_are_skipped() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = Repo::init(&base.path().join("repo"), None).expect("the path is free");
    let heads = repo.path().join("refs/heads");
    let text = format!("{}\n", "a".repeat(64));
    for entry in ["main", "tmp.AbCd12", "x/tmp.000000", "x/main"] {
        let file = heads.join(entry);
        fs::create_dir_all(file.parent().expect("it has one")).expect("the repository is ours");
        fs::write(file, &text).expect("the repository is ours");
    }
    let names: Vec<_> = repo.refs().expect("they can be read").into_keys().collect();
    assert_eq!(names, [name("main"), name("x/main")], "`tmp.XXXXXX` is a ref in the instant of writing");
}

#[test]
fn what_is_in_a_ref_is_checked() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = Repo::init(&base.path().join("repo"), None).expect("the path is free");
    let file = repo.path().join("refs/heads/main");
    let digits = "0123456789abcdef".repeat(4);
    for text in [digits.clone(), format!("{digits}\n"), format!("{digits} \t\r\n\n")] {
        fs::write(&file, &text).expect("the repository is ours");
        let commit = repo.resolve_ref(&name("main")).expect("it is valid");
        assert_eq!(commit, digits.parse().ok(), "blanks behind the checksum do not count: {text:?}");
    }
    let long = format!("{digits}{}", " ".repeat(2000));
    for text in ["", "\n", &digits[1..], &format!(" {digits}"), &digits.to_uppercase(), &format!("{digits}0"), &long] {
        fs::write(&file, text).expect("the repository is ours");
        let error = repo.resolve_ref(&name("main")).expect_err("it holds no checksum");
        assert_eq!(error.code(), "invalid-ref", "a ref holds a checksum: {text:?}");
        let error = repo.refs().expect_err("it holds no checksum");
        assert_eq!(error.code(), "invalid-ref", "listing does not hide it: {text:?}");
    }
    fs::remove_file(&file).expect("it was just made");
    symlink("nowhere", &file).expect("the repository is ours");
    assert_eq!(repo.resolve_ref(&name("main")).expect("absent is no error"), None, "it leads to no ref");
    let error = repo.refs().expect_err("it leads to no ref");
    assert!(matches!(error, RefError::DanglingAlias { .. }), "listing tells of it: {error}");
}

#[test]
fn directories_of_refs_may_be_symlinks_and_heads_must_be_there() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = Repo::init(&base.path().join("repo"), None).expect("the path is free");
    let refs = repo.path().join("refs");
    let text = format!("{}\n", "a".repeat(64));
    for file in ["heads/x/main", "mirrors/org.example.Other/main"] {
        let file = refs.join(file);
        fs::create_dir_all(file.parent().expect("it has one")).expect("the repository is ours");
        fs::write(file, &text).expect("the repository is ours");
    }
    let listed = || (repo.refs(), repo.mirror_refs());
    let check = |at: &str| {
        let (heads, mirrors) = listed();
        assert_eq!(heads.expect("they can be read").into_keys().collect::<Vec<_>>(), [name("x/main")], "{at}");
        assert_eq!(mirrors.expect("they can be read").len(), 1, "{at}");
    };
    check("plain directories");
    for (index, path) in ["mirrors/org.example.Other", "mirrors", "heads", ""].into_iter().enumerate() {
        let (here, there) = (repo.path().join("refs").join(path), base.path().join(format!("elsewhere-{index}")));
        let here = here.components().collect::<std::path::PathBuf>();
        fs::rename(&here, &there).expect("the repository is ours");
        symlink(&there, &here).expect("the repository is ours");
        check(&format!("`refs/{path}` is a symlink"));
    }

    fs::remove_dir_all(base.path().join("elsewhere-0")).expect("it is ours");
    assert_eq!(repo.mirror_refs().expect_err("the symlink leads nowhere").code(), "io", "a collection");
    fs::remove_dir_all(base.path().join("elsewhere-1")).expect("it is ours");
    assert_eq!(repo.mirror_refs().expect_err("the symlink leads nowhere").code(), "io", "`refs/mirrors`");
    fs::remove_file(refs.join("mirrors")).expect("it is a symlink");
    assert!(repo.mirror_refs().expect("absent is no error").is_empty(), "old repositories have no `refs/mirrors`");
    fs::remove_dir_all(base.path().join("elsewhere-2")).expect("it is ours");
    assert_eq!(repo.refs().expect_err("the symlink leads nowhere").code(), "io", "`refs/heads`");
    fs::remove_file(refs.join("heads")).expect("it is a symlink");
    assert_eq!(repo.refs().expect_err("it is missing").code(), "io", "every repository has `refs/heads`");
    fs::write(refs.join("heads"), "").expect("the repository is ours");
    assert_eq!(repo.refs().expect_err("it is a file").code(), "io", "a file has no refs below it");
}
