//! Bounds on everything that is decoded.

/// Largest metadata object, in bytes: libostree's own `OSTREE_MAX_METADATA_SIZE`, above which no client fetches it.
pub const MAX_METADATA_BYTES: u64 = 128 << 20;

/// Largest detached metadata (`.commitmeta`) that is taken from outside, in bytes.
///
/// It holds signatures of a few hundred bytes each and is the only object without a checksum of its own.
pub const MAX_DETACHED_METADATA_BYTES: u64 = 1 << 20;

/// Largest file header, in bytes: a symlink target and extended attributes, which Linux bounds at 64 KiB a value.
pub const MAX_FILE_HEADER_BYTES: u32 = 4 << 20;

/// Longest name of a directory entry, in bytes: `NAME_MAX` of Linux, so that every tree can be checked out.
pub const MAX_ENTRY_NAME_BYTES: usize = 255;

/// Longest symlink target, in bytes: `PATH_MAX` without its terminating NUL.
pub const MAX_SYMLINK_TARGET_BYTES: usize = 4095;

/// Longest fragment of a ref name, in bytes: it is a file name in `refs/heads`.
pub const MAX_REF_FRAGMENT_BYTES: usize = 255;

/// Longest ref name, in bytes: with the repository's path before it, it must stay a valid path.
pub const MAX_REF_NAME_BYTES: usize = 1024;

/// Longest collection id, in bytes: the bound of D-Bus interface names, which libostree uses.
pub const MAX_COLLECTION_ID_BYTES: usize = 255;

/// Most levels of nested GVariant values, the innermost one counted, as in GLib (`G_VARIANT_MAX_RECURSION_DEPTH`).
pub const MAX_GVARIANT_DEPTH: usize = 128;

/// Longest GVariant type string, in bytes: the bound of D-Bus signatures.
///
/// Types come with the values of variants; a long one would cost many times its own size in memory. GLib has no bound, and
/// the longest types of OSTree and Flatpak have less than 40 bytes.
pub const MAX_TYPE_STRING_BYTES: usize = 255;

/// Deepest directory nesting that is walked; a path cannot be longer than `PATH_MAX`, two bytes a level.
pub const MAX_TREE_DEPTH: usize = 2048;
