//! Why bytes are not a valid object.

use crate::gvariant::NotNormal;

/// Why bytes are refused as an object.
///
/// The [`code`](Self::code) of a variant is stable: it goes over the wire and into scripts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not the normal form of their GVariant type.
    #[error("The bytes are not a GVariant of type `{type_string}` in normal form")]
    NotNormal {
        /// The expected type.
        type_string: &'static str,
        /// What is wrong and where.
        #[source]
        source: NotNormal,
    },
    /// The object is larger than [`limits`](crate::limits) allow.
    #[error("The {what} has {bytes} bytes, at most {limit_bytes} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A checksum inside the object has not 32 bytes.
    #[error("The {what} has {bytes} bytes instead of 32")]
    ChecksumLength {
        /// Which checksum.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A directory entry's name cannot be a file name.
    #[error("`{name}` cannot be the name of a directory entry: {reason}")]
    EntryName {
        /// The name, with unprintable characters escaped.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Directory entries are not in strictly ascending byte order.
    #[error("The directory entry `{name}` is not above the one before it")]
    EntryOrder {
        /// The name at which the order breaks.
        name: String,
    },
    /// A name is a file and a directory at once.
    #[error("`{name}` is listed both as a file and as a directory")]
    EntryTwice {
        /// The name.
        name: String,
    },
    /// A mode has another file type than the object may have, or bits beyond `07777`.
    #[error("The mode {mode:#o} is not valid for a {what}")]
    Mode {
        /// What has the mode.
        what: &'static str,
        /// The mode.
        mode: u32,
    },
    /// A file header's device number is not 0.
    #[error("The device number is {rdev}, it must be 0")]
    DeviceNumber {
        /// The device number.
        rdev: u32,
    },
    /// An extended attribute's name is empty, not terminated, or has a NUL inside.
    #[error("The name of extended attribute {index} is not a non-empty string that ends with its only NUL")]
    XattrName {
        /// Position in the list, from 0.
        index: usize,
    },
    /// Extended attributes are not in strictly ascending order of their names.
    #[error("Extended attribute {index} is not above the one before it")]
    XattrOrder {
        /// Position in the list, from 0.
        index: usize,
    },
    /// A symlink without a target, with a too long one, or a regular file with one.
    #[error("The symlink target is not valid: {reason}")]
    SymlinkTarget {
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The length word or the padding before a file header is wrong.
    #[error("The frame before the file header is not valid: {reason}")]
    HeaderFrame {
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The size in an archive header is not the size of the content.
    #[error("The header promises {header_bytes} bytes of content, {reason}")]
    ContentSize {
        /// The size in the header.
        header_bytes: u64,
        /// How the content differs.
        reason: &'static str,
    },
    /// The compressed content is no valid deflate stream.
    #[error("The content is not a valid deflate stream: {reason}")]
    Deflate {
        /// What is wrong.
        reason: &'static str,
    },
    /// There are bytes behind the end of the object.
    #[error("There are bytes behind the end of the {what}")]
    TrailingBytes {
        /// What ended.
        what: &'static str,
    },
    /// A metadata key is empty.
    #[error("A metadata key is empty")]
    EmptyKey,
    /// A metadata key is there twice.
    #[error("The metadata key `{key}` is there twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value has another type than its key demands.
    #[error("`{key}` is not of type `{expected}`")]
    ValueType {
        /// The key.
        key: String,
        /// The expected GVariant type.
        expected: &'static str,
    },
    /// A metadata key has no place in this object.
    #[error("The metadata key `{key}` has no place in a {what}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The object.
        what: &'static str,
    },
    /// A commit lists related objects.
    #[error("The commit lists related objects, which no program writes or reads")]
    RelatedObjects,
    /// A ref in a summary breaks the grammar or the order.
    #[error("The ref `{name}` in the summary is not valid: {reason}")]
    SummaryRef {
        /// The ref.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
}

impl DecodeError {
    /// Returns the stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotNormal { .. } => "not-normal-form",
            Self::TooLarge { .. } => "too-large",
            Self::ChecksumLength { .. } => "checksum-length",
            Self::EntryName { .. } => "entry-name",
            Self::EntryOrder { .. } => "entry-order",
            Self::EntryTwice { .. } => "entry-twice",
            Self::Mode { .. } => "mode",
            Self::DeviceNumber { .. } => "device-number",
            Self::XattrName { .. } => "xattr-name",
            Self::XattrOrder { .. } => "xattr-order",
            Self::SymlinkTarget { .. } => "symlink-target",
            Self::HeaderFrame { .. } => "header-frame",
            Self::ContentSize { .. } => "content-size",
            Self::Deflate { .. } => "deflate",
            Self::TrailingBytes { .. } => "trailing-bytes",
            Self::EmptyKey => "empty-key",
            Self::DuplicateKey { .. } => "duplicate-key",
            Self::ValueType { .. } => "value-type",
            Self::UnknownKey { .. } => "unknown-key",
            Self::RelatedObjects => "related-objects",
            Self::SummaryRef { .. } => "summary-ref",
        }
    }
}
