//! Dirmeta objects: `(uuua(ayay))`, owner, mode (all big-endian) and extended attributes of a directory.

use std::sync::LazyLock;

use crate::{
    Checksum, DecodeError, DirMetaId, Xattrs,
    file_header::{S_IFDIR, S_IFMT},
    gvariant::{NotNormal, TupleWriter, Type, check, tuple},
};

const TYPE_STRING: &str = "(uuua(ayay))";
static TYPE: LazyLock<Type> = LazyLock::new(|| Type::parse(TYPE_STRING).expect("a valid type string"));

/// Owner, mode and extended attributes of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirMeta {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The whole `st_mode`, with the type bits of a directory.
    pub mode: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl DirMeta {
    /// Decodes a dirmeta object.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: TYPE_STRING, source };
        check(&TYPE, data).map_err(not_normal)?;
        let Type::Tuple(members) = &*TYPE else { unreachable!("the type is a tuple") };
        let parts = tuple(members, data).map_err(not_normal)?;
        let number = |part: &[u8]| part.try_into().map(u32::from_be_bytes).map_err(|_| not_normal(NotNormal::Size));
        let meta = Self {
            uid: number(parts[0])?,
            gid: number(parts[1])?,
            mode: number(parts[2])?,
            xattrs: Xattrs::decode(parts[3])?,
        };
        if meta.mode & S_IFMT == S_IFDIR && meta.mode & !(S_IFMT | 0o7777) == 0 {
            Ok(meta)
        } else {
            Err(DecodeError::Mode { what: "directory", mode: meta.mode })
        }
    }

    /// Encodes the dirmeta object.
    pub fn encode(&self) -> Vec<u8> {
        TupleWriter::new()
            .fixed(4, &self.uid.to_be_bytes())
            .fixed(4, &self.gid.to_be_bytes())
            .fixed(4, &self.mode.to_be_bytes())
            .variable(1, &self.xattrs.encode())
            .finish()
    }

    /// Returns the id that the encoded dirmeta has.
    pub fn id(&self) -> DirMetaId {
        DirMetaId(Checksum::of(&self.encode()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_libostree() {
        for (uid, gid, id) in [
            (0, 0, "446a0ef11b7cc167f3b603e585c7eeeeb675faa412d5ec73f62988eb0b6c5488"),
            (1000, 1001, "54714c7f7cd5283f95409cd7a448802dce5bdeab5558f203af294aa9f3a740da"),
        ] {
            let meta = DirMeta { uid, gid, mode: 0o40755, xattrs: Xattrs::new() };
            assert_eq!(meta.id().to_string(), id, "dirmeta of {uid}:{gid} 040755");
        }
    }
}
