//! Reading a file forward, with a look back.

use std::io::{self, Read};

use super::{RecipeError, WINDOW_BYTES};

/// Bytes that are read of the file at a time.
const READ_BYTES: usize = 128 << 10;

/// The plain content of a file that parts are taken of, read once from its beginning.
pub struct Basis<R> {
    source: R,
    /// What was read last, at least [`WINDOW_BYTES`] before the furthest byte that was taken.
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffer_offset: u64,
    /// The end of the furthest part that was taken.
    furthest: u64,
}

impl<R: Read> Basis<R> {
    /// Starts at the beginning of the content.
    pub const fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), buffer_offset: 0, furthest: 0 }
    }

    /// Reads bytes from `offset` on, at most as many as fit and as are in one piece, at least one.
    pub(super) fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<usize, RecipeError> {
        if offset.saturating_add(WINDOW_BYTES) < self.furthest {
            return Err(RecipeError::TooFarBack { offset, furthest: self.furthest });
        }
        while self.end() <= offset {
            self.read_on()?;
        }
        let start = usize::try_from(offset - self.buffer_offset).expect("the buffer is in memory");
        let count = bytes.len().min(self.buffer.len() - start);
        bytes[..count].copy_from_slice(&self.buffer[start..start + count]);
        self.furthest = self.furthest.max(offset + count as u64);
        Ok(count)
    }

    const fn end(&self) -> u64 {
        self.buffer_offset + self.buffer.len() as u64
    }

    fn read_on(&mut self) -> Result<(), RecipeError> {
        // Bytes are moved to the front once in half a window, not at each read.
        let window = usize::try_from(WINDOW_BYTES).expect("a window fits in memory") + READ_BYTES;
        if self.buffer.len() >= window + window / 2 {
            let passed = self.buffer.len() - window;
            self.buffer.drain(..passed);
            self.buffer_offset += passed as u64;
        }
        let read = self.source.by_ref().take(READ_BYTES as u64).read_to_end(&mut self.buffer);
        match read.map_err(RecipeError::Basis)? {
            0 => Err(RecipeError::Basis(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than the copy"))),
            _ => Ok(()),
        }
    }
}
