//! What several tests need: a repository to push to, one to push from, and a whole push.

// Each test program uses its own part of this.
#![expect(dead_code, reason = "every test program includes the whole module")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use treegraft_object::{CommitId, ObjectKind, ObjectName, RefName, gvariant::Dict};
use treegraft_repo::{
    Closure, Find, LockKind, PublishLock, RefEdit, RefTarget, Repo, RepoLock, Staging, Transaction, cache, summary,
};
use treegraft_testkit::{Ostree, RepoMode};

/// One test of a program at a time: a process that another one has just started has copies of all locks until it has become
/// another program, and who has died seems to be alive.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for the turn of a test that must find locks free. It comes before anything that starts a process.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most bytes of a test's content object.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

/// A time for summaries.
pub(crate) const NOW_SECS: u64 = 1_700_000_000;

pub(crate) fn head(name: &str) -> RefTarget {
    RefTarget::Head(RefName::new(name).expect("it is a ref"))
}

pub(crate) fn open(path: &Path) -> Repo {
    Repo::open(path).expect("it is a repository")
}

pub(crate) fn lock(repo: &Repo) -> PublishLock {
    PublishLock::acquire(repo, &mut |_| {}).expect("the lock can be taken")
}

/// Commits a small tree that differs with `text`.
pub(crate) fn commit(ostree: &Ostree, repo: &Path, branch: &str, text: &str) -> CommitId {
    let tree = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(tree.path().join("directory")).expect("it is empty");
    fs::write(tree.path().join("directory/file"), text).expect("it is ours");
    fs::write(tree.path().join("same"), "always the same").expect("it is ours");
    std::os::unix::fs::symlink(text.split(' ').next().unwrap_or("x"), tree.path().join("link")).expect("it is ours");
    let extra = ["--owner-uid=0", "--owner-gid=0", "--no-xattrs", "--subject", text];
    ostree.commit(repo, tree.path(), branch, 1, &extra).parse().expect("`ostree commit` prints a checksum")
}

/// A repository to push to and one to push from.
pub(crate) struct Pair {
    pub(crate) base: tempfile::TempDir,
    pub(crate) target: PathBuf,
    pub(crate) source: PathBuf,
}

impl Pair {
    pub(crate) fn new(ostree: &Ostree) -> Self {
        let base = treegraft_testkit::memory_folder();
        let (target, source) = (base.path().join("target"), base.path().join("source"));
        ostree.init(&target, RepoMode::Archive, None);
        ostree.init(&source, RepoMode::Archive, None);
        Self { base, target, source }
    }
}

/// Returns the names of a commit and of all that it needs.
pub(crate) fn closure(source: &Repo, id: CommitId) -> Vec<ObjectName> {
    let commit = source.commit(id).expect("the commit is there");
    let mut names = vec![ObjectName::from(id)];
    let is_complete = Closure::new(source)
        .visit_tree(commit.root_tree, commit.root_meta, &mut |name| names.push(name))
        .expect("the tree can be read");
    assert!(is_complete, "the source is complete");
    names
}

/// Reads an object as it is sent.
pub(crate) fn bytes(source: &Repo, name: ObjectName) -> Vec<u8> {
    if name.kind.is_metadata() {
        return source.metadata(name).expect("it can be read").expect("it is there");
    }
    let mut data = Vec::new();
    let _info = source.write_archived(treegraft_object::ContentId(name.checksum), &mut data).expect("it can be read");
    data
}

pub(crate) fn stage(
    staging: &Staging,
    name: ObjectName,
    mut data: &[u8],
) -> Result<bool, treegraft_repo::StagingError> {
    let staged = if name.kind == ObjectKind::File {
        staging.stage_content(name, &mut data, MAX_BYTES)
    } else {
        staging.stage_metadata(name, data)
    };
    staged.map(|staged| staged.is_new)
}

pub(crate) fn stage_all(staging: &Staging, source: &Repo, names: &[ObjectName]) {
    for &name in names {
        let _ = stage(staging, name, &bytes(source, name)).expect("what ostree wrote is accepted");
    }
}

pub(crate) type AnyError = Box<dyn std::error::Error>;

/// The name of a cache that pushes write.
pub(crate) const CACHE: &str = "cache";

/// A whole push: every ref of `source` is moved to its commit there, and the summary is written.
pub(crate) fn push(target: &Path, source: &Path) -> Result<(), AnyError> {
    let (staging, lock) = push_without_cleaning(target, source)?;
    drop(lock);
    staging.remove()?;
    Ok(())
}

/// The same, but what others have left is looked through, and a cache is written.
///
/// The lock is taken once: another test's process may hold a copy of it ([`TURN`]), and who waits passes points of its own.
pub(crate) fn push_and_retire(target: &Path, source: &Path) -> Result<(), AnyError> {
    let (staging, lock) = push_without_cleaning(target, source)?;
    let repo = Repo::open(target)?;
    let main = repo.refs()?.into_values().next().ok_or("there are refs")?;
    staging.forget_commit_meta(main)?;
    summary::sync_foreign(&repo, &lock)?;
    cache::write(&lock, CACHE, b"saves work")?;
    drop(lock);
    staging.retire(&repo, &[], NOW_SECS)?;
    Ok(())
}

/// Opens a repository, and finishes a push that was cut off.
pub(crate) fn finish_recovery(target: &Path) -> Result<(), AnyError> {
    let repo = Repo::open(target)?;
    let mut lock = PublishLock::acquire(&repo, &mut |_| {})?;
    if lock.recovered().is_some_and(treegraft_repo::Recovered::needs_summary) {
        summary::write(&repo, &lock, &summary::build(&repo, NOW_SECS, &Dict::new())?, Some(&signatures()))?;
        lock.finish_recovery()?;
    }
    Ok(())
}

fn signatures() -> Dict {
    Dict::from_iter([("x.test", treegraft_object::gvariant::Variant::string("signature"))])
}

fn push_without_cleaning(target: &Path, source: &Path) -> Result<(Staging, PublishLock), AnyError> {
    let (repo, source) = (Repo::open(target)?, open(source));
    let _lock = RepoLock::acquire(&repo, LockKind::Shared, &mut |_| {})?;
    let (staging, _) = Staging::open(&repo)?;
    let lock = PublishLock::acquire(&repo, &mut |_| {})?;
    let refs = source.refs()?;
    let mut names = Vec::new();
    for &id in refs.values() {
        names.extend(closure(&source, id));
    }
    for &name in &names {
        if !repo.has(name)? {
            let _ = stage(&staging, name, &bytes(&source, name))?;
        }
    }
    let mut transaction = Transaction::new(&repo, &lock, &staging);
    transaction.link(names);
    for (name, new) in refs {
        let target = RefTarget::Head(name);
        transaction.set_ref(RefEdit { expected: repo.resolve(&target)?, target, new });
    }
    let committed = transaction.prepare()?.commit()?;
    summary::write(&repo, &lock, &summary::build(&repo, NOW_SECS, &Dict::new())?, Some(&signatures()))?;
    committed.finish()?;
    Ok((staging, lock))
}

/// Lists what a repository has in `.treegraft` besides what stays after every push.
///
/// An empty queue is none of it: a process that another test has just started holds copies of all locks until it has become
/// another program, and whoever comes meanwhile has to wait.
pub(crate) fn left_behind(repo: &Path) -> Vec<String> {
    let stays = ["publish.lock", "staging/", CACHE, "queue/"];
    paths(&repo.join(".treegraft")).into_iter().filter(|path| !stays.contains(&path.as_str())).collect()
}

/// Returns all paths below a directory, sorted, directories with a `/` behind them.
pub(crate) fn paths(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(current) = pending.pop() {
        let Ok(entries) = fs::read_dir(&current) else { continue };
        for entry in entries {
            let entry = entry.expect("it can be listed");
            let path = entry.path();
            let relative = path.strip_prefix(dir).expect("it is below").to_string_lossy().into_owned();
            if entry.file_type().expect("it is there").is_dir() {
                found.push(format!("{relative}/"));
                pending.push(path);
            } else {
                found.push(relative);
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn refs(repo: &Path) -> BTreeMap<String, CommitId> {
    open(repo).refs().expect("they can be read").into_iter().map(|(name, id)| (name.to_string(), id)).collect()
}

/// Copies a small repository.
pub(crate) fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("`cp` is there");
    assert!(status.success(), "the copy is complete");
}
