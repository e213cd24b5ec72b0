//! The directory of the socket by which sessions of ssh share a connection.
//!
//! ```text
//! <temporary directory>/treegraft-ssh-XXXXXX/     mode 0700; its push holds a lock on it (`flock`)
//!   s                                             ssh makes the socket and removes it
//! ```
//!
//! A push that is killed removes nothing. The next one of the same user removes those directories whose lock is free: the
//! kernel gives it up with the process. One that no push can have left so, by its mode or by what is in it, is not touched.

use std::{
    fs::{self, DirEntry, File, Permissions},
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, openat, unlinkat},
    process::geteuid,
};
use tempfile::TempDir;
use treegraft_push::carrier::sharing;

const PREFIX: &str = "treegraft-ssh-";

/// The mode of a directory that nobody else may enter.
const MODE: u32 = 0o700;

/// How often a directory is made until nobody takes it for left over before it is locked.
const MAX_TRIES: usize = 4;

/// An empty directory that nobody else may enter, removed on drop.
#[derive(Debug)]
pub(crate) struct SocketDir {
    dir: TempDir,
    _lock: File,
}

impl SocketDir {
    /// Makes it in a directory for temporary files, and removes there what pushes of the same user have left that were killed.
    pub(crate) fn make(temporary: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(temporary)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                // What is in use, or another user's, stays.
                let _ = remove_leftover(&entry.path());
            }
        }
        for _ in 0..MAX_TRIES {
            let mode = Permissions::from_mode(MODE);
            let dir = tempfile::Builder::new().prefix(PREFIX).permissions(mode).tempdir_in(temporary)?;
            if let Some(lock) = lock(dir.path())? {
                return Ok(Self { dir, _lock: lock });
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Locks a directory of this user; nothing when another process has locked or removed it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match openat(CWD, path, flags, Mode::empty()) {
        Ok(dir) => File::from(dir),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if fstat(&dir)?.st_uid != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((fstat(&dir)?.st_nlink > 0).then_some(dir)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a directory that no push uses any more, with the socket that an ssh may have left which was killed as well.
fn remove_leftover(path: &Path) -> io::Result<()> {
    let Some(dir) = lock(path)? else { return Ok(()) };
    if dir.metadata()?.permissions().mode() & 0o777 != MODE {
        return Ok(());
    }
    let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    if !entries.iter().all(is_of_ssh) {
        return Ok(());
    }
    for entry in entries {
        unlinkat(&dir, entry.file_name(), AtFlags::empty())?;
    }
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Tells whether it is the socket, or one that ssh was about to give this name.
fn is_of_ssh(entry: &DirEntry) -> bool {
    let is_named = sharing::is_socket_name(&entry.file_name());
    is_named && entry.file_type().is_ok_and(|kind| kind.is_socket())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::PathBuf};

    use super::*;

    fn make_dir(temporary: &Path, name: &str) -> PathBuf {
        let path = temporary.join(name);
        fs::create_dir(&path).expect("it is ours");
        fs::set_permissions(&path, Permissions::from_mode(MODE)).expect("it is ours");
        path
    }

    #[test]
    fn what_is_in_use_stays_and_what_is_left_over_goes() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let left = make_dir(temporary.path(), "treegraft-ssh-killed");
        for name in ["s", "s.Wq3vT0aZ9bXk21Lm"] {
            UnixListener::bind(left.join(name)).expect("the path is short");
        }
        let other = temporary.path().join("treegraft-demo-other");
        fs::create_dir(&other).expect("it is ours");
        let target = temporary.path().join("target");
        fs::create_dir(&target).expect("it is ours");
        std::os::unix::fs::symlink(&target, temporary.path().join("treegraft-ssh-symlink")).expect("it is ours");
        let first = SocketDir::make(temporary.path()).expect("there is room");
        assert!(!left.exists(), "nobody holds its lock");
        assert!(other.exists() && target.exists(), "nothing else is touched");
        let second = SocketDir::make(temporary.path()).expect("there is room");
        assert!(first.path().exists() && second.path().exists(), "a push is under way in each");
        let mode = fs::metadata(first.path()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "nobody else may enter");
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists(), "it goes with its push");
    }

    #[test]
    fn what_no_push_has_left_stays_as_it_is() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let make = |name| make_dir(temporary.path(), name);
        let open_to_others = make("treegraft-ssh-open");
        fs::set_permissions(&open_to_others, Permissions::from_mode(0o755)).expect("it is ours");
        let notes = make("treegraft-ssh-notes");
        UnixListener::bind(notes.join("s")).expect("the path is short");
        fs::write(notes.join("notes.txt"), "").expect("it is ours");
        let file = make("treegraft-ssh-file");
        fs::write(file.join("s"), "").expect("it is ours");
        let folder = make("treegraft-ssh-folder");
        fs::create_dir(folder.join("s")).expect("it is ours");
        drop(SocketDir::make(temporary.path()).expect("there is room"));
        assert!(open_to_others.exists(), "others may enter it, unlike ours");
        for kept in [notes.join("s"), notes.join("notes.txt"), file.join("s"), folder.join("s")] {
            assert!(kept.exists(), "there is something else in it than sockets of ssh: {}", kept.display());
        }
    }
}
