//! Random trees in every mode, pushed in both ways: the server must have what `ostree` has put into the worker.

use std::{fs, path::Path};

use treegraft_testkit::{
    RepoMode, SplitMix64,
    tree::{Directory, TreeEntry, TreeShape, WithXattrs},
};

use crate::{rounds::rounds, site::Site};

/// Permission bits that file systems keep; bare-user-only stores what it allows of them.
const MODES: [u32; 8] = [0o644, 0o755, 0o600, 0o700, 0o664, 0o2755, 0o4755, 0o1777];

/// Gives some files modes that are rare.
fn odd_modes(directory: &mut Directory, random: &mut SplitMix64) {
    for entry in directory.entries.values_mut() {
        match entry {
            TreeEntry::Directory(inner) => {
                inner.mode = MODES[random.below(MODES.len())] | 0o700;
                odd_modes(inner, random);
            }
            TreeEntry::File(file) if random.one_in(2) => file.mode = MODES[random.below(MODES.len())],
            TreeEntry::File(_) | TreeEntry::Symlink(_) => {}
        }
    }
}

/// Makes a random tree that a repository of the mode can hold.
fn tree(seed: u64, mode: RepoMode) -> Directory {
    let xattrs = if mode == RepoMode::BareUserOnly { WithXattrs::None } else { WithXattrs::Some };
    let mut random = SplitMix64::new(!seed);
    let shape = TreeShape { depth: 3, entries: 5, max_file_bytes: 70_000, xattrs };
    let mut tree = Directory::from_seed(seed, &shape);
    if mode != RepoMode::BareUserOnly {
        odd_modes(&mut tree, &mut random);
    }
    tree
}

/// What a tree looks like once it is checked out by its owner: without what only the system may set.
fn checked_out(mut directory: Directory) -> Directory {
    directory.xattrs.clear();
    for entry in directory.entries.values_mut() {
        match entry {
            TreeEntry::Directory(inner) => *inner = checked_out(std::mem::take(inner)),
            TreeEntry::File(file) => {
                file.mode &= 0o777;
                file.xattrs.clear();
            }
            TreeEntry::Symlink(_) => {}
        }
    }
    directory
}

#[test]
fn random_trees_of_every_mode_arrive_as_they_are() {
    let Some(site) = Site::new() else { return };
    let is_root = rustix::process::geteuid().is_root();
    rounds(2, |round| {
        for mode in RepoMode::ALL.into_iter().filter(|&mode| mode != RepoMode::Bare || is_root) {
            one_tree(&site, round.seed, mode);
        }
        site.ostree.fsck(&site.server);
    });
}

fn one_tree(site: &Site, seed: u64, mode: RepoMode) {
    let name = format!("{}-{seed}", mode.as_str());
    let described = tree(seed, mode);
    let folder = site.env.root().join(format!("tree-{name}"));
    described.write(&folder);
    let worker = site.env.root().join(format!("worker-{name}"));
    site.ostree.init(&worker, mode, None);
    let options: &[&str] = if mode == RepoMode::BareUserOnly { &["--canonical-permissions"] } else { &[] };
    site.ostree.commit(&worker, &folder, "main", 1_000, options);
    let (rebased, exact) = (format!("rebased-{name}"), format!("exact-{name}"));
    site.push_local(&worker, &[&format!("main:{rebased}")]).ok();
    site.push_local(&worker, &[&format!("main:{exact}"), "--exact"]).ok();
    let commit = site.ostree.rev_parse(&worker, "main");
    assert_eq!(site.ostree.rev_parse(&site.server, &exact), commit, "an exact push keeps the checksum ({name})");
    let listed = site.ostree.ls(&worker, "main");
    for target in [&rebased, &exact] {
        assert_eq!(site.ostree.ls(&site.server, target), listed, "the tree of `{target}` is that of the worker");
        let place = site.env.root().join("checkout");
        site.ostree.checkout(&site.server, target, &place);
        assert_eq!(
            checked_out(Directory::read(&place)),
            checked_out(described.clone()),
            "`{target}` is what was committed"
        );
        fs::remove_dir_all(&place).expect("an own folder can be removed");
    }
    remove(&folder);
    remove(&worker);
}

fn remove(path: &Path) {
    fs::remove_dir_all(path).expect("an own folder can be removed");
}
