//! The modes of a repository: how content objects are stored.

use std::fmt;

/// How a repository stores content objects. Metadata objects and all checksums are the same in every mode.
///
/// libostree's fifth mode, `bare-split-xattrs`, is an experiment there and is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `.filez`: the header and the compressed content in one file. The only mode that can be served to clients.
    Archive,
    /// A file as it is checked out: real owner, mode and extended attributes.
    Bare,
    /// A regular file with the header in the extended attribute `user.ostreemeta`; a symlink is a file with its target.
    BareUser,
    /// A regular file or symlink that has only its mode: everything belongs to 0:0 and has no extended attributes.
    BareUserOnly,
}

impl Mode {
    /// Reads the value of `core.mode`; `archive` and `archive-z2` mean the same.
    pub fn from_config(value: &str) -> Option<Self> {
        Some(match value {
            "archive" | "archive-z2" => Self::Archive,
            "bare" => Self::Bare,
            "bare-user" => Self::BareUser,
            "bare-user-only" => Self::BareUserOnly,
            _ => return None,
        })
    }

    /// Returns the value of `core.mode` that libostree writes.
    pub const fn config_value(self) -> &'static str {
        match self {
            Self::Archive => "archive-z2",
            Self::Bare => "bare",
            Self::BareUser => "bare-user",
            Self::BareUserOnly => "bare-user-only",
        }
    }

    /// Returns the extension of content objects on disk: `filez` in archive mode, `file` in the others.
    pub const fn content_extension(self) -> &'static str {
        match self {
            Self::Archive => "filez",
            Self::Bare | Self::BareUser | Self::BareUserOnly => "file",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Archive => "archive",
            other => other.config_value(),
        })
    }
}
