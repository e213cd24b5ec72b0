//! A repository in which another program writes a summary before clients see it.
//!
//! ```text
//! .treegraft/draft/
//!   summary, summary.sig, summary.idx, summary.idx.sig, summaries/
//!                             the program's own; what the repository has of them to begin with
//!   .lock, config, objects, refs, tmp, …
//!                             lead to the repository's
//! ```
//!
//! `flatpak build-update-repo` deletes `summary.sig` long before it has the next one, and changes an index and a summary that
//! clients fetch at that moment. In a draft it finds the same repository, with the same lock, objects and refs: what it commits
//! goes there at once. Only what clients would see too early is in the draft, until [`Draft::publish`].
//!
//! That moves, with all of it durable before:
//!
//! 1. new files of `summaries/`, to which nothing leads yet;
//! 2. `summary.idx`, `summary.idx.sig`, `summary`, `summary.sig`, each by a rename. Data goes before its signature, as in
//!    [`summary::write`]: clients fetch the signature first, and who has the old one already goes on with the old
//!    data. Flatpak's clients take the signature of an index from `summaries/`, by the checksum of the index;
//! 3. away, the files of `summaries/` that the program has deleted: those to which only an older index leads.
//!
//! Whoever holds the publish lock makes and removes the draft, so that there is one at most; what a crash leaves is replaced
//! by the next one. Other programs may write summaries into the repository itself meanwhile: the last one counts, and what
//! they add to `summaries/` stays.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::renameat;
use treegraft_object::gvariant::Dict;

use crate::{
    PublishLock, Repo,
    durable::{self, open_dir, open_dir_if_there},
    fault, private_dir,
    summary::{self, SummaryError},
};

/// The directory in `.treegraft`.
const DRAFT: &str = "draft";

/// Files that are the draft's own, in the order in which clients get to see them.
const FILES: [&str; 4] = ["summary.idx", "summary.idx.sig", "summary", "summary.sig"];

/// The directory that is the draft's own: summaries of single architectures, and changes between them, for Flatpak's clients.
const SUMMARIES: &str = "summaries";

/// A repository in which another program writes a summary before clients see it. Removed on drop.
#[derive(Debug)]
pub struct Draft<'r> {
    path: PathBuf,
    dir: OwnedFd,
    /// The files that `summaries/` had in the beginning.
    old_summaries: Vec<String>,
    repo: &'r Repo,
    lock: &'r PublishLock,
}

impl<'r> Draft<'r> {
    /// Makes a draft that begins with what the repository has now.
    pub fn make(repo: &'r Repo, lock: &'r PublishLock) -> Result<Self, SummaryError> {
        let make = || -> io::Result<Self> {
            let repo_path = fs::canonicalize(repo.path())?;
            let path = repo_path.join(private_dir::NAME).join(DRAFT);
            private_dir::remove_tree(&path)?;
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            let dir = open_dir(lock.private_dir(), DRAFT)?;
            let mut draft = Self { path, dir, old_summaries: Vec::new(), repo, lock };
            draft.link_to(&repo_path)?;
            fault::point("draft:linked")?;
            draft.take_over(&repo_path)?;
            fault::point("draft:made")?;
            Ok(draft)
        };
        make().map_err(|source| SummaryError::Io { path: private_dir::path(repo).join(DRAFT), source })
    }

    /// Lets everything lead to the repository but what is the draft's own.
    fn link_to(&self, repo_path: &Path) -> io::Result<()> {
        // What a program makes when it is missing, it would make in the draft.
        durable::make_dirs(self.repo.dir(), "tmp", durable::DIRECTORY_MODE, self.lock.durability())?;
        if repo_path.join("deltas").is_dir() {
            durable::make_dirs(self.repo.dir(), "delta-indexes", durable::DIRECTORY_MODE, self.lock.durability())?;
        }
        let is_shared =
            |name: &String| !FILES.contains(&name.as_str()) && name != SUMMARIES && name != private_dir::NAME;
        let mut names = durable::names(open_dir(self.repo.dir(), ".")?)?;
        names.retain(is_shared);
        // A link that leads nowhere is as good: who opens the lock through it makes it there.
        if !names.iter().any(|name| name == ".lock") {
            names.push(".lock".to_owned());
        }
        names.iter().try_for_each(|name| symlink(repo_path.join(name), self.path.join(name)))
    }

    /// Gives the draft what the repository has of its own files: Flatpak makes changes between summaries of them, and later
    /// times of modification.
    fn take_over(&mut self, repo_path: &Path) -> io::Result<()> {
        for name in FILES {
            link_or_copy(&repo_path.join(name), &self.path.join(name))?;
        }
        let Some(summaries) = open_dir_if_there(self.repo.dir(), SUMMARIES)? else { return Ok(()) };
        let (from, to) = (repo_path.join(SUMMARIES), self.path.join(SUMMARIES));
        fs::create_dir(&to)?;
        for name in durable::names(summaries)? {
            if link_or_copy(&from.join(&name), &to.join(&name))? {
                self.old_summaries.push(name);
            }
        }
        Ok(())
    }

    /// Returns the path, which is absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the summary and its signatures as they are in the draft. Neither is verified.
    pub fn summary(&self) -> Result<Option<(Vec<u8>, Dict)>, SummaryError> {
        summary::read_in(&self.path)
    }

    /// Replaces the summary's signatures in the draft.
    pub fn sign(&self, signatures: &Dict) -> Result<(), SummaryError> {
        let write = || -> io::Result<()> {
            let mut file = durable::create(&self.dir, "summary.sig")?;
            file.write_all(&signatures.encode())?;
            summary::set_time(self.repo, &file, "summary.sig")?;
            fault::point("draft:signed")
        };
        write().map_err(|source| SummaryError::Io { path: self.path.join("summary.sig"), source })
    }

    /// Lets clients see what is in the draft.
    ///
    /// Everything is durable on return, and so is all else that the program has written into the repository. A crash leaves
    /// the old index and the old summary or, one after the other, the new ones; between two renames either has the old
    /// signatures, which no client accepts. The journal makes the next publish write all of them again.
    pub fn publish(self) -> Result<(), SummaryError> {
        summary::sync_foreign(self.repo, self.lock)?;
        let summaries = open_dir_if_there(&self.dir, SUMMARIES)
            .and_then(|summaries| summaries.map_or_else(|| Ok(Vec::new()), durable::names));
        let summaries = summaries.map_err(|source| SummaryError::Io { path: self.path.join(SUMMARIES), source })?;
        let publish = || -> io::Result<()> {
            self.add_summaries(&summaries)?;
            self.replace_files()?;
            self.remove_old_summaries(&summaries)
        };
        publish().map_err(|source| SummaryError::Io { path: self.repo.path().join("summary"), source })
    }

    fn add_summaries(&self, names: &[String]) -> io::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let durability = self.lock.durability();
        let from = open_dir(&self.dir, SUMMARIES)?;
        let to = durable::make_dirs(self.repo.dir(), SUMMARIES, durable::DIRECTORY_MODE, durability)?;
        // Renaming a file that has not changed, and is the same under both names, does nothing.
        for name in names {
            renameat(&from, name.as_str(), &to, name.as_str())?;
            fault::point("draft:summary-added")?;
        }
        durability.sync_dir(&to)?;
        fault::point("draft:summaries-durable")
    }

    fn replace_files(&self) -> io::Result<()> {
        for name in FILES {
            match renameat(&self.dir, name, self.repo.dir(), name) {
                Err(rustix::io::Errno::NOENT) => durable::unlink_if_there(self.repo.dir(), name).map(drop)?,
                renamed => renamed?,
            }
            fault::point("draft:file-replaced")?;
        }
        self.lock.durability().sync_dir(self.repo.dir())?;
        fault::point("draft:files-durable")
    }

    fn remove_old_summaries(&self, kept: &[String]) -> io::Result<()> {
        for name in self.old_summaries.iter().filter(|name| !kept.contains(name)) {
            durable::unlink_if_there(self.repo.dir(), format!("{SUMMARIES}/{name}"))?;
            fault::point("draft:summary-removed")?;
        }
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        let _ = private_dir::remove_tree(&self.path);
    }
}

/// Gives a file a second name, or makes a copy with the same time of modification where that is not possible. Tells whether
/// there is such a file.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<bool> {
    let linked = || -> io::Result<bool> {
        let found = fs::symlink_metadata(from)?;
        // Without hard links in the file system, or to files of others, it is a copy.
        if found.is_file() && fs::hard_link(from, to).is_err() {
            fs::copy(from, to)?;
            // The owner may set it without being allowed to write.
            File::open(to)?.set_modified(found.modified()?)?;
        }
        Ok(found.is_file())
    };
    match linked() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done,
    }
}
