//! The walk finds exactly the missing objects, visits each object once, and ends whatever it walks over.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::{collection::vec, prelude::*, sample::Index};
use treegraft_object::{
    Checksum, Commit, ContentId, DirMeta, DirMetaId, DirTree, DirTreeId, ObjectName, Xattrs, gvariant::Dict,
    limits::MAX_TREE_DEPTH,
};
use treegraft_repo::{ArchivedFile, Closure, Find, KnownObjects, MAX_MISSING_NAMES, ReadError};

/// Objects in memory.
#[derive(Default)]
struct Memory {
    objects: HashMap<ObjectName, Vec<u8>>,
    look_ups: AtomicUsize,
}

impl Find for Memory {
    fn has(&self, name: ObjectName) -> Result<bool, ReadError> {
        self.look_ups.fetch_add(1, Ordering::Relaxed);
        Ok(self.objects.contains_key(&name))
    }

    fn metadata(&self, name: ObjectName) -> Result<Option<Vec<u8>>, ReadError> {
        self.look_ups.fetch_add(1, Ordering::Relaxed);
        Ok(self.objects.get(&name).cloned())
    }

    fn archived_file(&self, _: ContentId) -> Result<Option<ArchivedFile>, ReadError> {
        unreachable!("the walk does not ask for sizes")
    }
}

impl Memory {
    fn add_file(&mut self, text: &str) -> ContentId {
        let id = ContentId(Checksum::of(text.as_bytes()));
        self.objects.insert(id.into(), Vec::new());
        id
    }

    fn add_meta(&mut self, uid: u32) -> DirMetaId {
        let meta = DirMeta { uid, gid: 0, mode: 0o40755, xattrs: Xattrs::new() };
        self.objects.insert(meta.id().into(), meta.encode());
        meta.id()
    }

    fn add_tree(&mut self, tree: &DirTree) -> DirTreeId {
        self.objects.insert(tree.id().into(), tree.encode());
        tree.id()
    }

    /// Adds a directory that holds nothing but another one.
    fn add_above(&mut self, below: DirTreeId, meta: DirMetaId) -> DirTreeId {
        self.add_tree(&DirTree { files: Vec::new(), dirs: vec![("d".to_owned(), below, meta)] })
    }

    /// Adds directories that are nested so deep in each other.
    fn add_chain(&mut self, depth: usize) -> DirTreeId {
        let meta = self.add_meta(0);
        let lowest = self.add_tree(&DirTree::default());
        (1..depth).fold(lowest, |below, _| self.add_above(below, meta))
    }
}

/// A tree of directories: the names of files, and directories with the owner that makes their dirmeta.
#[derive(Debug, Clone)]
struct Node {
    files: Vec<u8>,
    dirs: Vec<(u8, Node)>,
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = vec(0_u8..12, 0..4).prop_map(|files| Node { files, dirs: Vec::new() });
    leaf.prop_recursive(4, 40, 4, |inner| {
        (vec(0_u8..12, 0..4), vec((0_u8..4, inner), 0..4)).prop_map(|(files, dirs)| Node { files, dirs })
    })
}

fn add(memory: &mut Memory, node: &Node) -> DirTreeId {
    let files = node.files.iter().enumerate().map(|(i, file)| (format!("f{i}"), memory.add_file(&file.to_string())));
    let files = files.collect();
    let dirs = node.dirs.iter().enumerate().map(|(i, (uid, dir))| {
        let tree = add(memory, dir);
        (format!("d{i}"), tree, memory.add_meta((*uid).into()))
    });
    let tree = DirTree { files, dirs: dirs.collect() };
    memory.add_tree(&tree)
}

/// Says which objects are below a tree and which are missing, without memory and by recursion.
fn reference(memory: &Memory, id: DirTreeId, there: &mut BTreeSet<ObjectName>, missing: &mut BTreeSet<ObjectName>) {
    let Some(data) = memory.objects.get(&id.into()) else {
        missing.insert(id.into());
        return;
    };
    there.insert(id.into());
    let tree = DirTree::decode(data).expect("it was just encoded");
    let metas = tree.dirs.iter().map(|(_, _, meta)| ObjectName::from(*meta));
    for name in tree.files.iter().map(|(_, id)| ObjectName::from(*id)).chain(metas) {
        if memory.objects.contains_key(&name) {
            there.insert(name)
        } else {
            missing.insert(name)
        };
    }
    for (_, below, _) in &tree.dirs {
        reference(memory, *below, there, missing);
    }
}

proptest! {
    #[test]
    fn the_walk_agrees_with_recursion(node in node(), removed in vec(any::<Index>(), 0..5)) {
        let mut memory = Memory::default();
        let root = add(&mut memory, &node);
        let mut names: Vec<_> = memory.objects.keys().copied().collect();
        names.sort();
        for index in removed {
            memory.objects.remove(index.get(&names));
        }
        let (mut there, mut missing) = (BTreeSet::new(), BTreeSet::new());
        reference(&memory, root, &mut there, &mut missing);

        let mut closure = Closure::new(&memory);
        let meta = DirMetaId(Checksum::of(b"absent"));
        missing.insert(meta.into());
        let mut visited = Vec::new();
        let is_complete = closure.visit_tree(root, meta, &mut |name| visited.push(name)).expect("it is sound");
        prop_assert!(!is_complete, "the root's dirmeta is missing");
        let visited_once: BTreeSet<_> = visited.iter().copied().collect();
        prop_assert_eq!(visited.len(), visited_once.len(), "each object is visited once");
        prop_assert_eq!(visited_once, there, "all objects that are there are visited");
        prop_assert_eq!(closure.missing().iter().copied().collect::<BTreeSet<_>>(), missing.clone(), "all others are missing");
        prop_assert_eq!((closure.missing().len(), closure.missing_count()), (missing.len(), missing.len()), "once each");
        let below_missing = missing.len() > 1;
        prop_assert_eq!(closure.check_dirtree(root).expect("it is sound"), !below_missing, "asked again, the answer stays");

        let look_ups = memory.look_ups.load(Ordering::Relaxed);
        prop_assert!(look_ups <= visited.len() + missing.len(), "nothing is looked up twice");
    }

    #[test]
    fn a_look_on_all_cores_finds_what_a_walk_does(nodes in vec(node(), 1..4), removed in vec(any::<Index>(), 0..3)) {
        let mut memory = Memory::default();
        let roots: Vec<_> = nodes.iter().map(|node| add(&mut memory, node)).collect();
        let mut names: Vec<_> = memory.objects.keys().copied().collect();
        names.sort();
        for index in removed {
            memory.objects.remove(index.get(&names));
        }
        let known = KnownObjects::default().look_below(&memory, &roots, &|| true);
        let looked_up = memory.look_ups.load(Ordering::Relaxed);
        let mut closure = Closure::with_known(&memory, known);
        let mut all_missing = BTreeSet::new();
        for root in roots {
            let mut missing = BTreeSet::new();
            reference(&memory, root, &mut BTreeSet::new(), &mut missing);
            prop_assert_eq!(closure.check_dirtree(root).expect("it is sound"), missing.is_empty(), "it is told right");
            all_missing.append(&mut missing);
        }
        prop_assert_eq!(closure.missing().iter().copied().collect::<BTreeSet<_>>(), all_missing.clone(), "what is missing is found");
        if all_missing.is_empty() {
            prop_assert_eq!(memory.look_ups.load(Ordering::Relaxed), looked_up, "all else is known");
        }
    }
}

#[test]
fn what_is_missing_is_looked_up_again_when_asked_to() {
    let mut memory = Memory::default();
    let file = memory.add_file("file");
    let tree = DirTree { files: vec![("name".to_owned(), file)], dirs: Vec::new() };
    let below = memory.add_tree(&tree);
    let meta = memory.add_meta(0);
    let root = memory.add_above(below, meta);
    let other = memory.add_above(root, meta);
    memory.objects.remove(&file.into());
    let mut closure = Closure::new(&memory);
    assert!(!closure.check_tree(root, meta).expect("it is sound"), "the file is missing");
    assert!(!closure.check_tree(other, meta).expect("it is sound"), "a tree above it misses the same");
    assert_eq!(closure.missing(), [ObjectName::from(file)], "it is told once");
    closure.forget_missing();
    assert_eq!((closure.missing(), closure.missing_count()), (&[][..], 0), "nothing is missing that is not known");
    assert!(!closure.check_tree(other, meta).expect("it is sound"), "it is looked up again");
    assert_eq!(closure.missing(), [ObjectName::from(file)], "and still missing");
}

#[test]
fn commits_are_checked_without_their_parents() {
    let mut memory = Memory::default();
    let (root_tree, root_meta) = (memory.add_chain(3), memory.add_meta(0));
    let parent = Some(treegraft_object::CommitId(Checksum::of(b"parent")));
    let (subject, body) = (String::new(), String::new());
    let commit = Commit { metadata: Dict::new(), parent, subject, body, timestamp_secs: 0, root_tree, root_meta };
    let mut closure = Closure::new(&memory);
    assert!(!closure.check_commit(commit.id()).expect("absent is no error"), "the commit itself is missing");
    assert_eq!(closure.missing(), [ObjectName::from(commit.id())], "it is told");
    drop(closure);
    memory.objects.insert(commit.id().into(), commit.encode());
    let mut closure = Closure::new(&memory);
    assert!(closure.check_commit(commit.id()).expect("it is sound"), "a commit is complete without its parent");
}

#[test]
fn nesting_is_bounded() {
    let mut memory = Memory::default();
    let deepest = memory.add_chain(MAX_TREE_DEPTH);
    let meta = memory.add_meta(0);
    let too_deep = memory.add_above(deepest, meta);
    assert!(Closure::new(&memory).check_dirtree(deepest).expect("it is not too deep"), "the limit itself is allowed");
    let error = Closure::new(&memory).check_dirtree(too_deep).expect_err("it is too deep");
    assert_eq!(error.code(), "too-deep", "one more is not");
    let mut closure = Closure::new(&memory);
    assert!(closure.check_dirtree(deepest).expect("it is not too deep"), "the lower part is known now");
    let error = closure.check_dirtree(too_deep).expect_err("it is too deep");
    assert_eq!(error.code(), "too-deep", "what is known already counts as well");
    let known = KnownObjects::default().look_below(&memory, &[too_deep, deepest], &|| true);
    let mut closure = Closure::with_known(&memory, known);
    assert!(closure.check_dirtree(deepest).expect("it is not too deep"), "the lower part was looked at");
    let error = closure.check_dirtree(too_deep).expect_err("it is too deep");
    assert_eq!(error.code(), "too-deep", "a look on all cores lets nothing pass");
}

#[test]
fn a_circle_ends() {
    // No checksum allows it, but a store that does not verify could claim it.
    let mut memory = Memory::default();
    let meta = memory.add_meta(0);
    let (a, b) = (DirTreeId(Checksum::of(b"a")), DirTreeId(Checksum::of(b"b")));
    for (from, to) in [(a, b), (b, a)] {
        let tree = DirTree { files: Vec::new(), dirs: vec![("d".to_owned(), to, meta)] };
        memory.objects.insert(from.into(), tree.encode());
    }
    let known = KnownObjects::default().look_below(&memory, &[a], &|| true);
    let error = Closure::with_known(&memory, known).check_dirtree(a).expect_err("it has no end");
    assert_eq!(error.code(), "too-deep", "a circle is deeper than any bound");
}

#[test]
fn shared_trees_are_walked_once() {
    // Each level holds the next one twice: 2^64 paths, 65 dirtrees.
    let mut memory = Memory::default();
    let meta = memory.add_meta(0);
    let mut tree = memory.add_tree(&DirTree::default());
    for _ in 0..64 {
        let dirs = ["a", "b"].map(|name| (name.to_owned(), tree, meta)).to_vec();
        tree = memory.add_tree(&DirTree { files: Vec::new(), dirs });
    }
    assert!(Closure::new(&memory).check_tree(tree, meta).expect("it is sound"), "everything is there");
    assert_eq!(memory.look_ups.load(Ordering::Relaxed), 66, "65 dirtrees and a dirmeta are looked up once each");
}

#[test]
fn the_list_of_missing_objects_is_bounded() {
    let mut memory = Memory::default();
    let count = MAX_MISSING_NAMES + 10;
    let files = (0..count).map(|i| (format!("{i:05}"), ContentId(Checksum::of(&i.to_be_bytes())))).collect();
    let tree = memory.add_tree(&DirTree { files, dirs: Vec::new() });
    let mut closure = Closure::new(&memory);
    assert!(!closure.check_dirtree(tree).expect("it is sound"), "files are missing");
    assert_eq!(closure.missing().len(), MAX_MISSING_NAMES, "so many are named");
    assert_eq!(closure.missing_count(), count, "all are counted");
}

#[test]
fn a_broken_dirtree_is_an_error() {
    let mut memory = Memory::default();
    let id = DirTreeId(Checksum::of(b"broken"));
    memory.objects.insert(id.into(), vec![1, 2, 3]);
    let error = Closure::new(&memory).check_dirtree(id).expect_err("it is no dirtree");
    assert_eq!(error.code(), "not-normal-form", "the broken rule is told");
}
