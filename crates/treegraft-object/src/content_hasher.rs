//! The checksum of a content object, from its header and its plain content.

use sha2::{Digest, Sha256};

use crate::{Checksum, ContentId, FileHeader};

/// Computes a content object's id while its content passes by.
#[derive(Debug, Clone)]
pub struct ContentHasher(Sha256);

impl ContentHasher {
    /// Begins with the header.
    pub fn new(header: &FileHeader) -> Self {
        Self(Sha256::new_with_prefix(header.encode_bare()))
    }

    /// Goes on with a piece of the plain content.
    pub fn update(&mut self, content: &[u8]) {
        self.0.update(content);
    }

    /// Ends with the id.
    pub fn finish(self) -> ContentId {
        ContentId(Checksum::finish(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileKind, Xattrs, filez};

    #[test]
    fn it_is_the_checksum_that_a_filez_has() {
        let header = FileHeader { uid: 1, gid: 2, mode: 0o100_644, kind: FileKind::Regular, xattrs: Xattrs::new() };
        let mut hasher = ContentHasher::new(&header);
        hasher.update(b"hello ");
        hasher.update(b"world");
        let written = filez::write(&header, 11, &mut &b"hello world"[..], 6, &mut Vec::new());
        assert_eq!(Some(hasher.finish()), written.ok().map(|info| info.id), "both hash header and content");
    }
}
