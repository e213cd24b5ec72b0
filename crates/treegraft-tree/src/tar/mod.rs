//! Listing a tar archive into a [`Tree`], as `ostree commit --tree=tar=FILE` takes it.
//!
//! Content stays in the archive, which is read at its place when it is wanted. What cannot be read at any place (a pipe, a
//! compressed archive, a file with holes) is copied into a temporary file without a name first.

mod members;

use std::{
    borrow::Cow,
    fs::File as DiskFile,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use tar::EntryType;
use treegraft_object::{
    FileKind, Xattrs,
    file_header::{S_IFDIR, S_IFLNK, S_IFREG},
    limits::MAX_TREE_DEPTH,
};

use self::members::{Member, MemberError, Members};
use crate::{Attributes, Container, DirIndex, File, Rules, Tree, TreeError, shared::Shared, tree::Entry};

const GZIP: &[u8] = &[0x1f, 0x8b];

/// What other compressors begin with, and the programs that undo them.
const COMPRESSED: [(&[u8], &str); 3] = [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2")];

/// How an archive is read.
#[derive(Debug, Clone, Copy)]
pub struct TarOptions<'o> {
    /// Whether directories that the archive does not list are made, with mode 0755 and the owner of what is in them.
    pub makes_parents: bool,
    /// Where temporary files are made.
    pub temporary: &'o Path,
}

/// Lists an archive into `tree`. A later entry replaces an earlier one.
///
/// `path` is for messages. `rules` are given each entry's path, which begins with `/`.
pub fn read_tar(
    tree: &mut Tree,
    archive: DiskFile,
    path: &Path,
    rules: &mut dyn Rules,
    options: TarOptions<'_>,
) -> Result<(), TreeError> {
    let fail = |source| TreeError::Io { path: path.to_owned(), source };
    let file = seekable(archive, path, options.temporary)?;
    let container = Arc::new(Container { file, path: path.to_owned() });
    let mut members = Members::new(&container.file).map_err(fail)?;
    let mut reading = Reading {
        tree,
        rules,
        options,
        path,
        container: Arc::clone(&container),
        shared: Shared::default(),
        links: Vec::new(),
    };
    let temporary = || tempfile::tempfile_in(options.temporary);
    loop {
        match members.next(temporary) {
            Ok(Some(member)) => reading.member(member)?,
            Ok(None) if reading.tree.is_empty() => return Err(reading.invalid(&"it is empty")),
            Ok(None) => return reading.make_links(),
            Err(MemberError::Invalid(reason)) => return Err(reading.invalid(&reason)),
            Err(MemberError::Io(source)) => return Err(fail(source)),
        }
    }
}

/// Returns a file with the plain archive that can be read at any place, at its beginning.
fn seekable(mut archive: DiskFile, path: &Path, temporary: &Path) -> Result<DiskFile, TreeError> {
    let fail = |source| TreeError::Io { path: path.to_owned(), source };
    let kind = archive.metadata().map_err(fail)?.file_type();
    let mut beginning = Vec::new();
    (&mut archive).take(8).read_to_end(&mut beginning).map_err(fail)?;
    if let Some((_, program)) = COMPRESSED.iter().find(|(magic, _)| beginning.starts_with(magic)) {
        return Err(TreeError::Compressed { path: path.to_owned(), program });
    }
    let is_gzip = beginning.starts_with(GZIP);
    if kind.is_file() && !is_gzip {
        archive.rewind().map_err(fail)?;
        return Ok(archive);
    }
    let mut source = io::Cursor::new(beginning).chain(BufReader::new(archive));
    let mut copy =
        tempfile::tempfile_in(temporary).map_err(|source| TreeError::Io { path: temporary.to_owned(), source })?;
    let copied = if is_gzip {
        io::copy(&mut flate2::bufread::MultiGzDecoder::new(BufReader::new(source)), &mut copy)
    } else {
        io::copy(&mut source, &mut copy)
    };
    copied.and_then(|_| copy.seek(SeekFrom::Start(0))).map_err(fail)?;
    Ok(copy)
}

struct Reading<'r> {
    tree: &'r mut Tree,
    rules: &'r mut dyn Rules,
    options: TarOptions<'r>,
    path: &'r Path,
    container: Arc<Container>,
    shared: Shared,
    links: Vec<Link>,
}

/// A hard link. What it leads to may come later.
struct Link {
    parent: DirIndex,
    name: String,
    target: String,
    /// Whether the content came with this entry and not with the one that it leads to.
    has_content: bool,
}

impl Reading<'_> {
    fn invalid(&self, reason: &dyn std::fmt::Display) -> TreeError {
        TreeError::Archive { path: self.path.to_owned(), reason: reason.to_string() }
    }

    fn member(&mut self, member: Member) -> Result<(), TreeError> {
        let whole = relative(&member.path, self)?;
        let from = self.path.join(&whole);
        let type_bits = match member.kind {
            EntryType::Directory => S_IFDIR,
            EntryType::Symlink => S_IFLNK,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Link => S_IFREG,
            _ => return Err(TreeError::Special { path: from }),
        };
        let found = Attributes { uid: member.uid, gid: member.gid, mode: type_bits | member.mode };
        let Some(attributes) = self.rules.apply(&format!("/{whole}"), found) else { return Ok(()) };
        let xattrs = if self.rules.keeps_xattrs() {
            // The last of two with one name counts.
            Xattrs::canonical(member.xattrs.into_iter().rev())
        } else {
            Xattrs::new()
        };
        let (parent, name) = self.parent(&whole, found)?;
        if member.kind == EntryType::Directory {
            let dir = if whole.is_empty() { Tree::ROOT } else { self.tree.ensure_dir(parent, name)? };
            self.tree.set_meta(dir, self.shared.meta(attributes, xattrs));
            return Ok(());
        }
        if whole.is_empty() {
            return Err(self.invalid(&"the root is no directory"));
        }
        if member.kind == EntryType::Link {
            let target = relative(&member.target, self)?;
            let has_content = member.bytes > 0;
            self.links.push(Link { parent, name: name.to_owned(), target, has_content });
            if !has_content {
                return Ok(());
            }
        }
        let file = if member.kind == EntryType::Symlink {
            let target = String::from_utf8(member.target);
            let target = target.map_err(|_| TreeError::NotUtf8 { path: from.clone(), what: "its target" })?;
            File::symlink(self.shared.header(attributes, FileKind::Symlink(target), xattrs, &from)?)
        } else {
            let header = self.shared.header(attributes, FileKind::Regular, xattrs, &from)?;
            match member.filled {
                Some(file) => {
                    let container = Arc::new(Container { file, path: self.path.to_owned() });
                    File::part(header, container, 0, member.bytes)
                }
                None => File::part(header, Arc::clone(&self.container), member.offset, member.bytes),
            }
        };
        self.tree.put_file(parent, name, file)
    }

    /// Finds the directory that an entry is in, and returns the entry's own name.
    fn parent<'p>(&mut self, path: &'p str, of: Attributes) -> Result<(DirIndex, &'p str), TreeError> {
        let (parents, name) = split(path);
        if parents.matches('/').count() > MAX_TREE_DEPTH {
            return Err(TreeError::TooDeep { path: path.to_owned() });
        }
        if !path.is_empty() && !self.tree.has_meta(Tree::ROOT) {
            self.make_parent(Tree::ROOT, of);
        }
        let mut dir = Tree::ROOT;
        for part in parts(parents) {
            dir = match self.tree.entry(dir, part) {
                Some(Entry::Dir(found)) => *found,
                Some(Entry::File(_)) => return Err(TreeError::Conflict { path: parents.to_owned() }),
                None if !self.options.makes_parents => {
                    return Err(self.invalid(&format!("the directory `{parents}` of `{path}` is not listed before it")));
                }
                None => {
                    let made = self.tree.ensure_dir(dir, part)?;
                    self.make_parent(made, of);
                    made
                }
            };
        }
        Ok((dir, name))
    }

    /// Gives a directory that is not listed the owner of what is in it. A root that is listed later is as good.
    fn make_parent(&mut self, dir: DirIndex, Attributes { uid, gid, .. }: Attributes) {
        if self.options.makes_parents {
            let meta = self.shared.meta(Attributes { uid, gid, mode: S_IFDIR | 0o755 }, Xattrs::new());
            self.tree.set_meta(dir, meta);
        }
    }

    /// Puts what hard links lead to in their places. A link may lead to another one.
    fn make_links(&mut self) -> Result<(), TreeError> {
        let mut links = std::mem::take(&mut self.links);
        for link in links.iter().filter(|link| link.has_content) {
            if let Some(file) = self.find(link.parent, &link.name) {
                self.put_at(&link.target, file)?;
            }
        }
        while !links.is_empty() {
            let before = links.len();
            let mut waiting = Vec::new();
            for link in links {
                match self.find(Tree::ROOT, &link.target) {
                    Some(file) => self.tree.put_file(link.parent, &link.name, file)?,
                    None => waiting.push(link),
                }
            }
            if waiting.len() == before {
                let Link { name, target, .. } = &waiting[0];
                return Err(self.invalid(&format!("the link `{name}` leads to `{target}`, which is no file in it")));
            }
            links = waiting;
        }
        Ok(())
    }

    /// Returns a copy of a file below a directory.
    fn find(&self, dir: DirIndex, path: &str) -> Option<File> {
        let (parents, name) = split(path);
        let dir = parts(parents).try_fold(dir, |dir, part| match self.tree.entry(dir, part)? {
            Entry::Dir(found) => Some(*found),
            Entry::File(_) => None,
        })?;
        match self.tree.entry(dir, name)? {
            Entry::File(file) => Some(self.tree.files[file.0 as usize].clone()),
            Entry::Dir(_) => None,
        }
    }

    fn put_at(&mut self, path: &str, file: File) -> Result<(), TreeError> {
        let (parents, name) = split(path);
        let dir = parts(parents).try_fold(Tree::ROOT, |dir, part| self.tree.ensure_dir(dir, part))?;
        self.tree.put_file(dir, name, file)
    }
}

/// Returns the path of the directory that an entry is in, which is empty for the root, and the entry's own name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Returns the names in a path.
fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// Returns an entry's path below the root, without what leads nowhere. Nothing leads out of the tree.
fn relative(path: &[u8], reading: &Reading<'_>) -> Result<String, TreeError> {
    let not_utf8 = || {
        let path: Cow<'_, str> = String::from_utf8_lossy(path);
        TreeError::NotUtf8 { path: PathBuf::from(path.into_owned()), what: "its name" }
    };
    let text = std::str::from_utf8(path).map_err(|_| not_utf8())?;
    let mut rest = text.trim_end_matches('/');
    loop {
        let before = rest;
        rest = rest.trim_start_matches('/');
        if rest.len() < before.len() {
            rest = rest.strip_prefix("../").unwrap_or(rest);
        }
        rest = rest.strip_prefix("./").unwrap_or(rest);
        if rest.len() == before.len() {
            break;
        }
    }
    if rest == "." {
        rest = "";
    }
    if rest.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(reading.invalid(&format!("`{}` leads out of its directory", text.escape_debug())));
    }
    Ok(parts(rest).collect::<Vec<_>>().join("/"))
}
