//! Objects: sound ones, and parts for such as are not.

use std::io::Write;

use flate2::{Compression, write::DeflateEncoder};
use serde_json::{Value, json};
use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, DirMeta, DirTree, DirTreeId, FileHeader, FileKind, ObjectKind, ObjectName,
    Xattrs, filez, gvariant::Dict,
};

pub(crate) type Object = (ObjectName, Vec<u8>);

/// A commit with one file, and the offer of it.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    pub(crate) id: CommitId,
    pub(crate) commit: Commit,
    pub(crate) offer: Value,
    /// Children before their parents, the commit last.
    pub(crate) objects: Vec<Object>,
}

impl Pushed {
    /// Makes a commit for `name` whose tree has one file with `content`.
    pub(crate) fn new(name: &str, content: &str) -> Self {
        let (file, filez) = regular_file(content.as_bytes());
        let tree = DirTree { files: vec![("file".to_owned(), file)], dirs: Vec::new() };
        Self::of_tree(name, &tree, vec![(file.into(), filez)], None)
    }

    /// Makes a commit of a tree with the objects below it.
    pub(crate) fn of_tree(name: &str, tree: &DirTree, mut objects: Vec<Object>, parent: Option<CommitId>) -> Self {
        let meta = dirmeta();
        objects.push((meta.id().into(), meta.encode()));
        objects.push((tree.id().into(), tree.encode()));
        Self::of_root(name, tree.id(), objects, parent)
    }

    /// Makes a commit of a root dirtree.
    pub(crate) fn of_root(
        name: &str,
        root_tree: DirTreeId,
        mut objects: Vec<Object>,
        parent: Option<CommitId>,
    ) -> Self {
        let (subject, body) = ("A subject".to_owned(), String::new());
        let (metadata, timestamp_secs, root_meta) = (Dict::new(), 1_000_000, dirmeta().id());
        let commit = Commit { metadata, parent, subject, body, timestamp_secs, root_tree, root_meta };
        objects.push((commit.id().into(), commit.encode()));
        let offer = offer(name, &commit);
        Self { id: commit.id(), commit, offer, objects }
    }

    /// Changes the offer: `exact`.
    pub(crate) fn exact(mut self) -> Self {
        self.offer["mode"] = json!("exact");
        self
    }
}

pub(crate) fn offer(name: &str, commit: &Commit) -> Value {
    json!({
        "name": name,
        "commit": commit.id(),
        "root_tree": commit.root_tree,
        "root_meta": commit.root_meta,
        "timestamp_secs": commit.timestamp_secs,
    })
}

pub(crate) fn dirmeta() -> DirMeta {
    DirMeta { uid: 0, gid: 0, mode: 0o40_755, xattrs: Xattrs::default() }
}

pub(crate) fn regular_file(content: &[u8]) -> (ContentId, Vec<u8>) {
    let header = FileHeader { uid: 0, gid: 0, mode: 0o100_644, kind: FileKind::Regular, xattrs: Xattrs::default() };
    let mut data = Vec::new();
    let info = filez::write(&header, content.len() as u64, &mut { content }, 6, &mut data).expect("a valid file");
    (info.id, data)
}

pub(crate) fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// Names an object by the checksum of its bytes, which is right for commits, dirtrees and dirmetas.
pub(crate) fn named(kind: ObjectKind, data: Vec<u8>) -> Object {
    (ObjectName::new(kind, Checksum::of(&data)), data)
}

/// Writes an object as it stands in a stream.
pub(crate) fn framed_object(name: ObjectName, data: &[u8]) -> Vec<u8> {
    let mut stream = vec![name.kind.number(), 0];
    stream.extend_from_slice(name.checksum.as_bytes());
    for chunk in data.chunks(100_000) {
        stream.extend_from_slice(&u32::try_from(chunk.len()).expect("chunks are short").to_be_bytes());
        stream.extend_from_slice(chunk);
    }
    stream.extend_from_slice(&[0; 4]);
    stream
}
