//! The path of an object below `objects/`.

use std::ffi::CStr;

use treegraft_object::{Checksum, ObjectKind, ObjectName};

use crate::Mode;

/// Longest path: two digits, `/`, 62 digits, `.tombstone-commit`, NUL.
const MAX_BYTES: usize = 2 + 1 + 62 + 1 + "tombstone-commit".len() + 1;

const HEX_DIGITS: [u8; 16] = *b"0123456789abcdef";

/// `XX/<62 digits>.<extension>`, formatted without allocation: a push asks for tens of thousands of objects.
///
/// Staging areas have the same layout below their own directory.
#[derive(Clone, Copy)]
pub(crate) struct LoosePath {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl LoosePath {
    /// Formats the path that an object has in a repository of this mode.
    pub(crate) fn new(name: ObjectName, mode: Mode) -> Self {
        let extension = match name.kind {
            ObjectKind::File => mode.content_extension(),
            kind => kind.extension(),
        };
        let mut path = Self { bytes: [0; MAX_BYTES], length: 0 };
        for (index, byte) in name.checksum.as_bytes().iter().enumerate() {
            if index == 1 {
                path.push(b'/');
            }
            path.push(HEX_DIGITS[usize::from(byte >> 4)]);
            path.push(HEX_DIGITS[usize::from(byte & 0xf)]);
        }
        path.push(b'.');
        extension.bytes().for_each(|byte| path.push(byte));
        path
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// Returns the path for system calls.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).expect("one NUL, behind the path")
    }

    /// Returns the path as text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("the path is ASCII")
    }

    /// Returns the first two digits: the name of the directory.
    pub(crate) fn directory(&self) -> &str {
        &self.as_str()[..2]
    }

    /// Returns the file's name in its directory.
    pub(crate) fn file_name(&self) -> &str {
        &self.as_str()[3..]
    }

    /// Reads an object's name from its directory and its file name, or nothing when it is no object of this mode.
    pub(crate) fn parse(directory: &str, file_name: &str, mode: Mode) -> Option<ObjectName> {
        let (digits, extension) = file_name.rsplit_once('.')?;
        let kind = match extension {
            "dirtree" => ObjectKind::DirTree,
            "dirmeta" => ObjectKind::DirMeta,
            "commit" => ObjectKind::Commit,
            "commitmeta" => ObjectKind::CommitMeta,
            "tombstone-commit" => ObjectKind::TombstoneCommit,
            content if content == mode.content_extension() => ObjectKind::File,
            _ => return None,
        };
        if directory.len() != 2 {
            return None;
        }
        let checksum: Checksum = format!("{directory}{digits}").parse().ok()?;
        Some(ObjectName::new(kind, checksum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_libostree() {
        let checksum = Checksum::of(b"x");
        for number in 1..=6 {
            let name = ObjectName::new(ObjectKind::from_number(number).expect("a kind"), checksum);
            for mode in [Mode::Archive, Mode::Bare, Mode::BareUser, Mode::BareUserOnly] {
                let path = LoosePath::new(name, mode);
                let expected = name.loose_path(mode.content_extension());
                assert_eq!(format!("objects/{}", path.as_str()), expected, "the path of {name} in mode {mode}");
                assert_eq!(path.as_c_str().to_str(), Ok(path.as_str()), "both forms are one path");
                let parsed = LoosePath::parse(path.directory(), path.file_name(), mode);
                assert_eq!(parsed, Some(name), "the path names its object");
            }
        }
    }

    #[test]
    fn other_files_are_no_objects() {
        let hex = Checksum::of(b"x").to_hex();
        let digits = &hex[2..];
        for file_name in [
            format!("{digits}.file"),
            format!("{digits}.commitmeta2"),
            format!("{digits}.payload-link"),
            format!("{}.commit", &digits[1..]),
            format!("{}.commit", digits.to_uppercase()),
            "tmp.AbCdEf".to_owned(),
            digits.to_owned(),
        ] {
            let parsed = LoosePath::parse(&hex[..2], &file_name, Mode::Archive);
            assert_eq!(parsed, None, "`{file_name}` is no object of an archive repository");
        }
        assert_eq!(
            LoosePath::parse("a", &format!("b{digits}.commit"), Mode::Archive),
            None,
            "two digits are a directory"
        );
    }
}
