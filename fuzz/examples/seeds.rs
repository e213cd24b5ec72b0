//! Writes valid objects of every kind to `corpus`, as a beginning for each target.

use std::{fs, io, path::Path};

use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, DirMeta, DirMetaId, DirTree, DirTreeId, FileHeader, FileKind, RefName,
    Xattrs, detached, filez,
    gvariant::{Dict, Variant},
    summary::{Summary, SummaryRef},
    tombstone,
};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let id = Checksum::of(b"seed");
    let metadata = Dict::from_iter([
        ("version", Variant::string("1")),
        ("ostree.ref-binding", Variant::strings(["main", "other"])),
        ("size", Variant::uint64_be(7)),
        ("inner", Variant::dict(&Dict::from_iter([("flag", Variant::bool(true))]))),
        ("pairs", Variant::string_pairs([("org.example", "main")])),
        ("ostree.sizes", Variant::byte_arrays([b"one", b"two"])),
    ]);
    let xattrs = Xattrs::canonical([(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), b"22".to_vec())]);
    let commit = Commit {
        metadata: metadata.clone(),
        parent: Some(CommitId(id)),
        subject: "Subject".to_owned(),
        body: "Body".to_owned(),
        timestamp_secs: 1_700_000_000,
        root_tree: DirTreeId(id),
        root_meta: DirMetaId(id),
    };
    let tree = DirTree {
        files: vec![("a".to_owned(), ContentId(id)), ("b".to_owned(), ContentId(id))],
        dirs: vec![("c".to_owned(), DirTreeId(id), DirMetaId(id))],
    };
    let meta = DirMeta { uid: 1, gid: 2, mode: 0o40_755, xattrs: xattrs.clone() };
    let file = FileHeader { uid: 1, gid: 2, mode: 0o100_644, kind: FileKind::Regular, xattrs: xattrs.clone() };
    let link = FileHeader { mode: 0o120_777, kind: FileKind::Symlink("target".to_owned()), ..file.clone() };
    let mut signatures = Dict::new();
    detached::append_signature(&mut signatures, "ostree.gpgsigs", b"one");
    detached::append_signature(&mut signatures, "ostree.sign.ed25519", b"two");
    let entry = SummaryRef {
        name: RefName::new("app/org.example.App/x86_64/main").expect("a valid ref"),
        commit_bytes: 100,
        commit: CommitId(id),
        metadata: metadata.clone(),
    };
    let map = Summary::collection_map(&[("org.example".to_owned(), vec![entry.clone()])]);
    let mut summary = Summary { refs: vec![entry], metadata: metadata.clone() };
    summary.metadata.set("ostree.summary.collection-map", map.clone());

    let seed = |target: &str, name: &str, data: &[u8]| {
        fs::create_dir_all(folder.join(target))?;
        fs::write(folder.join(target).join(name), data)
    };
    let typed = |type_string: &str, data: &[u8]| [type_string.as_bytes(), &[0], data].concat();
    seed("commit", "full", &commit.encode())?;
    seed("commit", "bare", &Commit { metadata: Dict::new(), parent: None, ..commit.clone() }.encode())?;
    seed("dirtree", "full", &tree.encode())?;
    seed("dirtree", "empty", &DirTree::default().encode())?;
    seed("dirmeta", "xattrs", &meta.encode())?;
    seed("dirmeta", "plain", &DirMeta { xattrs: Xattrs::new(), ..meta }.encode())?;
    seed("file_header", "file", &file.encode_archive(5)[8..])?;
    seed("file_header", "symlink", &link.encode_archive(0)[8..])?;
    for (name, header, content) in [("file", &file, &b"hello"[..]), ("empty", &file, b""), ("symlink", &link, b"")] {
        let mut archived = Vec::new();
        let mut source = content;
        filez::write(header, content.len() as u64, &mut source, 6, &mut archived).map_err(io::Error::other)?;
        seed("filez", name, &archived)?;
    }
    seed("detached", "signatures", &signatures.encode())?;
    seed("detached", "more", &metadata.encode())?;
    seed("tombstone", "tombstone", &tombstone::encode(CommitId(id)))?;
    seed("summary", "full", &summary.encode())?;
    seed("gvariant", "commit", &typed("(a{sv}aya(say)sstayay)", &commit.encode()))?;
    seed("gvariant", "summary", &typed("(a(s(taya{sv}))a{sv})", &summary.encode()))?;
    seed("gvariant", "map", &typed(map.type_string(), map.data()))?;
    seed("gvariant", "fixed", &typed("a(yub)", &[1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]))?;
    seed("gvariant", "maybe", &typed("ams", b"a\0\0\0\x03\x03\x04"))?;
    seed("gvariant", "paths", &typed("(ogv)", b"/a/b\0ay\0\0\0\0\0\0\0\0\x05\0u\x08\x05"))
}
