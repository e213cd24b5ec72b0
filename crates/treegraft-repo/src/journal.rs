//! The journal: which refs a publish is moving, so that a crash in between can be finished or undone.
//!
//! ```text
//! treegraft journal 1
//! ref <collection id or -> <name> <old checksum or -> <new checksum>
//! …
//! sha256 <checksum of all lines before this one>
//! ```
//!
//! It is made durable before the first ref is written and removed after the summary. A file that does not end with its own
//! checksum was not completely written, so no ref was, either: [`Journal::Torn`].

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use treegraft_object::{Checksum, CollectionId, CommitId, RefName};

use crate::{
    RefTarget,
    durable::{self, Durability},
    fault,
    ref_edit::RefEdit,
};

/// The file's name in `.treegraft`.
pub(crate) const NAME: &str = "journal";

const FIRST_LINE_PREFIX: &str = "treegraft journal ";
const VERSION: &str = "1";

/// Largest journal that is read, in bytes: [`MAX_EDITS`](crate::transaction::MAX_EDITS) lines with the longest names.
const MAX_JOURNAL_BYTES: u64 = 16 << 20;

/// What a journal file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Journal {
    /// The refs that a publish wrote or was about to write.
    Edits(Vec<RefEdit>),
    /// The file is not complete: the publish had not begun to write refs.
    Torn,
    /// The file is complete, but of a version that is not known.
    OtherVersion(String),
}

/// Encodes the journal of these edits.
pub(crate) fn encode(edits: &[RefEdit]) -> Vec<u8> {
    let mut text = format!("{FIRST_LINE_PREFIX}{VERSION}\n");
    for RefEdit { target, expected, new } in edits {
        let collection = match target {
            RefTarget::Head(_) => "-",
            RefTarget::Mirror(collection, _) => collection.as_str(),
        };
        let old = expected.map_or_else(|| "-".to_owned(), |old| old.to_string());
        writeln!(text, "ref {collection} {} {old} {new}", target.name()).expect("a string takes everything");
    }
    let checksum = Checksum::of(text.as_bytes());
    writeln!(text, "sha256 {checksum}").expect("a string takes everything");
    text.into_bytes()
}

/// Decodes a journal.
pub(crate) fn decode(data: &[u8]) -> Journal {
    let Some(body) = checked_body(data) else { return Journal::Torn };
    let mut lines = body.lines();
    match lines.next().and_then(|line| line.strip_prefix(FIRST_LINE_PREFIX)) {
        Some(VERSION) => {}
        Some(other) => return Journal::OtherVersion(other.chars().take(40).collect()),
        None => return Journal::Torn,
    }
    lines.map(decode_line).collect::<Option<_>>().map_or(Journal::Torn, Journal::Edits)
}

/// Returns everything before the last line if that has its checksum.
fn checked_body(data: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(data).ok()?.strip_suffix('\n')?;
    let body_bytes = text.rfind('\n')? + 1;
    let (body, last_line) = text.split_at(body_bytes);
    let checksum: Checksum = last_line.strip_prefix("sha256 ")?.parse().ok()?;
    (checksum == Checksum::of(body.as_bytes())).then_some(body)
}

fn decode_line(line: &str) -> Option<RefEdit> {
    let mut words = line.strip_prefix("ref ")?.split(' ');
    let collection = words.next()?;
    let name = RefName::new(words.next()?).ok()?;
    let target = match collection {
        "-" => RefTarget::Head(name),
        collection => RefTarget::Mirror(CollectionId::new(collection).ok()?, name),
    };
    let expected = match words.next()? {
        "-" => None,
        old => Some(old.parse::<CommitId>().ok()?),
    };
    let new = words.next()?.parse().ok()?;
    words.next().is_none().then_some(RefEdit { target, expected, new })
}

/// Writes the journal; it is durable on return.
pub(crate) fn write(private: BorrowedFd<'_>, edits: &[RefEdit], durability: Durability) -> io::Result<()> {
    fault::point("journal-begun")?;
    durable::replace(private, NAME, &encode(edits), durability)?;
    durability.sync_dir(private)?;
    fault::point("journal-durable")
}

/// Reads the journal, or nothing when there is none.
pub(crate) fn read(private: BorrowedFd<'_>) -> io::Result<Option<Journal>> {
    let file = match openat(private, NAME, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut data = Vec::new();
    file.take(MAX_JOURNAL_BYTES + 1).read_to_end(&mut data)?;
    Ok(Some(decode(&data)))
}

/// Removes the journal; that is durable on return.
///
/// If it came back after a crash of the machine, a later replay could take refs back that were moved since.
pub(crate) fn remove(private: BorrowedFd<'_>, durability: Durability) -> io::Result<()> {
    if durable::unlink_if_there(private, NAME)? {
        fault::point("journal-removed")?;
        durability.sync_dir(private.as_fd())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commit(number: u8) -> CommitId {
        CommitId(Checksum::of(&[number]))
    }

    fn edits() -> Vec<RefEdit> {
        let name = |text: &str| RefName::new(text).expect("a ref");
        let collection = CollectionId::new("org.example.Other").expect("a collection id");
        vec![
            RefEdit { target: RefTarget::Head(name("app/a/x86_64/b")), expected: None, new: commit(1) },
            RefEdit { target: RefTarget::Head(name("é")), expected: Some(commit(2)), new: commit(3) },
            RefEdit { target: RefTarget::Mirror(collection, name("m")), expected: Some(commit(4)), new: commit(4) },
        ]
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        assert_eq!(decode(&encode(&edits())), Journal::Edits(edits()), "decoding is the inverse of encoding");
        assert_eq!(decode(&encode(&[])), Journal::Edits(Vec::new()), "also without refs");
    }

    #[test]
    fn another_version_is_told_apart_from_a_torn_file() {
        let body = "treegraft journal 2\nsomething else\n";
        let text = format!("{body}sha256 {}\n", Checksum::of(body.as_bytes()));
        assert_eq!(decode(text.as_bytes()), Journal::OtherVersion("2".to_owned()), "its refs may have been written");
    }

    proptest! {
        #[test]
        fn any_cut_is_torn(cut in 0..encode(&edits()).len()) {
            prop_assert_eq!(decode(&encode(&edits())[..cut]), Journal::Torn, "a part is no journal");
        }

        #[test]
        fn any_flipped_bit_is_torn(at in 0..encode(&edits()).len(), bit in 0..8_u8) {
            let mut data = encode(&edits());
            data[at] ^= 1 << bit;
            prop_assert_eq!(decode(&data), Journal::Torn, "a damaged file is no journal");
        }

        #[test]
        fn any_bytes_are_decoded_without_a_panic(data: Vec<u8>) {
            prop_assert_eq!(decode(&data), Journal::Torn);
        }
    }
}
