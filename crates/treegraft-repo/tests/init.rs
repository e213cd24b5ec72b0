//! A new repository is the same as one that `ostree init` makes.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use treegraft_object::CollectionId;
use treegraft_repo::{InitError, Mode, OpenError, Repo};
use treegraft_testkit::{Ostree, RepoMode};

/// Path, type with permission bits, and content of everything below a directory, itself included.
fn listing(path: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![path.to_owned()];
    while let Some(entry) = pending.pop() {
        let metadata = fs::symlink_metadata(&entry).expect("it was just listed");
        let content = if metadata.is_dir() {
            pending.extend(fs::read_dir(&entry).expect("it is ours").map(|entry| entry.expect("it is ours").path()));
            Vec::new()
        } else {
            fs::read(&entry).expect("it is ours")
        };
        let name = entry.strip_prefix(path).expect("it is below").display().to_string();
        all.insert(name, (metadata.permissions().mode(), content));
    }
    all
}

#[test]
fn init_makes_what_ostree_init_makes() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let id = CollectionId::new("org.example.Test").expect("it is valid");
    for umask in [0o022, 0o027, 0o077, 0o000] {
        // The mask is the process's; the other tests of this file do not look at permissions.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        for collection in [None, Some(&id)] {
            let ours = base.path().join(format!("ours-{umask:o}-{}", collection.is_some()));
            let theirs = base.path().join(format!("theirs-{umask:o}-{}", collection.is_some()));
            let repo = Repo::init(&ours, collection).expect("the path is free");
            assert_eq!(repo.collection_id(), collection, "the collection id is set");
            assert_eq!(repo.mode(), Mode::Archive, "the mode is archive");
            assert!(repo.is_writable(), "a new repository can be written to");
            ostree.init(&theirs, RepoMode::Archive, collection.map(CollectionId::as_str));
            assert_eq!(listing(&ours), listing(&theirs), "umask {umask:03o}: entries, permissions and bytes agree");
            ostree.fsck(&ours);
        }
        rustix::process::umask(before);
    }
}

#[test]
fn init_refuses_what_is_there() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("a/b/repo");
    Repo::init(&path, None).expect("directories above are made");
    let error = Repo::init(&path, None).expect_err("there is one");
    assert!(matches!(error, InitError::AlreadyExists { .. }), "a repository is not made twice: {error}");

    let other = base.path().join("other");
    fs::create_dir(&other).expect("the directory is ours");
    fs::write(other.join("file"), "text").expect("the directory is ours");
    match Repo::init(&other, None).expect_err("something is there") {
        InitError::NotEmpty { entry, .. } => assert_eq!(entry, "file", "the error names what is there"),
        error => panic!("a directory with something else is refused as such: {error}"),
    }
    assert!(!other.join("config").exists(), "nothing was made");
}

#[test]
fn init_finishes_what_a_crash_left() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let whole = base.path().join("whole");
    Repo::init(&whole, None).expect("the path is free");
    let order =
        [".config.new", "config", "tmp", "extensions", "state", "refs", "refs/heads", "refs/mirrors", "refs/remotes"];
    for made in 0..=order.len() {
        let path = base.path().join(format!("crashed-{made}"));
        fs::create_dir(&path).expect("the directory is ours");
        for entry in &order[..made] {
            match *entry {
                ".config.new" | "config" => fs::write(path.join(entry), "[co").expect("the directory is ours"),
                _ => fs::create_dir(path.join(entry)).expect("the directory is ours"),
            }
        }
        if made == 2 {
            // The rename has moved it.
            fs::remove_file(path.join(".config.new")).expect("it was just made");
        }
        assert!(matches!(Repo::open(&path), Err(OpenError::NotARepository { .. })), "half of one is none");
        Repo::init(&path, None).expect("what is left is finished");
        // The other test of this file changes the process's umask meanwhile.
        let contents = |path| -> Vec<_> { listing(path).into_iter().map(|(name, (_, text))| (name, text)).collect() };
        assert_eq!(contents(&path), contents(&whole), "cut after {made} steps");
    }
}

#[test]
fn opening_says_what_is_wrong() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    assert!(matches!(Repo::open(&path), Err(OpenError::NotFound { .. })), "nothing is there");
    fs::create_dir(&path).expect("the directory is ours");
    let error = Repo::open(&path).expect_err("it is empty");
    assert!(matches!(error, OpenError::NotARepository { missing: "objects", .. }), "it has no objects: {error}");
    fs::create_dir(path.join("objects")).expect("the directory is ours");
    let error = Repo::open(&path).expect_err("it has no config");
    assert!(matches!(error, OpenError::NotARepository { missing: "config", .. }), "it has no config: {error}");
    fs::write(path.join("config"), "[core]\nrepo_version=2\n").expect("the directory is ours");
    let error = Repo::open(&path).expect_err("the version is not known");
    assert!(matches!(error, OpenError::Config { .. }), "the version is not known: {error}");
}
