//! Streams of objects.
//!
//! ```text
//! object   kind      1 byte    libostree's number
//!          encoding  1 byte    0: the object as an archive repository stores it
//!                              1: a content object as a recipe, 2: by reference; see [`chunks`](crate::chunks)
//!          checksum  32 bytes
//!          chunk*              as many as the object needs
//!          end       4 bytes   zero
//! chunk    length    4 bytes   big-endian, 1 to 1 MiB
//!          bytes
//! ```
//!
//! Objects follow each other until the stream ends. Chunks are there so that an object can be sent while it is
//! compressed, before its length is known.
//!
//! A stream of recipes has the content encoding [`ZSTD`]: it is compressed as a whole, since what is similar in one file and
//! the next is sent once then. Objects as they are stored are compressed already.

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use treegraft_object::{Checksum, ObjectKind, ObjectName};
use zstd::zstd_safe::CParameter;

/// Largest chunk in bytes.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// The content encoding of a stream that is compressed.
pub const ZSTD: &str = "zstd";

/// The level of compression: the link is slow, or nothing would be compressed, and the server can do other things with its
/// time. Higher levels save a few percent.
const ZSTD_LEVEL: i32 = 3;

/// The shortest match that is looked for, one byte less than with the level alone: a hundredth is saved for no time.
const ZSTD_MIN_MATCH: u32 = 4;

/// The window of the compression as a power of two, in bytes. It bounds the memory of the receiver.
const ZSTD_WINDOW_LOG: u32 = 22;

/// How much of a stream is one frame, in bytes. What is further back than the window has no use, and once zstd's ring of
/// that size is full, it takes half as long again for the same.
const FRAME_BYTES: usize = 1 << ZSTD_WINDOW_LOG;

/// How the bytes of an object become the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// They are what an archive repository stores.
    Archive = 0,
    /// They say how a content object is made of another one, see [`chunks`](crate::chunks).
    Recipe = 1,
    /// They say how a content object differs from another one, see [`chunks`](crate::chunks).
    Reference = 2,
}

impl Encoding {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Archive),
            1 => Some(Self::Recipe),
            2 => Some(Self::Reference),
            _ => None,
        }
    }
}

const HEAD_BYTES: usize = 2 + Checksum::BYTES;
const LENGTH_BYTES: usize = 4;

/// Bytes that are gathered before they are handed on: a few HTTP/2 frames, so that many small objects cost few of them.
const BATCH_BYTES: usize = 128 << 10;

/// A piece of a stream: parts of objects, with what is between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The piece.
    pub bytes: Bytes,
    /// How many of its bytes are those of objects.
    pub object_bytes: u64,
}

/// Writes objects as a stream of batches.
///
/// `sink` gets the batches in order; its error ends the stream.
pub struct Writer<S> {
    batch: BytesMut,
    batch_object_bytes: u64,
    read_buffer: Vec<u8>,
    sink: S,
}

impl<S: FnMut(Batch) -> io::Result<()>> Writer<S> {
    /// Starts a stream.
    pub fn new(sink: S) -> Self {
        Self { batch: new_batch(), batch_object_bytes: 0, read_buffer: vec![0; BATCH_BYTES], sink }
    }

    /// Writes one object; `fill` gives its bytes. Returns how many there were.
    pub fn object<E: From<io::Error>>(
        &mut self,
        name: ObjectName,
        encoding: Encoding,
        fill: impl FnOnce(&mut ObjectWriter<'_, S>) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.batch.extend_from_slice(&[name.kind.number(), encoding as u8]);
        self.batch.extend_from_slice(name.checksum.as_bytes());
        let mut object = ObjectWriter { stream: self, bytes: 0 };
        fill(&mut object)?;
        let bytes = object.bytes;
        self.batch.extend_from_slice(&[0; LENGTH_BYTES]);
        self.hand_on_when_full()?;
        Ok(bytes)
    }

    /// Hands on what is gathered, since nothing else may come soon.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.batch.is_empty() { Ok(()) } else { self.hand_on() }
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn hand_on_when_full(&mut self) -> io::Result<()> {
        if self.batch.len() < BATCH_BYTES {
            return Ok(());
        }
        self.hand_on()
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.batch, new_batch()).freeze();
        (self.sink)(Batch { bytes, object_bytes: std::mem::take(&mut self.batch_object_bytes) })
    }
}

/// A batch is handed on after the write that fills it, so that it holds up to one read more than [`BATCH_BYTES`].
fn new_batch() -> BytesMut {
    BytesMut::with_capacity(2 * BATCH_BYTES + HEAD_BYTES + 2 * LENGTH_BYTES)
}

/// Compresses a stream, into one frame after the other.
pub struct Compressor {
    frame: Frame,
    /// Bytes of the stream that are in the frame.
    frame_bytes: usize,
}

type Frame = zstd::Encoder<'static, Vec<u8>>;

impl Compressor {
    /// Starts a compressed stream.
    pub fn new() -> io::Result<Self> {
        Ok(Self { frame: new_frame()?, frame_bytes: 0 })
    }

    /// Takes bytes of the stream, and returns what is compressed so far.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.frame_bytes == FRAME_BYTES {
                self.end_frame()?;
            }
            let (part, behind) = rest.split_at(rest.len().min(FRAME_BYTES - self.frame_bytes));
            self.frame.write_all(part)?;
            self.frame_bytes += part.len();
            rest = behind;
        }
        Ok(self.take())
    }

    /// Returns all that is not returned yet, so that the receiver gets the stream up to here.
    pub fn flush(&mut self) -> io::Result<Bytes> {
        self.frame.flush()?;
        Ok(self.take())
    }

    /// Ends the stream, and returns the rest of it.
    pub fn finish(self) -> io::Result<Bytes> {
        self.frame.finish().map(Bytes::from)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let compressed = std::mem::replace(&mut self.frame, new_frame()?).finish()?;
        // The next frame follows it.
        *self.frame.get_mut() = compressed;
        self.frame_bytes = 0;
        Ok(())
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(self.frame.get_mut()))
    }
}

fn new_frame() -> io::Result<Frame> {
    let mut frame = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    frame.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
    frame.set_parameter(CParameter::MinMatch(ZSTD_MIN_MATCH))?;
    Ok(frame)
}

/// Reads a compressed stream.
pub fn decompress<R: Read>(source: R) -> io::Result<impl Read> {
    let mut decoder = zstd::Decoder::new(source)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// Takes the bytes of one object.
pub struct ObjectWriter<'w, S> {
    stream: &'w mut Writer<S>,
    bytes: u64,
}

impl<S: FnMut(Batch) -> io::Result<()>> ObjectWriter<'_, S> {
    /// Writes all that `source` has.
    pub fn copy_from(&mut self, source: &mut impl Read) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.stream.read_buffer);
        let result = self.copy_through(source, &mut buffer);
        self.stream.read_buffer = buffer;
        result
    }

    fn copy_through(&mut self, source: &mut impl Read, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match source.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.write_all(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<S: FnMut(Batch) -> io::Result<()>> Write for ObjectWriter<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const { assert!(BATCH_BYTES <= MAX_CHUNK_BYTES) };
        // However much comes at once, batches stay small.
        let chunk = &bytes[..bytes.len().min(BATCH_BYTES)];
        if !chunk.is_empty() {
            let length = u32::try_from(chunk.len()).expect("at most a batch");
            self.stream.batch.extend_from_slice(&length.to_be_bytes());
            self.stream.batch.extend_from_slice(chunk);
            self.bytes += chunk.len() as u64;
            self.stream.batch_object_bytes += chunk.len() as u64;
            self.stream.hand_on_when_full()?;
        }
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The stream breaks its format.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The kind of an object is unknown.
    #[error("{number} is no kind of object")]
    Kind {
        /// The number.
        number: u8,
    },
    /// The encoding of an object is unknown.
    #[error("{number} is no encoding that this server knows")]
    Encoding {
        /// The number.
        number: u8,
    },
    /// Reading failed, or the stream ended within an object.
    #[error("Could not read the object stream")]
    Read(#[from] io::Error),
}

/// Reads a stream of objects.
pub struct Reader<R> {
    source: R,
}

impl<R: Read> Reader<R> {
    /// Starts to read.
    pub const fn new(source: R) -> Self {
        Self { source }
    }

    /// Returns the next object, or nothing at the end of the stream.
    ///
    /// The object must be read to its end before the next one is asked for.
    pub fn next_object(&mut self) -> Result<Option<(ObjectName, Encoding, ObjectReader<'_, R>)>, StreamError> {
        let mut head = [0; HEAD_BYTES];
        let first = loop {
            match self.source.read(&mut head[..1]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.source.read_exact(&mut head[1..])?;
        let kind = ObjectKind::from_number(head[0]).ok_or(StreamError::Kind { number: head[0] })?;
        let encoding = Encoding::from_number(head[1]).ok_or(StreamError::Encoding { number: head[1] })?;
        let checksum = Checksum::from_slice(&head[2..]).expect("32 bytes follow kind and encoding");
        let object = ObjectReader { source: &mut self.source, left: 0, is_ended: false };
        Ok(Some((ObjectName::new(kind, checksum), encoding, object)))
    }
}

/// The bytes of one object; reading gives 0 at its end.
pub struct ObjectReader<'r, R> {
    source: &'r mut R,
    left: usize,
    is_ended: bool,
}

impl<R: Read> Read for ObjectReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.is_ended {
            let mut length = [0; LENGTH_BYTES];
            self.source.read_exact(&mut length)?;
            self.left = u32::from_be_bytes(length) as usize;
            self.is_ended = self.left == 0;
            if self.left > MAX_CHUNK_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is longer than 1 MiB"));
            }
        }
        if self.is_ended {
            return Ok(0);
        }
        let wanted = buffer.len().min(self.left);
        let count = self.source.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ends within an object"));
        }
        self.left -= count;
        Ok(count)
    }
}
