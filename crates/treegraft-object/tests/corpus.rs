//! Malformed objects, each with the code of the rule that it breaks.
//!
//! All are built here from parts, with one thing wrong.

use std::io::{self, Read, Write as _};

use flate2::{Compress, Compression, FlushCompress, write::DeflateEncoder};
use treegraft_object::{
    Checksum, Commit, CommitId, DecodeError, DirMeta, DirMetaId, DirTree, DirTreeId, FileHeader, FileKind, ObjectKind,
    ObjectName, Xattrs, detached,
    filez::{self, FilezError},
    gvariant::{ArrayWriter, Dict, NotNormal, TupleWriter, Type, Variant, check},
    limits,
    summary::Summary,
    tombstone, verify,
};

const SUM: &[u8] = &[7; 32];

/// What is wrong, the code that must be given, and the object.
type Case = (&'static str, &'static str, Vec<u8>);

fn assert_refused<T>(cases: impl IntoIterator<Item = Case>, decode: impl Fn(&[u8]) -> Result<T, DecodeError>) {
    for (wrong, code, bytes) in cases {
        match decode(&bytes) {
            Ok(_) => panic!("{wrong} must be refused as `{code}`"),
            Err(error) => assert_eq!(error.code(), code, "{wrong} is refused by its own rule"),
        }
    }
}

fn array(alignment: usize, elements: &[Vec<u8>]) -> Vec<u8> {
    let mut array = ArrayWriter::new(alignment);
    for element in elements {
        array.push(element);
    }
    array.finish()
}

// Dirtrees

fn file(name: &str, sum: &[u8]) -> Vec<u8> {
    TupleWriter::new().string(name).variable(1, sum).finish()
}

fn dir(name: &str, tree: &[u8], meta: &[u8]) -> Vec<u8> {
    TupleWriter::new().string(name).variable(1, tree).variable(1, meta).finish()
}

fn dirtree(files: &[Vec<u8>], dirs: &[Vec<u8>]) -> Vec<u8> {
    TupleWriter::new().variable(1, &array(1, files)).variable(1, &array(1, dirs)).finish()
}

#[test]
fn dirtree_names() {
    let long = "n".repeat(256);
    let names = [
        ("an empty name", ""),
        ("the name of the directory itself", "."),
        ("the name of the parent directory", ".."),
        ("a path", "a/b"),
        ("an absolute path", "/etc"),
        ("a path that climbs", "../../etc/passwd"),
        ("a name with a slash at its end", "a/"),
        ("a name of 256 bytes", &long),
    ];
    for (wrong, name) in names {
        let objects = [dirtree(&[file(name, SUM)], &[]), dirtree(&[], &[dir(name, SUM, SUM)])];
        assert_refused(objects.map(|object| (wrong, "entry-name", object)), DirTree::decode);
    }
    let longest = "n".repeat(limits::MAX_ENTRY_NAME_BYTES);
    for name in ["...", ".a", "a\n", " ", "-rf", "é", &longest] {
        assert!(DirTree::decode(&dirtree(&[file(name, SUM)], &[])).is_ok(), "`{name}` can be the name of a file");
    }
}

#[test]
fn dirtree_order() {
    let files = |names: &[&str]| dirtree(&names.iter().map(|name| file(name, SUM)).collect::<Vec<_>>(), &[]);
    let dirs = |names: &[&str]| dirtree(&[], &names.iter().map(|name| dir(name, SUM, SUM)).collect::<Vec<_>>());
    let cases = [
        ("files out of order", "entry-order", files(&["b", "a"])),
        ("a file that is there twice", "entry-order", files(&["a", "a"])),
        ("files in the order of a language instead of bytes", "entry-order", files(&["a", "B"])),
        ("a longer name before its beginning", "entry-order", files(&["ab", "a"])),
        ("directories out of order", "entry-order", dirs(&["b", "a"])),
        ("a directory that is there twice", "entry-order", dirs(&["a", "b", "b"])),
        ("a file and a directory of one name", "entry-twice", dirtree(&[file("a", SUM)], &[dir("a", SUM, SUM)])),
        (
            "a name in both lists among others",
            "entry-twice",
            dirtree(&[file("a", SUM), file("m", SUM), file("z", SUM)], &[dir("b", SUM, SUM), dir("m", SUM, SUM)]),
        ),
    ];
    assert_refused(cases, DirTree::decode);
    assert!(DirTree::decode(&files(&["Z", "a", "é"])).is_ok(), "byte order puts capitals first and `é` last");
}

#[test]
fn dirtree_checksums() {
    let cases = [
        ("a file without checksum", "checksum-length", dirtree(&[file("a", &[])], &[])),
        ("a checksum of 31 bytes", "checksum-length", dirtree(&[file("a", &[7; 31])], &[])),
        ("a checksum of 33 bytes", "checksum-length", dirtree(&[file("a", &[7; 33])], &[])),
        ("a checksum in digits", "checksum-length", dirtree(&[file("a", &[b'a'; 64])], &[])),
        ("a directory without dirtree", "checksum-length", dirtree(&[], &[dir("a", &[], SUM)])),
        ("a directory without dirmeta", "checksum-length", dirtree(&[], &[dir("a", SUM, &[])])),
    ];
    assert_refused(cases, DirTree::decode);
}

// Dirmetas and extended attributes

fn dirmeta(mode: u32, xattrs: &[u8]) -> Vec<u8> {
    let tuple = TupleWriter::new().fixed(4, &[0; 4]).fixed(4, &[0; 4]).fixed(4, &mode.to_be_bytes());
    tuple.variable(1, xattrs).finish()
}

fn xattrs(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let entry = |(name, value): &(&[u8], &[u8])| TupleWriter::new().variable(1, name).variable(1, value).finish();
    array(1, &entries.iter().map(entry).collect::<Vec<_>>())
}

#[test]
fn dirmeta_modes() {
    let cases = [
        ("the mode of a regular file", 0o100_755),
        ("the mode of a symlink", 0o120_777),
        ("the mode of a device", 0o060_755),
        ("a mode without type", 0o755),
        ("a bit beyond the type", 0o240_755),
        ("the highest bit", 0x8000_0000 | 0o40_755),
        ("a mode in the wrong byte order", 0o40_755_u32.swap_bytes()),
    ];
    assert_refused(cases.map(|(wrong, mode)| (wrong, "mode", dirmeta(mode, &[]))), DirMeta::decode);
    for mode in [0o40_000, 0o40_755, 0o41_777, 0o47_777] {
        assert!(DirMeta::decode(&dirmeta(mode, &[])).is_ok(), "{mode:o} is the mode of a directory");
    }
}

fn xattr_cases() -> Vec<Case> {
    vec![
        ("unsorted names", "xattr-order", xattrs(&[(b"user.b\0", b"1"), (b"user.a\0", b"2")])),
        ("a name that is there twice", "xattr-order", xattrs(&[(b"user.a\0", b"1"), (b"user.a\0", b"2")])),
        ("names in the order of signed bytes", "xattr-order", xattrs(&[(b"\xc3\0", b"1"), (b"a\0", b"2")])),
        ("a longer name before its beginning", "xattr-order", xattrs(&[(b"ab\0", b"1"), (b"a\0", b"2")])),
        ("an empty name", "xattr-name", xattrs(&[(b"\0", b"1")])),
        ("no name at all", "xattr-name", xattrs(&[(b"", b"1")])),
        ("a name without NUL", "xattr-name", xattrs(&[(b"user.a", b"1")])),
        ("a name with a NUL inside", "xattr-name", xattrs(&[(b"user\0a\0", b"1")])),
        ("a name with two NULs at its end", "xattr-name", xattrs(&[(b"user.a\0\0", b"1")])),
        ("a wrong second name", "xattr-name", xattrs(&[(b"user.a\0", b"1"), (b"user.b", b"1")])),
    ]
}

#[test]
fn xattr_lists() {
    let in_dirmeta = |(wrong, code, xattrs): Case| (wrong, code, dirmeta(0o40_755, &xattrs));
    let in_file = |(wrong, code, xattrs): Case| (wrong, code, header(&Header { xattrs, ..Header::default() }));
    assert_refused(xattr_cases(), Xattrs::decode);
    assert_refused(xattr_cases().into_iter().map(in_dirmeta), DirMeta::decode);
    assert_refused(xattr_cases().into_iter().map(in_file), FileHeader::decode_archive);
}

// File headers

/// The members of an archive header, by default those of an empty regular file.
struct Header {
    size: u64,
    mode: u32,
    rdev: u32,
    target: &'static str,
    xattrs: Vec<u8>,
}

impl Default for Header {
    fn default() -> Self {
        Self { size: 0, mode: 0o100_644, rdev: 0, target: "", xattrs: Vec::new() }
    }
}

fn header(header: &Header) -> Vec<u8> {
    header_with_target(header, &[header.target.as_bytes(), &[0]].concat())
}

fn header_with_target(header: &Header, target: &[u8]) -> Vec<u8> {
    TupleWriter::new()
        .fixed(8, &header.size.to_be_bytes())
        .fixed(4, &[0; 4])
        .fixed(4, &[0; 4])
        .fixed(4, &header.mode.to_be_bytes())
        .fixed(4, &header.rdev.to_be_bytes())
        .variable(1, target)
        .variable(1, &header.xattrs)
        .finish()
}

#[test]
fn file_header_modes_and_targets() {
    let link = || Header { mode: 0o120_777, target: "target", ..Header::default() };
    let too_long = [&[b'a'; limits::MAX_SYMLINK_TARGET_BYTES + 1][..], &[0]].concat();
    let longest = [&[b'a'; limits::MAX_SYMLINK_TARGET_BYTES][..], &[0]].concat();
    let with_mode = |mode| header(&Header { mode, ..Header::default() });
    let cases = [
        ("a directory", "mode", with_mode(0o40_755)),
        ("a device", "mode", with_mode(0o20_644)),
        ("a fifo", "mode", with_mode(0o10_644)),
        ("a socket", "mode", with_mode(0o140_644)),
        ("a mode without type", "mode", with_mode(0o644)),
        ("a bit beyond the type", "mode", with_mode(0o300_644)),
        ("a symlink with a bit beyond the type", "mode", header(&Header { mode: 0o1_120_777, ..link() })),
        ("a device number", "device-number", header(&Header { rdev: 1, ..Header::default() })),
        ("a symlink with a device number", "device-number", header(&Header { rdev: 0x0100_0000, ..link() })),
        ("a regular file with a target", "symlink-target", header(&Header { target: "a", ..Header::default() })),
        ("a symlink without target", "symlink-target", header(&Header { target: "", ..link() })),
        ("a symlink with a target of 4096 bytes", "symlink-target", header_with_target(&link(), &too_long)),
        ("a symlink with a size", "content-size", header(&Header { size: 6, ..link() })),
        ("a target that is not UTF-8", "not-normal-form", header_with_target(&link(), b"\xff\0")),
        ("a target with a NUL inside", "not-normal-form", header_with_target(&link(), b"a\0b\0")),
    ];
    assert_refused(cases, FileHeader::decode_archive);
    assert!(FileHeader::decode_archive(&header(&link())).is_ok(), "a symlink with target and without size is valid");
    let longest = header_with_target(&link(), &longest);
    assert!(FileHeader::decode_archive(&longest).is_ok(), "a target of 4095 bytes is valid");
    for mode in [0o100_000, 0o104_755, 0o107_777] {
        assert!(FileHeader::decode_archive(&with_mode(mode)).is_ok(), "{mode:o} is the mode of a regular file");
    }
}

// Archive content objects

fn framed(header: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).expect("headers in tests are short");
    [&length.to_be_bytes()[..], &[0; 4], header].concat()
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn regular(size: u64, deflate: &[u8]) -> Vec<u8> {
    [&framed(&header(&Header { size, ..Header::default() }))[..], deflate].concat()
}

fn symlink(behind: &[u8]) -> Vec<u8> {
    let link = Header { mode: 0o120_777, target: "target", ..Header::default() };
    [&framed(&header(&link))[..], behind].concat()
}

/// Copies a `.filez` and returns the error, which must be about its bytes.
fn copy_invalid(mut source: impl Read, content: &mut Vec<u8>) -> DecodeError {
    match filez::copy(&mut source, &mut io::sink(), content) {
        Err(FilezError::Invalid(error)) => error,
        other => panic!("the object must be refused because of its bytes, got {other:?}"),
    }
}

fn decode_filez(bytes: &[u8]) -> Result<(), DecodeError> {
    match filez::copy(&mut &bytes[..], &mut io::sink(), &mut io::sink()) {
        Ok(_) => Ok(()),
        Err(FilezError::Invalid(error)) => Err(error),
        Err(other) => panic!("reading from and writing to memory works, got {other:?}"),
    }
}

#[test]
fn filez_frames() {
    let whole = regular(5, &deflated(b"hello"));
    assert_eq!(decode_filez(&whole), Ok(()), "the object without damage is valid");
    let with_length = |length: u32| [&length.to_be_bytes()[..], &whole[4..]].concat();
    let header_bytes = u32::from_be_bytes([whole[0], whole[1], whole[2], whole[3]]);
    let padded = |position: usize| {
        let mut object = whole.clone();
        object[position] = 1;
        object
    };
    let cases = [
        ("nothing", "header-frame", Vec::new()),
        ("half a length", "header-frame", whole[..2].to_vec()),
        ("half a frame", "header-frame", whole[..7].to_vec()),
        ("a frame without header", "header-frame", whole[..8].to_vec()),
        ("half a header", "header-frame", whole[..20].to_vec()),
        ("a length of zero", "header-frame", with_length(0)),
        ("a length beyond the end", "header-frame", with_length(1000)),
        ("a length above the limit", "too-large", with_length(limits::MAX_FILE_HEADER_BYTES + 1)),
        ("the greatest length", "too-large", with_length(u32::MAX)),
        ("a length in the wrong byte order", "too-large", with_length(header_bytes.swap_bytes())),
        ("a length that is one too small", "not-normal-form", with_length(header_bytes - 1)),
        ("a length that is one too great", "not-normal-form", with_length(header_bytes + 1)),
        ("a first padding byte that is not zero", "header-frame", padded(4)),
        ("a last padding byte that is not zero", "header-frame", padded(7)),
    ];
    assert_refused(cases, decode_filez);
}

/// A source that notes how much it was asked for at once and how much it gave.
struct Watched<R> {
    source: R,
    largest_request_bytes: usize,
    given_bytes: u64,
}

impl<R: Read> Watched<R> {
    const fn new(source: R) -> Self {
        Self { source, largest_request_bytes: 0, given_bytes: 0 }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.largest_request_bytes = self.largest_request_bytes.max(buffer.len());
        let count = self.source.read(buffer)?;
        self.given_bytes += count as u64;
        Ok(count)
    }
}

#[test]
fn a_promised_header_length_is_not_allocated() {
    for length in [limits::MAX_FILE_HEADER_BYTES, u32::MAX] {
        let object = [&length.to_be_bytes()[..], &[0; 4], &[0; 10]].concat();
        let mut source = Watched::new(object.as_slice());
        assert!(filez::read_header(&mut source).is_err(), "a header of {length} bytes is not there");
        let largest = source.largest_request_bytes;
        assert!(largest <= 64 << 10, "the buffer for 10 bytes has {largest} bytes, as if the length were believed");
    }
}

#[test]
fn filez_sizes() {
    let hello = deflated(b"hello");
    let cases = [
        ("a size that is too small", "content-size", regular(4, &hello)),
        ("a size of zero", "content-size", regular(0, &hello)),
        ("a size that is too great", "content-size", regular(6, &hello)),
        ("the greatest size", "content-size", regular(u64::MAX, &hello)),
        ("a size in the wrong byte order", "content-size", regular(5_u64.swap_bytes(), &hello)),
        ("no content where there should be some", "content-size", regular(5, &deflated(b""))),
    ];
    assert_refused(cases, decode_filez);
    assert_eq!(decode_filez(&regular(0, &[3, 0])), Ok(()), "an empty file has a stream of two bytes");
}

#[test]
fn filez_streams() {
    let content = vec![b'x'; 300_000];
    let stream = deflated(&content);
    let noise = deflated(&treegraft_testkit::rng::SplitMix64::new(1).bytes(300_000));
    let damaged = |position: usize| {
        let mut damaged = noise.clone();
        damaged[position] = !damaged[position];
        damaged
    };
    let size = content.len() as u64;
    let zlib = [&[0x78, 0x9c][..], &stream].concat();
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff][..], &stream].concat();
    let cases = [
        ("a regular file without stream", "deflate", regular(0, &[])),
        ("a stream without its first half", "deflate", regular(size, &stream[stream.len() / 2..])),
        ("a stream without its second half", "deflate", regular(size, &stream[..stream.len() / 2])),
        ("a stream without its last byte", "deflate", regular(size, &stream[..stream.len() - 1])),
        ("a stream with a wrong block type", "deflate", regular(size, &[0x07, 0])),
        ("a stream of stored blocks with a wrong length", "deflate", regular(5, &[1, 5, 0, 0, 0, 1, 2, 3, 4, 5])),
        ("a stream that copies from before its beginning", "deflate", regular(size, &[0x03, 0x02, 0x00])),
        ("a stream with a damaged first block", "deflate", regular(size, &damaged(1))),
        ("a stream in the wrapper of zlib", "deflate", regular(size, &zlib)),
        ("a stream in the wrapper of gzip", "deflate", regular(size, &gzip)),
        ("a byte behind the stream", "trailing-bytes", regular(size, &[&stream[..], &[0]].concat())),
        ("a second stream behind the stream", "trailing-bytes", regular(size, &[&stream[..], &stream].concat())),
        ("a megabyte behind the stream", "trailing-bytes", regular(size, &[&stream[..], &vec![0; 1 << 20]].concat())),
        ("a byte behind a symlink", "trailing-bytes", symlink(&[0])),
        ("a symlink with an empty stream", "trailing-bytes", symlink(&[3, 0])),
        ("a symlink with content", "trailing-bytes", symlink(&stream)),
    ];
    assert_refused(cases, decode_filez);
    assert_eq!(decode_filez(&symlink(&[])), Ok(()), "a symlink ends with its header");
}

/// A source that gives the same bytes again and again.
struct Repeated {
    block: Vec<u8>,
    position: usize,
    times_left: usize,
}

impl Read for Repeated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.block.len() {
            self.position = 0;
            self.times_left -= 1;
        }
        let rest = if self.times_left == 0 { &[] } else { &self.block[self.position..] };
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

/// Ten mebibytes of deflate stream that give ten gibibytes of zeros, made of one block again and again.
fn bomb() -> Repeated {
    const ZEROS: usize = 1 << 20;
    let mut compress = Compress::new(Compression::best(), false);
    let mut block = Vec::with_capacity(64 << 10);
    // A full flush forgets what came before, so that the block can be repeated.
    compress.compress_vec(&vec![0; ZEROS], &mut block, FlushCompress::Full).expect("enough room for the block");
    assert_eq!(compress.total_in(), ZEROS as u64, "the block holds all zeros");
    assert!(block.len() < 2048, "the block is a thousandth of what it gives");
    Repeated { block, position: 0, times_left: 10 << 10 }
}

#[test]
fn a_deflate_bomb_stops_at_the_promised_size() {
    for promised_bytes in [0, 1, 1000, 1 << 20, 3 << 20] {
        let start = framed(&header(&Header { size: promised_bytes, ..Header::default() }));
        let mut source = Watched::new(start.as_slice().chain(bomb()));
        let mut content = Vec::new();
        let error = copy_invalid(&mut source, &mut content);
        assert_eq!(error.code(), "content-size", "more than {promised_bytes} bytes are too many");
        assert!(content.len() as u64 <= promised_bytes, "no more than the promised size is given on");
        // A thousandth of the promised size holds it; the rest is what is read ahead in one piece.
        let read_limit = (256 << 10) + promised_bytes / 500;
        assert!(source.given_bytes <= read_limit, "{} bytes were read for {promised_bytes}", source.given_bytes);
    }
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let write = |header: &FileHeader, content_bytes: u64, mut content: &[u8]| match filez::write(
        header,
        content_bytes,
        &mut content,
        6,
        &mut io::sink(),
    ) {
        Err(FilezError::Invalid(error)) => error.code(),
        other => panic!("the object must be refused because of its parts, got {other:?}"),
    };
    let file = FileHeader { uid: 0, gid: 0, mode: 0o100_644, kind: FileKind::Regular, xattrs: Xattrs::new() };
    let link =
        |target: &str| FileHeader { mode: 0o120_777, kind: FileKind::Symlink(target.to_owned()), ..file.clone() };
    assert_eq!(write(&FileHeader { mode: 0o40_755, ..file.clone() }, 0, b""), "mode", "a directory is no file");
    assert_eq!(write(&FileHeader { mode: 0o120_777, ..file.clone() }, 0, b""), "mode", "a file is no symlink");
    assert_eq!(write(&file, 4, b"hello"), "content-size", "there is more than promised");
    assert_eq!(write(&file, 6, b"hello"), "content-size", "there is less than promised");
    assert_eq!(write(&link("a"), 0, b"x"), "content-size", "a symlink has no content");
    assert_eq!(write(&link("a"), 1, b""), "content-size", "a symlink promises no content");
    assert_eq!(write(&link(""), 0, b""), "symlink-target", "a symlink has a target");
    assert_eq!(write(&link("a\0b"), 0, b""), "symlink-target", "a NUL would cut the target");
    let value = vec![b'x'; limits::MAX_FILE_HEADER_BYTES as usize];
    let xattrs = Xattrs::canonical([(b"user.large".to_vec(), value)]);
    assert_eq!(write(&FileHeader { xattrs, ..file }, 0, b""), "too-large", "a header above the limit is not read back");
}

// Commits

/// The members of a commit, by default those of a valid one.
struct RawCommit {
    metadata: Vec<u8>,
    parent: Vec<u8>,
    related: Vec<u8>,
    subject: Vec<u8>,
    root_tree: Vec<u8>,
    root_meta: Vec<u8>,
}

impl Default for RawCommit {
    fn default() -> Self {
        let (parent, related, subject) = (Vec::new(), Vec::new(), b"Subject\0".to_vec());
        Self { metadata: Vec::new(), parent, related, subject, root_tree: SUM.to_vec(), root_meta: SUM.to_vec() }
    }
}

impl RawCommit {
    fn encode(&self) -> Vec<u8> {
        TupleWriter::new()
            .variable(8, &self.metadata)
            .variable(1, &self.parent)
            .variable(1, &self.related)
            .variable(1, &self.subject)
            .string("")
            .fixed(8, &[0; 8])
            .variable(1, &self.root_tree)
            .variable(1, &self.root_meta)
            .finish()
    }
}

fn dict(entries: &[(&str, Variant)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, Variant)| TupleWriter::new().string(key).variable(8, &value.encode()).finish();
    array(8, &entries.iter().map(entry).collect::<Vec<_>>())
}

fn bad_dicts() -> Vec<Case> {
    let text = || Variant::string("text");
    vec![
        ("an empty key", "empty-key", dict(&[("", text())])),
        ("an empty second key", "empty-key", dict(&[("a", text()), ("", text())])),
        ("a key that is there twice", "duplicate-key", dict(&[("a", text()), ("a", text())])),
        ("a key that is there twice, apart", "duplicate-key", dict(&[("a", text()), ("b", text()), ("a", text())])),
    ]
}

#[test]
fn commit_members() {
    let commit = RawCommit::default;
    assert!(Commit::decode(&commit().encode()).is_ok(), "the commit without damage is valid");
    let related = array(1, &[file("a", SUM)]);
    let cases = [
        ("a parent of 31 bytes", "checksum-length", RawCommit { parent: vec![7; 31], ..commit() }),
        ("a parent in digits", "checksum-length", RawCommit { parent: vec![b'a'; 64], ..commit() }),
        ("no root dirtree", "checksum-length", RawCommit { root_tree: Vec::new(), ..commit() }),
        ("a root dirtree of 33 bytes", "checksum-length", RawCommit { root_tree: vec![7; 33], ..commit() }),
        ("no root dirmeta", "checksum-length", RawCommit { root_meta: Vec::new(), ..commit() }),
        ("related objects", "related-objects", RawCommit { related, ..commit() }),
        ("a subject that is not UTF-8", "not-normal-form", RawCommit { subject: b"\xff\0".to_vec(), ..commit() }),
        ("a subject without NUL", "not-normal-form", RawCommit { subject: b"Subject".to_vec(), ..commit() }),
    ];
    assert_refused(cases.map(|(wrong, code, commit)| (wrong, code, commit.encode())), Commit::decode);
    let with_metadata = bad_dicts()
        .into_iter()
        .map(|(wrong, code, metadata)| (wrong, code, RawCommit { metadata, ..commit() }.encode()));
    assert_refused(with_metadata, Commit::decode);
}

// Detached metadata, tombstones, summaries

#[test]
fn detached_metadata() {
    assert_refused(bad_dicts(), detached::decode);
    for key in detached::SIGNATURE_KEYS {
        let cases = [
            ("a signature that is not in a list", "value-type", dict(&[(key, Variant::bytes(b"signature"))])),
            ("signatures that are texts", "value-type", dict(&[(key, Variant::strings(["signature"]))])),
            ("a dictionary of signatures", "value-type", dict(&[(key, Variant::dict(&Dict::new()))])),
        ];
        assert_refused(cases, detached::decode);
    }
    let large = |bytes: usize| dict(&[("a", Variant::bytes(&vec![0; bytes]))]);
    let limit = usize::try_from(limits::MAX_DETACHED_METADATA_BYTES).expect("the limit is a mebibyte");
    let overhead = large(limit).len() - limit;
    assert_refused([("a byte more than allowed", "too-large", large(limit - overhead + 1))], detached::decode);
    assert!(detached::decode(&large(limit - overhead)).is_ok(), "exactly the limit is allowed");
    assert!(detached::decode(&[]).is_ok(), "an empty file is an empty dictionary");
}

#[test]
fn tombstones() {
    let commit = CommitId(Checksum::of(b"commit"));
    let digits = commit.to_string();
    let with = |value: &[u8]| dict(&[("commit", Variant::bytes(value))]);
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let cases = [
        ("nothing", "value-type", Vec::new()),
        ("another key", "unknown-key", dict(&[("Commit", Variant::bytes(&text(&digits)))])),
        (
            "a further key",
            "unknown-key",
            dict(&[("commit", Variant::bytes(&text(&digits))), ("more", Variant::bool(true))]),
        ),
        ("a text instead of bytes", "value-type", dict(&[("commit", Variant::string(&digits))])),
        ("digits without NUL", "value-type", with(digits.as_bytes())),
        ("digits with two NULs", "value-type", with(&[&text(&digits)[..], &[0]].concat())),
        ("63 digits", "value-type", with(&text(&digits[1..]))),
        ("capital digits", "value-type", with(&text(&digits.to_uppercase()))),
        ("raw bytes", "value-type", with(commit.0.as_bytes())),
    ];
    assert_refused(cases, tombstone::decode);
    let name = ObjectName::new(ObjectKind::TombstoneCommit, Checksum::of(b"another commit"));
    let error = verify::metadata(name, &tombstone::encode(commit)).expect_err("the tombstone is of another commit");
    assert_eq!(error.code(), "checksum-mismatch", "a tombstone is named after the commit that it holds");
}

fn summary(refs: &[Vec<u8>], metadata: &[u8]) -> Vec<u8> {
    TupleWriter::new().variable(8, &array(8, refs)).variable(8, metadata).finish()
}

fn summary_ref(name: &str, commit: &[u8], metadata: &[u8]) -> Vec<u8> {
    let body = TupleWriter::new().fixed(8, &[0; 8]).variable(1, commit).variable(8, metadata).finish();
    TupleWriter::new().string(name).variable(8, &body).finish()
}

#[test]
fn summaries() {
    let refs = |names: &[&str]| {
        let refs: Vec<_> = names.iter().map(|name| summary_ref(name, SUM, &[])).collect();
        summary(&refs, &[])
    };
    let cases = [
        ("refs out of order", "summary-ref", refs(&["b", "a"])),
        ("a ref that is there twice", "summary-ref", refs(&["a", "a"])),
        ("an empty ref", "summary-ref", refs(&[""])),
        ("a ref that climbs", "summary-ref", refs(&["../a"])),
        ("an absolute ref", "summary-ref", refs(&["/a"])),
        ("a ref with a newline", "summary-ref", refs(&["a\n"])),
        ("a ref of a remote", "summary-ref", refs(&["origin:a"])),
        ("a commit of 31 bytes", "checksum-length", summary(&[summary_ref("a", &[7; 31], &[])], &[])),
        ("no commit", "checksum-length", summary(&[summary_ref("a", &[], &[])], &[])),
    ];
    assert_refused(cases, Summary::decode);
    let in_ref = |(wrong, code, metadata): Case| (wrong, code, summary(&[summary_ref("a", SUM, &metadata)], &[]));
    let at_end = |(wrong, code, metadata): Case| (wrong, code, summary(&[], &metadata));
    assert_refused(bad_dicts().into_iter().map(in_ref), Summary::decode);
    assert_refused(bad_dicts().into_iter().map(at_end), Summary::decode);
}

// Verification by name

#[test]
fn names_that_do_not_fit() {
    let tree = DirTree::default().encode();
    let code = |kind, data: &[u8], checksum| match verify::metadata(ObjectName::new(kind, checksum), data) {
        Ok(()) => "valid",
        Err(error) => error.code(),
    };
    assert_eq!(code(ObjectKind::DirTree, &tree, Checksum::of(&tree)), "valid", "a dirtree under its own name");
    let other = Checksum::of(b"other");
    assert_eq!(code(ObjectKind::DirTree, &tree, other), "checksum-mismatch", "a dirtree under another name");
    assert_eq!(code(ObjectKind::Commit, &tree, Checksum::of(&tree)), "not-normal-form", "a dirtree is no commit");
    assert_eq!(code(ObjectKind::DirMeta, &tree, Checksum::of(&tree)), "not-normal-form", "a dirtree is no dirmeta");
    assert_eq!(code(ObjectKind::CommitMeta, &[], other), "valid", "detached metadata has no checksum of its own");

    let hello = regular(5, &deflated(b"hello"));
    let content = |checksum| {
        let name = ObjectName::new(ObjectKind::File, checksum);
        verify::content(name, &mut hello.as_slice(), &mut io::sink()).map(|info| info.content_bytes)
    };
    let id = "afd2231b1fa521726d822282338af4736b56a2a4b3f121b5e2446458bb8c4e10".parse().expect("a checksum");
    assert_eq!(content(id).expect("the object has this name"), 5, "the content of the object has 5 bytes");
    let error = content(Checksum::of(b"hello")).expect_err("the checksum covers the header as well");
    assert_eq!(error.code(), "checksum-mismatch", "a content object under another name");
}

// GVariants that are not in normal form

fn assert_not_normal(cases: &[(&str, &str, &[u8], NotNormal)]) {
    for (wrong, type_string, data, expected) in cases {
        let parsed = Type::parse(type_string).expect("a valid type");
        assert_eq!(check(&parsed, data), Err(*expected), "{wrong}: {data:02x?} is no `{type_string}`");
    }
}

#[test]
fn values_of_wrong_size_or_content() {
    assert_not_normal(&[
        ("a number that is too short", "u", &[0; 3], NotNormal::Size),
        ("a number that is too long", "u", &[0; 5], NotNormal::Size),
        ("no number", "t", &[], NotNormal::Size),
        ("a boolean of 2", "b", &[2], NotNormal::Bool),
        ("a boolean of 255 in an array", "ab", &[0, 1, 0xff], NotNormal::Bool),
        ("a boolean of 2 in a tuple", "(yb)", &[9, 2], NotNormal::Bool),
        ("a boolean of 2 in a maybe", "mb", &[2], NotNormal::Bool),
        ("no string", "s", &[], NotNormal::Str),
        ("a string without NUL", "s", b"abc", NotNormal::Str),
        ("a string with a NUL inside", "s", b"a\0c\0", NotNormal::Str),
        ("a string of two NULs", "s", b"\0\0", NotNormal::Str),
        ("a string that is not UTF-8", "s", b"\xff\0", NotNormal::Str),
        ("a string with half a character", "s", b"\xc3\0", NotNormal::Str),
        ("a string with a surrogate", "s", b"\xed\xa0\x80\0", NotNormal::Str),
        ("a string with an overlong character", "s", b"\xc0\x80\0", NotNormal::Str),
        ("a relative object path", "o", b"a\0", NotNormal::Grammar),
        ("an empty object path", "o", b"\0", NotNormal::Grammar),
        ("an object path with an empty part", "o", b"/a//b\0", NotNormal::Grammar),
        ("an object path with a slash at its end", "o", b"/a/\0", NotNormal::Grammar),
        ("an object path with a hyphen", "o", b"/a-b\0", NotNormal::Grammar),
        ("half a signature", "g", b"a\0", NotNormal::Grammar),
        ("a signature with a maybe, which D-Bus does not have", "g", b"mi\0", NotNormal::Grammar),
        ("a signature with an indefinite type", "g", b"*\0", NotNormal::Grammar),
        ("an array of numbers that ends in one", "au", &[0; 6], NotNormal::Size),
        ("a maybe of a number of the wrong size", "mu", &[0; 5], NotNormal::Size),
        ("a maybe of a string without its zero", "ms", b"a\0b", NotNormal::Padding),
        ("a unit that is not zero", "()", &[1], NotNormal::Size),
        ("a unit of two bytes", "()", &[0, 0], NotNormal::Size),
        ("no unit", "()", &[], NotNormal::Size),
    ]);
}

#[test]
fn containers_of_wrong_layout() {
    assert_not_normal(&[
        ("padding between members that is not zero", "(yu)", &[1, 0, 9, 0, 2, 0, 0, 0], NotNormal::Padding),
        ("padding at the end that is not zero", "(uy)", &[1, 0, 0, 0, 2, 0, 0, 9], NotNormal::Padding),
        (
            "padding between elements that is not zero",
            "a(uay)",
            &[1, 0, 0, 0, 5, 9, 9, 9, 1, 0, 0, 0, 5, 12],
            NotNormal::Padding,
        ),
        ("bytes behind the last member", "(su)", &[b'a', 0, 0, 0, 1, 0, 0, 0, 9, 2], NotNormal::Size),
        ("a byte between the elements and the offsets", "as", b"a\0x\x02\x02", NotNormal::Offset),
        ("an end offset behind the end", "as", b"a\0\xff", NotNormal::Offset),
        ("a first end offset behind the end", "as", b"a\0b\0\xff\x04", NotNormal::Offset),
        ("end offsets that go back", "as", b"a\0b\0\x04\x02\x04", NotNormal::Offset),
        ("a member's end offset behind the end", "(ss)", b"a\0b\0\x09", NotNormal::Offset),
        ("a member's end offset in the offsets", "(ss)", b"a\0b\0\x05", NotNormal::Offset),
        ("members' end offsets that go back", "(sss)", b"a\0b\0c\0\x02\x04", NotNormal::Offset),
        ("no room for the offsets", "(sss)", b"\0", NotNormal::Size),
        ("an array with an end offset that counts itself", "as", b"\x01", NotNormal::Size),
        ("a gap before the first offset", "(ss)", b"a\0b\0\0", NotNormal::Str),
    ]);
    // 300 bytes need offsets of two bytes; 100 bytes do not, and GLib would write one.
    let long = vec![b'x'; 300];
    let wide = [&long[..], &[0], &301_u32.to_le_bytes()].concat();
    let gap = [&long[..], &[0], b"x", &301_u16.to_le_bytes()].concat();
    assert_not_normal(&[
        ("an offset of four bytes where two suffice", "as", &wide, NotNormal::Size),
        ("a byte before an offset of two bytes", "as", &gap, NotNormal::Size),
    ]);
    let strings = array(1, &vec![b"\0".to_vec(); 126]);
    let two = [&strings[..126], &(1..=126_u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat();
    assert_eq!(strings.len(), 252, "126 empty strings have offsets of one byte");
    assert_not_normal(&[("offsets of two bytes where one suffices", "as", &two, NotNormal::OffsetWidth)]);
}

#[test]
fn variants_without_a_type() {
    let long = [&[0][..], "()".repeat(limits::MAX_TYPE_STRING_BYTES).as_bytes()].concat();
    assert_not_normal(&[
        ("an empty variant", "v", &[], NotNormal::VariantType),
        ("a variant without type", "v", &[1, 0], NotNormal::VariantType),
        ("a variant without separator", "v", b"y", NotNormal::VariantType),
        ("a variant of two types", "v", b"\x01\x02\0yy", NotNormal::VariantType),
        ("a variant of an indefinite type", "v", b"\0a*", NotNormal::VariantType),
        ("a variant of an unknown type", "v", b"\x01\0z", NotNormal::VariantType),
        ("a variant whose type is not text", "v", b"\x01\0\xff", NotNormal::VariantType),
        ("a variant of a dictionary with containers as keys", "v", b"\0a{ayy}", NotNormal::VariantType),
        ("a variant whose child is too short", "v", b"\x01\0u", NotNormal::Size),
        ("a variant of a type that is too long", "v", &long, NotNormal::VariantType),
    ]);
}

/// A `y` within that many variants.
fn nested_variants(count: usize) -> Vec<u8> {
    let mut data = vec![1, 0, b'y'];
    for _ in 1..count {
        data.extend_from_slice(&[0, b'v']);
    }
    data
}

#[test]
fn deep_nesting() {
    let variant = Type::parse("v").expect("a valid type");
    let deepest = limits::MAX_GVARIANT_DEPTH - 1;
    assert_eq!(check(&variant, &nested_variants(deepest)), Ok(()), "127 variants and a byte are 128 levels");
    assert_eq!(check(&variant, &nested_variants(deepest + 1)), Err(NotNormal::Depth), "129 levels are refused");
    assert_eq!(check(&variant, &nested_variants(100_000)), Err(NotNormal::Depth), "no stack is used up by nesting");
    // A type counts with its whole depth, even when an empty array leaves no value at its bottom.
    let of_arrays = |count: usize| [&[0][..], "a".repeat(count).as_bytes(), b"y"].concat();
    assert_eq!(check(&variant, &of_arrays(126)), Ok(()), "an array of 126 levels and a byte");
    assert_eq!(check(&variant, &of_arrays(127)), Err(NotNormal::Depth), "an array of 127 levels and a byte");
    let deep = |element: &str| Type::parse(&format!("{}{element}", "m".repeat(127))).expect("types may be that deep");
    assert_eq!(check(&deep("y"), &[0; 127]), Ok(()), "127 maybes and a byte are 128 levels");
    assert_eq!(check(&deep("my"), &[0; 128]), Err(NotNormal::Depth), "128 maybes and a byte are 129 levels");
    assert_eq!(check(&deep("ay"), &[0; 127]), Ok(()), "an empty array at level 128 has no element below");
    assert_eq!(check(&deep("ay"), &[0; 128]), Err(NotNormal::Depth), "a byte in an array at level 128 is at level 129");
}

#[test]
fn objects_not_in_normal_form() {
    let commit = RawCommit { metadata: dict(&[("a", Variant::bool(true))]), ..RawCommit::default() }.encode();
    let changed = |position: usize, byte: u8| {
        let mut changed = commit.clone();
        changed[position] = byte;
        changed
    };
    let cases = [
        ("no commit", "not-normal-form", Vec::new()),
        ("a key's padding that is not zero", "not-normal-form", changed(3, 1)),
        ("a boolean of 2 in the metadata", "not-normal-form", changed(8, 2)),
        ("an end offset that is too small", "not-normal-form", changed(commit.len() - 1, 1)),
        ("a byte behind the end", "not-normal-form", [&commit[..], &[0]].concat()),
    ];
    assert_refused(cases, Commit::decode);
    let cases = [
        ("no dirtree", "not-normal-form", Vec::new()),
        ("an empty dirtree of two bytes", "not-normal-form", vec![0, 0]),
        ("an empty dirtree with a wrong offset", "not-normal-form", vec![1]),
    ];
    assert_refused(cases, DirTree::decode);
    let cases = [
        ("no dirmeta", "not-normal-form", Vec::new()),
        ("a dirmeta of 11 bytes", "not-normal-form", vec![0; 11]),
        ("a byte behind the mode", "not-normal-form", [&dirmeta(0o40_755, &[])[..], &[0]].concat()),
    ];
    assert_refused(cases, DirMeta::decode);
    assert_refused([("a byte", "not-normal-form", vec![0])], detached::decode);
    assert_refused([("no summary", "not-normal-form", Vec::new())], Summary::decode);
}

/// Checking costs time and memory in proportion to the bytes, whatever the type is.
#[test]
fn types_do_not_multiply_the_work() {
    let nested = |inner: &str| format!("a{}{inner}{}", "(".repeat(100), ")".repeat(100));
    let units = Type::parse(&nested("")).expect("a valid type");
    assert_eq!(check(&units, &vec![0; 4 << 20]), Ok(()), "four million units, each within a hundred tuples");
    let booleans = Type::parse("ab").expect("a valid type");
    assert_eq!(check(&booleans, &vec![1; 16 << 20]), Ok(()), "16 million booleans need no list of them");
}

#[test]
fn ids_are_checked_where_they_are_used() {
    let (tree, meta) = (DirTreeId(Checksum::of(&[0])), DirMetaId(Checksum::of(b"meta")));
    let commit = RawCommit {
        root_tree: tree.0.as_bytes().to_vec(),
        root_meta: meta.0.as_bytes().to_vec(),
        ..RawCommit::default()
    };
    let decoded = Commit::decode(&commit.encode()).expect("a valid commit");
    assert_eq!((decoded.root_tree, decoded.root_meta), (tree, meta), "the root's ids are in their own places");
}
