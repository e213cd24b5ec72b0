//! Two small builds, and committing one into a worker's repository.

use std::{collections::BTreeMap, io, path::Path};

use treegraft_object::{
    Commit, CommitId, ContentId, DirMeta, DirMetaId, DirTree, DirTreeId, FileHeader, FileKind, ObjectName, RefName,
    Xattrs, filez,
    gvariant::{Dict, Variant},
};
use treegraft_repo::{PublishLock, RefEdit, RefTarget, Repo, Staging, Transaction};

use crate::error::CommandError;

/// Compression of the objects: what libostree uses when nothing else is set.
const ZLIB_LEVEL: u32 = 6;

const DIRECTORY_MODE: u32 = 0o040_755;
const FILE_MODE: u32 = 0o100_644;
const SYMLINK_MODE: u32 = 0o120_777;

/// A build on a worker.
pub(super) struct Build {
    pub(super) title: &'static str,
    /// Where its repository is, below the demonstration's directory.
    pub(super) worker: &'static str,
    pub(super) subject: &'static str,
    /// Fixed, so that the demonstration looks the same every time.
    pub(super) timestamp_secs: u64,
    /// Paths and contents.
    pub(super) files: &'static [(&'static str, Content)],
}

/// What a file of a build is.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// A line that is repeated.
    Text {
        line: &'static str,
        times: usize,
    },
    /// Bytes that do not compress, as machine code hardly does.
    Noise {
        seed: u64,
        size_bytes: usize,
    },
    Symlink(&'static str),
}

const fn text(line: &'static str) -> Content {
    Content::Text { line, times: 400 }
}

pub(super) const FIRST: Build = Build {
    title: "The first build: everything is new to the server",
    worker: "worker-1/repo",
    subject: "Build 1",
    timestamp_secs: 1_767_225_600,
    files: &[
        ("usr/bin/hello", text("#!/bin/sh\necho Hello from build 1\n")),
        ("usr/bin/hi", Content::Symlink("hello")),
        ("usr/lib/libgreet.so.1", Content::Noise { seed: 1, size_bytes: 180_000 }),
        ("usr/lib/libwords.so.3", Content::Noise { seed: 2, size_bytes: 2_400_000 }),
        ("usr/share/doc/hello/README", text("How to greet.\n")),
        ("usr/share/locale/de/hello.mo", text("Guten Tag\n")),
        ("usr/share/locale/fr/hello.mo", text("Bonjour\n")),
    ],
};

pub(super) const SECOND: Build = Build {
    title: "The second build, from another empty worker: only what changed is sent",
    worker: "worker-2/repo",
    subject: "Build 2",
    timestamp_secs: 1_767_312_000,
    files: &[
        ("usr/bin/hello", text("#!/bin/sh\necho Hello from build 2\n")),
        ("usr/bin/hi", Content::Symlink("hello")),
        ("usr/lib/libgreet.so.1", Content::Noise { seed: 1, size_bytes: 180_000 }),
        ("usr/lib/libwords.so.3", Content::Noise { seed: 2, size_bytes: 2_400_000 }),
        ("usr/share/doc/hello/README", text("How to greet.\n")),
        ("usr/share/locale/de/hello.mo", text("Guten Tag\n")),
        ("usr/share/locale/fr/hello.mo", text("Bonjour\n")),
    ],
};

/// A directory that is being put together.
#[derive(Default)]
struct Directory {
    files: BTreeMap<&'static str, Content>,
    directories: BTreeMap<&'static str, Self>,
}

/// Makes a repository with one ref that has the build.
pub(super) fn commit(path: &Path, ref_name: &str, build: &Build) -> Result<CommitId, CommandError> {
    let repo = Repo::init(path, None)?;
    let (staging, _) = Staging::open(&repo)?;
    let mut writer = TreeWriter { staging: &staging, objects: Vec::new() };
    let (root_tree, root_meta) = writer.directory(&tree(build))?;
    let target = RefName::new(ref_name)?;
    let commit = Commit {
        // As `ostree commit --branch` does: the commit says to which ref it belongs.
        metadata: Dict::from_iter([("ostree.ref-binding", Variant::strings([target.as_str()]))]),
        parent: None,
        subject: build.subject.to_owned(),
        body: String::new(),
        timestamp_secs: build.timestamp_secs,
        root_tree,
        root_meta,
    };
    let new = commit.id();
    writer.metadata(new.into(), &commit.encode())?;
    let objects = writer.objects;
    let lock = PublishLock::acquire(&repo, &mut |_| ())?;
    let mut transaction = Transaction::new(&repo, &lock, &staging);
    transaction.link(objects);
    transaction.set_ref(RefEdit { target: RefTarget::Head(target), expected: None, new });
    transaction.prepare()?.commit()?.finish()?;
    staging.remove()?;
    Ok(new)
}

/// Puts paths into directories.
fn tree(build: &Build) -> Directory {
    let mut root = Directory::default();
    for &(path, content) in build.files {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parents = parents.split('/').filter(|part| !part.is_empty());
        let directory = parents.fold(&mut root, |directory, part| directory.directories.entry(part).or_default());
        directory.files.insert(name, content);
    }
    root
}

/// Stages the objects of a tree, children first.
struct TreeWriter<'s> {
    staging: &'s Staging,
    objects: Vec<ObjectName>,
}

impl TreeWriter<'_> {
    fn directory(&mut self, directory: &Directory) -> Result<(DirTreeId, DirMetaId), CommandError> {
        let mut listing = DirTree::default();
        for (&name, &content) in &directory.files {
            listing.files.push((name.to_owned(), self.file(content)?));
        }
        for (&name, child) in &directory.directories {
            let (tree, meta) = self.directory(child)?;
            listing.dirs.push((name.to_owned(), tree, meta));
        }
        let meta = DirMeta { uid: 0, gid: 0, mode: DIRECTORY_MODE, xattrs: Xattrs::new() };
        self.metadata(listing.id().into(), &listing.encode())?;
        self.metadata(meta.id().into(), &meta.encode())?;
        Ok((listing.id(), meta.id()))
    }

    fn file(&mut self, content: Content) -> Result<ContentId, CommandError> {
        let (kind, mode, bytes) = match content {
            Content::Text { line, times } => (FileKind::Regular, FILE_MODE, line.repeat(times).into_bytes()),
            Content::Noise { seed, size_bytes } => (FileKind::Regular, FILE_MODE, noise(seed, size_bytes)),
            Content::Symlink(target) => (FileKind::Symlink(target.to_owned()), SYMLINK_MODE, Vec::new()),
        };
        let header = FileHeader { uid: 0, gid: 0, mode, kind, xattrs: Xattrs::new() };
        let mut archived = Vec::new();
        let info = filez::write(&header, bytes.len() as u64, &mut bytes.as_slice(), ZLIB_LEVEL, &mut archived)
            .map_err(|error| CommandError::internal(io::Error::other(error)))?;
        let name = ObjectName::from(info.id);
        self.staging.stage_content(name, &mut archived.as_slice(), archived.len() as u64)?;
        self.objects.push(name);
        Ok(info.id)
    }

    fn metadata(&mut self, name: ObjectName, data: &[u8]) -> Result<(), CommandError> {
        self.staging.stage_metadata(name, data)?;
        self.objects.push(name);
        Ok(())
    }
}

/// Makes bytes that look random and are the same every time (xorshift).
fn noise(seed: u64, size_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next).take(size_bytes.div_ceil(8)).flatten().collect();
    bytes.truncate(size_bytes);
    bytes
}
