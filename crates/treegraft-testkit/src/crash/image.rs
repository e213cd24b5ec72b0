//! What is on a disk: all files below a directory with their contents.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file of an [`Image`]; modes are the permission bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageEntry {
    /// A directory.
    Directory(u32),
    /// A regular file with its bytes.
    File(u32, Arc<[u8]>),
    /// A symbolic link with its target.
    Symlink(PathBuf),
}

/// All that is below a directory, by its path relative to it. Owners, times and hard links are not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Image {
    /// The entries; a directory comes before what is in it.
    pub entries: BTreeMap<PathBuf, ImageEntry>,
}

impl Image {
    /// Reads what is below a directory.
    pub fn read(root: &Path) -> Self {
        let mut image = Self::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            let listed = fs::read_dir(root.join(&directory)).expect("the directory can be listed");
            for entry in listed {
                let entry = entry.expect("the directory can be listed");
                let path = directory.join(entry.file_name());
                let metadata = entry.metadata().expect("an entry that was listed is there");
                let mode = metadata.permissions().mode() & 0o7777;
                let read = if metadata.is_dir() {
                    pending.push(path.clone());
                    ImageEntry::Directory(mode)
                } else if metadata.is_symlink() {
                    ImageEntry::Symlink(fs::read_link(entry.path()).expect("a link can be read"))
                } else {
                    ImageEntry::File(mode, fs::read(entry.path()).expect("a file can be read").into())
                };
                image.entries.insert(path, read);
            }
        }
        image
    }

    /// Writes everything below a directory, which is made.
    pub fn write(&self, root: &Path) {
        fs::create_dir_all(root).expect("the directory can be made");
        for (path, entry) in &self.entries {
            let path = root.join(path);
            match entry {
                ImageEntry::Directory(_) => fs::create_dir(&path).expect("a directory can be made"),
                ImageEntry::File(_, bytes) => fs::write(&path, bytes).expect("a file can be written"),
                ImageEntry::Symlink(target) => symlink(target, &path).expect("a link can be made"),
            }
            if let ImageEntry::Directory(mode) | ImageEntry::File(mode, _) = entry {
                fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("the mode of an own file can be set");
            }
        }
    }

    /// Returns the bytes of a regular file, if there is one.
    pub fn content(&self, path: impl AsRef<Path>) -> Option<&[u8]> {
        match self.entries.get(path.as_ref())? {
            ImageEntry::File(_, bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Tells whether there is anything under this path.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.entries.contains_key(path.as_ref())
    }

    /// Gives all regular files of that name the same bytes.
    pub fn overwrite(&mut self, name: impl AsRef<OsStr>, bytes: &[u8]) {
        for (path, entry) in &mut self.entries {
            if let ImageEntry::File(_, content) = entry
                && path.file_name() == Some(name.as_ref())
            {
                *content = bytes.into();
            }
        }
    }

    /// Returns a number that differs between images that differ.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Lists the paths that are not the same in another image.
    pub fn differences(&self, other: &Self) -> Vec<PathBuf> {
        let all = self.entries.keys().chain(other.entries.keys());
        let mut paths: Vec<_> =
            all.filter(|&path| self.entries.get(path) != other.entries.get(path)).cloned().collect();
        paths.sort();
        paths.dedup();
        paths
    }
}
