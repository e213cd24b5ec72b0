//! Rules that hold for all values: decoding and encoding are each other's inverse, and no bytes make a decoder panic.

mod random_gvariant;
mod random_objects;

use std::io;

use proptest::{collection::vec, prelude::*, sample::Index};
use random_gvariant::Decisions;
use treegraft_object::{
    Checksum, CollectionId, Commit, CommitId, ContentId, DecodeError, DirMeta, DirMetaId, DirTree, DirTreeId,
    FileHeader, FileKind, RefName, Xattrs, detached, filez,
    gvariant::{Dict, Type, Variant, check, elements, tuple},
    summary::{Summary, SummaryRef},
    tombstone,
};

/// Decodes and encodes again; every kind of object has one.
type Recode = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

const DECODERS: [(&str, Recode); 9] = [
    ("commit", |data| Commit::decode(data).map(|commit| commit.encode())),
    ("dirtree", |data| DirTree::decode(data).map(|tree| tree.encode())),
    ("dirmeta", |data| DirMeta::decode(data).map(|meta| meta.encode())),
    ("archive header", |data| {
        FileHeader::decode_archive(data).map(|(header, content_bytes)| unframed(&header.encode_archive(content_bytes)))
    }),
    ("xattrs", |data| Xattrs::decode(data).map(|xattrs| xattrs.encode())),
    ("dictionary", |data| Dict::decode(data).map(|dict| dict.encode())),
    ("detached metadata", |data| detached::decode(data).map(|dict| dict.encode())),
    ("tombstone", |data| tombstone::decode(data).map(tombstone::encode)),
    ("summary", |data| Summary::decode(data).map(|summary| summary.encode())),
];

fn unframed(framed: &[u8]) -> Vec<u8> {
    framed[8..].to_vec()
}

/// Makes the bytes of a valid object and the position of its decoder in [`DECODERS`].
fn object() -> impl Strategy<Value = (usize, Vec<u8>)> {
    prop_oneof![
        random_objects::commit().prop_map(|commit| (0, commit.encode())),
        dirtree().prop_map(|tree| (1, tree.encode())),
        random_objects::dirmeta().prop_map(|meta| (2, meta.encode())),
        (random_objects::file_header(), any::<u64>()).prop_map(|(header, content_bytes)| {
            let content_bytes = if header.kind == FileKind::Regular { content_bytes } else { 0 };
            (3, unframed(&header.encode_archive(content_bytes)))
        }),
        random_objects::xattrs().prop_map(|xattrs| (4, xattrs.encode())),
        random_objects::dict().prop_map(|dict| (5, dict.encode())),
        random_objects::dict().prop_map(|dict| (6, dict.encode())),
        random_objects::checksum().prop_map(|commit| (7, tombstone::encode(CommitId(commit)))),
        random_objects::summary().prop_map(|summary| (8, summary.encode())),
    ]
}

fn dirtree() -> impl Strategy<Value = DirTree> {
    let entry = (random_objects::checksum(), proptest::option::of(random_objects::checksum()));
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

/// A small damage to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Truncate(Index),
    FlipBit(Index),
    SetByte(Index, u8),
    Append(u8),
    Insert(Index, u8),
    Remove(Index),
    Swap(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        1 => any::<Index>().prop_map(Damage::Truncate),
        4 => any::<Index>().prop_map(Damage::FlipBit),
        2 => (any::<Index>(), prop_oneof![Just(0), Just(0xff), any::<u8>()]).prop_map(|(at, byte)| Damage::SetByte(at, byte)),
        1 => any::<u8>().prop_map(Damage::Append),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        1 => any::<Index>().prop_map(Damage::Remove),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Damage::Swap(one, other)),
    ]
}

impl Damage {
    fn apply(&self, data: &mut Vec<u8>) {
        let length = data.len();
        match self {
            Self::Append(byte) => data.push(*byte),
            Self::Insert(at, byte) => data.insert(at.index(length + 1), *byte),
            _ if length == 0 => {}
            Self::Truncate(at) => data.truncate(at.index(length)),
            Self::FlipBit(at) => data[at.index(length * 8) / 8] ^= 1 << (at.index(length * 8) % 8),
            Self::SetByte(at, byte) => data[at.index(length)] = *byte,
            Self::Remove(at) => drop(data.remove(at.index(length))),
            Self::Swap(one, other) => data.swap(one.index(length), other.index(length)),
        }
    }
}

fn damage_all(damages: &[Damage], data: &mut Vec<u8>) {
    for damage in damages {
        damage.apply(data);
    }
}

/// Splits a value all the way down and puts it together again.
fn rebuild(expected: &Type, data: &[u8]) -> Vec<u8> {
    match expected {
        Type::Array(element) => {
            let children = elements(element, data).expect("an array that passed the check can be split");
            let children = children.into_iter().map(|child| rebuild(element, child)).collect::<Vec<_>>();
            random_gvariant::array_of(element, children.iter().map(Vec::as_slice))
        }
        Type::Tuple(members) => {
            let children = tuple(members, data).expect("a tuple that passed the check can be split");
            let children = members.iter().zip(children).map(|(member, child)| rebuild(member, child));
            random_gvariant::tuple_of(members, children.collect::<Vec<_>>().iter().map(Vec::as_slice))
        }
        Type::Maybe(element) => match (data, element.fixed_size()) {
            ([], _) => Vec::new(),
            (data, Some(_)) => rebuild(element, data),
            (data, None) => [&rebuild(element, &data[..data.len() - 1])[..], &[0]].concat(),
        },
        Type::Variant => {
            let separator = data.iter().rposition(|&byte| byte == 0).expect("a variant has a zero before its type");
            let type_string = std::str::from_utf8(&data[separator + 1..]).expect("a type is ASCII");
            let child_type = Type::parse(type_string).expect("a variant that passed the check has a valid type");
            [&rebuild(&child_type, &data[..separator])[..], &[0], type_string.as_bytes()].concat()
        }
        _ => data.to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn decoding_inverts_encoding(
        commit in random_objects::commit(),
        tree in dirtree(),
        meta in random_objects::dirmeta(),
        header in random_objects::file_header(),
        dict in random_objects::dict(),
        summary in random_objects::summary(),
        checksum in random_objects::checksum(),
    ) {
        prop_assert_eq!(Commit::decode(&commit.encode()), Ok(commit.clone()), "a commit comes back as it was");
        prop_assert_eq!(DirTree::decode(&tree.encode()), Ok(tree), "a dirtree comes back as it was");
        prop_assert_eq!(DirMeta::decode(&meta.encode()), Ok(meta), "a dirmeta comes back as it was");
        let archive = unframed(&header.encode_archive(0));
        prop_assert_eq!(FileHeader::decode_archive(&archive), Ok((header.clone(), 0)), "a header comes back as it was");
        prop_assert_eq!(Xattrs::decode(&header.xattrs.encode()), Ok(header.xattrs), "xattrs come back as they were");
        prop_assert_eq!(Dict::decode(&dict.encode()), Ok(dict), "a dictionary comes back as it was");
        prop_assert_eq!(Summary::decode(&summary.encode()), Ok(summary), "a summary comes back as it was");
        let commit = CommitId(checksum);
        prop_assert_eq!(tombstone::decode(&tombstone::encode(commit)), Ok(commit), "a tombstone names its commit");
    }

    #[test]
    fn valid_objects_are_kept_byte_for_byte((decoder, bytes) in object()) {
        let (name, recode) = DECODERS[decoder];
        prop_assert_eq!(recode(&bytes), Ok(bytes), "a valid {} is kept byte for byte", name);
    }

    /// The normal form is unique: what is not refused is another object, which encodes to exactly its own bytes.
    #[test]
    fn damaged_objects_are_refused_or_kept_byte_for_byte(
        (decoder, mut bytes) in object(),
        damages in vec(damage(), 1..4),
    ) {
        damage_all(&damages, &mut bytes);
        let (name, recode) = DECODERS[decoder];
        if let Ok(encoded) = recode(&bytes) {
            prop_assert_eq!(encoded, bytes, "a {} that is not refused is kept byte for byte", name);
        }
    }

    #[test]
    fn random_bytes_are_refused_or_kept_byte_for_byte(bytes in vec(any::<u8>(), 0..200)) {
        for (name, recode) in DECODERS {
            if let Ok(encoded) = recode(&bytes) {
                prop_assert_eq!(&encoded, &bytes, "a {} that is not refused is kept byte for byte", name);
            }
        }
    }

    #[test]
    fn what_passes_the_check_splits_all_the_way_down(
        decisions in vec(any::<u8>(), 0..200),
        damages in vec(damage(), 0..3),
    ) {
        let mut decisions = Decisions::new(&decisions);
        let type_string = random_gvariant::type_string(&mut decisions);
        let parsed = Type::parse(&type_string).expect("the generator writes valid types");
        let mut data = random_gvariant::value(&parsed, &mut decisions);
        if damages.is_empty() {
            prop_assert_eq!(check(&parsed, &data), Ok(()), "writers write normal form of type `{}`", type_string);
        }
        damage_all(&damages, &mut data);
        if check(&parsed, &data).is_ok() {
            prop_assert_eq!(rebuild(&parsed, &data), data, "the normal form of type `{}` is unique", type_string);
        }
    }

    #[test]
    fn random_bytes_under_random_types(decisions in vec(any::<u8>(), 0..40), data in vec(any::<u8>(), 0..60)) {
        let type_string = random_gvariant::type_string(&mut Decisions::new(&decisions));
        let parsed = Type::parse(&type_string).expect("the generator writes valid types");
        if check(&parsed, &data).is_ok() {
            prop_assert_eq!(rebuild(&parsed, &data), data, "the normal form of type `{}` is unique", type_string);
        }
    }

    #[test]
    fn random_type_strings_are_refused_or_have_a_size(text in "[bynqiuxthdsogvam(){}*?r]{0,20}", any_text in ".{0,10}") {
        for text in [text, any_text] {
            if let Ok(parsed) = Type::parse(&text) {
                prop_assert!([1, 2, 4, 8].contains(&parsed.alignment()), "`{}` has an alignment", text);
                prop_assert!(
                    parsed.fixed_size().is_none_or(|size| size > 0 && size.is_multiple_of(parsed.alignment())),
                    "a fixed size of `{}` is a multiple of the alignment",
                    text
                );
            }
        }
    }

    #[test]
    fn names_are_refused_or_kept(text in any::<String>(), ascii in "[a-z0-9._/-]{0,20}") {
        for text in [text, ascii] {
            if let Ok(name) = RefName::new(text.clone()) {
                prop_assert_eq!(name.as_str(), &text, "a valid ref is kept");
            }
            if let Ok(id) = CollectionId::new(text.clone()) {
                prop_assert_eq!(id.as_str(), &text, "a valid collection id is kept");
            }
            prop_assert!(text.parse::<Checksum>().is_err(), "texts of other lengths than 64 are no checksums");
        }
    }

    #[test]
    fn filez_gives_back_what_was_written(
        header in random_objects::file_header(),
        content in vec(any::<u8>(), 0..2_000),
        repeat in 1..200_usize,
        level in 0..=9_u32,
        damages in vec(damage(), 1..3),
    ) {
        let content = if header.kind == FileKind::Regular { content.repeat(repeat) } else { Vec::new() };
        let mut archived = Vec::new();
        let content_bytes = content.len() as u64;
        let written = filez::write(&header, content_bytes, &mut content.as_slice(), level, &mut archived)
            .expect("a valid header and content are written");
        prop_assert_eq!(written.archived_bytes, archived.len() as u64, "the size is that of what was written");

        let (mut copied, mut plain) = (Vec::new(), Vec::new());
        let read = filez::copy(&mut archived.as_slice(), &mut copied, &mut plain).expect("what was written is valid");
        prop_assert_eq!(&read, &written, "reading finds what writing said");
        prop_assert!(copied == archived, "the copy is the same bytes");
        prop_assert!(plain == content, "the content comes back");

        damage_all(&damages, &mut archived);
        assert_copy_is_consistent(&archived);
    }

    #[test]
    fn random_bytes_are_no_reason_to_panic_for_filez(bytes in vec(any::<u8>(), 0..100), deflate in vec(any::<u8>(), 0..100)) {
        assert_copy_is_consistent(&bytes);
        let header = FileHeader { uid: 0, gid: 0, mode: 0o100_644, kind: FileKind::Regular, xattrs: Xattrs::new() };
        assert_copy_is_consistent(&[&header.encode_archive(deflate.len() as u64)[..], &deflate].concat());
    }
}

/// Whatever `filez::copy` does not refuse was copied unchanged, has the promised size and the checksum of its parts.
fn assert_copy_is_consistent(archived: &[u8]) {
    let (mut copied, mut plain) = (Vec::new(), Vec::new());
    if let Ok(info) = filez::copy(&mut &archived[..], &mut copied, &mut plain) {
        assert!(copied == archived, "all bytes are copied unchanged");
        assert_eq!(info.archived_bytes, archived.len() as u64, "all bytes are counted");
        assert_eq!(info.content_bytes, plain.len() as u64, "the content has the promised size");
        let hashed = [&info.header.encode_bare()[..], &plain].concat();
        assert_eq!(info.id.0, Checksum::of(&hashed), "the checksum is that of bare header and content");
        let header = info.header.encode_archive(info.content_bytes);
        assert!(archived.starts_with(&header), "the header is kept byte for byte");
        let again = filez::write(&info.header, info.content_bytes, &mut plain.as_slice(), 6, &mut io::sink());
        assert_eq!(again.expect("what was read can be written").id, info.id, "writing it again gives the same id");
    }
}

/// Every truncation and every flipped bit of one object of each kind, without leaving any to chance.
#[test]
fn every_truncation_and_bit_flip_is_refused_or_kept() {
    let metadata =
        Dict::from_iter([("version", Variant::string("1")), ("ostree.ref-binding", Variant::strings(["a", "b"]))]);
    let id = Checksum::of(b"some object");
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
        files: vec![("a".to_owned(), ContentId(id))],
        dirs: vec![("b".to_owned(), DirTreeId(id), DirMetaId(id))],
    };
    let xattrs = Xattrs::canonical([(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), b"2".to_vec())]);
    let meta = DirMeta { uid: 1, gid: 2, mode: 0o40_755, xattrs: xattrs.clone() };
    let kind = FileKind::Symlink("target".to_owned());
    let header = FileHeader { uid: 1, gid: 2, mode: 0o120_777, kind, xattrs: xattrs.clone() };
    let entry = SummaryRef {
        name: RefName::new("main").expect("a valid ref"),
        commit_bytes: 100,
        commit: CommitId(id),
        metadata: metadata.clone(),
    };
    let summary = Summary { refs: vec![entry], metadata: metadata.clone() };
    let objects = [
        commit.encode(),
        tree.encode(),
        meta.encode(),
        unframed(&header.encode_archive(0)),
        xattrs.encode(),
        metadata.encode(),
        metadata.encode(),
        tombstone::encode(CommitId(id)),
        summary.encode(),
    ];
    for ((name, recode), object) in DECODERS.into_iter().zip(objects) {
        assert_eq!(recode(&object), Ok(object.clone()), "the whole {name} is valid");
        let truncated = (0..object.len()).map(|length| object[..length].to_vec());
        let flipped = (0..object.len() * 8).map(|bit| {
            let mut changed = object.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            changed
        });
        let appended = (0..=u8::MAX).map(|byte| [&object[..], &[byte]].concat());
        for changed in truncated.chain(flipped).chain(appended) {
            if let Ok(encoded) = recode(&changed) {
                assert_eq!(encoded, changed, "a {name} that is not refused is kept byte for byte");
            }
        }
    }
}
