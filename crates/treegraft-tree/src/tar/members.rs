//! The members of an archive, one after the other.
//!
//! `tar`, the library, knows the fields of a header and files with holes. What stands between members is read here: it takes
//! the records of a pax header for lines of text, and an extended attribute may be anything.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use tar::{EntryType, Header};

/// Everything begins at a multiple of this many bytes.
const BLOCK_BYTES: u64 = 512;

/// Largest pax header or long name, in bytes: paths have 4 KiB and extended attributes 64 KiB.
const MAX_EXTENSION_BYTES: u64 = 16 << 20;

/// How pax archives name extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What pax calls a file with holes in one of its own ways.
const PAX_SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// A file, a directory, a link or something else that an archive has in it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    /// What a link leads to.
    pub(super) target: Vec<u8>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permissions alone.
    pub(super) mode: u32,
    /// Where the content begins in the archive, in bytes.
    pub(super) offset: u64,
    /// Size of the content in bytes.
    pub(super) bytes: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The content of a file with holes, which is not in one piece in the archive.
    pub(super) filled: Option<File>,
}

/// Why there is no next member.
#[derive(Debug)]
pub(super) enum MemberError {
    /// The archive breaks a rule.
    Invalid(Cow<'static, str>),
    /// The file system refused.
    Io(io::Error),
}

impl From<io::Error> for MemberError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn invalid(reason: impl Into<Cow<'static, str>>) -> MemberError {
    MemberError::Invalid(reason.into())
}

/// Reads an archive from its beginning to its end.
pub(super) struct Members<'a> {
    file: &'a File,
    /// The archive's size.
    bytes: u64,
    at: u64,
    /// Whether there was a pax header.
    is_pax: bool,
}

/// What stands before a member and is about it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    bytes: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Members<'a> {
    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, bytes: file.metadata()?.len(), at: 0, is_pax: false })
    }

    /// Returns the next member. `temporary` makes a file for one with holes.
    pub(super) fn next(&mut self, temporary: impl Fn() -> io::Result<File>) -> Result<Option<Member>, MemberError> {
        let mut extension = Extension::default();
        loop {
            let start = self.at;
            if start == self.bytes {
                return Ok(None);
            }
            let mut block = [0; 512];
            if self.bytes - start < BLOCK_BYTES {
                return Err(invalid("it ends within a header"));
            }
            self.file.read_exact_at(&mut block, start)?;
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            let sum =
                block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { byte.into() });
            if header.cksum().ok() != Some(sum.sum::<u32>()) {
                return Err(invalid("the checksum of a header is wrong"));
            }
            let bytes = header.entry_size().map_err(|_| invalid("a size is no number"))?;
            self.at = start + BLOCK_BYTES;
            match header.entry_type() {
                EntryType::XHeader => {
                    self.is_pax = true;
                    let records = self.extension(bytes)?;
                    read_records(&records, &mut extension)?;
                }
                EntryType::XGlobalHeader => drop(self.extension(bytes)?),
                EntryType::GNULongName => extension.path = Some(without_nul(self.extension(bytes)?)),
                EntryType::GNULongLink => extension.target = Some(without_nul(self.extension(bytes)?)),
                kind => return self.member(header, kind, bytes, extension, start, temporary).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &Header,
        kind: EntryType,
        bytes: u64,
        extension: Extension,
        start: u64,
        temporary: impl Fn() -> io::Result<File>,
    ) -> Result<Member, MemberError> {
        let number = |own: Option<u64>, usual: io::Result<u64>| {
            own.or(usual.ok())
                .and_then(|value| u32::try_from(value).ok())
                .ok_or_else(|| invalid("an owner is no number"))
        };
        let (uid, gid) = (number(extension.uid, header.uid())?, number(extension.gid, header.gid())?);
        let mode = header.mode().map_err(|_| invalid("a mode is no number"))? & 0o7777;
        // Only pax archives have content behind a hard link; in older ones the size is that of what it leads to.
        let has_content = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => true,
            EntryType::Link => self.is_pax,
            _ => false,
        };
        let bytes = if has_content { extension.bytes.unwrap_or(bytes) } else { 0 };
        let mut member = Member {
            kind,
            path: extension.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            target: extension.target.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            uid,
            gid,
            mode,
            offset: self.at,
            bytes,
            xattrs: extension.xattrs,
            filled: None,
        };
        if kind == EntryType::GNUSparse {
            let (stored_at, content) = self.fill(start, temporary()?)?;
            member.bytes = content.metadata()?.len();
            member.filled = Some(content);
            self.at = stored_at;
        }
        self.skip(bytes)?;
        Ok(member)
    }

    /// Copies a file with holes. Returns where its pieces begin in the archive.
    fn fill(&self, start: u64, mut filled: File) -> Result<(u64, File), MemberError> {
        let rest = Rest { file: self.file, at: start };
        let mut archive = tar::Archive::new(rest);
        let broken = |error: io::Error| invalid(format!("a file with holes is damaged: {error}"));
        let mut entry = archive.entries().and_then(|mut entries| entries.next().transpose()).map_err(broken)?;
        let entry = entry.as_mut().ok_or_else(|| invalid("a file with holes is damaged"))?;
        let stored_at = start + entry.raw_file_position();
        io::copy(entry, &mut filled).map_err(broken)?;
        Ok((stored_at, filled))
    }

    /// Reads what stands before a member.
    fn extension(&mut self, bytes: u64) -> Result<Vec<u8>, MemberError> {
        if bytes > MAX_EXTENSION_BYTES {
            return Err(invalid("what stands before a member has more than 16 MiB"));
        }
        let start = self.at;
        self.skip(bytes)?;
        // It was seen to be there, so that nothing is allocated by a number alone.
        let mut data = vec![0; usize::try_from(bytes).expect("it is small")];
        self.file.read_exact_at(&mut data, start)?;
        Ok(data)
    }

    /// Goes behind content, which fills whole blocks.
    fn skip(&mut self, bytes: u64) -> Result<(), MemberError> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.bytes);
        let end = end.ok_or_else(|| invalid("it ends within a member"))?;
        self.at = end.next_multiple_of(BLOCK_BYTES).min(self.bytes);
        Ok(())
    }
}

/// Reads records like `LENGTH KEY=VALUE`, each with a newline behind it, which is part of its length.
fn read_records(mut rest: &[u8], extension: &mut Extension) -> Result<(), MemberError> {
    let broken = || invalid("a pax header is damaged");
    while !rest.is_empty() && rest[0] != 0 {
        let blank = rest.iter().take(20).position(|&byte| byte == b' ').ok_or_else(broken)?;
        let length = std::str::from_utf8(&rest[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
        let (record, behind) = length.and_then(|length| rest.split_at_checked(length)).ok_or_else(broken)?;
        rest = behind;
        let record = record.get(blank + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(broken)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()).ok_or_else(broken);
        match key {
            b"path" => extension.path = Some(value.to_vec()),
            b"linkpath" => extension.target = Some(value.to_vec()),
            b"uid" => extension.uid = Some(number()?),
            b"gid" => extension.gid = Some(number()?),
            b"size" => extension.bytes = Some(number()?),
            key if key.starts_with(PAX_SPARSE_PREFIX) => {
                return Err(invalid(
                    "it has files with holes in pax's way; `tar --format=gnu --sparse` has them in a known one",
                ));
            }
            key => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    extension.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

/// Reads a file from a place on.
struct Rest<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Rest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
