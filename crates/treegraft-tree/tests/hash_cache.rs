//! The cache of checksums spares hashing, and is never true of a file that has changed.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use treegraft_tree::{CommitRules, HashCache, HashOptions, Root, Tree, TreeObjects, scan};

fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs()
}

/// Hashes a folder with the cache in a file. Returns its root and how many bytes were hashed.
fn hash(folder: &Path, file: &Path, now_secs: u64) -> (Root, u64) {
    let cache = HashCache::open(file, now_secs).expect("it can be read");
    let bytes = AtomicU64::new(0);
    let progress = |count| {
        bytes.fetch_add(count, Ordering::Relaxed);
    };
    let mut tree = Tree::new();
    scan(&mut tree, Tree::ROOT, folder, &mut CommitRules::default()).expect("it can be listed");
    let options = HashOptions { threads: 1, progress: &progress, cache: Some(&cache) };
    let root = TreeObjects::new().add(tree, options).expect("it can be hashed");
    cache.save().expect("it can be written");
    (root, bytes.into_inner())
}

#[test]
fn what_has_not_changed_is_not_hashed_again() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let (folder, cache) = (base.path().join("tree"), base.path().join("cache"));
    fs::create_dir(&folder).expect("the folder is ours");
    for name in ["a", "b"] {
        fs::write(folder.join(name), name.repeat(1000)).expect("the folder is ours");
    }
    let (first, bytes) = hash(&folder, &cache, now_secs());
    assert_eq!(bytes, 2000, "nothing is known at first");
    let (_, bytes) = hash(&folder, &cache, now_secs());
    assert_eq!(bytes, 2000, "both had changed a moment before");
    // As if some time had passed.
    let later = now_secs() + 60;
    let (_, bytes) = hash(&folder, &cache, later);
    assert_eq!(bytes, 2000, "now they are kept");
    let (root, bytes) = hash(&folder, &cache, later);
    assert_eq!((root, bytes), (first, 0), "everything is known");

    // The same size and time, but its ctime tells.
    let kept = fs::metadata(folder.join("a")).and_then(|stat| stat.modified()).expect("it has a time");
    fs::write(folder.join("a"), "x".repeat(1000)).expect("the folder is ours");
    fs::File::options()
        .write(true)
        .open(folder.join("a"))
        .and_then(|file| file.set_modified(kept))
        .expect("it is ours");
    let (root, bytes) = hash(&folder, &cache, later);
    assert_eq!(bytes, 1000, "the changed one is hashed");
    assert_ne!(root, first, "and counts");
    // Replaced by a file of the same size and time.
    let mut copy = Command::new("cp");
    copy.arg("-p").arg(folder.join("b")).arg(base.path().join("new"));
    assert!(copy.status().expect("it can be run").success(), "it is copied");
    fs::rename(base.path().join("new"), folder.join("b")).expect("the folder is ours");
    assert_eq!(hash(&folder, &cache, later).1, 1000, "another inode is another file");
}

#[test]
fn builds_that_take_turns_share_a_cache() {
    const DAY_SECS: u64 = 24 * 60 * 60;
    let base = tempfile::tempdir().expect("a temporary directory");
    let (one, other, cache) = (base.path().join("one"), base.path().join("other"), base.path().join("cache"));
    for folder in [&one, &other] {
        fs::create_dir(folder).expect("the folder is ours");
        fs::write(folder.join("a"), "content").expect("the folder is ours");
    }
    let later = now_secs() + 60;
    for bytes in [7, 0, 0] {
        assert_eq!(hash(&one, &cache, later).1, bytes, "the other build's turn takes nothing away");
        assert_eq!(hash(&other, &cache, later).1, bytes, "nor does the first one's");
    }
    assert_eq!(hash(&one, &cache, later + 29 * DAY_SECS).1, 0, "it was not used for less than a month");
    assert_eq!(hash(&one, &cache, later + 31 * DAY_SECS).1, 0, "it was used two days ago");
    let lines = || fs::read_to_string(&cache).expect("it was written").lines().count();
    assert_eq!(lines(), 1 + 1 + 1, "a head, the one that is used, the sum");
    assert_eq!(hash(&other, &cache, later + 31 * DAY_SECS).1, 7, "it was not used for a month");

    fs::write(one.join("a"), "another content").expect("the folder is ours");
    assert_eq!(hash(&one, &cache, later + 31 * DAY_SECS).1, 15, "it has changed");
    assert_eq!(lines(), 1 + 2 + 1, "what it was before is forgotten");
}

#[test]
fn a_damaged_cache_is_empty() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let (folder, cache) = (base.path().join("tree"), base.path().join("cache"));
    fs::create_dir(&folder).expect("the folder is ours");
    fs::write(folder.join("a"), "content").expect("the folder is ours");
    let later = now_secs() + 60;
    let (root, _) = hash(&folder, &cache, later);
    let whole = fs::read(&cache).expect("it was written");
    assert_eq!(hash(&folder, &cache, later), (root, 0), "it is whole");
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&cache, &damaged).expect("the folder is ours");
        assert_eq!(hash(&folder, &cache, later), (root, 7), "the byte {at} is wrong");
        fs::write(&cache, &whole[..at]).expect("the folder is ours");
        assert_eq!(hash(&folder, &cache, later), (root, 7), "it ends at {at}");
    }
    fs::write(&cache, b"another file of somebody's").expect("the folder is ours");
    assert_eq!(hash(&folder, &cache, later), (root, 7), "it is none");
}
