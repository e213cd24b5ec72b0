//! A file as what a compressor makes of it that knows an older version, which both sides have.
//!
//! ```text
//! reference  basis     32 bytes   the checksum of a content object that the server has
//!            header               as at the beginning of a `.filez`: frame and archive header
//!            segment*             until the object ends
//! segment    offset    varint     where in the basis the prefix begins, never before that of the segment before
//!            prefix    varint     its length in bytes
//!            plain     varint     length of what the segment makes, in bytes
//!            length    varint     of the frame, in bytes
//!            frame                zstd's, with that part of the basis as its prefix
//! ```
//!
//! The compressor finds parts that are as short as a few bytes, as programs have them that were linked anew. A segment is
//! compared with what is about at its place in the basis, so that memory does not grow with the file.

use std::io::{self, BufRead, Read, Write};

use treegraft_object::{ContentId, FileHeader};
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use super::{
    RecipeError, RecipeReader,
    recipe::{read_varint, write_varint},
};

/// Bytes of the file in a segment.
const SEGMENT_BYTES: usize = 2 << 20;

/// How far around its own place a segment is compared, in bytes.
const AROUND_BYTES: usize = 1 << 20;

/// Longest prefix of a segment in bytes.
const MAX_PREFIX_BYTES: usize = SEGMENT_BYTES + 2 * AROUND_BYTES;

/// Longest frame of a segment that a server takes, in bytes: some more than the segment.
const MAX_FRAME_BYTES: usize = SEGMENT_BYTES + (64 << 10);

/// The level of compression; higher ones save a few percent and take much longer.
const LEVEL: i32 = 3;

/// A window that has prefix and segment, as a power of two.
const WINDOW_LOG: u32 = 23;

/// Size of the compressor's tables as a power of two: level 3 has tables for files much smaller than a prefix, and finds a
/// tenth of what there is to be found with them.
const TABLE_LOG: u32 = 19;

/// Writes what differs in a file from an older version of it.
///
/// `content` must have as many bytes as is said; whoever reads the result notices if it has others. `basis` is only a help:
/// from where it cannot be read, or ends too soon, segments have no prefix.
pub fn write_reference(
    basis_id: ContentId,
    (basis_bytes, basis): (u64, impl Read),
    header: &FileHeader,
    (content_bytes, mut content): (u64, impl Read),
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(basis_id.0.as_bytes())?;
    out.write_all(&header.encode_archive(content_bytes))?;
    let mut prefix = Some(Prefix::new(basis));
    let mut offset = 0;
    let mut segment = Vec::new();
    let mut frame = Vec::new();
    let mut done_bytes = 0;
    loop {
        segment.clear();
        content.by_ref().take(SEGMENT_BYTES as u64).read_to_end(&mut segment)?;
        if segment.is_empty() {
            return Ok(());
        }
        let place = u128::from(done_bytes) * u128::from(basis_bytes) / u128::from(content_bytes.max(1));
        let place = u64::try_from(place).unwrap_or(basis_bytes).min(basis_bytes);
        let start = place.saturating_sub(AROUND_BYTES as u64);
        let end = place.saturating_add((segment.len() + AROUND_BYTES) as u64).min(basis_bytes);
        let length = usize::try_from(end - start).map_or(MAX_PREFIX_BYTES, |length| length.min(MAX_PREFIX_BYTES));
        let known = if let Some(Ok(known)) = prefix.as_mut().map(|prefix| prefix.at(start, length)) {
            offset = start;
            known
        } else {
            prefix = None;
            &[]
        };
        compress(&segment, known, &mut frame)?;
        for number in [offset, known.len() as u64, segment.len() as u64, frame.len() as u64] {
            write_varint(number, out)?;
        }
        out.write_all(&frame)?;
        done_bytes += segment.len() as u64;
    }
}

fn compress(segment: &[u8], prefix: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
    let mut context = CCtx::create();
    frame.clear();
    frame.reserve(zstd_safe::compress_bound(segment.len()));
    let parameters = [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(WINDOW_LOG),
        CParameter::HashLog(TABLE_LOG),
        CParameter::ChainLog(TABLE_LOG),
    ];
    parameters
        .into_iter()
        .try_for_each(|parameter| context.set_parameter(parameter).map(drop))
        .and_then(|()| context.set_pledged_src_size(Some(segment.len() as u64)).map(drop))
        .and_then(|()| context.ref_prefix(prefix).map(drop))
        .and_then(|()| context.compress2(frame, segment))
        .map(drop)
        .map_err(of_zstd)
}

fn of_zstd(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
}

/// A part of a file that only moves forward.
struct Prefix<R> {
    source: R,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    offset: u64,
}

impl<R: Read> Prefix<R> {
    const fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), offset: 0 }
    }

    /// Returns `length` bytes from `offset` on, which must not be before that of the last call.
    fn at(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it was said to be");
        let passed = offset.checked_sub(self.offset).ok_or_else(short)?;
        let held = self.buffer.len().min(usize::try_from(passed).unwrap_or(usize::MAX));
        self.buffer.drain(..held);
        let skipped = passed - held as u64;
        if io::copy(&mut self.source.by_ref().take(skipped), &mut io::sink())? < skipped {
            return Err(short());
        }
        self.offset = offset;
        let missing = length.saturating_sub(self.buffer.len()) as u64;
        self.source.by_ref().take(missing).read_to_end(&mut self.buffer)?;
        self.buffer.get(..length).ok_or_else(short)
    }
}

impl<R: Read> RecipeReader<R> {
    /// Makes the file with the older version of it, for an object that was sent by reference: returns a reader of its plain
    /// content. Its errors have a [`RecipeError`] inside.
    pub fn decompress<B: Read>(self, basis: B) -> impl Read {
        let (segment, frame) = (Vec::new(), Vec::new());
        Content { source: self.source, prefix: Prefix::new(basis), segment, read_bytes: 0, frame }
    }
}

struct Content<S, B> {
    source: S,
    prefix: Prefix<B>,
    /// What the last segment has made, and how much of it was read.
    segment: Vec<u8>,
    read_bytes: usize,
    frame: Vec<u8>,
}

impl<S: BufRead, B: Read> Content<S, B> {
    /// Makes the next segment. Tells whether there is one.
    fn next_segment(&mut self) -> Result<bool, RecipeError> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let offset = read_varint(&mut self.source)?;
        let mut length = |limit: usize, what| {
            let length = usize::try_from(read_varint(&mut self.source)?).unwrap_or(usize::MAX);
            if length <= limit { Ok(length) } else { Err(RecipeError::Segment { what }) }
        };
        let prefix_bytes = length(MAX_PREFIX_BYTES, "its prefix is too long")?;
        let plain_bytes = length(SEGMENT_BYTES, "it makes too many bytes")?;
        let frame_bytes = length(MAX_FRAME_BYTES, "its frame is too long")?;
        if plain_bytes == 0 {
            return Err(RecipeError::EmptyStep);
        }
        if offset < self.prefix.offset {
            return Err(RecipeError::TooFarBack { offset, furthest: self.prefix.offset });
        }
        self.frame.clear();
        // `take` bounds the memory by what really comes, not by what was promised.
        let read = self.source.by_ref().take(frame_bytes as u64).read_to_end(&mut self.frame)?;
        if read < frame_bytes {
            return Err(RecipeError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        let prefix = self.prefix.at(offset, prefix_bytes).map_err(RecipeError::Basis)?;
        self.segment.clear();
        self.segment.reserve(plain_bytes);
        let mut context = DCtx::create();
        context
            .ref_prefix(prefix)
            .map(drop)
            .and_then(|()| context.decompress(&mut self.segment, &self.frame))
            .map_err(|_| RecipeError::Segment { what: "its frame cannot be decompressed" })?;
        if self.segment.len() != plain_bytes {
            return Err(RecipeError::Segment { what: "it makes another number of bytes than it says" });
        }
        self.read_bytes = 0;
        Ok(true)
    }
}

impl<S: BufRead, B: Read> Read for Content<S, B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_bytes == self.segment.len() && !self.next_segment().map_err(io::Error::other)? {
            return Ok(0);
        }
        let count = buffer.len().min(self.segment.len() - self.read_bytes);
        buffer[..count].copy_from_slice(&self.segment[self.read_bytes..self.read_bytes + count]);
        self.read_bytes += count;
        Ok(count)
    }
}
