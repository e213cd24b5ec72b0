//! Trees have the objects that the real `ostree commit` gives them.

use std::{
    collections::BTreeSet,
    fs::{self, File as DiskFile},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use proptest::{prelude::*, test_runner::Config};
use treegraft_object::{ObjectKind, ObjectName};
use treegraft_repo::{Find, Repo};
use treegraft_testkit::{
    Ostree, RepoMode,
    tree::{TreeShape, directory},
};
use treegraft_tree::{Attributes, HashOptions, Root, Rules, Tree, TreeError, TreeObjects, scan};

/// What `ostree commit --owner-uid=0 --owner-gid=0` does.
struct Owned;

impl Rules for Owned {
    fn apply(&mut self, _path: &str, found: Attributes) -> Option<Attributes> {
        Some(Attributes { uid: 0, gid: 0, ..found })
    }

    fn keeps_xattrs(&self) -> bool {
        true
    }
}

fn objects(from: &Path) -> Result<(Root, TreeObjects), TreeError> {
    let mut tree = Tree::new();
    scan(&mut tree, Tree::ROOT, from, &mut Owned)?;
    let mut objects = TreeObjects::new();
    let root = objects.add(tree, HashOptions::default())?;
    Ok((root, objects))
}

/// Commits a folder with `ostree` and compares every object.
fn compare(ostree: &Ostree, folder: &Path) {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let commit = ostree.commit(&path, folder, "main", 1_700_000_000, &[]);
    let repo = Repo::open(&path).expect("ostree's repositories can be opened");
    let theirs = repo.commit(commit.parse().expect("a checksum")).expect("it was just made");
    let (root, objects) = objects(folder).expect("ostree could commit it");
    assert_eq!((root.tree, root.meta), (theirs.root_tree, theirs.root_meta), "the trees are the same");

    let all: BTreeSet<ObjectName> = repo.objects().collect::<Result<_, _>>().expect("it can be listed");
    let their_files: BTreeSet<_> = all.iter().filter(|name| name.kind == ObjectKind::File).copied().collect();
    let our_files: BTreeSet<_> = objects.files().map(|(id, _)| ObjectName::from(id)).collect();
    assert_eq!(our_files, their_files, "the same files are known");
    for (id, _) in objects.files() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let info = objects.write_archived(id, 6, &mut ours).expect("the folder has not changed");
        repo.write_archived(id, &mut theirs).expect("it is theirs");
        assert_eq!((info.id, info.archived_bytes), (id, ours.len() as u64), "what is written is what is said");
        let verified = treegraft_object::verify::content(id.into(), &mut &ours[..], &mut std::io::sink());
        assert!(verified.is_ok(), "{id} is a valid `.filez`: {verified:?}");
    }
    for name in all.into_iter().filter(|name| matches!(name.kind, ObjectKind::DirTree | ObjectKind::DirMeta)) {
        let (ours, theirs) = (objects.metadata(name), repo.metadata(name));
        assert_eq!(ours.expect("it is in memory"), theirs.expect("it can be read"), "{name} is the same");
    }
}

proptest! {
    #![proptest_config(Config { cases: 16, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_trees_are_those_of_ostree(tree in directory(TreeShape::default())) {
        if let Some(ostree) = Ostree::find() {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let folder = folder.path().join("tree");
            tree.write(&folder);
            compare(&ostree, &folder);
        }
    }
}

#[test]
fn links_sizes_and_names_are_those_of_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| folder.path().join(name);
    for bytes in [0_usize, 1, 4095, 4096, 4097, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 5 << 20] {
        fs::write(at(&format!("size-{bytes}")), vec![7; bytes]).expect("the folder is ours");
    }
    let mut deep = folder.path().to_owned();
    for _ in 0..100 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).expect("the folder is ours");
    fs::create_dir(at("empty")).expect("the folder is ours");
    fs::write(at("setuid"), "x").expect("the folder is ours");
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o6755)).expect("it is ours");
    fs::hard_link(at("size-4096"), at("linked")).expect("the folder is ours");
    fs::hard_link(at("size-4096"), deep.join("linked too")).expect("the folder is ours");
    symlink("../..//nowhere", at("link")).expect("the folder is ours");
    symlink("x".repeat(1000), at("long link")).expect("the folder is ours");
    for name in ["with space", "with\nnewline", "ümläut", "-dash", &"l".repeat(255), "A", "a", "a.b", "a-b"] {
        fs::write(at(name), name).expect("the folder is ours");
    }
    compare(&ostree, folder.path());
}

#[test]
fn a_linked_file_is_read_once() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join("a"), vec![1; 1000]).expect("the folder is ours");
    fs::hard_link(folder.path().join("a"), folder.path().join("b")).expect("the folder is ours");
    let bytes = std::sync::atomic::AtomicU64::new(0);
    let progress = |count| {
        bytes.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    };
    let mut objects = TreeObjects::new();
    let roots = [(); 2].map(|()| {
        let mut tree = Tree::new();
        scan(&mut tree, Tree::ROOT, folder.path(), &mut Owned).expect("it can be listed");
        objects.add(tree, HashOptions { threads: 2, progress: &progress, cache: None }).expect("it can be hashed")
    });
    assert_eq!(roots[0], roots[1], "the same folder is the same tree");
    assert_eq!(bytes.into_inner(), 1000, "four names, one file");
    assert_eq!(objects.files().count(), 1, "and one object");
}

#[test]
fn what_changes_after_it_was_listed_is_named() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("file");
    fs::write(&file, "before").expect("the folder is ours");
    let mut tree = Tree::new();
    scan(&mut tree, Tree::ROOT, folder.path(), &mut Owned).expect("it can be listed");
    fs::write(&file, "behind").expect("the folder is ours");
    let error = TreeObjects::new().add(tree, HashOptions::default()).expect_err("it is another file now");
    assert!(matches!(&error, TreeError::Changed { path } if *path == file), "it is named: {error}");
    assert!(error.is_temporary(), "the next try reads what is there then");

    let (_, objects) = objects(folder.path()).expect("it can be committed");
    let (id, _) = objects.files().next().expect("there is one file");
    for content in ["beyond", "longer than it was", ""] {
        fs::write(&file, content).expect("the folder is ours");
        let error = objects.write_archived(id, 6, &mut Vec::new()).expect_err("it is another file now");
        assert_eq!(error.code(), "file-changed", "`{content}` is not what was hashed: {error}");
    }
    fs::remove_file(&file).expect("the folder is ours");
    let error = objects.write_archived(id, 6, &mut Vec::new()).expect_err("it is gone");
    assert_eq!(error.code(), "io", "{error}");
}

#[test]
fn what_ostree_cannot_store_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let refused = |prepare: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        prepare(folder.path());
        objects(folder.path()).expect_err("it cannot be committed")
    };
    let not_utf8 = std::ffi::OsStr::from_bytes(b"\xff");
    let error = refused(&|at| drop(DiskFile::create(at.join(not_utf8)).expect("Linux takes any name")));
    assert!(matches!(error, TreeError::NotUtf8 { what: "its name", .. }), "{error}");
    let error = refused(&|at| symlink(not_utf8, at.join("link")).expect("Linux takes any target"));
    assert!(matches!(error, TreeError::NotUtf8 { what: "its target", .. }), "{error}");
    let error = refused(&|at| drop(std::os::unix::net::UnixListener::bind(at.join("socket")).expect("it can be made")));
    assert!(matches!(error, TreeError::Special { .. }), "{error}");
    let error = objects(Path::new("/nowhere")).expect_err("there is nothing");
    assert!(matches!(error, TreeError::Io { .. }), "{error}");
}
