//! Random folders: descriptions of them, as properties and by seed, and how to write and read them on disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

use crate::rng::SplitMix64;

/// The longest name of a file on the usual Linux file systems, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The longest random target of a link; ext4 keeps up to 59 bytes in the inode and longer ones in a block.
const MAX_TARGET_BYTES: usize = 120;
/// All that ext4 keeps of the extended attributes of one file fits into 4 KiB.
const MAX_XATTR_VALUE_BYTES: usize = 200;
/// Sizes at which readers and writers of files go wrong: nothing, one byte, around a page and around a copy buffer.
const EDGE_SIZES: [usize; 9] = [0, 1, 2, 4095, 4096, 4097, 65_535, 65_536, 65_537];
/// What the owner must keep, so that a test that is not run by root can read and remove the tree.
const OWNER_READS: u32 = 0o400;
const OWNER_ENTERS: u32 = 0o700;

/// Extended attributes by name; names begin with `user.`, values are not empty.
pub type Xattrs = BTreeMap<String, Vec<u8>>;

/// Something with a name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeEntry {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    File(File),
    /// A symbolic link with its target.
    Symlink(String),
}

/// A directory with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The permission bits (mask 07777).
    pub mode: u32,
    /// The extended attributes.
    pub xattrs: Xattrs,
    /// What is in it, by name.
    pub entries: BTreeMap<String, TreeEntry>,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The permission bits (mask 07777).
    pub mode: u32,
    /// The extended attributes.
    pub xattrs: Xattrs,
    /// What is in it.
    pub content: Vec<u8>,
}

/// How large random trees become, and what they have besides files and directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeShape {
    /// How many directories lie in each other at most.
    pub depth: u32,
    /// How many entries a directory has at most.
    pub entries: usize,
    /// How long a file is at most, in bytes.
    pub max_file_bytes: usize,
    /// Whether entries have extended attributes.
    pub xattrs: WithXattrs,
}

/// Whether the entries of a random tree have extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithXattrs {
    /// Some entries have `user.*` attributes.
    Some,
    /// No entry has any, as in Flatpak builds.
    None,
}

impl Default for TreeShape {
    fn default() -> Self {
        Self { depth: 4, entries: 6, max_file_bytes: 70_000, xattrs: WithXattrs::Some }
    }
}

impl Directory {
    /// Makes an empty directory with mode 0755.
    pub const fn new() -> Self {
        Self { mode: 0o755, xattrs: BTreeMap::new(), entries: BTreeMap::new() }
    }

    /// Makes the tree that belongs to a seed.
    pub fn from_seed(seed: u64, shape: &TreeShape) -> Self {
        seeded_directory(&mut SplitMix64::new(seed), shape, shape.depth)
    }

    /// Returns the number of regular files below.
    pub fn count_files(&self) -> usize {
        let count = |entry: &TreeEntry| match entry {
            TreeEntry::Directory(directory) => directory.count_files(),
            TreeEntry::File(_) => 1,
            TreeEntry::Symlink(_) => 0,
        };
        self.entries.values().map(count).sum()
    }

    /// Writes the tree to disk; the path must not exist or be an empty folder.
    #[track_caller]
    pub fn write(&self, path: &Path) {
        self.try_write(path).unwrap_or_else(|error| panic!("Could not write tree `{}`: {error}", path.display()));
    }

    /// Reads a tree from disk, as far as a description can hold it (no owners, no times).
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        Self::try_read(path).unwrap_or_else(|error| panic!("Could not read tree `{}`: {error}", path.display()))
    }

    fn try_write(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)?;
        for (name, entry) in &self.entries {
            let inside = path.join(name);
            match entry {
                TreeEntry::Directory(directory) => directory.try_write(&inside)?,
                TreeEntry::File(file) => {
                    fs::write(&inside, &file.content)?;
                    finish(&inside, file.mode, &file.xattrs)?;
                }
                TreeEntry::Symlink(target) => symlink(target, &inside)?,
            }
        }
        // Last, because a mode without write permission, or with the group bit that entries inherit, comes in the way.
        finish(path, self.mode, &self.xattrs)
    }

    fn try_read(path: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| io::Error::other("a name is not UTF-8"))?;
            let inside = entry.path();
            let kind = entry.file_type()?;
            let read = if kind.is_dir() {
                TreeEntry::Directory(Self::try_read(&inside)?)
            } else if kind.is_symlink() {
                let target = fs::read_link(&inside)?.into_os_string().into_string();
                TreeEntry::Symlink(target.map_err(|_| io::Error::other("a target is not UTF-8"))?)
            } else {
                let mode = mode_of(&inside)?;
                TreeEntry::File(File { mode, xattrs: read_xattrs(&inside)?, content: fs::read(&inside)? })
            };
            entries.insert(name, read);
        }
        Ok(Self { mode: mode_of(path)?, xattrs: read_xattrs(path)?, entries })
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

fn mode_of(path: &Path) -> io::Result<u32> {
    Ok(fs::symlink_metadata(path)?.mode() & 0o7777)
}

fn finish(path: &Path, mode: u32, xattrs: &Xattrs) -> io::Result<()> {
    for (name, value) in xattrs {
        lsetxattr(path, name.as_str(), value, XattrFlags::empty())?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn read_xattrs(path: &Path) -> io::Result<Xattrs> {
    let mut names = vec![0; 64 * 1024];
    let length = match llistxattr(path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = Xattrs::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 64 * 1024];
        let length = lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice())?;
        value.truncate(length);
        found.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(found)
}

/// Makes random trees of a shape.
pub fn directory(shape: TreeShape) -> impl Strategy<Value = Directory> {
    let leaf = prop_oneof![
        4 => file(shape).prop_map(TreeEntry::File),
        1 => symlink_target().prop_map(TreeEntry::Symlink),
        1 => directory_of(shape, Just(BTreeMap::new())).prop_map(TreeEntry::Directory),
    ];
    let branch_size = u32::try_from(shape.entries).unwrap_or(u32::MAX);
    let entry = leaf.prop_recursive(shape.depth, branch_size.saturating_mul(8), branch_size, move |inner| {
        directory_of(shape, btree_map(name(), inner, 0..=shape.entries)).prop_map(TreeEntry::Directory)
    });
    directory_of(shape, btree_map(name(), entry, 0..=shape.entries))
}

fn directory_of(
    shape: TreeShape,
    entries: impl Strategy<Value = BTreeMap<String, TreeEntry>>,
) -> impl Strategy<Value = Directory> {
    let mode = mode().prop_map(|mode| mode | OWNER_ENTERS);
    (mode, xattrs(shape.xattrs), entries).prop_map(|(mode, xattrs, entries)| Directory { mode, xattrs, entries })
}

/// Makes random files of a shape: often at the edges of a page, sometimes well compressible, sometimes not.
pub fn file(shape: TreeShape) -> impl Strategy<Value = File> {
    let edges: Vec<usize> = EDGE_SIZES.into_iter().filter(|size| *size <= shape.max_file_bytes).collect();
    let size = prop_oneof![select(edges), 0..=shape.max_file_bytes.min(300), 0..=shape.max_file_bytes];
    let content = (size, any::<u64>(), any::<bool>()).prop_map(|(size, seed, compressible)| {
        let texture = if compressible { Texture::Repeating } else { Texture::Noise };
        seeded_content(&mut SplitMix64::new(seed), size, texture)
    });
    let mode = mode().prop_map(|mode| mode | OWNER_READS);
    (mode, xattrs(shape.xattrs), content).prop_map(|(mode, xattrs, content)| File { mode, xattrs, content })
}

/// Makes names that OSTree allows: UTF-8 without `/` and NUL, not `.` or `..`, up to 255 bytes.
pub fn name() -> impl Strategy<Value = String> {
    let ordinary = "[a-z][a-z0-9_.-]{0,11}";
    let strange = vec(any::<char>().prop_filter("not in a name", |c| !matches!(c, '/' | '\0')), 1..12);
    let long = (1..=MAX_NAME_BYTES).prop_map(|length| "n".repeat(length));
    prop_oneof![
        6 => ordinary.prop_map(String::from),
        3 => strange.prop_map(String::from_iter),
        1 => long,
        1 => select(vec!["...", " ", "-rf", "\n", "\\", "\"", "~", ".hidden", "a b", "é", "e\u{301}", "\u{202e}x"])
            .prop_map(String::from),
    ]
    .prop_filter("not a name", |name| name != "." && name != ".." && name.len() <= MAX_NAME_BYTES)
}

/// Makes targets of symbolic links: any UTF-8 without NUL, not empty; most lead nowhere.
pub fn symlink_target() -> impl Strategy<Value = String> {
    let any_text = vec(any::<char>().prop_filter("ends a path", |c| *c != '\0'), 1..=MAX_TARGET_BYTES / 4);
    prop_oneof![
        "(\\.\\./){0,3}[a-z]{1,8}(/[a-z]{1,8}){0,3}".prop_map(String::from),
        any_text.prop_map(String::from_iter),
        select(vec!["/", ".", "..", "/etc/passwd", "a//b/"]).prop_map(String::from),
    ]
}

/// Makes extended attributes that any user may set on an own file.
pub fn xattrs(with: WithXattrs) -> BoxedStrategy<Xattrs> {
    match with {
        WithXattrs::None => Just(Xattrs::new()).boxed(),
        WithXattrs::Some => prop_oneof![
            5 => Just(Xattrs::new()),
            1 => btree_map("user\\.[a-zA-Z0-9._-]{1,12}", vec(any::<u8>(), 1..MAX_XATTR_VALUE_BYTES), 1..4),
        ]
        .boxed(),
    }
}

/// Makes permission bits: mostly the usual ones, sometimes any, with the set-id and sticky bits.
pub fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![3 => select(vec![0o644, 0o755, 0o600, 0o664]), 1 => 0..=0o7777_u32]
}

/// How the bytes of a file look to a compressor.
#[derive(Clone, Copy)]
enum Texture {
    Noise,
    Repeating,
}

fn seeded_content(rng: &mut SplitMix64, size: usize, texture: Texture) -> Vec<u8> {
    match texture {
        Texture::Noise => rng.bytes(size),
        Texture::Repeating => {
            let words = [&b"tree "[..], b"graft ", b"commit ", b"object\n"];
            let mut made = Vec::with_capacity(size + 8);
            while made.len() < size {
                made.extend_from_slice(words[rng.below(words.len())]);
            }
            made.truncate(size);
            made
        }
    }
}

fn seeded_directory(rng: &mut SplitMix64, shape: &TreeShape, depth_left: u32) -> Directory {
    let mut made = Directory { mode: 0o755, xattrs: seeded_xattrs(rng, shape), entries: BTreeMap::new() };
    let depth_reached = depth_left == shape.depth;
    // The root is never empty, so that a test with a seed always has something to look at.
    let count = if depth_reached { shape.entries } else { rng.below(shape.entries + 1) };
    for number in 0..count {
        let entry = match rng.below(8) {
            0 | 1 if depth_left > 1 => TreeEntry::Directory(seeded_directory(rng, shape, depth_left - 1)),
            2 => TreeEntry::Symlink(format!("../target-{}", rng.below(100))),
            _ => TreeEntry::File(seeded_file(rng, shape)),
        };
        made.entries.insert(format!("{}-{number}", seeded_word(rng)), entry);
    }
    made
}

fn seeded_file(rng: &mut SplitMix64, shape: &TreeShape) -> File {
    let size = match rng.below(3) {
        0 => EDGE_SIZES[rng.below(EDGE_SIZES.len())].min(shape.max_file_bytes),
        1 => rng.below(shape.max_file_bytes.min(300) + 1),
        _ => rng.below(shape.max_file_bytes + 1),
    };
    let texture = if rng.one_in(2) { Texture::Noise } else { Texture::Repeating };
    let mode = if rng.one_in(4) { 0o755 } else { 0o644 };
    File { mode, xattrs: seeded_xattrs(rng, shape), content: seeded_content(rng, size, texture) }
}

fn seeded_xattrs(rng: &mut SplitMix64, shape: &TreeShape) -> Xattrs {
    if shape.xattrs == WithXattrs::None || !rng.one_in(6) {
        return Xattrs::new();
    }
    let length = 1 + rng.below(40);
    Xattrs::from([("user.seeded".to_owned(), rng.bytes(length))])
}

fn seeded_word(rng: &mut SplitMix64) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyz";
    (0..=rng.below(8)).map(|_| char::from(letters[rng.below(letters.len())])).collect()
}
