//! The download size is Flatpak's.

use std::collections::HashMap;

use treegraft_flatpak::{DownloadSizes, SizeError, download_size};
use treegraft_object::{Checksum, ContentId, DirMetaId, DirTree, DirTreeId, ObjectName, RefName, gvariant::Variant};
use treegraft_repo::{ArchivedFile, Find, ReadError, Repo};
use treegraft_testkit::{BuildDir, Flatpak, Ostree, RepoMode, Version};

/// Objects in memory.
#[derive(Default)]
struct Memory {
    trees: HashMap<DirTreeId, Vec<u8>>,
    files: HashMap<ContentId, ArchivedFile>,
}

impl Memory {
    fn file(&mut self, name: &str, archived_bytes: u64) -> ContentId {
        let id = ContentId(Checksum::of(name.as_bytes()));
        self.files.insert(id, ArchivedFile { archived_bytes, is_symlink: name.starts_with("link") });
        id
    }

    fn tree(&mut self, files: &[(&str, ContentId)], dirs: &[(&str, DirTreeId)]) -> DirTreeId {
        let meta = DirMetaId(Checksum::of(b"meta"));
        let tree = DirTree {
            files: files.iter().map(|&(name, id)| (name.to_owned(), id)).collect(),
            dirs: dirs.iter().map(|&(name, id)| (name.to_owned(), id, meta)).collect(),
        };
        self.trees.insert(tree.id(), tree.encode());
        tree.id()
    }
}

impl Find for Memory {
    fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        Ok(self.metadata(name)?.is_some())
    }

    fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.trees.get(&DirTreeId(name.checksum)).cloned())
    }

    fn archived_file(&self, id: ContentId) -> Result<Option<ArchivedFile>, ReadError> {
        Ok(self.files.get(&id).copied())
    }
}

#[test]
fn flatpak_finds_the_same_size() {
    let (Some(flatpak), Some(ostree)) = (Flatpak::find(), Ostree::find()) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let repo = Repo::open(&path).expect("the oracle makes valid repositories");
    let mut together = DownloadSizes::new(&repo);
    // The second one has enough files for several threads, and shares files with the first.
    for (id, file_count) in [("org.example.Platform", 100), ("org.example.Sdk", 1500)] {
        let mut build = BuildDir::runtime(id).with_files(7, file_count);
        build.max_file_bytes = 4000;
        build.write(&folder.path().join(id), Version::first());
        let _ = flatpak.build_export(&path, &folder.path().join(id), "master", &["--runtime", "--no-update-summary"]);
        let name = RefName::new(build.flatpak_ref()).expect("a ref");
        let head = repo.resolve_ref(&name).expect("the ref is readable").expect("the ref exists");
        let commit = repo.commit(head).expect("the oracle writes valid commits");
        let theirs = commit.metadata.get("xa.download-size").and_then(Variant::as_uint64_be);
        let ours = together.of(commit.root_tree).expect("all objects are there");
        assert_eq!(Some(ours), theirs, "the size that `flatpak build-export` wrote for {id}");
        assert_eq!(download_size(&repo, commit.root_tree).ok(), theirs, "and so without the first in memory");
    }
}

#[test]
fn every_path_of_a_file_counts_and_symlinks_do_not() {
    let mut memory = Memory::default();
    let (ten, hundred, link) = (memory.file("10", 10), memory.file("100", 100), memory.file("link", 1000));
    let inner = memory.tree(&[("a", ten), ("b", ten), ("c", link)], &[]);
    let root = memory.tree(&[("x", hundred)], &[("d", inner), ("e", inner)]);
    assert_eq!(download_size(&memory, root).ok(), Some(140), "10 twice in each of two directories, and 100");
    let empty = memory.tree(&[], &[]);
    assert_eq!(download_size(&memory, empty).ok(), Some(0), "an empty tree has nothing to download");
}

#[test]
fn missing_objects_are_named() {
    let mut memory = Memory::default();
    let absent = ContentId(Checksum::of(b"absent"));
    let root = memory.tree(&[("x", absent)], &[]);
    let no_tree = DirTreeId(Checksum::of(b"no tree"));
    let above = memory.tree(&[], &[("d", no_tree)]);
    for (root, expected) in [(root, ObjectName::from(absent)), (above, no_tree.into()), (no_tree, no_tree.into())] {
        match download_size(&memory, root) {
            Err(SizeError::Read { root: told, source: ReadError::NotFound { name } }) => {
                assert_eq!((told, name), (root, expected), "the error names the root and the absent object");
            }
            other => panic!("an absent object must be an error, not {other:?}"),
        }
    }
}

#[test]
fn one_missing_file_among_many_is_found_by_the_threads() {
    let mut memory = Memory::default();
    let names: Vec<String> = (0..5000).map(|n| format!("{n:04}")).collect();
    let mut files: Vec<(&str, ContentId)> = names.iter().map(|name| (name.as_str(), memory.file(name, 3))).collect();
    let root = memory.tree(&files, &[]);
    assert_eq!(download_size(&memory, root).ok(), Some(15_000), "5000 files of 3 bytes");
    files[4321].1 = ContentId(Checksum::of(b"absent"));
    let root = memory.tree(&files, &[]);
    let error = download_size(&memory, root).expect_err("one file is absent");
    assert_eq!((error.code(), error.is_temporary()), ("missing-object", false), "trying again does not help");
}

#[test]
fn a_tree_nested_to_harm_is_an_error() {
    let mut memory = Memory::default();
    let file = memory.file("1", 1);
    let mut root = memory.tree(&[("x", file)], &[]);
    for _ in 0..63 {
        root = memory.tree(&[], &[("a", root), ("b", root)]);
    }
    assert_eq!(download_size(&memory, root).ok(), Some(1 << 63), "2^63 paths are counted in 64 steps");
    let root = memory.tree(&[], &[("a", root), ("b", root)]);
    let error = download_size(&memory, root).expect_err("2^64 does not fit");
    assert_eq!(error.code(), "download-size-too-large", "the sum does not wrap around");
}

#[test]
fn a_dirtree_inside_itself_is_an_error() {
    let mut memory = Memory::default();
    let (lie, middle) = (DirTreeId(Checksum::of(b"lie")), DirTreeId(Checksum::of(b"middle")));
    let outer = memory.tree(&[], &[("a", middle)]);
    let inner = memory.tree(&[], &[("a", lie)]);
    memory.trees.insert(lie, memory.trees[&outer].clone());
    memory.trees.insert(middle, memory.trees[&inner].clone());
    let error = download_size(&memory, lie).expect_err("the walk must end");
    assert_eq!(error.code(), "dirtree-cycle", "a damaged repository is told: {error}");
}

#[test]
fn the_size_of_a_changed_tree_comes_from_what_has_changed() {
    let mut memory = Memory::default();
    let (one, ten, hundred) = (memory.file("1", 1), memory.file("2", 10), memory.file("3", 100));
    let same = memory.tree(&[("a", one), ("b", ten)], &[]);
    let before = memory.tree(&[("x", one)], &[]);
    let after = memory.tree(&[("x", hundred), ("y", hundred)], &[]);
    let old = memory.tree(&[("f", ten), ("gone", one)], &[("changed", before), ("removed", same), ("same", same)]);
    let new = memory.tree(&[("f", one), ("new", ten)], &[("added", before), ("changed", after), ("same", same)]);
    let old_bytes = download_size(&memory, old).expect("a sound tree");
    let new_bytes = download_size(&memory, new).expect("a sound tree");
    assert_eq!((old_bytes, new_bytes), (34, 223), "the sums by hand");
    for (from, from_bytes, to, to_bytes) in
        [(old, old_bytes, new, new_bytes), (new, new_bytes, old, old_bytes), (old, old_bytes, old, old_bytes)]
    {
        let changed = DownloadSizes::new(&memory).of_changed(to, from, from_bytes);
        assert_eq!(changed.ok(), Some(to_bytes), "the difference leads to the same sum");
    }

    // What is the same on both sides is not looked at, not even whether it is there.
    let absent = ContentId(Checksum::of(b"absent"));
    let old = memory.tree(&[("f", absent), ("g", one)], &[]);
    let new = memory.tree(&[("f", absent), ("g", ten)], &[]);
    assert_eq!(DownloadSizes::new(&memory).of_changed(new, old, 500).ok(), Some(509), "1 byte less, 10 more");

    let error = DownloadSizes::new(&memory).of_changed(before, after, 5).expect_err("5 bytes less 200 is no size");
    assert_eq!(error.code(), "download-size-too-large", "a wrong old size does not wrap around");
}

#[test]
fn comparing_trees_that_are_nested_to_harm_ends() {
    let mut memory = Memory::default();
    let (one, two) = (memory.file("1", 1), memory.file("2", 2));
    let (mut old, mut new) = (memory.tree(&[("x", one)], &[]), memory.tree(&[("x", two)], &[]));
    for _ in 0..50 {
        old = memory.tree(&[], &[("a", old), ("b", old)]);
        new = memory.tree(&[], &[("a", new), ("b", new)]);
    }
    let size = DownloadSizes::new(&memory).of_changed(new, old, 1 << 50);
    assert_eq!(size.ok(), Some(1 << 51), "2^50 paths to a file of 2 bytes");
}
