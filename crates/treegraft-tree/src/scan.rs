//! Listing a directory into a [`Tree`].

use std::{
    ffi::CStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};
use treegraft_object::{FileKind, Xattrs, limits::MAX_TREE_DEPTH};
use treegraft_repo::read_xattrs;

use crate::{Content, DirIndex, File, Header, Tree, TreeError, shared::Shared};

/// Owner and mode of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The whole `st_mode`.
    pub mode: u32,
}

impl Attributes {
    fn of(stat: &Stat) -> Self {
        Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode }
    }
}

/// What becomes of a scanned directory's entries.
pub trait Rules {
    /// Returns owner and mode to commit, or nothing for what is left out, with all below it.
    ///
    /// `path` begins with `/`, which is the scanned directory itself.
    fn apply(&mut self, path: &str, found: Attributes) -> Option<Attributes>;

    /// Tells whether extended attributes are committed.
    fn keeps_xattrs(&self) -> bool;
}

/// How a file on disk looks: when this and its size are the same, its content is the same. Whatever changes a file changes
/// its `ctime`, which nobody can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    changed_secs: i64,
    modified_secs: i64,
    changed_nanos: u32,
    modified_nanos: u32,
    pub(crate) has_links: bool,
}

impl Stamp {
    // The types of a `stat` differ between machines.
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        clippy::cast_possible_truncation,
        reason = "that depends on the machine; nanoseconds are small"
    )]
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            changed_secs: stat.st_ctime.into(),
            changed_nanos: stat.st_ctime_nsec as u32,
            modified_secs: stat.st_mtime.into(),
            modified_nanos: stat.st_mtime_nsec as u32,
            has_links: stat.st_nlink > 1,
        }
    }

    /// Returns the `ctime` in nanoseconds since 1970.
    pub(crate) fn changed_nanos(&self) -> i128 {
        i128::from(self.changed_secs) * 1_000_000_000 + i128::from(self.changed_nanos)
    }

    /// Returns the `mtime` in nanoseconds since 1970.
    pub(crate) fn modified_nanos(&self) -> i128 {
        i128::from(self.modified_secs) * 1_000_000_000 + i128::from(self.modified_nanos)
    }
}

/// Lists `from` with all below it into `at`, which gets its owner and mode.
///
/// What is there already with the same name is replaced. Symlinks are not followed, but for `from` itself.
pub fn scan(tree: &mut Tree, at: DirIndex, from: &Path, rules: &mut dyn Rules) -> Result<(), TreeError> {
    let mut scan = Scan { tree, rules, shared: Shared::default() };
    let mut pending = vec![Pending { dir: at, from: from.to_owned(), path: String::new(), depth: 0, attributes: None }];
    while let Some(next) = pending.pop() {
        scan.directory(&next, &mut pending)?;
    }
    Ok(())
}

/// A directory that is to be listed.
struct Pending {
    dir: DirIndex,
    from: PathBuf,
    /// Below the scanned directory: empty, or a path that begins with `/`.
    path: String,
    depth: usize,
    /// What the rules say of it; nothing for the scanned directory itself, which nobody has looked at.
    attributes: Option<Attributes>,
}

struct Scan<'s> {
    tree: &'s mut Tree,
    rules: &'s mut dyn Rules,
    shared: Shared,
}

impl Scan<'_> {
    fn directory(&mut self, next: &Pending, pending: &mut Vec<Pending>) -> Result<(), TreeError> {
        let fail = |errno: Errno| TreeError::Io { path: next.from.clone(), source: errno.into() };
        if next.depth > MAX_TREE_DEPTH {
            return Err(TreeError::TooDeep { path: next.path.clone() });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Only what the caller named may be a symlink.
        let flags = if next.depth == 0 { flags } else { flags | OFlags::NOFOLLOW };
        let opened = openat(rustix::fs::CWD, &next.from, flags, Mode::empty()).map_err(fail)?;
        let applied = match next.attributes {
            Some(applied) => Some(applied),
            None => self.rules.apply("/", Attributes::of(&fstat(&opened).map_err(fail)?)),
        };
        let Some(attributes) = applied else { return Ok(()) };
        let meta = self.shared.meta(attributes, self.xattrs(&next.from)?);
        self.tree.set_meta(next.dir, meta);

        let directory: Arc<Path> = next.from.as_path().into();
        for entry in Dir::read_from(&opened).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let raw_name = entry.file_name();
            if matches!(raw_name.to_bytes(), b"." | b"..") {
                continue;
            }
            let from = directory.join(os_str(raw_name));
            let name = raw_name.to_str().map_err(|_| TreeError::NotUtf8 { path: from.clone(), what: "its name" })?;
            let path = format!("{}/{name}", next.path);
            let fail = |errno: Errno| TreeError::Io { path: from.clone(), source: errno.into() };
            let stat = statat(&opened, raw_name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                // Whether it is left out is known before it is opened, which may be forbidden.
                if let Some(attributes) = self.rules.apply(&path, Attributes::of(&stat)) {
                    let dir = self.tree.ensure_dir(next.dir, name)?;
                    pending.push(Pending { dir, from, path, depth: next.depth + 1, attributes: Some(attributes) });
                }
                continue;
            }
            let Some(attributes) = self.rules.apply(&path, Attributes::of(&stat)) else { continue };
            let file = match kind {
                FileType::RegularFile => File {
                    header: self.header(attributes, FileKind::Regular, &from)?,
                    content_bytes: stat.st_size.cast_unsigned(),
                    content: Content::Directory(Arc::clone(&directory)),
                    stamp: Some(Stamp::of(&stat)),
                    name: Arc::default(),
                },
                FileType::Symlink => {
                    let target = readlinkat(&opened, raw_name, Vec::new()).map_err(fail)?;
                    let target = target.into_string();
                    let what = "its target";
                    let target = target.map_err(|_| TreeError::NotUtf8 { path: from.clone(), what })?;
                    File::symlink(self.header(attributes, FileKind::Symlink(target), &from)?)
                }
                _ => return Err(TreeError::Special { path: from }),
            };
            self.tree.put_file(next.dir, name, file)?;
        }
        Ok(())
    }

    fn header(&mut self, attributes: Attributes, kind: FileKind, path: &Path) -> Result<Arc<Header>, TreeError> {
        let xattrs = self.xattrs(path)?;
        self.shared.header(attributes, kind, xattrs, path)
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, TreeError> {
        if !self.rules.keeps_xattrs() {
            return Ok(Xattrs::new());
        }
        read_xattrs(path).map_err(|source| TreeError::Io { path: path.to_owned(), source })
    }
}

fn os_str(name: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes())
}

/// Looks at an open file.
pub(crate) fn stamp(file: &std::fs::File) -> io::Result<Stamp> {
    Ok(Stamp::of(&fstat(file)?))
}
