//! The directory `.treegraft` in a repository.
//!
//! ```text
//! .treegraft/               mode 0700
//!   publish.lock            held by whoever publishes; never deleted
//!   publish.holder          who that is, for messages
//!   queue/<20 digits>       held by whoever waits to publish
//!   journal                 the refs of a publish that is not finished
//!   summary.new, …          a summary and its signatures that are being written
//!   download-sizes, …       caches, which may be lost
//!   pending/<name>          work that has to follow a publish
//!   preview/                a repository to look at what is about to be published
//!   draft/                  a repository in which another program writes a summary
//!   staging/<random>/       objects of a push that are not published
//! ```
//!
//! It is not in libostree's `tmp/`, because libostree adopts or deletes what it finds there. Only its owner may enter, so
//! that a web server that serves the repository as another user does not serve unpublished objects.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::Mode;

use crate::{
    Repo,
    durable::{self, Durability},
};

/// The directory's name.
pub(crate) const NAME: &str = ".treegraft";

/// Opens `.treegraft`, or makes it.
pub(crate) fn open(repo: &Repo) -> io::Result<OwnedFd> {
    durable::make_dirs(repo.dir(), NAME, Mode::RWXU, Durability::of(repo))
}

/// Returns its path, for messages.
pub(crate) fn path(repo: &Repo) -> PathBuf {
    repo.path().join(NAME)
}

/// Removes a directory with all that is in it, if it is there. Links are not followed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
