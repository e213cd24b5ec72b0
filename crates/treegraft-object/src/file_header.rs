//! File headers: what a content object holds besides its bytes.
//!
//! Two forms exist. The checksum is computed over the *bare* one, `(uuuusa(ayay))`: uid, gid, mode, rdev (all
//! big-endian), symlink target, extended attributes. A `.filez` begins with the *archive* one, `(tuuuusa(ayay))`, which
//! has the content's size (big-endian) before them. Both are framed: a big-endian 32-bit length, four zero bytes, header.

use std::sync::LazyLock;

use crate::{
    DecodeError, Xattrs,
    gvariant::{NotNormal, TupleWriter, Type, check, tuple},
    limits::MAX_SYMLINK_TARGET_BYTES,
};

/// The bits of a mode that say what kind of file it is.
pub const S_IFMT: u32 = 0o170_000;
/// The kind of a directory.
pub const S_IFDIR: u32 = 0o040_000;
/// The kind of a regular file.
pub const S_IFREG: u32 = 0o100_000;
/// The kind of a symlink.
pub const S_IFLNK: u32 = 0o120_000;

/// Length of the frame before a header: a 32-bit length and four zero bytes.
pub(crate) const FRAME_BYTES: usize = 8;

const ARCHIVE_TYPE_STRING: &str = "(tuuuusa(ayay))";
static ARCHIVE_TYPE: LazyLock<Type> = LazyLock::new(|| Type::parse(ARCHIVE_TYPE_STRING).expect("a valid type string"));

/// What kind of file a content object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file; its content follows the header.
    Regular,
    /// A symbolic link with this target.
    Symlink(String),
}

/// Owner, mode, kind and extended attributes of a content object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The whole `st_mode`, with the type bits of a regular file or symlink.
    pub mode: u32,
    /// Regular file or symlink.
    pub kind: FileKind,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl FileHeader {
    /// Returns the symlink's target, or nothing for a regular file.
    pub fn symlink_target(&self) -> Option<&str> {
        match &self.kind {
            FileKind::Regular => None,
            FileKind::Symlink(target) => Some(target),
        }
    }

    /// Checks what the type system does not: mode bits and the target.
    pub fn validate(&self) -> Result<(), DecodeError> {
        let (expected, what) = match self.kind {
            FileKind::Regular => (S_IFREG, "regular file"),
            FileKind::Symlink(_) => (S_IFLNK, "symlink"),
        };
        if self.mode & S_IFMT != expected || self.mode & !(S_IFMT | 0o7777) != 0 {
            return Err(DecodeError::Mode { what, mode: self.mode });
        }
        match self.symlink_target() {
            Some("") => Err(DecodeError::SymlinkTarget { reason: "it is empty" }),
            Some(target) if target.contains('\0') => {
                Err(DecodeError::SymlinkTarget { reason: "it has a NUL, at which it would be cut off" })
            }
            Some(target) if target.len() > MAX_SYMLINK_TARGET_BYTES => {
                Err(DecodeError::SymlinkTarget { reason: "it is longer than 4095 bytes" })
            }
            _ => Ok(()),
        }
    }

    /// Encodes the bare header with its frame: the bytes that a checksum begins with.
    pub fn encode_bare(&self) -> Vec<u8> {
        framed(&self.members(TupleWriter::new()))
    }

    /// Encodes the archive header with its frame: the bytes that a `.filez` begins with.
    pub fn encode_archive(&self, content_bytes: u64) -> Vec<u8> {
        framed(&self.members(TupleWriter::new().fixed(8, &content_bytes.to_be_bytes())))
    }

    fn members(&self, tuple: TupleWriter) -> Vec<u8> {
        tuple
            .fixed(4, &self.uid.to_be_bytes())
            .fixed(4, &self.gid.to_be_bytes())
            .fixed(4, &self.mode.to_be_bytes())
            .fixed(4, &[0; 4])
            .string(self.symlink_target().unwrap_or_default())
            .variable(1, &self.xattrs.encode())
            .finish()
    }

    /// Decodes an archive header without its frame. Returns it with the size of the content in bytes.
    pub fn decode_archive(data: &[u8]) -> Result<(Self, u64), DecodeError> {
        let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: ARCHIVE_TYPE_STRING, source };
        check(&ARCHIVE_TYPE, data).map_err(not_normal)?;
        let Type::Tuple(members) = &*ARCHIVE_TYPE else { unreachable!("the type is a tuple") };
        let parts = tuple(members, data).map_err(not_normal)?;
        let number = |part: &[u8]| part.try_into().map(u32::from_be_bytes).map_err(|_| not_normal(NotNormal::Size));
        let content_bytes = u64::from_be_bytes(parts[0].try_into().map_err(|_| not_normal(NotNormal::Size))?);
        let mode = number(parts[3])?;
        let rdev = number(parts[4])?;
        if rdev != 0 {
            return Err(DecodeError::DeviceNumber { rdev });
        }
        let target = std::str::from_utf8(parts[5].strip_suffix(&[0]).unwrap_or(parts[5]))
            .map_err(|_| not_normal(NotNormal::Str))?;
        let kind = match (mode & S_IFMT, target) {
            (S_IFLNK, target) => FileKind::Symlink(target.to_owned()),
            (_, "") => FileKind::Regular,
            _ => return Err(DecodeError::SymlinkTarget { reason: "a regular file has none" }),
        };
        let header =
            Self { uid: number(parts[1])?, gid: number(parts[2])?, mode, kind, xattrs: Xattrs::decode(parts[6])? };
        header.validate()?;
        if header.symlink_target().is_some() && content_bytes != 0 {
            return Err(DecodeError::ContentSize { header_bytes: content_bytes, reason: "a symlink has none" });
        }
        Ok((header, content_bytes))
    }
}

fn framed(header: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).expect("a header is bounded by its xattrs, far below 4 GiB");
    [&length.to_be_bytes()[..], &[0; 4], header].concat()
}
