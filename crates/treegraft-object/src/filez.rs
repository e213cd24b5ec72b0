//! Archive content objects (`.filez`): a framed archive header and, for regular files, a raw deflate stream.
//!
//! ```text
//! offset 0     u32 BE   length L of the archive header
//! offset 4     4 bytes  zero
//! offset 8     L bytes  archive header `(tuuuusa(ayay))`
//! offset 8+L            regular file: raw deflate of the content; symlink: nothing
//! ```
//!
//! The checksum covers the bare header and the plain content, so the deflate stream is free: two repositories may hold
//! different bytes for one object.

use std::io::{self, Read, Write};

use flate2::{Decompress, FlushDecompress, Status};

use crate::{
    ContentHasher, ContentId, DecodeError, FileHeader, FileKind,
    deflate::{Deflater, PIECE_BYTES, ParallelDeflater, Piece, Pieces},
    file_header::FRAME_BYTES,
    limits,
};

/// Size of the buffers between stages: large enough that calls do not matter, small enough to stay in the L2 cache.
const BUFFER_BYTES: usize = 128 << 10;

/// Bytes at the beginning of a `.filez` that say how large its content is.
pub const PROMISE_BYTES: usize = FRAME_BYTES + size_of::<u64>();

/// Size of the first read: most objects are smaller, and clearing a buffer for each of them costs more than reading it.
const FIRST_BUFFER_BYTES: usize = 8 << 10;

/// Size of a content in bytes from which on threads compress it: less is done before others would wait for it.
const LARGE_BYTES: u64 = 8 << 20;

/// Why a `.filez` could not be processed.
#[derive(Debug, thiserror::Error)]
pub enum FilezError {
    /// The bytes are not a valid archive content object.
    #[error("The bytes are not a valid `.filez`")]
    Invalid(#[from] DecodeError),
    /// Reading failed.
    #[error("Could not read the object")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("Could not write the object")]
    Write(#[source] io::Error),
}

/// What is known about a content object after all of it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilezInfo {
    /// The checksum of header and content.
    pub id: ContentId,
    /// The header.
    pub header: FileHeader,
    /// Size of the plain content in bytes; 0 for a symlink.
    pub content_bytes: u64,
    /// Size of the `.filez` in bytes, header included.
    pub archived_bytes: u64,
}

/// Returns how many bytes of content a `.filez` promises, if so much of its beginning is there ([`PROMISE_BYTES`]).
pub fn promised_bytes(start: &[u8]) -> Option<u64> {
    let size = start.get(FRAME_BYTES..PROMISE_BYTES)?;
    size.try_into().ok().map(u64::from_be_bytes)
}

/// Reads the frame and the header at the start of a `.filez`.
///
/// Returns the header, the size of the content that it promises, and the bytes of frame and header.
pub fn read_header(source: &mut impl Read) -> Result<(FileHeader, u64, Vec<u8>), FilezError> {
    let mut frame = [0; FRAME_BYTES];
    read_fully(source, &mut frame, "it ends before the header")?;
    let (length, padding) = frame.split_at(4);
    let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
    if padding != [0; 4] {
        return Err(DecodeError::HeaderFrame { reason: "the four bytes behind the length are not zero" }.into());
    }
    if length == 0 {
        return Err(DecodeError::HeaderFrame { reason: "the length is zero" }.into());
    }
    check_header_length(length as usize)?;
    let mut bytes = frame.to_vec();
    // `take` bounds the allocation by what really comes, not by what the length promises.
    let read = source.take(length.into()).read_to_end(&mut bytes).map_err(FilezError::Read)?;
    if read < length as usize {
        return Err(DecodeError::HeaderFrame { reason: "it ends within the header" }.into());
    }
    let (header, content_bytes) = FileHeader::decode_archive(&bytes[FRAME_BYTES..])?;
    Ok((header, content_bytes, bytes))
}

fn check_header_length(length: usize) -> Result<(), DecodeError> {
    let (bytes, limit_bytes) = (length as u64, limits::MAX_FILE_HEADER_BYTES.into());
    if bytes > limit_bytes { Err(DecodeError::TooLarge { what: "file header", bytes, limit_bytes }) } else { Ok(()) }
}

fn read_fully(source: &mut impl Read, buffer: &mut [u8], reason: &'static str) -> Result<(), FilezError> {
    source.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => DecodeError::HeaderFrame { reason }.into(),
        _ => FilezError::Read(error),
    })
}

/// Copies a `.filez` unchanged from `source` to its end into `archived`, and its plain content into `content`.
///
/// This is the check that every content object from outside must pass: frame, header, deflate stream, sizes, nothing
/// behind the end. The returned checksum still has to be compared with the expected one. What was written before an
/// error must be thrown away. Memory does not depend on the object's size. Inflating stops within one buffer
/// behind the promised size, and nothing beyond that size reaches `content`.
pub fn copy(
    source: &mut impl Read,
    archived: &mut impl Write,
    content: &mut impl Write,
) -> Result<FilezInfo, FilezError> {
    let (header, content_bytes, header_bytes) = read_header(source)?;
    archived.write_all(&header_bytes).map_err(FilezError::Write)?;
    let mut archived_bytes = header_bytes.len() as u64;
    let mut hasher = ContentHasher::new(&header);
    if header.kind == FileKind::Regular {
        let mut inflater = Inflater::new(content_bytes);
        let mut input = vec![0; FIRST_BUFFER_BYTES];
        loop {
            let count = read_some(source, &mut input)?;
            if count == 0 {
                break;
            }
            archived.write_all(&input[..count]).map_err(FilezError::Write)?;
            archived_bytes += count as u64;
            inflater.feed(&input[..count], |plain| {
                hasher.update(plain);
                content.write_all(plain).map_err(FilezError::Write)
            })?;
            input.resize(BUFFER_BYTES, 0);
        }
        inflater.finish()?;
    } else if read_some(source, &mut [0])? != 0 {
        return Err(DecodeError::TrailingBytes { what: "symlink" }.into());
    }
    Ok(FilezInfo { id: hasher.finish(), header, content_bytes, archived_bytes })
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, FilezError> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(FilezError::Read),
        }
    }
}

/// Inflates a raw deflate stream that must give exactly the promised number of bytes.
struct Inflater {
    decompress: Decompress,
    output: Vec<u8>,
    promised_bytes: u64,
    is_ended: bool,
}

impl Inflater {
    fn new(promised_bytes: u64) -> Self {
        // One byte more than promised, so that a byte too many is seen at once.
        let buffer_bytes =
            usize::try_from(promised_bytes).map_or(BUFFER_BYTES, |promised| promised.min(BUFFER_BYTES - 1) + 1);
        Self { decompress: Decompress::new(false), output: vec![0; buffer_bytes], promised_bytes, is_ended: false }
    }

    fn feed(
        &mut self,
        mut input: &[u8],
        mut plain: impl FnMut(&[u8]) -> Result<(), FilezError>,
    ) -> Result<(), FilezError> {
        loop {
            if self.is_ended {
                let rest = DecodeError::TrailingBytes { what: "deflate stream" };
                return if input.is_empty() { Ok(()) } else { Err(rest.into()) };
            }
            let (read_before, written_before) = (self.decompress.total_in(), self.decompress.total_out());
            let status = self
                .decompress
                .decompress(input, &mut self.output, FlushDecompress::None)
                .map_err(|_| DecodeError::Deflate { reason: "it is damaged" })?;
            let read = usize::try_from(self.decompress.total_in() - read_before).expect("at most the input");
            let written = usize::try_from(self.decompress.total_out() - written_before).expect("at most the buffer");
            input = &input[read..];
            if self.decompress.total_out() > self.promised_bytes {
                let header_bytes = self.promised_bytes;
                return Err(DecodeError::ContentSize { header_bytes, reason: "but there are more" }.into());
            }
            plain(&self.output[..written])?;
            self.is_ended = status == Status::StreamEnd;
            // A full output buffer may hide more output, everything else waits for more input.
            if !self.is_ended && input.is_empty() && written < self.output.len() {
                return Ok(());
            }
            if !self.is_ended && read == 0 && written == 0 {
                return Err(DecodeError::Deflate { reason: "it does not go on" }.into());
            }
        }
    }

    fn finish(self) -> Result<(), FilezError> {
        if !self.is_ended {
            return Err(DecodeError::Deflate { reason: "it ends too early" }.into());
        }
        if self.decompress.total_out() < self.promised_bytes {
            let header_bytes = self.promised_bytes;
            return Err(DecodeError::ContentSize { header_bytes, reason: "but there are less" }.into());
        }
        Ok(())
    }
}

/// Writes a content object as a `.filez` from its header and its plain content.
///
/// `content` must give exactly `content_bytes` bytes (0 for a symlink), `level` is zlib's, 0 to 9.
pub fn write(
    header: &FileHeader,
    content_bytes: u64,
    content: &mut impl Read,
    level: u32,
    archived: &mut impl Write,
) -> Result<FilezInfo, FilezError> {
    header.validate()?;
    let header_bytes = header.encode_archive(content_bytes);
    check_header_length(header_bytes.len() - FRAME_BYTES)?;
    archived.write_all(&header_bytes).map_err(FilezError::Write)?;
    let mut archived_bytes = header_bytes.len() as u64;
    let mut hasher = ContentHasher::new(header);
    if header.kind == FileKind::Regular {
        archived_bytes += if content_bytes < LARGE_BYTES {
            Deflater::with(level, |deflater| deflate(content_bytes, content, deflater, &mut hasher, archived))?
        } else {
            ParallelDeflater::with(level, |deflater| deflate(content_bytes, content, deflater, &mut hasher, archived))
                .map_err(FilezError::Write)??
        };
    } else if content_bytes != 0 || read_some(content, &mut [0])? != 0 {
        return Err(size_differs(content_bytes, "a symlink has none"));
    }
    Ok(FilezInfo { id: hasher.finish(), header: header.clone(), content_bytes, archived_bytes })
}

/// Compresses exactly `content_bytes` bytes and returns how many bytes they became.
fn deflate(
    content_bytes: u64,
    content: &mut impl Read,
    pieces: &mut impl Pieces,
    hasher: &mut ContentHasher,
    archived: &mut impl Write,
) -> Result<u64, FilezError> {
    let (mut left_bytes, mut archived_bytes) = (content_bytes, 0);
    loop {
        let piece_bytes = usize::try_from(left_bytes).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let piece = pieces.next_piece(piece_bytes);
        let mut filled = 0;
        while filled < piece_bytes {
            match read_some(content, &mut piece[filled..])? {
                0 => return Err(size_differs(content_bytes, "but there are less")),
                count => filled += count,
            }
        }
        hasher.update(piece);
        left_bytes -= piece_bytes as u64;
        if left_bytes == 0 && read_some(content, &mut [0])? != 0 {
            return Err(size_differs(content_bytes, "but there are more"));
        }
        let which = if left_bytes == 0 { Piece::Last } else { Piece::Inner };
        let mut write = |compressed: &[u8]| {
            archived_bytes += compressed.len() as u64;
            archived.write_all(compressed)
        };
        pieces.compress(which, &mut write).map_err(FilezError::Write)?;
        if left_bytes == 0 {
            return Ok(archived_bytes);
        }
    }
}

fn size_differs(header_bytes: u64, reason: &'static str) -> FilezError {
    DecodeError::ContentSize { header_bytes, reason }.into()
}
