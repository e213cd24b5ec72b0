//! Compressing content a piece at a time with libdeflate.
//!
//! libdeflate takes half the time of zlib-rs for the same size. But it compresses only what is in memory as a whole. So
//! large content is cut into pieces, and the streams of the pieces become one: the last block of each but the last piece
//! loses the mark that says so, and an empty stored block behind it fills the byte, as zlib's `Z_SYNC_FLUSH` does. Pieces of
//! a MiB cost some thousandths in size. Several of them can be compressed at a time ([`ParallelDeflater`]).
//!
//! libdeflate is C. It sees only what is published from here, never what comes from elsewhere: that is inflated in Rust.

mod last_block;
mod parallel;

use std::{cell::Cell, io, mem};

use libdeflater::{CompressionLvl, Compressor};
pub(crate) use parallel::ParallelDeflater;

use self::last_block::PADDING_BYTES;

/// The size of a piece in bytes: what two pieces do not share costs next to nothing, and a thread's buffers are small.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// What two pieces may have between them beyond the first one's stream: three bits, and two lengths of 16 bits.
const JOINT_BYTES: usize = 5;

/// libdeflate's level for each of zlib's: the fastest one that makes no larger files of a distribution's libraries and
/// programs than zlib-rs does at that level; at 8 and 9 a better one, which still takes half the time.
const LEVELS: [i32; 10] = [0, 1, 1, 2, 2, 3, 3, 5, 6, 8];

/// The level for what hardly becomes smaller: others take a third longer to save one or two parts in a hundred.
const DENSE_LEVEL: i32 = 1;

/// A piece is dense when it keeps more than so many of its hundred parts. Sound and pictures do.
const DENSE_PERCENT: usize = 50;

/// How much of a dense piece is compressed at once, in bytes: libdeflate makes a single block of it, as a rule, which is the
/// last one already.
const DENSE_BYTES: usize = 64 << 10;

/// What compresses one content, piece by piece.
pub(crate) trait Pieces {
    /// Returns the buffer for the next piece of the content, which must be filled.
    fn next_piece(&mut self, bytes: usize) -> &mut [u8];

    /// Compresses the piece, and gives what is next in the stream as soon as it is known: all of it by the end of the last
    /// piece.
    fn compress(&mut self, which: Piece, write: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>;
}

/// Compresses one content after the other, with buffers that it keeps.
pub(crate) struct Deflater {
    level: i32,
    compressor: Compressor,
    /// Made when it is needed.
    dense: Option<Compressor>,
    /// Whether the piece before was dense.
    is_dense: bool,
    /// The piece, and perhaps more that is left of a larger one.
    input: Vec<u8>,
    piece_bytes: usize,
    output: Vec<u8>,
}

/// Which piece of a content one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Another one follows.
    Inner,
    /// It ends the stream.
    Last,
}

thread_local! {
    /// Each thread's compressor: making one, and its memory, costs more than compressing a small file.
    static KEPT: Cell<Option<Deflater>> = const { Cell::new(None) };
}

impl Deflater {
    /// Calls something with the thread's compressor, for one content, with a level of zlib's.
    pub(crate) fn with<T>(zlib_level: u32, compress: impl FnOnce(&mut Self) -> T) -> T {
        let level = LEVELS[usize::try_from(zlib_level).map_or(LEVELS.len(), |level| level).min(LEVELS.len() - 1)];
        let kept = KEPT.take().filter(|kept| kept.level == level);
        let mut deflater = kept.unwrap_or_else(|| Self::new(level));
        deflater.is_dense = false;
        let result = compress(&mut deflater);
        KEPT.set(Some(deflater));
        result
    }

    fn new(level: i32) -> Self {
        Self {
            level,
            compressor: compressor(level),
            dense: None,
            is_dense: false,
            input: Vec::new(),
            piece_bytes: 0,
            output: Vec::new(),
        }
    }

    /// Compresses a piece and returns what it gives to the stream.
    fn compressed(&mut self, piece: &[u8], which: Piece) -> &[u8] {
        let is_dense = self.is_dense && self.level > DENSE_LEVEL;
        let (compressor, part_bytes) = if is_dense {
            (self.dense.get_or_insert_with(|| compressor(DENSE_LEVEL)), DENSE_BYTES)
        } else {
            (&mut self.compressor, PIECE_BYTES)
        };
        let (mut rest, mut bytes) = (piece, 0);
        loop {
            let (part, behind) = rest.split_at(rest.len().min(part_bytes));
            rest = behind;
            let bound = bytes + compressor.deflate_compress_bound(part.len()) + JOINT_BYTES.max(PADDING_BYTES);
            if self.output.len() < bound {
                self.output.resize(bound, 0);
            }
            let output = &mut self.output[bytes..];
            let count =
                compressor.deflate_compress(part, output).expect("the buffer is as large as the library asks for");
            let is_last = which == Piece::Last && rest.is_empty();
            bytes += if is_last { count } else { open_end(output, count) };
            if rest.is_empty() {
                break;
            }
        }
        self.is_dense = bytes * 100 > piece.len() * DENSE_PERCENT;
        &self.output[..bytes]
    }
}

impl Pieces for Deflater {
    fn next_piece(&mut self, bytes: usize) -> &mut [u8] {
        if self.input.len() < bytes {
            self.input.resize(bytes, 0);
        }
        self.piece_bytes = bytes;
        &mut self.input[..bytes]
    }

    fn compress(&mut self, which: Piece, write: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let input = mem::take(&mut self.input);
        let written = write(self.compressed(&input[..self.piece_bytes], which));
        self.input = input;
        written
    }
}

fn compressor(level: i32) -> Compressor {
    Compressor::new(CompressionLvl::new(level).expect("libdeflate has levels from 0 to 12"))
}

/// Makes a stream of `bytes` bytes one that goes on at the next byte. Returns its new size.
fn open_end(buffer: &mut [u8], bytes: usize) -> usize {
    let last = last_block::find(&buffer[..bytes + PADDING_BYTES]).expect("libdeflate makes valid streams");
    buffer[last.start / 8] &= !(1 << (last.start % 8));
    // The empty block's three bits are zero, as the rest of the byte that they end in.
    let stored = (last.end + 3).div_ceil(8);
    if stored > last.end.div_ceil(8) {
        buffer[stored - 1] = 0;
    }
    buffer[stored..stored + 4].copy_from_slice(&[0, 0, 0xff, 0xff]);
    stored + 4
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Bytes that are as hard to compress as `mask` has bits.
    fn noise(bytes: usize, mask: u8) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[5] & mask
        };
        (0..bytes).map(next).collect()
    }

    fn contents() -> Vec<Vec<u8>> {
        let words = (0..40_000).map(|number: u32| format!("{} {:x} ", number, number.wrapping_mul(0x9e37_79b1)));
        let text = words.collect::<String>().into_bytes();
        let mixed =
            [&text[..70_000], &noise(50_000, 0xff)[..], &vec![0; 80_000][..], &noise(60_000, 0x1f)[..]].concat();
        // Code lengths that are as different as they can be: each byte half as often as the one before it.
        let skewed = (1..300_000_u32).map(|number| u8::try_from(number.trailing_zeros()).unwrap_or(0)).collect();
        let long = noise(300_000, 0xff).into_iter().zip(noise(300_000, 0x07)).map(|(a, b)| a & (0xff >> b)).collect();
        vec![Vec::new(), vec![7], b"abc".repeat(9), text, noise(200_000, 0xff), mixed, skewed, long]
    }

    /// Compresses content in pieces of so many bytes.
    fn deflate(content: &[u8], level: u32, piece_bytes: usize) -> Vec<u8> {
        Deflater::with(level, |deflater| deflate_with(deflater, content, piece_bytes))
    }

    fn deflate_with(pieces: &mut impl Pieces, content: &[u8], piece_bytes: usize) -> Vec<u8> {
        let (mut rest, mut stream) = (content, Vec::new());
        loop {
            let (piece, behind) = rest.split_at(rest.len().min(piece_bytes));
            pieces.next_piece(piece.len()).copy_from_slice(piece);
            let which = if behind.is_empty() { Piece::Last } else { Piece::Inner };
            let mut keep = |bytes: &[u8]| {
                stream.extend_from_slice(bytes);
                Ok(())
            };
            pieces.compress(which, &mut keep).expect("memory takes it");
            rest = behind;
            if rest.is_empty() {
                return stream;
            }
        }
    }

    fn inflate(stream: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut decoder = flate2::bufread::DeflateDecoder::new(stream);
        decoder.read_to_end(&mut plain).expect("the stream is valid");
        assert_eq!(decoder.total_in(), stream.len() as u64, "the stream ends where it ends");
        plain
    }

    #[test]
    fn pieces_of_any_size_are_one_stream() {
        for content in contents() {
            for level in [0, 1, 4, 6, 9] {
                for piece_bytes in [11, 999, 20_000, 150_000] {
                    let content = &content[..content.len().min(piece_bytes * 50)];
                    let stream = deflate(content, level, piece_bytes);
                    assert!(inflate(&stream) == content, "level {level}, pieces of {piece_bytes} bytes");
                }
            }
        }
    }

    #[test]
    fn several_threads_make_one_stream_and_always_the_same() {
        for content in contents() {
            for (level, piece_bytes) in [(0, 20_000), (6, 999), (6, 20_000), (6, 1 << 20), (9, 50_000)] {
                let content = &content[..content.len().min(piece_bytes * 50)];
                let stream = || {
                    ParallelDeflater::with(level, |deflater| deflate_with(deflater, content, piece_bytes))
                        .expect("there are threads")
                };
                let first = stream();
                assert!(inflate(&first) == content, "level {level}, pieces of {piece_bytes} bytes");
                assert!(stream() == first, "level {level}, pieces of {piece_bytes} bytes");
            }
        }
    }

    #[test]
    fn threads_end_with_what_is_given_up() {
        let given_up = ParallelDeflater::with(6, |deflater| {
            for _ in 0..3 {
                deflater.next_piece(5).copy_from_slice(b"piece");
                deflater.compress(Piece::Inner, &mut |_| Err(io::ErrorKind::StorageFull.into()))?;
            }
            Ok(())
        });
        let given_up = given_up.expect("there are threads");
        assert_eq!(given_up.map_err(|error: io::Error| error.kind()), Err(io::ErrorKind::StorageFull));
    }

    #[test]
    fn the_last_block_is_found_in_what_others_compress() {
        for content in contents() {
            for level in [0, 1, 4, 6, 9] {
                let mut stream = Vec::new();
                let mut encoder = flate2::write::DeflateEncoder::new(&mut stream, flate2::Compression::new(level));
                io::Write::write_all(&mut encoder, &content).expect("memory takes it");
                encoder.finish().expect("memory takes it");
                let bytes = stream.len();
                stream.resize(bytes + JOINT_BYTES.max(PADDING_BYTES), 0x55);
                let end = open_end(&mut stream, bytes);
                stream.truncate(end);
                // An empty last block with fixed codes.
                stream.extend([3, 0]);
                assert!(inflate(&stream) == content, "level {level}");
            }
        }
    }

    #[test]
    fn damaged_streams_are_no_reason_to_panic() {
        for content in contents() {
            let content = &content[..content.len().min(3_000)];
            let stream = deflate(content, 6, PIECE_BYTES);
            let padded = |stream: &[u8]| [stream, &[0xff; PADDING_BYTES][..]].concat();
            let assert_within = |damaged: &[u8], bytes: usize, what: &str| {
                let is_within = last_block::find(damaged).is_none_or(|last| last.end <= bytes * 8);
                assert!(is_within, "{what} is no reason to look behind the end");
            };
            for length in 0..stream.len() {
                assert_within(&padded(&stream[..length]), length, "a cut");
            }
            for bit in 0..stream.len() * 8 {
                let mut damaged = padded(&stream);
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_within(&damaged, stream.len(), "a flipped bit");
            }
        }
    }

    #[test]
    fn a_compressor_within_another_is_another() {
        let inner = Deflater::with(6, |outer| {
            outer.next_piece(5).copy_from_slice(b"outer");
            let inner = deflate(b"inner", 6, PIECE_BYTES);
            let mut stream = Vec::new();
            let mut keep = |bytes: &[u8]| {
                stream.extend_from_slice(bytes);
                Ok(())
            };
            outer.compress(Piece::Last, &mut keep).expect("memory takes it");
            assert_eq!(inflate(&stream), b"outer", "the outer one works on");
            inner
        });
        assert_eq!(inflate(&inner), b"inner", "the inner one is whole");
    }
}
