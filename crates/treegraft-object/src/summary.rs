//! Summaries: `(a(s(taya{sv}))a{sv})`, the list of a repository's refs.
//!
//! The size of a commit object is in host byte order, which is little-endian wherever OSTree is used; times are
//! big-endian. Refs are sorted, since clients search them by halving.

use std::sync::LazyLock;

use crate::{
    CommitId, DecodeError, RefName,
    dirtree::checksum_member,
    gvariant::{ArrayWriter, Dict, NotNormal, TupleWriter, Type, Variant, check, elements, tuple},
};

const TYPE_STRING: &str = "(a(s(taya{sv}))a{sv})";
static TYPE: LazyLock<Type> = LazyLock::new(|| Type::parse(TYPE_STRING).expect("a valid type string"));
static ENTRY: LazyLock<Type> = LazyLock::new(|| Type::parse("(s(taya{sv}))").expect("a valid type string"));
static ENTRY_BODY: LazyLock<Type> = LazyLock::new(|| Type::parse("(taya{sv})").expect("a valid type string"));

/// The key of the refs of other collections, and the type of its value.
const COLLECTION_MAP: &str = "ostree.summary.collection-map";
const TYPE_STRING_MAP: &str = "a{sa(s(taya{sv}))}";
static MAP_ENTRY: LazyLock<Type> = LazyLock::new(|| Type::parse("(sa(s(taya{sv})))").expect("a valid type string"));

/// The list of a repository's refs, with what is said about the repository as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// The refs, in byte order of their names.
    pub refs: Vec<SummaryRef>,
    /// Mode, time of the last change, collection id, static deltas, and what Flatpak adds.
    pub metadata: Dict,
}

/// One ref in a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryRef {
    /// The ref's name.
    pub name: RefName,
    /// The size of the commit object in bytes.
    pub commit_bytes: u64,
    /// The commit that the ref points to.
    pub commit: CommitId,
    /// Time and version of the commit.
    pub metadata: Dict,
}

impl Summary {
    /// Decodes a summary file.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: TYPE_STRING, source };
        check(&TYPE, data).map_err(not_normal)?;
        let parts = tuple(members(&TYPE), data).map_err(not_normal)?;
        Ok(Self { refs: decode_refs(parts[0])?, metadata: Dict::decode(parts[1])? })
    }

    /// Encodes the summary file. The refs must be sorted.
    pub fn encode(&self) -> Vec<u8> {
        TupleWriter::new().variable(8, &encode_refs(&self.refs)).variable(8, &self.metadata.encode()).finish()
    }

    /// Returns the refs of other collections, from `ostree.summary.collection-map` of the metadata.
    pub fn collections(&self) -> Result<Vec<(String, Vec<SummaryRef>)>, DecodeError> {
        let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: TYPE_STRING_MAP, source };
        let Some(map) = self.metadata.get(COLLECTION_MAP) else { return Ok(Vec::new()) };
        if map.type_string() != TYPE_STRING_MAP {
            return Err(DecodeError::ValueType { key: COLLECTION_MAP.to_owned(), expected: TYPE_STRING_MAP });
        }
        let mut collections = Vec::new();
        for entry in elements(&MAP_ENTRY, map.data()).map_err(not_normal)? {
            let entry = tuple(members(&MAP_ENTRY), entry).map_err(not_normal)?;
            let id = String::from_utf8_lossy(entry[0].strip_suffix(&[0]).unwrap_or(entry[0])).into_owned();
            collections.push((id, decode_refs(entry[1])?));
        }
        Ok(collections)
    }

    /// Makes the value of `ostree.summary.collection-map`, `a{sa(s(taya{sv}))}`, from collection ids and their refs,
    /// both sorted.
    pub fn collection_map(collections: &[(String, Vec<SummaryRef>)]) -> Variant {
        let mut array = ArrayWriter::new(8);
        for (id, refs) in collections {
            array.push(&TupleWriter::new().string(id).variable(8, &encode_refs(refs)).finish());
        }
        Variant::from_parts(TYPE_STRING_MAP, array.finish()).expect("writers write normal form")
    }
}

fn decode_refs(data: &[u8]) -> Result<Vec<SummaryRef>, DecodeError> {
    let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: TYPE_STRING, source };
    let mut refs: Vec<SummaryRef> = Vec::new();
    for entry in elements(&ENTRY, data).map_err(not_normal)? {
        let entry = tuple(members(&ENTRY), entry).map_err(not_normal)?;
        let text = String::from_utf8_lossy(entry[0].strip_suffix(&[0]).unwrap_or(entry[0]));
        let refuse = |reason| DecodeError::SummaryRef { name: text.escape_debug().to_string(), reason };
        let name = RefName::new(text.clone()).map_err(|invalid| refuse(invalid.reason))?;
        if refs.last().is_some_and(|before| before.name >= name) {
            return Err(refuse("it is not above the one before it"));
        }
        let body = tuple(members(&ENTRY_BODY), entry[1]).map_err(not_normal)?;
        refs.push(SummaryRef {
            name,
            commit_bytes: u64::from_le_bytes(body[0].try_into().map_err(|_| not_normal(NotNormal::Size))?),
            commit: CommitId(checksum_member("commit checksum", body[1])?),
            metadata: Dict::decode(body[2])?,
        });
    }
    Ok(refs)
}

fn encode_refs(refs: &[SummaryRef]) -> Vec<u8> {
    let mut array = ArrayWriter::new(8);
    for entry in refs {
        let body = TupleWriter::new()
            .fixed(8, &entry.commit_bytes.to_le_bytes())
            .variable(1, entry.commit.0.as_bytes())
            .variable(8, &entry.metadata.encode());
        array.push(&TupleWriter::new().string(entry.name.as_str()).variable(8, &body.finish()).finish());
    }
    array.finish()
}

fn members(tuple_type: &Type) -> &[Type] {
    match tuple_type {
        Type::Tuple(members) => members,
        _ => &[],
    }
}
