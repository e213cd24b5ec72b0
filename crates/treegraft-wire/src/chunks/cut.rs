//! Cutting content into chunks by what is in it (`FastCDC`).

use std::io::{self, Read};

use fastcdc::v2020::{self, Normalization};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes that a chunk has at least, unless it is the last one.
pub const MIN_CHUNK_BYTES: usize = 512;

/// Bytes that a chunk has on average. Half of it would save a twentieth of what is sent, and cost twice the names.
pub const AVERAGE_CHUNK_BYTES: usize = 2048;

/// Bytes that a chunk has at most.
pub const MAX_CHUNK_BYTES: usize = 16 << 10;

/// Size of the buffer that chunks are cut from in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// The short name of a chunk: its XXH3, big-endian.
///
/// Two chunks of one name cost an object that is sent again. So what the name takes counts, and not who could make such
/// chunks.
pub type Digest = [u8; 8];

/// Returns the short name of a chunk.
pub fn digest(chunk: &[u8]) -> Digest {
    xxh3_64(chunk).to_be_bytes()
}

/// Cuts what a reader gives into chunks.
#[derive(Debug)]
pub struct Cutter<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    is_ended: bool,
}

impl<R: Read> Cutter<R> {
    /// Starts to read.
    pub const fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), start: 0, is_ended: false }
    }

    /// Returns the next chunk, or nothing at the end.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        if self.buffer.len() - self.start < MAX_CHUNK_BYTES && !self.is_ended {
            self.refill()?;
        }
        let rest = &self.buffer[self.start..];
        if rest.is_empty() {
            return Ok(None);
        }
        let length = cut(rest);
        self.start += length;
        Ok(Some(&rest[..length]))
    }

    /// Fills the buffer up, so that a cut never depends on how much the reader gave at a time.
    fn refill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let wanted = (BUFFER_BYTES - self.buffer.len()) as u64;
        let read = self.source.by_ref().take(wanted).read_to_end(&mut self.buffer)?;
        self.is_ended = (read as u64) < wanted;
        Ok(())
    }
}

/// Returns the length of the first chunk of what is left of a file, or of the part of it that is in memory.
fn cut(rest: &[u8]) -> usize {
    let (small, large) = v2020::select_masks(AVERAGE_CHUNK_BYTES, Normalization::Level1);
    let (_, length) =
        v2020::cut(rest, MIN_CHUNK_BYTES, AVERAGE_CHUNK_BYTES, MAX_CHUNK_BYTES, small, large, small << 1, large << 1);
    length.clamp(1, rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes without a pattern, the same in each run.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
    }

    fn lengths(source: impl Read) -> Vec<usize> {
        let mut cutter = Cutter::new(source);
        let mut lengths = Vec::new();
        while let Some(chunk) = cutter.next_chunk().expect("memory can be read") {
            lengths.push(chunk.len());
        }
        lengths
    }

    /// Gives a few bytes at a time.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.0.len()).min(1021);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn the_cuts_are_part_of_the_protocol() {
        let lengths = lengths(&noise(20_000)[..]);
        assert_eq!(
            lengths,
            [3345, 3725, 2089, 2222, 2437, 1387, 3386, 723, 686],
            "other cuts than those of the first version need another name of the feature"
        );
    }

    #[test]
    fn the_names_are_part_of_the_protocol() {
        assert_eq!(digest(b""), 0x2d06_8005_38d3_94c2_u64.to_be_bytes(), "the value of the specification of XXH3");
        assert_eq!(digest(&noise(3345)), 0x0ca2_1721_aeac_8115_u64.to_be_bytes(), "what `xxhsum -H3` prints");
    }

    #[test]
    fn chunks_are_as_large_as_they_should_be() {
        let content = noise(4 << 20);
        let lengths = lengths(&content[..]);
        let (_, all_but_last) = lengths.split_last().expect("there are chunks");
        assert_eq!(lengths.iter().sum::<usize>(), content.len(), "nothing is lost");
        assert!(all_but_last.iter().all(|&length| length >= MIN_CHUNK_BYTES), "none is too small");
        assert!(lengths.iter().all(|&length| length <= MAX_CHUNK_BYTES), "none is too large");
        let average = content.len() / lengths.len();
        assert!(
            (AVERAGE_CHUNK_BYTES / 2..AVERAGE_CHUNK_BYTES * 2).contains(&average),
            "{average} is about the average"
        );
    }

    proptest! {
        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_come(bytes in 0_usize..600_000) {
            let content = noise(bytes);
            prop_assert_eq!(lengths(Trickle(&content)), lengths(&content[..]), "the same content has the same cuts");
        }
    }
}
