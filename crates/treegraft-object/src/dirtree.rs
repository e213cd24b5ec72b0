//! Dirtree objects: `(a(say)a(sayay))`, the files and the directories of one directory.

use std::sync::LazyLock;

use crate::{
    Checksum, ContentId, DecodeError, DirMetaId, DirTreeId,
    gvariant::{ArrayWriter, NotNormal, TupleWriter, Type, check, elements, tuple},
    limits::MAX_ENTRY_NAME_BYTES,
};

const TYPE_STRING: &str = "(a(say)a(sayay))";
static TYPE: LazyLock<Type> = LazyLock::new(|| Type::parse(TYPE_STRING).expect("a valid type string"));
static FILE: LazyLock<Type> = LazyLock::new(|| Type::parse("(say)").expect("a valid type string"));
static DIR: LazyLock<Type> = LazyLock::new(|| Type::parse("(sayay)").expect("a valid type string"));

/// A dirtree that borrows its names from the object's bytes.
///
/// Both lists are in strictly ascending byte order, and no name is in both.
#[derive(Debug, Clone)]
pub struct DirTreeRef<'a> {
    /// Regular files and symlinks.
    pub files: Vec<(&'a str, ContentId)>,
    /// Directories with their listing, and their owner, mode and extended attributes.
    pub dirs: Vec<(&'a str, DirTreeId, DirMetaId)>,
}

/// A dirtree that can be built and encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirTree {
    /// Regular files and symlinks, in byte order of their names.
    pub files: Vec<(String, ContentId)>,
    /// Directories, in byte order of their names.
    pub dirs: Vec<(String, DirTreeId, DirMetaId)>,
}

impl<'a> DirTreeRef<'a> {
    /// Decodes a dirtree object.
    pub fn decode(data: &'a [u8]) -> Result<Self, DecodeError> {
        let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: TYPE_STRING, source };
        check(&TYPE, data).map_err(not_normal)?;
        let parts = tuple(members(&TYPE), data).map_err(not_normal)?;
        let mut files = Vec::new();
        for entry in elements(&FILE, parts[0]).map_err(not_normal)? {
            let entry = tuple(members(&FILE), entry).map_err(not_normal)?;
            let name = entry_name(entry[0], files.last().map(|&(name, _)| name))?;
            files.push((name, ContentId(checksum_member("checksum of a file", entry[1])?)));
        }
        let mut dirs = Vec::new();
        for entry in elements(&DIR, parts[1]).map_err(not_normal)? {
            let entry = tuple(members(&DIR), entry).map_err(not_normal)?;
            let name = entry_name(entry[0], dirs.last().map(|&(name, _, _)| name))?;
            let tree = DirTreeId(checksum_member("dirtree checksum of a directory", entry[1])?);
            dirs.push((name, tree, DirMetaId(checksum_member("dirmeta checksum of a directory", entry[2])?)));
        }
        if let Some((name, ..)) = dirs.iter().find(|(name, ..)| files.binary_search_by_key(name, |&(n, _)| n).is_ok()) {
            return Err(DecodeError::EntryTwice { name: (*name).to_owned() });
        }
        Ok(Self { files, dirs })
    }

    /// Copies the dirtree so that it can be changed.
    pub fn to_owned(&self) -> DirTree {
        DirTree {
            files: self.files.iter().map(|&(name, id)| (name.to_owned(), id)).collect(),
            dirs: self.dirs.iter().map(|&(name, tree, meta)| (name.to_owned(), tree, meta)).collect(),
        }
    }
}

impl DirTree {
    /// Decodes a dirtree object into its owned form.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        DirTreeRef::decode(data).map(|tree| tree.to_owned())
    }

    /// Returns the file of a name. The list must be sorted, as it is after [`decode`](Self::decode).
    pub fn file(&self, name: &str) -> Option<ContentId> {
        let index = self.files.binary_search_by(|(entry, _)| entry.as_str().cmp(name)).ok()?;
        Some(self.files[index].1)
    }

    /// Returns the listing of a directory's name. The list must be sorted, as it is after [`decode`](Self::decode).
    pub fn dir(&self, name: &str) -> Option<DirTreeId> {
        let index = self.dirs.binary_search_by(|(entry, ..)| entry.as_str().cmp(name)).ok()?;
        Some(self.dirs[index].1)
    }

    /// Encodes the dirtree object. The lists must be sorted and their names valid.
    pub fn encode(&self) -> Vec<u8> {
        let mut files = ArrayWriter::new(1);
        for (name, id) in &self.files {
            files.push(&TupleWriter::new().string(name).variable(1, id.0.as_bytes()).finish());
        }
        let mut dirs = ArrayWriter::new(1);
        for (name, tree, meta) in &self.dirs {
            let entry = TupleWriter::new().string(name).variable(1, tree.0.as_bytes()).variable(1, meta.0.as_bytes());
            dirs.push(&entry.finish());
        }
        TupleWriter::new().variable(1, &files.finish()).variable(1, &dirs.finish()).finish()
    }

    /// Returns the id that the encoded dirtree has.
    pub fn id(&self) -> DirTreeId {
        DirTreeId(Checksum::of(&self.encode()))
    }
}

fn members(tuple_type: &Type) -> &[Type] {
    match tuple_type {
        Type::Tuple(members) => members,
        _ => &[],
    }
}

pub(crate) fn checksum_member(what: &'static str, bytes: &[u8]) -> Result<Checksum, DecodeError> {
    Checksum::from_slice(bytes).ok_or(DecodeError::ChecksumLength { what, bytes: bytes.len() })
}

/// Checks an entry's name by itself and against the one before it.
fn entry_name<'a>(bytes: &'a [u8], before: Option<&str>) -> Result<&'a str, DecodeError> {
    let text = std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).unwrap_or_default();
    let refuse = |reason| DecodeError::EntryName { name: text.escape_debug().to_string(), reason };
    match text {
        "" => return Err(refuse("it is empty")),
        "." | ".." => return Err(refuse("it means another directory")),
        _ if text.contains('/') => return Err(refuse("it has a `/`")),
        _ if text.len() > MAX_ENTRY_NAME_BYTES => return Err(refuse("it is longer than 255 bytes")),
        _ => {}
    }
    match before {
        Some(before) if before >= text => Err(DecodeError::EntryOrder { name: text.escape_debug().to_string() }),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_dirtree_is_one_zero_byte() {
        assert_eq!(DirTree::default().encode(), [0], "two empty arrays and one end offset");
        assert_eq!(DirTree::decode(&[0]), Ok(DirTree::default()));
    }
}
