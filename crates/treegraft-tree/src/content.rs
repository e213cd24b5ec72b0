//! Where a file's content is.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

/// Where a file's content is.
#[derive(Debug, Clone)]
pub enum Content {
    /// In a file with the same name in this directory.
    Directory(Arc<Path>),
    /// In memory.
    Memory(Arc<[u8]>),
    /// In another file, from this byte on.
    Part(Arc<Container>, u64),
}

/// A file with the content of many.
#[derive(Debug)]
pub struct Container {
    /// The open file.
    pub file: fs::File,
    /// Its path, for messages.
    pub path: PathBuf,
}

impl Content {
    /// Returns the path that messages name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(name),
            Self::Memory(_) => PathBuf::from(name),
            Self::Part(container, _) => container.path.join(name),
        }
    }

    /// Opens the content of `bytes` bytes.
    pub(crate) fn open(&self, name: &str, bytes: u64) -> io::Result<Opened> {
        Ok(match self {
            Self::Directory(directory) => Opened::File(open(&directory.join(name))?),
            Self::Memory(data) => Opened::Memory(io::Cursor::new(Arc::clone(data))),
            Self::Part(container, offset) => {
                Opened::Part { container: Arc::clone(container), at: *offset, end: offset.saturating_add(bytes) }
            }
        })
    }
}

/// Opens a regular file. What took its place since it was listed is not followed and does not block.
fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Content that is being read.
pub(crate) enum Opened {
    File(fs::File),
    Memory(io::Cursor<Arc<[u8]>>),
    Part { container: Arc<Container>, at: u64, end: u64 },
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Memory(data) => data.read(buffer),
            Self::Part { container, at, end } => {
                let left = usize::try_from(*end - *at).unwrap_or(usize::MAX);
                let limit = buffer.len().min(left);
                let count = container.file.read_at(&mut buffer[..limit], *at)?;
                *at += count as u64;
                Ok(count)
            }
        }
    }
}
