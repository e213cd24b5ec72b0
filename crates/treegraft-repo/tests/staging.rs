//! Staging areas: what is accepted, what is refused without a trace, and what survives an interrupted push.

mod support;

use std::{
    fs,
    io::{self, Read},
    ops::Deref,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::MutexGuard,
};

use support::{Pair, bytes, closure, commit, open, paths, stage, stage_all, turn};
use treegraft_object::{
    Checksum, CommitId, ContentHasher, ContentId, FileHeader, FileKind, ObjectKind, ObjectName, Xattrs,
};
use treegraft_repo::{
    Cleared, Closure, FileLock, Find, LockKind, MAX_LEFTOVER_AGE_SECS, Repo, Resumed, Staging, StagingError,
    fault::{self, Stop},
};
use treegraft_testkit::{Ostree, RepoMode};

/// A pair of repositories, and the turn of the test that uses them.
struct Place {
    pair: Pair,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Place {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

/// A pair of repositories with a commit to push.
fn pair() -> Option<(Ostree, Place, CommitId)> {
    let turn = turn();
    let ostree = Ostree::find()?;
    let pair = Pair::new(&ostree);
    let id = commit(&ostree, &pair.source, "main", "the first");
    Some((ostree, Place { pair, _turn: turn }, id))
}

fn open_staging(repo: &Repo) -> (Staging, Resumed) {
    Staging::open(repo).expect("a staging area can be opened")
}

/// The files with objects or parts of objects in all staging areas.
fn staged_files(repo: &Path) -> Vec<String> {
    let is_own = |path: &String| path.ends_with("/lock") || path.ends_with("/boot-id") || path.ends_with('/');
    paths(&repo.join(".treegraft/staging")).into_iter().filter(|path| !is_own(path)).collect()
}

fn areas(repo: &Path) -> Vec<PathBuf> {
    fs::read_dir(repo.join(".treegraft/staging"))
        .expect("it was made")
        .map(|entry| entry.expect("it can be listed").path())
        .collect()
}

#[test]
fn what_ostree_wrote_is_staged_and_seen() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let (staging, resumed) = open_staging(&repo);
    assert_eq!(resumed, Resumed::default(), "there is nothing to resume");
    let names = closure(&source, id);
    for &name in &names {
        assert!(!staging.has(name), "{name} is not staged yet");
        assert!(stage(&staging, name, &bytes(&source, name)).expect("it is valid"), "{name} is new");
        assert!(!stage(&staging, name, &bytes(&source, name)).expect("it is valid"), "{name} is new only once");
        assert!(staging.has(name), "{name} is staged");
        assert!(!repo.has(name).expect("it can be looked up"), "{name} is not published");
    }
    let view = staging.view(&repo);
    let root = view.commit(id).expect("the commit is in the view");
    let mut closure = Closure::new(&view);
    assert!(closure.check_tree(root.root_tree, root.root_meta).expect("it can be read"), "the view is complete");
    let files = names.iter().filter(|name| name.kind == ObjectKind::File);
    for file in files.map(|name| ContentId(name.checksum)) {
        let ours = view.archived_file(file).expect("it can be read");
        assert_eq!(ours, source.archived_file(file).expect("it can be read"), "size and kind are those of the source");
    }
    assert_eq!(staged_files(&pair.target).len(), names.len(), "each object is one file, and nothing else is there");
    for path in staged_files(&pair.target) {
        let mode = fs::metadata(pair.target.join(".treegraft/staging").join(&path)).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o7777, 0o644, "{path} can be read by everybody once it is published");
    }
    let private = fs::metadata(pair.target.join(".treegraft")).expect("it is there").permissions().mode();
    assert_eq!(private & 0o7777, 0o700, "nobody else sees what is not published");
    staging.remove().expect("it can be removed");
    assert_eq!(areas(&pair.target), Vec::<PathBuf>::new(), "nothing is left");
}

#[test]
fn what_is_not_valid_leaves_nothing() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let (staging, _) = open_staging(&repo);
    for name in closure(&source, id) {
        let good = bytes(&source, name);
        let other = ObjectName::new(name.kind, Checksum::of(b"another name"));
        let error = stage(&staging, other, &good).expect_err("the name is that of other bytes");
        assert_eq!(error.code(), "checksum-mismatch", "{name} under another name");
        let error = stage(&staging, name, &good[..good.len() - 1]).expect_err("the end is missing");
        assert!(matches!(error, StagingError::Verify(_)), "{name} without its end: {error}");
        let error = stage(&staging, name, &[&good[..], b"x"].concat()).expect_err("there is more");
        assert!(matches!(error, StagingError::Verify(_)), "{name} with more behind its end: {error}");
    }
    assert_eq!(staged_files(&pair.target), Vec::<String>::new(), "nothing is left of refused objects");
}

#[test]
fn kinds_that_nobody_pushes_are_refused() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let (staging, _) = open_staging(&repo);
    let tombstone = ObjectName::new(ObjectKind::TombstoneCommit, id.0);
    let error = staging.stage_metadata(tombstone, &treegraft_object::tombstone::encode(id)).expect_err("refused");
    assert_eq!(error.code(), "object-kind", "a tombstone would make clients forget a commit");
    let file = closure(&source, id).into_iter().find(|name| name.kind == ObjectKind::File).expect("it has files");
    let error = staging.stage_metadata(file, b"").expect_err("refused");
    assert_eq!(error.code(), "object-kind", "content is no metadata");
    let error = staging.stage_content(id, &mut &b""[..], 1).expect_err("refused");
    assert_eq!(error.code(), "object-kind", "a commit is no content");
    assert_eq!(staged_files(&pair.target), Vec::<String>::new(), "nothing is left of refused objects");
}

/// An object that is larger than what is kept in memory, with random content so that it stays large.
fn large_object(ostree: &Ostree, pair: &Pair) -> (ObjectName, Vec<u8>) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    let content = treegraft_testkit::SplitMix64::new(7).bytes(3 << 20);
    fs::write(tree.path().join("large"), content).expect("it is ours");
    let id = ostree.commit(&pair.source, tree.path(), "large", 1, &["--no-xattrs"]);
    let source = open(&pair.source);
    let names = closure(&source, id.parse().expect("a checksum"));
    let name = *names.iter().find(|name| name.kind == ObjectKind::File).expect("it has a file");
    (name, bytes(&source, name))
}

#[test]
fn the_limit_is_exact_and_a_broken_stream_leaves_nothing() {
    struct Broken<'a>(&'a [u8]);
    impl Read for Broken<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                count => Ok(count),
            }
        }
    }
    let Some((ostree, pair, _)) = pair() else { return };
    let (name, data) = large_object(&ostree, &pair);
    let repo = open(&pair.target);
    let (staging, _) = open_staging(&repo);
    let size = data.len() as u64;
    let error = staging.stage_content(name, &mut &data[..], size - 1).expect_err("one byte too many");
    assert!(matches!(error, StagingError::TooLarge { limit_bytes, .. } if limit_bytes == size - 1), "{error}");
    let error = staging.stage_content(name, &mut Broken(&data[..data.len() / 2]), size).expect_err("cut off");
    assert_eq!(error.code(), "io", "a lost connection is told apart from a bad object: {error}");
    assert_eq!(staged_files(&pair.target), Vec::<String>::new(), "nothing is left of refused objects");
    let staged = staging.stage_content(name, &mut &data[..], size).expect("the limit itself is allowed");
    assert!(staged.is_new, "it was not staged before");
    assert_eq!(staged.archived_bytes, size, "what is stored is what came");
    let staged = staging.stage_content(name, &mut &data[..], size).expect("it is valid");
    assert!(!staged.is_new, "a known large object is only verified");
    let (mut file, _) = staging.open_archived(ContentId(name.checksum)).expect("read").expect("there");
    let mut stored = Vec::new();
    file.read_to_end(&mut stored).expect("it can be read");
    assert!(stored == data, "the bytes are stored as they came");
}

#[test]
fn too_little_free_space_refuses_content_only() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let config = pair.target.join("config");
    let text = fs::read_to_string(&config).expect("it is there") + "min-free-space-size=1000000TB\n";
    fs::write(&config, text).expect("it is ours");
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let (staging, _) = open_staging(&repo);
    for name in closure(&source, id) {
        let result = stage(&staging, name, &bytes(&source, name));
        if name.kind == ObjectKind::File {
            let error = result.expect_err("no disk is that large");
            assert!(matches!(error, StagingError::NoSpace { .. }), "{name}: {error}");
            assert!(!error.is_temporary(), "a retry does not make a disk larger");
        } else {
            assert!(result.expect("metadata is not counted, as in libostree"), "{name} is new");
        }
    }
    assert!(staged_files(&pair.target).iter().all(|path| !path.contains(".filez")), "no content is kept");
}

#[test]
fn many_threads_stage_the_same_objects() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let (staging, _) = open_staging(&repo);
    let names = closure(&source, id);
    let new = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for &name in &names {
                    let is_new = stage(&staging, name, &bytes(&source, name)).expect("it is valid");
                    new.fetch_add(usize::from(is_new), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(new.into_inner(), names.len(), "each object is new exactly once");
    assert_eq!(staged_files(&pair.target).len(), names.len(), "no temporary file is left");
}

#[test]
fn an_interrupted_push_is_resumed() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let names = closure(&source, id);
    let (staging, _) = open_staging(&repo);
    stage_all(&staging, &source, &names);
    let partial = staging.path().join(format!("{}/.77", &names[0].checksum.to_hex()[..2]));
    fs::write(partial, "half of an object").expect("the directory is there");
    drop(staging);
    let (staging, resumed) = open_staging(&repo);
    let size: u64 = names.iter().map(|&name| bytes(&source, name).len() as u64).sum();
    assert_eq!(resumed, Resumed { objects: names.len() as u64, bytes: size }, "everything that was named is there");
    assert!(names.iter().all(|&name| staging.has(name)), "each object is staged");
    assert_eq!(staged_files(&pair.target).len(), names.len(), "what was being received is deleted");
    assert_eq!(areas(&pair.target).len(), 1, "there is one staging area");
}

#[test]
fn objects_of_another_boot_are_verified_again() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let names = closure(&source, id);
    for (damage, boot_id) in [("shortened", Some("another-boot\n")), ("changed", None)] {
        let (staging, _) = open_staging(&repo);
        stage_all(&staging, &source, &names);
        let area = staging.path().to_owned();
        drop(staging);
        match boot_id {
            Some(text) => fs::write(area.join("boot-id"), text).expect("it is ours"),
            None => fs::remove_file(area.join("boot-id")).expect("it is ours"),
        }
        let mut damaged = Vec::new();
        for kind in [ObjectKind::File, ObjectKind::DirTree] {
            let name = *names.iter().find(|name| name.kind == kind).expect("there is one");
            let path = name.loose_path("filez").replace("objects/", "");
            let mut data = fs::read(area.join(&path)).expect("it is staged");
            if damage == "shortened" {
                data.clear();
            } else {
                data[0] ^= 1;
            }
            fs::write(area.join(&path), data).expect("it is ours");
            damaged.push(name);
        }
        let (staging, resumed) = open_staging(&repo);
        assert_eq!(resumed.objects, (names.len() - damaged.len()) as u64, "the {damage} objects are not counted");
        for &name in &names {
            let is_staged = staging.has(name);
            assert_eq!(is_staged, !damaged.contains(&name), "{name} is there unless it was {damage}");
        }
        assert_eq!(areas(&pair.target).len(), 1, "the old area is gone");
        staging.remove().expect("it can be removed");
    }
}

#[test]
fn several_dead_areas_become_one() {
    let Some((ostree, pair, first)) = pair() else { return };
    let second = commit(&ostree, &pair.source, "other", "the second");
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let (first, second) = (closure(&source, first), closure(&source, second));
    let (one, _) = open_staging(&repo);
    stage_all(&one, &source, &first);
    let (two, resumed) = open_staging(&repo);
    assert_eq!(resumed, Resumed::default(), "what is alive is not adopted");
    stage_all(&two, &source, &second);
    drop((one, two));
    // A push that died before it had locked its area.
    fs::create_dir(pair.target.join(".treegraft/staging/0123456789abcdef")).expect("it is ours");
    let (staging, resumed) = open_staging(&repo);
    let all: std::collections::BTreeSet<_> = first.iter().chain(&second).copied().collect();
    assert_eq!(resumed.objects, all.len() as u64, "objects that both have are counted once");
    assert!(all.iter().all(|&name| staging.has(name)), "each object is staged");
    assert_eq!(areas(&pair.target).len(), 1, "the others are gone");
    assert_eq!(staged_files(&pair.target).len(), all.len(), "nothing is there twice");
}

#[test]
fn a_success_leaves_to_others_what_they_wait_to_resume() {
    let Some((ostree, pair, own)) = pair() else { return };
    let other = commit(&ostree, &pair.source, "other", "the second");
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let (interrupted, pushed) = (closure(&source, other), closure(&source, own));
    let stage_both = || {
        let (staging, _) = open_staging(&repo);
        stage_all(&staging, &source, &interrupted);
        stage_all(&staging, &source, &[own.into()]);
        drop(staging);
        let (staging, resumed) = open_staging(&repo);
        stage_all(&staging, &source, &pushed);
        (staging, resumed.objects)
    };
    let written_secs = |staging: &Staging| {
        let modified =
            fs::metadata(staging.path().join(ObjectName::from(other).loose_path("filez").replace("objects/", "")));
        let modified = modified.and_then(|data| data.modified()).expect("it is there");
        modified.duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_secs()
    };
    let waiting = interrupted.iter().filter(|name| !pushed.contains(name)).count() as u64;
    let shared = interrupted.len() as u64 - waiting;

    let (staging, resumed) = stage_both();
    assert_eq!(resumed, waiting + shared + 1, "all of the interrupted push, and a commit that was tried before");
    let young_secs = written_secs(&staging);
    staging.retire(&repo, &[own], young_secs).expect("it can be ended");
    let (staging, resumed) = open_staging(&repo);
    assert_eq!(
        resumed.objects,
        waiting + shared,
        "what was adopted stays but for the pushed commit, what was staged goes"
    );
    let limit_secs = written_secs(&staging) + MAX_LEFTOVER_AGE_SECS;
    staging.retire(&repo, &[own], limit_secs + 60).expect("it can be ended");
    assert_eq!(areas(&pair.target), Vec::<PathBuf>::new(), "a day later nothing is left");

    let (staging, _) = stage_both();
    ostree.pull_local(&pair.target, &pair.source, &["other"]);
    staging.retire(&repo, &[own], young_secs).expect("it can be ended");
    assert_eq!(areas(&pair.target), Vec::<PathBuf>::new(), "what was published meanwhile is of no use to anybody");
}

/// Lets an object look as if it had been received at another time.
fn set_written(staging: &Path, name: ObjectName, secs: u64) {
    let path = name.loose_path("filez").replacen("objects", &staging.display().to_string(), 1);
    let file = fs::File::options().append(true).open(path).expect("it is staged");
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(secs)).expect("it is ours");
}

#[test]
fn what_dead_pushes_left_is_cleared_after_a_day_without_another_push() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let names = closure(&source, id);
    let now_secs = 10_000_000;
    let stage = |written_secs: u64| {
        let (staging, _) = open_staging(&repo);
        stage_all(&staging, &source, &names);
        for &name in &names {
            set_written(staging.path(), name, written_secs);
        }
        staging
    };
    let old = stage(now_secs - MAX_LEFTOVER_AGE_SECS);
    // Three alive at a time make three areas; the third one goes on living.
    let young = stage(now_secs - MAX_LEFTOVER_AGE_SECS + 1);
    let alive = stage(now_secs - 10 * MAX_LEFTOVER_AGE_SECS);
    fs::create_dir_all(young.path().join("zz")).expect("it can be made");
    fs::write(young.path().join("zz/.7"), "half an object").expect("it can be written");
    set_written(young.path(), names[0], now_secs - 2 * MAX_LEFTOVER_AGE_SECS);
    set_written(young.path(), names[1], now_secs + 5 * MAX_LEFTOVER_AGE_SECS);
    let (old_path, young_path) = (old.path().to_owned(), young.path().to_owned());
    assert_eq!(
        Staging::clear_leftovers(&repo, now_secs).expect("it can be looked at"),
        Cleared::default(),
        "while pushes live nothing of theirs is touched, however old it is"
    );
    drop((old, young));
    let before = paths(&pair.target.join(".treegraft"));
    let told = Staging::old_leftovers(&repo, now_secs).expect("it can be looked at");
    assert_eq!(paths(&pair.target.join(".treegraft")), before, "telling changes nothing");
    let cleared = Staging::clear_leftovers(&repo, now_secs).expect("it can be cleared");
    assert_eq!(cleared, told, "what was told is done");
    assert_eq!(
        (cleared.areas, cleared.objects),
        (1, names.len() as u64 + 1),
        "one area, and the old object of another"
    );
    assert!(!old_path.exists(), "the area of the push that died a day ago is gone");
    assert!(young_path.exists() && !young_path.join("zz/.7").exists(), "what was half received is gone from the other");
    assert!(names.iter().all(|&name| alive.has(name)), "the living push has its objects");
    let (_adopting, resumed) = open_staging(&repo);
    assert_eq!(resumed.objects, names.len() as u64 - 1, "the next try finds what was received less than a day ago");
}

#[test]
fn clearing_that_is_cut_off_is_finished_by_the_next() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let names = closure(&source, id);
    let later_secs = u64::from(u32::MAX);
    let dead = || {
        let (staging, _) = open_staging(&repo);
        stage_all(&staging, &source, &names);
        drop(staging);
    };
    dead();
    let (result, points) = fault::watch(|| Staging::clear_leftovers(&repo, later_secs));
    assert_eq!(result.expect("it can be cleared").objects, names.len() as u64, "all of it is old");
    for (number, point) in points.iter().enumerate() {
        dead();
        let (result, _) = fault::stop_at(number, Stop::Fail, || Staging::clear_leftovers(&repo, later_secs));
        assert_eq!(result.expect_err("it stops").code(), "io", "at {point}");
        let (staging, _) = open_staging(&repo);
        stage_all(&staging, &source, &names);
        assert!(names.iter().all(|&name| staging.has(name)), "a push works at {point}");
        drop(staging);
        Staging::clear_leftovers(&repo, later_secs).expect("it can be cleared");
        assert_eq!(areas(&pair.target), Vec::<PathBuf>::new(), "nothing is left after {point}");
    }
    assert!(!points.is_empty(), "the points are passed");
    assert_eq!(Staging::clear_leftovers(&open(&pair.source), 0).expect("there is nothing"), Cleared::default());
}

#[test]
fn two_live_pushes_do_not_touch_each_other() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let names = closure(&source, id);
    let (one, _) = open_staging(&repo);
    stage_all(&one, &source, &names);
    let (two, resumed) = open_staging(&repo);
    assert_eq!(resumed, Resumed::default(), "the first is alive");
    assert!(!two.has(names[0]), "each sees its own objects only");
    two.remove().expect("it can be removed");
    assert!(names.iter().all(|&name| one.has(name)), "the first keeps its objects");
    let held = FileLock::try_acquire(&one.path().join("lock"), LockKind::Exclusive).expect("the file is there");
    assert!(held.is_none(), "the first still holds its lock");
}

#[test]
fn many_pushes_open_at_once() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let names = closure(&source, id);
    for _ in 0..10 {
        let (staging, _) = open_staging(&repo);
        stage_all(&staging, &source, &names);
        drop(staging);
        let resumed: Vec<(Staging, Resumed)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| open_staging(&repo))).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        let total: u64 = resumed.iter().map(|(_, resumed)| resumed.objects).sum();
        assert_eq!(total, names.len() as u64, "exactly one of them adopts the objects");
        for (staging, resumed) in resumed {
            let has_all = names.iter().all(|&name| staging.has(name));
            assert_eq!(has_all, resumed.objects > 0, "who counted them has them");
            assert!(staging.is_linked(), "nobody has cleared it away");
            staging.remove().expect("it can be removed");
        }
    }
}

#[test]
fn pushes_that_come_and_go_never_lose_their_area() {
    let Some((_ostree, pair, id)) = pair() else { return };
    let (repo, source) = (open(&pair.target), open(&pair.source));
    let name = ObjectName::from(id);
    let data = bytes(&source, name);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (repo, data) = (&repo, &data);
            scope.spawn(move || {
                for round in 0..100 {
                    let (staging, _) = open_staging(repo);
                    assert!(staging.is_linked(), "nobody cleared the area away between its making and its locking");
                    let _ = stage(&staging, name, data).expect("the area is there");
                    assert!(staging.has(name), "nobody takes objects away");
                    // Some end well, some are interrupted, and somebody clears up all the time.
                    if (thread + round) % 2 == 0 {
                        staging.remove().expect("it can be removed");
                    } else {
                        Staging::clear_leftovers(repo, 0).expect("nothing is in its way");
                    }
                }
            });
        }
    });
    let (staging, _) = open_staging(&repo);
    assert_eq!(areas(&pair.target), [staging.path().to_owned()], "what was left is adopted");
}

#[test]
fn bare_repositories_with_real_owners_are_not_written() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in [RepoMode::BareUserOnly, RepoMode::Bare] {
        let path = base.path().join(mode.as_str());
        ostree.init(&path, mode, None);
        let error = Staging::open(&open(&path)).expect_err("objects are stored in another form there");
        assert_eq!(error.code(), "not-writable-mode", "{error}");
        assert!(!path.join(".treegraft").exists(), "nothing is made");
    }
}

/// A header and content of this many bytes, and its id.
fn plain(bytes: usize) -> (FileHeader, Vec<u8>, ContentId) {
    let header = FileHeader { uid: 1, gid: 2, mode: 0o100_755, kind: FileKind::Regular, xattrs: Xattrs::new() };
    let content: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).expect("it is small")).collect();
    let mut hasher = ContentHasher::new(&header);
    hasher.update(&content);
    (header, content, hasher.finish())
}

#[test]
fn plain_content_is_stored_in_the_form_of_the_repository() {
    let _turn = turn();
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in [RepoMode::Archive, RepoMode::BareUser] {
        let path = base.path().join(mode.as_str());
        ostree.init(&path, mode, None);
        let repo = open(&path);
        let (staging, _) = open_staging(&repo);
        for bytes in [0, 1, 4095, 4096, 4097, (64 << 10) + 1, 3 << 20] {
            let (header, content, id) = plain(bytes);
            let staged = staging.stage_plain(id, &header, bytes as u64, &mut &content[..]).expect("it is what it says");
            assert!(staged.is_new, "{bytes} bytes, {mode:?}");
            let again = staging.stage_plain(id, &header, bytes as u64, &mut &content[..]).expect("it still is");
            assert!(!again.is_new, "the same a second time");

            let (_, other, _) = plain(bytes + 1);
            let files = staged_files(&path);
            for (what, size, wrong) in [("longer", bytes, &other[..]), ("other", bytes + 1, &vec![b'x'; bytes + 1][..])]
            {
                let error =
                    staging.stage_plain(id, &header, size as u64, &mut &*wrong).expect_err("it is not that object");
                assert!(["checksum-mismatch", "content-size"].contains(&error.code()), "{what}: {error}");
            }
            assert_eq!(staged_files(&path), files, "nothing of it is left");
        }
        let extension = if mode == RepoMode::Archive { "filez" } else { "file" };
        assert!(staged_files(&path).iter().all(|file| file.ends_with(extension)), "{mode:?}");
    }
}

#[test]
fn plain_content_that_was_interrupted_is_adopted_by_the_same_boot_alone() {
    let _turn = turn();
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::BareUser, None);
    let repo = open(&path);
    let (header, content, id) = plain(1000);
    let (staging, _) = open_staging(&repo);
    staging.stage_plain(id, &header, 1000, &mut &content[..]).expect("it is what it says");
    drop(staging);
    let (staging, resumed) = open_staging(&repo);
    assert_eq!((resumed.objects, staging.has(id)), (1, true), "the same boot has written it");
    let boot_id = staging.path().join("boot-id");
    drop(staging);
    fs::write(boot_id, "another boot\n").expect("it is ours");
    let (staging, resumed) = open_staging(&repo);
    assert_eq!((resumed.objects, staging.has(id)), (0, false), "its data may never have reached the disk");
}
