//! How a file is made of parts of a basis and of bytes that are sent.
//!
//! ```text
//! recipe   basis     32 bytes   the checksum of a content object that the server has
//!          header               as at the beginning of a `.filez`: frame and archive header
//!          step*                until the object ends
//! step     number    varint     twice the length in bytes, and one more for a copy
//!          copy:     varint     where it begins in the basis, less the end of the last copy; zigzag
//!          bytes:               so many
//! ```
//!
//! A varint has seven bits a byte, the lowest first; the highest bit says that more follow. Zigzag numbers are 0, -1, 1,
//! -2, …

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
};

use treegraft_object::{
    Checksum, ContentId, FileHeader,
    filez::{self, FilezError},
};

use super::{Basis, Cutter, Digest, Signature, WINDOW_BYTES, digest};

/// Bytes that are gathered to be sent in one step.
const MAX_STEP_BYTES: usize = 64 << 10;

/// Bytes that are read of a recipe at a time.
const READ_BYTES: usize = 64 << 10;

/// The part of what a leap passes over that must be found in one piece behind it, before the leap is made.
const LEAP_PART: u64 = 64;

/// Chunks of the same digest that are looked at. Files full of one byte have very many of them.
const MAX_TWINS: usize = 16;

/// A recipe cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A number has more than 64 bits.
    #[error("A number of the recipe is too large")]
    Number,
    /// A step makes no bytes.
    #[error("A step of the recipe has no bytes")]
    EmptyStep,
    /// The basis would have to be read again from the start.
    #[error("The recipe copies from byte {offset}, too far before byte {furthest}, to which it has come")]
    TooFarBack {
        /// Where the copy begins.
        offset: u64,
        /// How far the basis was read.
        furthest: u64,
    },
    /// A segment of a reference breaks a rule.
    #[error("A segment cannot be made: {what}")]
    Segment {
        /// The rule.
        what: &'static str,
    },
    /// The basis cannot be read, or ends before a copy does.
    #[error("Could not read the basis of the recipe")]
    Basis(#[source] io::Error),
    /// The recipe cannot be read to its end.
    #[error("Could not read the recipe")]
    Read(#[from] io::Error),
    /// The header is not valid.
    #[error("Could not read the recipe")]
    Header(#[source] FilezError),
}

/// Writes the recipe of a file; returns how many bytes are copied.
///
/// `content` must have `content_bytes` bytes; whoever follows the recipe notices if it has others.
pub fn write_recipe(
    signature: &Signature,
    header: &FileHeader,
    content_bytes: u64,
    content: impl Read,
    recipe: &mut impl Write,
) -> io::Result<u64> {
    recipe.write_all(signature.basis.0.as_bytes())?;
    recipe.write_all(&header.encode_archive(content_bytes))?;
    let mut steps = Steps::new(recipe);
    let mut finder = Finder::new(signature);
    let mut cutter = Cutter::new(content);
    while let Some(chunk) = cutter.next_chunk()? {
        match finder.find(chunk) {
            Some(offset) => steps.copy(offset, chunk.len() as u64)?,
            None => steps.send(chunk)?,
        }
    }
    steps.finish()
}

/// Finds chunks of a file in the basis.
struct Finder<'s> {
    chunks: &'s [(u16, Digest)],
    offsets: Vec<u64>,
    /// The first chunk with a digest; `twins` leads to the next one.
    first: HashMap<Digest, u32>,
    twins: Vec<u32>,
    /// The chunk behind the last one that was found.
    expected: usize,
    furthest: u64,
    /// Chunks that were found far ahead and not used: the one behind them, and how many bytes they are in one piece.
    leap: Option<(usize, u64)>,
}

/// No further twin.
const NO_TWIN: u32 = u32::MAX;

impl<'s> Finder<'s> {
    fn new(signature: &'s Signature) -> Self {
        let chunks = &signature.chunks[..];
        let mut offset = 0;
        let mut offsets = Vec::with_capacity(chunks.len());
        for &(length, _) in chunks {
            offsets.push(offset);
            offset += u64::from(length);
        }
        let mut first = HashMap::with_capacity(chunks.len());
        let mut twins = vec![NO_TWIN; chunks.len()];
        for (index, &(_, digest)) in chunks.iter().enumerate().rev() {
            let index_number = u32::try_from(index).expect("a signature counts its chunks in 32 bits");
            if let Some(next) = first.insert(digest, index_number) {
                twins[index] = next;
            }
        }
        Self { chunks, offsets, first, twins, expected: 0, furthest: 0, leap: None }
    }

    /// Returns where in the basis the chunk is, if it can be copied from there.
    fn find(&mut self, chunk: &[u8]) -> Option<u64> {
        let digest = digest(chunk);
        let leap = self.leap.take();
        let index = [Some(self.expected), leap.map(|(index, _)| index)]
            .into_iter()
            .flatten()
            .find(|&index| self.is_at(index, chunk, digest))
            .or_else(|| self.nearest(chunk, digest))?;
        let offset = self.offsets[index];
        // What is passed over cannot be had any more: some chunks that happen to be far ahead are not worth that.
        if let Some(passed) = offset.checked_sub(self.furthest + WINDOW_BYTES) {
            let found = leap.filter(|&(behind, _)| behind == index).map_or(0, |(_, bytes)| bytes);
            if found == 0 || found < passed / LEAP_PART {
                self.leap = Some((index + 1, found + chunk.len() as u64));
                return None;
            }
        }
        self.expected = index + 1;
        self.furthest = self.furthest.max(offset + chunk.len() as u64);
        Some(offset)
    }

    fn is_at(&self, index: usize, chunk: &[u8], digest: Digest) -> bool {
        self.chunks.get(index).is_some_and(|&(length, known)| known == digest && usize::from(length) == chunk.len())
            && self.offsets[index] + WINDOW_BYTES >= self.furthest
    }

    /// Finds the chunk that is the least far from where the last one was.
    fn nearest(&self, chunk: &[u8], digest: Digest) -> Option<usize> {
        let here = self.offsets.get(self.expected).copied().unwrap_or(self.furthest);
        let mut next = self.first.get(&digest).copied();
        let twins = std::iter::from_fn(|| {
            let index = next? as usize;
            next = Some(self.twins[index]).filter(|&twin| twin != NO_TWIN);
            Some(index)
        });
        twins
            .take(MAX_TWINS)
            .filter(|&index| self.is_at(index, chunk, digest))
            .min_by_key(|&index| self.offsets[index].abs_diff(here))
    }
}

/// Writes steps, as few as possible.
struct Steps<'w, W> {
    recipe: &'w mut W,
    bytes: Vec<u8>,
    copy: Option<(u64, u64)>,
    copy_end: u64,
    copied_bytes: u64,
}

impl<'w, W: Write> Steps<'w, W> {
    fn new(recipe: &'w mut W) -> Self {
        Self { recipe, bytes: Vec::new(), copy: None, copy_end: 0, copied_bytes: 0 }
    }

    fn copy(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.write_bytes()?;
        self.copied_bytes += length;
        match &mut self.copy {
            Some((start, so_far)) if *start + *so_far == offset => *so_far += length,
            _ => {
                self.write_copy()?;
                self.copy = Some((offset, length));
            }
        }
        Ok(())
    }

    fn send(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.write_copy()?;
        self.bytes.extend_from_slice(chunk);
        if self.bytes.len() >= MAX_STEP_BYTES { self.write_bytes() } else { Ok(()) }
    }

    fn write_copy(&mut self) -> io::Result<()> {
        let Some((offset, length)) = self.copy.take() else { return Ok(()) };
        write_varint(length << 1 | 1, self.recipe)?;
        let distance = offset.wrapping_sub(self.copy_end).cast_signed();
        write_varint((distance << 1 ^ distance >> 63).cast_unsigned(), self.recipe)?;
        self.copy_end = offset + length;
        Ok(())
    }

    fn write_bytes(&mut self) -> io::Result<()> {
        if !self.bytes.is_empty() {
            write_varint((self.bytes.len() as u64) << 1, self.recipe)?;
            self.recipe.write_all(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.write_copy()?;
        self.write_bytes()?;
        Ok(self.copied_bytes)
    }
}

pub(super) fn write_varint(mut number: u64, out: &mut impl Write) -> io::Result<()> {
    let mut bytes = [0; 10];
    let mut length = 0;
    loop {
        bytes[length] = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        length += 1;
        if number == 0 {
            return out.write_all(&bytes[..length]);
        }
        bytes[length - 1] |= 0x80;
    }
}

/// A recipe of which the head was read.
#[derive(Debug)]
pub struct RecipeReader<R> {
    /// The content object that it copies from.
    pub basis: ContentId,
    /// The header of the file that it makes.
    pub header: FileHeader,
    /// The size of its plain content in bytes, as the recipe promises it.
    pub content_bytes: u64,
    pub(super) source: BufReader<R>,
}

impl<R: Read> RecipeReader<R> {
    /// Reads the head of a recipe.
    pub fn new(source: R) -> Result<Self, RecipeError> {
        let mut source = BufReader::with_capacity(READ_BYTES, source);
        let mut basis = [0; Checksum::BYTES];
        source.read_exact(&mut basis)?;
        let (header, content_bytes, _) = filez::read_header(&mut source).map_err(RecipeError::Header)?;
        Ok(Self { basis: ContentId(Checksum::from_bytes(basis)), header, content_bytes, source })
    }

    /// Follows the recipe: returns a reader of the file's plain content. Its errors have a [`RecipeError`] inside.
    pub fn follow<B: Read>(self, basis: Basis<B>) -> impl Read {
        Content { source: self.source, basis, step: Step::Done, copy_end: 0 }
    }
}

/// What is left of a step.
enum Step {
    Done,
    Bytes(u64),
    Copy { offset: u64, bytes: u64 },
}

struct Content<R, B> {
    source: BufReader<R>,
    basis: Basis<B>,
    step: Step,
    copy_end: u64,
}

impl<R: Read, B: Read> Content<R, B> {
    fn read_step(&mut self, buffer: &mut [u8]) -> Result<usize, RecipeError> {
        let fitting = |bytes: u64| buffer.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        match self.step {
            Step::Done => Ok(0),
            Step::Bytes(left) => {
                let wanted = fitting(left);
                let count = self.source.read(&mut buffer[..wanted])?;
                if count == 0 {
                    return Err(RecipeError::Read(io::ErrorKind::UnexpectedEof.into()));
                }
                let left = left - count as u64;
                self.step = if left == 0 { Step::Done } else { Step::Bytes(left) };
                Ok(count)
            }
            Step::Copy { offset, bytes } => {
                let wanted = fitting(bytes);
                let count = self.basis.read_at(offset, &mut buffer[..wanted])?;
                let (offset, bytes) = (offset + count as u64, bytes - count as u64);
                self.step = if bytes == 0 { Step::Done } else { Step::Copy { offset, bytes } };
                Ok(count)
            }
        }
    }

    /// Reads the beginning of the next step. Tells whether there is one.
    fn next_step(&mut self) -> Result<bool, RecipeError> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let number = read_varint(&mut self.source)?;
        let bytes = number >> 1;
        if bytes == 0 {
            return Err(RecipeError::EmptyStep);
        }
        self.step = if number & 1 == 0 {
            Step::Bytes(bytes)
        } else {
            let distance = read_varint(&mut self.source)?;
            let distance = (distance >> 1).cast_signed() ^ -(distance & 1).cast_signed();
            let offset = self.copy_end.checked_add_signed(distance).ok_or(RecipeError::Number)?;
            self.copy_end = offset.checked_add(bytes).ok_or(RecipeError::Number)?;
            Step::Copy { offset, bytes }
        };
        Ok(true)
    }
}

pub(super) fn read_varint(source: &mut impl Read) -> Result<u64, RecipeError> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        source.read_exact(&mut byte)?;
        let bits = u64::from(byte[0] & 0x7f);
        if bits << shift >> shift != bits {
            return Err(RecipeError::Number);
        }
        number |= bits << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(RecipeError::Number)
}

impl<R: Read, B: Read> Read for Content<R, B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let is_going_on = !matches!(self.step, Step::Done) || self.next_step().map_err(io::Error::other)?;
        if is_going_on { self.read_step(buffer).map_err(io::Error::other) } else { Ok(0) }
    }
}
