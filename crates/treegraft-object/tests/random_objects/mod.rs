//! Random objects of every kind, as `proptest` strategies.

use proptest::{collection::vec, prelude::*};
use treegraft_object::{
    Checksum, Commit, CommitId, DirMeta, DirMetaId, DirTreeId, FileHeader, FileKind, RefName, Xattrs,
    gvariant::{Dict, Type, Variant},
    summary::{Summary, SummaryRef},
};

use crate::random_gvariant::{self, Decisions};

pub(crate) fn checksum() -> impl Strategy<Value = Checksum> {
    any::<[u8; 32]>().prop_map(Checksum::from_bytes)
}

pub(crate) fn variant() -> impl Strategy<Value = Variant> {
    vec(any::<u8>(), 0..200).prop_map(|bytes| {
        let mut decisions = Decisions::new(&bytes);
        let type_string = random_gvariant::type_string(&mut decisions);
        let parsed = Type::parse(&type_string).expect("the generator writes valid types");
        Variant::from_parts(&type_string, random_gvariant::value(&parsed, &mut decisions))
            .expect("the generator writes normal form")
    })
}

pub(crate) fn dict() -> impl Strategy<Value = Dict> {
    vec(("[a-zA-Z0-9._é-]{1,20}", variant()), 0..6).prop_map(Dict::from_iter)
}

pub(crate) fn xattrs() -> impl Strategy<Value = Xattrs> {
    // The second form is for lists that need wide offsets, and names that sort differently as signed bytes.
    let name = prop_oneof![vec(1..=u8::MAX, 1..12), vec(1..=u8::MAX, 250..260)];
    vec((name, vec(any::<u8>(), 1..40)), 0..5).prop_map(Xattrs::canonical)
}

pub(crate) fn dirmeta() -> impl Strategy<Value = DirMeta> {
    let fields = (any::<u32>(), any::<u32>(), 0..=0o7777_u32, xattrs());
    fields.prop_map(|(uid, gid, mode, xattrs)| DirMeta { uid, gid, mode: 0o40_000 | mode, xattrs })
}

pub(crate) fn file_header() -> impl Strategy<Value = FileHeader> {
    let kind =
        prop_oneof![Just(FileKind::Regular), treegraft_testkit::tree::symlink_target().prop_map(FileKind::Symlink)];
    let fields = (any::<u32>(), any::<u32>(), 0..=0o7777_u32, kind, xattrs());
    fields.prop_map(|(uid, gid, mode, kind, xattrs)| {
        let format = if kind == FileKind::Regular { 0o100_000 } else { 0o120_000 };
        FileHeader { uid, gid, mode: format | mode, kind, xattrs }
    })
}

pub(crate) fn commit() -> impl Strategy<Value = Commit> {
    let text = vec(any::<char>().prop_filter("ends a string", |c| *c != '\0'), 0..40).prop_map(String::from_iter);
    let parent = proptest::option::of(checksum().prop_map(CommitId));
    // ostree shows times until the year 9999 only.
    let time = 0..253_402_300_799_u64;
    let fields = (dict(), parent, text.clone(), text, time, checksum(), checksum());
    fields.prop_map(|(metadata, parent, subject, body, timestamp_secs, tree, meta)| {
        let (root_tree, root_meta) = (DirTreeId(tree), DirMetaId(meta));
        Commit { metadata, parent, subject, body, timestamp_secs, root_tree, root_meta }
    })
}

pub(crate) fn summary() -> impl Strategy<Value = Summary> {
    let name =
        "[a-zé_][a-z0-9._-]{0,8}(/[a-zA-Z0-9_]{1,8}){0,3}".prop_filter_map("not a ref", |name| RefName::new(name).ok());
    let refs = proptest::collection::btree_map(name, (any::<u64>(), checksum(), dict()), 0..8);
    (refs, dict()).prop_map(|(refs, metadata)| {
        let entry = |(name, (commit_bytes, commit, metadata))| {
            let commit = CommitId(commit);
            SummaryRef { name, commit_bytes, commit, metadata }
        };
        Summary { refs: refs.into_iter().map(entry).collect(), metadata }
    })
}
