//! Random values: any GVariant type with a value, made of a list of bytes, and every object kind as a `proptest` strategy.

use proptest::{collection::vec, prelude::*};
use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, DirMeta, DirMetaId, DirTree, DirTreeId, FileHeader, FileKind, RefName,
    Xattrs,
    gvariant::{ArrayWriter, Dict, TupleWriter, Type, Variant},
    summary::{Summary, SummaryRef},
};

/// Deepest nesting of a random type; the limit of 128 has tests of its own.
const MAX_TYPE_DEPTH: u32 = 4;

/// Lengths of strings at which the width of end offsets changes.
const EDGE_LENGTHS: [usize; 8] = [0, 1, 252, 253, 254, 65_531, 65_532, 65_533];

/// A source of decisions: bytes one after the other, then zeros for ever, so that shorter lists make simpler values.
pub(crate) struct Decisions<'a>(std::slice::Iter<'a, u8>);

impl<'a> Decisions<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.next()) % limit
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next())
    }
}

/// Makes the text of a random definite type.
pub(crate) fn type_string(decisions: &mut Decisions<'_>) -> String {
    type_below(decisions, MAX_TYPE_DEPTH)
}

fn type_below(decisions: &mut Decisions<'_>, depth: u32) -> String {
    const BASIC: [&str; 13] = ["y", "b", "n", "q", "i", "u", "h", "x", "t", "d", "s", "o", "g"];
    let basic = |decisions: &mut Decisions<'_>| BASIC[decisions.below(BASIC.len())].to_owned();
    let kind = if depth == 0 { 0 } else { decisions.below(12) };
    match kind {
        0..=4 => basic(decisions),
        5 => "v".to_owned(),
        6 | 7 => format!("a{}", type_below(decisions, depth - 1)),
        8 => format!("m{}", type_below(decisions, depth - 1)),
        9 => format!("{{{}{}}}", basic(decisions), type_below(decisions, depth - 1)),
        _ => {
            let count = decisions.below(5);
            let members: String = (0..count).map(|_| type_below(decisions, depth - 1)).collect();
            format!("({members})")
        }
    }
}

/// Makes the normal form of a random value of a type.
pub(crate) fn value(expected: &Type, decisions: &mut Decisions<'_>) -> Vec<u8> {
    match expected {
        Type::Byte => decisions.bytes::<1>().to_vec(),
        Type::Bool => vec![decisions.next() & 1],
        Type::Int16 => decisions.bytes::<2>().to_vec(),
        Type::Int32 => decisions.bytes::<4>().to_vec(),
        // Never a NaN or an infinity, whose text form loses bits: the oracle compares through texts.
        Type::Int64 => [&decisions.bytes::<7>()[..], &[0x3f]].concat(),
        Type::Str => text(decisions),
        Type::ObjectPath => [&b"/\0"[..], b"/a\0", b"/a/B_9\0"][decisions.below(3)].to_vec(),
        Type::Signature => [&b"\0"[..], b"a{sv}\0", b"ius(ay)\0"][decisions.below(3)].to_vec(),
        Type::Variant => {
            let child_type = type_below(decisions, 2);
            let parsed = Type::parse(&child_type).expect("the generator writes valid types");
            [&value(&parsed, decisions)[..], &[0], child_type.as_bytes()].concat()
        }
        Type::Maybe(element) => match (decisions.next() & 1, element.fixed_size()) {
            (0, _) => Vec::new(),
            (_, Some(_)) => value(element, decisions),
            (_, None) => [&value(element, decisions)[..], &[0]].concat(),
        },
        Type::Array(element) => {
            let elements = (0..decisions.below(5)).map(|_| value(element, decisions)).collect::<Vec<_>>();
            array_of(element, elements.iter().map(Vec::as_slice))
        }
        Type::Tuple(members) => {
            let children = members.iter().map(|member| value(member, decisions)).collect::<Vec<_>>();
            tuple_of(members, children.iter().map(Vec::as_slice))
        }
    }
}

fn text(decisions: &mut Decisions<'_>) -> Vec<u8> {
    let mut text = match decisions.below(16) {
        0 => "x".repeat(EDGE_LENGTHS[decisions.below(EDGE_LENGTHS.len())]),
        1 => "é\u{301}\u{1f333}\n\"'\\".to_owned(),
        _ => (0..decisions.below(8)).map(|_| char::from(b'a' + decisions.next() % 26)).collect(),
    };
    text.push('\0');
    text.into_bytes()
}

/// Joins elements with the writer for arrays.
pub(crate) fn array_of<'a>(element: &Type, children: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    if element.fixed_size().is_some() {
        return children.collect::<Vec<_>>().concat();
    }
    let mut array = ArrayWriter::new(element.alignment());
    children.for_each(|child| array.push(child));
    array.finish()
}

/// Joins members with the writer for tuples.
pub(crate) fn tuple_of<'a>(members: &[Type], children: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let add = |tuple: TupleWriter, (member, child): (&Type, &'a [u8])| match member.fixed_size() {
        Some(_) => tuple.fixed(member.alignment(), child),
        None => tuple.variable(member.alignment(), child),
    };
    members.iter().zip(children).fold(TupleWriter::new(), add).finish()
}

pub(crate) fn checksum() -> impl Strategy<Value = Checksum> {
    any::<[u8; 32]>().prop_map(Checksum::from_bytes)
}

pub(crate) fn variant() -> impl Strategy<Value = Variant> {
    vec(any::<u8>(), 0..200).prop_map(|bytes| {
        let mut decisions = Decisions::new(&bytes);
        let type_string = type_string(&mut decisions);
        let parsed = Type::parse(&type_string).expect("the generator writes valid types");
        Variant::from_parts(&type_string, value(&parsed, &mut decisions)).expect("the generator writes normal form")
    })
}

pub(crate) fn dict() -> impl Strategy<Value = Dict> {
    vec(("[a-zA-Z0-9._é-]{1,20}", variant()), 0..6).prop_map(Dict::from_iter)
}

pub(crate) fn dirtree() -> impl Strategy<Value = DirTree> {
    let entry = (checksum(), proptest::option::of(checksum()));
    proptest::collection::btree_map(treegraft_testkit::tree::name(), entry, 0..12).prop_map(|entries| {
        let mut tree = DirTree::default();
        for (name, (first, second)) in entries {
            match second {
                None => tree.files.push((name, ContentId(first))),
                Some(second) => tree.dirs.push((name, DirTreeId(first), DirMetaId(second))),
            }
        }
        tree
    })
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
