//! Two small builds, and committing one into a worker's repository.

use std::{path::Path, sync::Arc};

use treegraft_flatpak::REF_BINDING;
use treegraft_object::{
    Commit, CommitId, DirMeta, FileHeader, FileKind, RefName, Xattrs,
    file_header::{S_IFDIR, S_IFLNK, S_IFREG},
    gvariant::{Dict, Variant},
};
use treegraft_repo::Repo;
use treegraft_tree::{File, HashOptions, Header, Tree, TreeError};

use crate::{
    commands::tree::{Made, local},
    error::CommandError,
};

const DIRECTORY_MODE: u32 = S_IFDIR | 0o755;
const FILE_MODE: u32 = S_IFREG | 0o644;
const SYMLINK_MODE: u32 = S_IFLNK | 0o777;

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

/// Makes a repository with one ref that has the build.
pub(super) fn commit(path: &Path, ref_name: &str, build: &Build) -> Result<CommitId, CommandError> {
    let repo = Repo::init(path, None)?;
    let target = RefName::new(ref_name)?;
    let mut made = Made::default();
    let root = made.objects.add(tree(build)?, HashOptions::default())?;
    let commit = Commit {
        // As `ostree commit --branch` does: the commit says to which ref it belongs.
        metadata: Dict::from_iter([(REF_BINDING, Variant::strings([target.as_str()]))]),
        parent: None,
        subject: build.subject.to_owned(),
        body: String::new(),
        timestamp_secs: build.timestamp_secs,
        root_tree: root.tree,
        root_meta: root.meta,
    };
    let id = commit.id();
    made.commits.push((target, commit));
    local::commit(&repo, &made, HashOptions::default())?;
    Ok(id)
}

/// Puts paths into directories.
fn tree(build: &Build) -> Result<Tree, TreeError> {
    let mut tree = Tree::new();
    let meta = Arc::new(DirMeta { uid: 0, gid: 0, mode: DIRECTORY_MODE, xattrs: Xattrs::new() });
    tree.set_meta(Tree::ROOT, Arc::clone(&meta));
    for &(path, content) in build.files {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = Tree::ROOT;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            dir = tree.ensure_dir(dir, part)?;
            tree.set_meta(dir, Arc::clone(&meta));
        }
        tree.put_file(dir, name, file(content))?;
    }
    Ok(tree)
}

fn file(content: Content) -> File {
    let (kind, mode, bytes) = match content {
        Content::Text { line, times } => (FileKind::Regular, FILE_MODE, line.repeat(times).into_bytes()),
        Content::Noise { seed, size_bytes } => (FileKind::Regular, FILE_MODE, noise(seed, size_bytes)),
        Content::Symlink(target) => (FileKind::Symlink(target.to_owned()), SYMLINK_MODE, Vec::new()),
    };
    File::in_memory(Header::new(FileHeader { uid: 0, gid: 0, mode, kind, xattrs: Xattrs::new() }), bytes)
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
