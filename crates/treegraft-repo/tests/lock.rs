//! The locks keep each other out, and the real `ostree`, in both directions.

use std::{
    fs::{self, OpenOptions},
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use treegraft_repo::{FileLock, LockError, LockKind, LockTimeout, Repo, RepoLock};
use treegraft_testkit::{Ostree, RepoMode};

fn set_config(repo: &Path, lines: &str) {
    let text = format!("[core]\nrepo_version=1\nmode=archive-z2\n{lines}");
    fs::write(repo.join("config"), text).expect("the repository is ours");
}

fn repository(ostree: &Ostree, base: &Path, lines: &str) -> Repo {
    let path = base.join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    set_config(&path, lines);
    Repo::open(&path).expect("it can be opened")
}

fn acquire(repo: &Repo, kind: LockKind) -> Result<RepoLock, LockError> {
    RepoLock::acquire(repo, kind, &mut |_| {})
}

#[test]
fn ostree_waits_for_us() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = repository(&ostree, base.path(), "lock-timeout-secs=1\n");
    let tree = tempfile::tempdir().expect("a temporary directory");
    let repo_option = format!("--repo={}", repo.path().display());
    let tree_option = format!("--tree=dir={}", tree.path().display());
    let commit = || ostree.run_raw(["commit", &repo_option, "--branch=main", &tree_option]);
    let prune = || ostree.run_raw(["prune", &repo_option]);

    let lock = acquire(&repo, LockKind::Exclusive).expect("nobody holds it");
    assert!(lock.is_held(), "the lock is a real one");
    let run = commit().failed();
    let text = run.stderr_text();
    assert!(text.contains("Locking repo shared failed"), "an exclusive lock keeps a commit out: {text}");
    drop(lock);
    let _ = commit().ok();

    let lock = acquire(&repo, LockKind::Shared).expect("nobody holds it");
    let _ = commit().ok();
    let run = prune().failed();
    let text = run.stderr_text();
    assert!(text.contains("Locking repo exclusive failed"), "a shared lock keeps a prune out: {text}");
    drop(lock);
    let _ = prune().ok();
}

#[test]
fn we_wait_for_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = repository(&ostree, base.path(), "lock-timeout-secs=1\n");
    // A commit from a tar archive takes the lock, opens the archive and reads it: a pipe keeps it there.
    let pipe = base.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("the directory is ours");
    let mut child = ostree
        .command()
        .args(["commit", "--branch=main"])
        .arg(format!("--repo={}", repo.path().display()))
        .arg(format!("--tree=tar={}", pipe.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ostree can be started");
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).expect("it is a small flag");
    let writer = loop {
        // Without a reader this gives ENXIO.
        match OpenOptions::new().write(true).custom_flags(nonblock).open(&pipe) {
            Ok(writer) => break writer,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {}
            Err(error) => panic!("the pipe can be opened: {error}"),
        }
        assert!(child.try_wait().expect("it is our child").is_none(), "ostree opens the archive");
        thread::sleep(Duration::from_millis(5));
    };

    let shared = acquire(&repo, LockKind::Shared).expect("a commit holds it shared");
    drop(shared);
    let mut tries = Vec::new();
    let error = RepoLock::acquire(&repo, LockKind::Exclusive, &mut |waited| tries.push(waited));
    let error = error.expect_err("a commit keeps an exclusive lock out");
    assert!(matches!(error, LockError::Timeout { waited_secs: 1, .. }), "after `lock-timeout-secs`: {error}");
    assert!(error.is_temporary(), "the commit will be over some time");
    assert!(tries.len() > 2 && tries[0].is_zero(), "the caller hears of every failed try: {tries:?}");
    assert!(tries.is_sorted(), "with the time waited so far: {tries:?}");

    // An empty archive is refused, so the commit ends here.
    drop(writer);
    let _ = child.wait().expect("it is our child");
    acquire(&repo, LockKind::Exclusive).expect("the lock is free when its holder is gone");
}

#[test]
fn no_lock_is_taken_when_the_repository_says_so() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let repo = repository(&ostree, base.path(), "locking=false\n");
    let first = acquire(&repo, LockKind::Exclusive).expect("nothing is locked");
    let second = acquire(&repo, LockKind::Exclusive).expect("nothing is locked");
    assert!(!first.is_held() && !second.is_held(), "both know that they hold nothing");
    assert!(!repo.path().join(".lock").exists(), "no file is made");
}

#[test]
fn locks_of_one_process_keep_each_other_out() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("lock");
    let take = |kind| FileLock::try_acquire(&path, kind).expect("the file can be locked");
    let first = take(LockKind::Shared).expect("nobody holds it");
    let second = take(LockKind::Shared).expect("shared locks go together");
    assert!(take(LockKind::Exclusive).is_none(), "an exclusive lock waits for shared ones");
    drop(first);
    assert!(take(LockKind::Exclusive).is_none(), "for all of them");
    drop(second);
    let exclusive = take(LockKind::Exclusive).expect("all are released");
    assert!(take(LockKind::Shared).is_none(), "a shared lock waits for an exclusive one");
    assert!(take(LockKind::Exclusive).is_none(), "and so does another exclusive one");
    // What POSIX locks get wrong: closing another descriptor of the file.
    drop(fs::File::open(&path).expect("the file is there"));
    assert!(take(LockKind::Shared).is_none(), "the lock belongs to its own descriptor");
    drop(exclusive);

    let held = take(LockKind::Exclusive).expect("all are released");
    let mut calls = 0;
    let timeout = LockTimeout::Secs(0);
    let error = FileLock::acquire(&path, LockKind::Shared, timeout, &mut |_| calls += 1).expect_err("it is held");
    assert!(matches!(error, LockError::Timeout { waited_secs: 0, .. }), "zero seconds are a single try: {error}");
    assert_eq!(calls, 1, "a single try");
    let mut giving_up = |_| ControlFlow::Break(());
    let error = FileLock::acquire_while(&path, LockKind::Shared, LockTimeout::Forever, &mut giving_up);
    assert!(matches!(error, Err(LockError::GivenUp { waited_secs: 0, .. })), "who gives up waits no longer: {error:?}");
    thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let path = &path;
        let waiter = scope.spawn(move || {
            let mut waiting = |_| sender.send(()).expect("the test listens");
            FileLock::acquire(path, LockKind::Exclusive, LockTimeout::Forever, &mut waiting).map(drop)
        });
        receiver.recv().expect("the waiter has tried");
        drop(held);
        waiter.join().expect("it does not panic").expect("it gets the lock when it is free");
    });
}

#[test]
fn a_symlink_is_no_lock_file() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("lock");
    std::os::unix::fs::symlink(base.path().join("elsewhere"), &path).expect("the directory is ours");
    match FileLock::try_acquire(&path, LockKind::Exclusive).expect_err("it is a symlink") {
        LockError::Io { source, .. } => {
            let errno = rustix::io::Errno::LOOP.raw_os_error();
            assert_eq!(source.raw_os_error(), Some(errno), "it is not followed");
        }
        error => panic!("it is not even tried: {error}"),
    }
    assert!(!base.path().join("elsewhere").exists(), "nothing is made behind it");
}
