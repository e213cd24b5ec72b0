//! Commit objects: `(a{sv}aya(say)sstayay)`.
//!
//! Members: metadata, parent (32 bytes or none), related objects (always empty), subject, body, time in
//! seconds since 1970 UTC (big-endian), root dirtree, root dirmeta.

use std::sync::LazyLock;

use crate::{
    Checksum, CommitId, DecodeError, DirMetaId, DirTreeId,
    dirtree::checksum_member,
    gvariant::{Dict, NotNormal, TupleWriter, Type, check, tuple},
};

const TYPE_STRING: &str = "(a{sv}aya(say)sstayay)";
static TYPE: LazyLock<Type> = LazyLock::new(|| Type::parse(TYPE_STRING).expect("a valid type string"));

/// A commit that borrows from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct CommitRef<'a> {
    /// The bytes of the metadata, an `a{sv}` that [`Dict::decode`] takes.
    pub metadata: &'a [u8],
    /// The commit before this one on its ref.
    pub parent: Option<CommitId>,
    /// One line that says what the commit is.
    pub subject: &'a str,
    /// More text, often empty.
    pub body: &'a str,
    /// When the commit was made, in seconds since 1970 UTC.
    pub timestamp_secs: u64,
    /// The root directory's listing.
    pub root_tree: DirTreeId,
    /// The root directory's owner, mode and extended attributes.
    pub root_meta: DirMetaId,
}

/// A commit that can be changed and encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Everything that has a key: bindings, version, `xa.*`.
    pub metadata: Dict,
    /// The commit before this one on its ref.
    pub parent: Option<CommitId>,
    /// One line that says what the commit is.
    pub subject: String,
    /// More text, often empty.
    pub body: String,
    /// When the commit was made, in seconds since 1970 UTC.
    pub timestamp_secs: u64,
    /// The root directory's listing.
    pub root_tree: DirTreeId,
    /// The root directory's owner, mode and extended attributes.
    pub root_meta: DirMetaId,
}

impl<'a> CommitRef<'a> {
    /// Decodes a commit object. The metadata's keys are checked as well.
    pub fn decode(data: &'a [u8]) -> Result<Self, DecodeError> {
        let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: TYPE_STRING, source };
        check(&TYPE, data).map_err(not_normal)?;
        let Type::Tuple(members) = &*TYPE else { unreachable!("the type is a tuple") };
        let parts = tuple(members, data).map_err(not_normal)?;
        let text = |part: &'a [u8]| {
            std::str::from_utf8(part.strip_suffix(&[0]).unwrap_or(part)).map_err(|_| not_normal(NotNormal::Str))
        };
        Dict::decode(parts[0])?;
        // The forms here have no place for them, so that the commit would be encoded as another one.
        if !parts[2].is_empty() {
            return Err(DecodeError::RelatedObjects);
        }
        Ok(Self {
            metadata: parts[0],
            parent: match parts[1] {
                [] => None,
                parent => Some(CommitId(checksum_member("parent", parent)?)),
            },
            subject: text(parts[3])?,
            body: text(parts[4])?,
            timestamp_secs: u64::from_be_bytes(parts[5].try_into().map_err(|_| not_normal(NotNormal::Size))?),
            root_tree: DirTreeId(checksum_member("root dirtree", parts[6])?),
            root_meta: DirMetaId(checksum_member("root dirmeta", parts[7])?),
        })
    }

    /// Copies the commit so that it can be changed.
    pub fn to_owned(&self) -> Commit {
        Commit {
            metadata: Dict::decode(self.metadata).expect("`decode` has checked the metadata"),
            parent: self.parent,
            subject: self.subject.to_owned(),
            body: self.body.to_owned(),
            timestamp_secs: self.timestamp_secs,
            root_tree: self.root_tree,
            root_meta: self.root_meta,
        }
    }
}

impl Commit {
    /// Decodes a commit object into its owned form.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        CommitRef::decode(data).map(|commit| commit.to_owned())
    }

    /// Encodes the commit object, with an empty list of related objects.
    pub fn encode(&self) -> Vec<u8> {
        TupleWriter::new()
            .variable(8, &self.metadata.encode())
            .variable(1, self.parent.as_ref().map_or(&[][..], |parent| parent.0.as_bytes()))
            .variable(1, &[])
            .string(&self.subject)
            .string(&self.body)
            .fixed(8, &self.timestamp_secs.to_be_bytes())
            .variable(1, self.root_tree.0.as_bytes())
            .variable(1, self.root_meta.0.as_bytes())
            .finish()
    }

    /// Returns the id that the encoded commit has.
    pub fn id(&self) -> CommitId {
        CommitId(Checksum::of(&self.encode()))
    }

    /// Tells whether both commits have the same tree: the same root dirtree and root dirmeta.
    pub fn has_same_tree(&self, other: &Self) -> bool {
        (self.root_tree, self.root_meta) == (other.root_tree, other.root_meta)
    }
}
