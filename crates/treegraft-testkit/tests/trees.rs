//! Random trees survive the disk, and the oracle takes them.

use proptest::prelude::*;
use tempfile::TempDir;
use treegraft_testkit::tree::{self, Directory, TreeEntry, TreeShape, WithXattrs};
use treegraft_testkit::{Ostree, RepoMode};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_read_back_as_it_was_written(tree in tree::directory(TreeShape::default())) {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let path = folder.path().join("tree");
        tree.write(&path);
        prop_assert_eq!(Directory::read(&path), tree, "the disk keeps names, content, modes and attributes");
    }

    #[test]
    fn any_name_is_allowed(name in tree::name()) {
        let forbidden = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']);
        prop_assert!(!forbidden && name.len() <= 255, "`{name}` is a name that OSTree allows");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ostree_commits_any_tree_and_checks_it_out_again(tree in tree::directory(TreeShape::default())) {
        let Some(ostree) = Ostree::find() else { return Ok(()) };
        let folder = TempDir::new().expect("a temporary folder can be made");
        let [path, repo, checkout] = ["tree", "repo", "checkout"].map(|name| folder.path().join(name));
        tree.write(&path);
        ostree.init(&repo, RepoMode::Archive, None);
        ostree.commit(&repo, &path, "main", 1_600_000_000, &[]);
        ostree.fsck(&repo);
        ostree.checkout(&repo, "main", &checkout);
        let names = |tree: &Directory| tree.entries.keys().cloned().collect::<Vec<_>>();
        let read = Directory::read(&checkout);
        prop_assert_eq!(names(&read), names(&tree), "ostree keeps every name");
        prop_assert_eq!(read.count_files(), tree.count_files(), "ostree keeps every file");
    }
}

#[test]
fn a_seed_gives_one_tree_with_everything_in_it() {
    let shape = TreeShape { depth: 3, entries: 12, max_file_bytes: 70_000, xattrs: WithXattrs::None };
    let tree = Directory::from_seed(1, &shape);
    assert_eq!(tree, Directory::from_seed(1, &shape), "the same seed gives the same tree");
    assert_ne!(tree, Directory::from_seed(2, &shape), "another seed gives another tree");
    let has = |wanted: fn(&TreeEntry) -> bool| tree.entries.values().any(wanted);
    assert!(has(|entry| matches!(entry, TreeEntry::Directory(_))), "a seeded tree has directories");
    assert!(has(|entry| matches!(entry, TreeEntry::File(_))), "a seeded tree has files");
    assert!(tree.xattrs.is_empty(), "a tree without extended attributes has none");
}
