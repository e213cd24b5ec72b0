//! Build directories: what `flatpak build-init`, `build-finish` and `flatpak-builder` leave, and `flatpak build-export`
//! commits.
//!
//! ```text
//! DIR/metadata        key file: id, runtime, permissions      -> /metadata
//! DIR/files/          what an app or extension installs       -> /files
//! DIR/usr/            what a runtime installs                 -> /files
//! DIR/export/         what an app shows the desktop           -> /export
//! DIR/metadata.locale, metadata.debuginfo, …                  further refs, see `builder`
//! ```
//!
//! The tree has canonical owners and modes (`CanonicalRules`), so that the same build gives the same objects for whoever
//! makes it. The commit's keys are those of `flatpak build-export`, with the same types and byte order; they are in the
//! order in which that program sets them, while it writes them in that of a hash table.

mod builder;
mod export;
mod filter;
mod icon;
mod metadata;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use treegraft_object::{
    CollectionId, Commit, DirMeta, FileHeader, FileKind, InvalidName, RefName, Xattrs,
    file_header::{S_IFDIR, S_IFMT, S_IFREG},
    gvariant::{Dict, Variant},
};
use treegraft_repo::{KeyFile, KeyFileError};
use treegraft_tree::{Attributes, File, Header, Root, Rules, Tree, TreeError, scan};

pub use builder::{exports, has_extensions};
pub use export::Warning;

use self::filter::PathFilter;
use crate::{
    InvalidFlatpakName,
    graft::{COLLECTION_BINDING, DOWNLOAD_SIZE, REF, REF_BINDING, set_for_clients},
    names::{AppId, FlatpakRef},
};

/// Largest `metadata` in bytes: it is copied into every commit and every summary.
const MAX_METADATA_BYTES: u64 = 1 << 20;

/// Key of a commit's metadata: the file `metadata`.
const METADATA: &str = "xa.metadata";

/// Key of a commit's metadata: what an installation takes, in bytes.
const INSTALLED_SIZE: &str = "xa.installed-size";

/// Flatpak counts what is installed in blocks of this many bytes.
const BLOCK_BYTES: u64 = 512;

/// What of a build directory is exported, and as what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportOptions {
    /// Exports `usr` as a runtime, whatever the metadata says.
    pub is_runtime: bool,
    /// The branch; `master` when none is given.
    pub branch: Option<String>,
    /// The architecture; that of the runtime when none is given.
    pub arch: Option<String>,
    /// Another directory for the files, below the build directory.
    pub files: Option<PathBuf>,
    /// Another file for the metadata, below the build directory.
    pub metadata: Option<PathBuf>,
    /// Patterns of paths that are left out.
    pub exclude: Vec<String>,
    /// Patterns of paths that are not left out after all.
    pub include: Vec<String>,
}

/// Why a build directory cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildDirError {
    /// There are no files or no metadata.
    #[error("`{path}` is no build directory: it has no `{missing}`", path = path.display(), missing = missing.display())]
    NotInitialized {
        /// The directory.
        path: PathBuf,
        /// What is not there.
        missing: PathBuf,
    },
    /// An app was not finished.
    #[error("The build directory `{path}` is not finished: it has no `export`", path = path.display())]
    NotFinished {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("Could not read `{path}`", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A file is larger than it can be.
    #[error("`{path}` has more than {limit_bytes} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// A file is no key file.
    #[error("`{path}` is no valid key file", path = path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: KeyFileError,
    },
    /// The metadata lacks something, or something in it is wrong.
    #[error("`{path}` is not valid: {reason}", path = path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        reason: String,
    },
    /// Id, architecture and branch make no ref.
    #[error(transparent)]
    Ref(#[from] InvalidName),
    /// The ref is not one of Flatpak's.
    #[error(transparent)]
    FlatpakName(#[from] InvalidFlatpakName),
    /// What an app shows the desktop is not valid.
    #[error("`{path}` cannot be exported: {reason}", path = path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        reason: String,
    },
}

impl BuildDirError {
    /// Returns a stable word for the kind of the error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotInitialized { .. } => "not-initialized",
            Self::NotFinished { .. } => "not-finished",
            Self::Io { .. } => "io",
            Self::TooLarge { .. } => "too-large",
            Self::KeyFile { .. } => "invalid-key-file",
            Self::Metadata { .. } => "invalid-metadata",
            Self::Ref(_) | Self::FlatpakName(_) => "invalid-flatpak-ref",
            Self::Export { .. } => "invalid-export",
        }
    }
}

/// What a commit says beside what the build directory decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitWords {
    /// The subject; `Export ID` when there is none.
    pub subject: Option<String>,
    /// The body; id, architecture and branch when there is none.
    pub body: Option<String>,
    /// Seconds since 1970 UTC.
    pub timestamp_secs: u64,
    /// The repository's collection id.
    pub collection_id: Option<CollectionId>,
    /// The reason why the ref gets no more updates.
    pub end_of_life: Option<String>,
    /// The id that clients move to.
    pub end_of_life_rebase: Option<AppId>,
    /// The type of token that a client needs to download the commit.
    pub token_type: Option<i32>,
    /// The subsets of the repository that the commit belongs to.
    pub subsets: Vec<String>,
}

/// A build directory that can be exported.
#[derive(Debug)]
pub struct BuildDir {
    ref_name: RefName,
    id: String,
    arch: String,
    branch: String,
    /// What goes to `/files`.
    files: PathBuf,
    /// What goes to `/export`, for an app.
    export: Option<PathBuf>,
    metadata: String,
    /// The extra data that clients download from elsewhere.
    extra_data: Option<Variant>,
    filter: PathFilter,
    warnings: Vec<Warning>,
}

impl BuildDir {
    /// Reads what a build directory says of itself, and checks what it exports.
    pub fn open(path: &Path, options: &ExportOptions) -> Result<Self, BuildDirError> {
        let at = |given: &Option<PathBuf>, usual: &str| path.join(given.as_deref().unwrap_or(Path::new(usual)));
        let (files, usr) = (at(&options.files, "files"), at(&options.files, "usr"));
        let metadata_path = at(&options.metadata, "metadata");
        for needed in [&files, &metadata_path] {
            if !needed.exists() {
                let missing = needed.strip_prefix(path).unwrap_or(needed).to_owned();
                return Err(BuildDirError::NotInitialized { path: path.to_owned(), missing });
            }
        }
        let (metadata, keys) = read_key_file(&metadata_path)?;
        let named = metadata::Named::read(&keys, &metadata_path)?;
        let is_runtime = options.is_runtime || named.is_runtime;
        let export = (!is_runtime).then(|| path.join("export"));
        let extra_data = metadata::extra_data(&keys, &metadata_path)?;
        let mut warnings = Vec::new();
        if let Some(export) = &export {
            if !export.exists() {
                return Err(BuildDirError::NotFinished { path: path.to_owned() });
            }
            warnings = export::check(export, &files, &named.id)?;
        }
        let arch = match &options.arch {
            Some(arch) => arch.clone(),
            None => metadata::arch(&keys, &metadata_path)?,
        };
        let branch = options.branch.clone().unwrap_or_else(|| "master".to_owned());
        let kind = if is_runtime { "runtime" } else { "app" };
        let ref_name = RefName::new(format!("{kind}/{}/{arch}/{branch}", named.id))?;
        FlatpakRef::parse(&ref_name)?;
        let files = if is_runtime && !named.is_extension { usr } else { files };
        if !files.exists() {
            let missing = files.strip_prefix(path).unwrap_or(&files).to_owned();
            return Err(BuildDirError::NotInitialized { path: path.to_owned(), missing });
        }
        let filter = PathFilter::new(&options.exclude, &options.include);
        Ok(Self { ref_name, id: named.id, arch, branch, files, export, metadata, extra_data, filter, warnings })
    }

    /// Returns the ref that it is exported as.
    pub const fn ref_name(&self) -> &RefName {
        &self.ref_name
    }

    /// Returns what is odd about what an app shows the desktop, and no reason to refuse it.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Lists the files of the commit.
    pub fn tree(&self) -> Result<Tree, TreeError> {
        let mut tree = Tree::new();
        let meta = DirMeta { uid: 0, gid: 0, mode: S_IFDIR | 0o755, xattrs: Xattrs::new() };
        tree.set_meta(Tree::ROOT, Arc::new(meta));
        let files = tree.ensure_dir(Tree::ROOT, "files")?;
        scan(&mut tree, files, &self.files, &mut CanonicalRules { filter: Some(&self.filter) })?;
        if let Some(export) = &self.export {
            let at = tree.ensure_dir(Tree::ROOT, "export")?;
            scan(&mut tree, at, export, &mut CanonicalRules { filter: None })?;
        }
        let kind = FileKind::Regular;
        let header = Header::new(FileHeader { uid: 0, gid: 0, mode: S_IFREG | 0o644, kind, xattrs: Xattrs::new() });
        tree.put_file(Tree::ROOT, "metadata", File::in_memory(header, self.metadata.as_bytes()))?;
        Ok(tree)
    }

    /// Makes the commit. `installed_bytes` is [`installed_size`] of its tree, `download_bytes` is
    /// [`download_size`](crate::download_size), which is known only where the files are compressed.
    pub fn commit(&self, root: Root, installed_bytes: u64, download_bytes: Option<u64>, words: &CommitWords) -> Commit {
        let Self { id, arch, branch, .. } = self;
        let mut metadata = Dict::new();
        if let Some(sources) = &self.extra_data {
            metadata.set("xa.extra-data-sources", sources.clone());
        }
        let collection_id = words.collection_id.as_ref().map_or("", CollectionId::as_str);
        metadata.set(COLLECTION_BINDING, Variant::string(collection_id));
        metadata.set(REF_BINDING, Variant::strings([&self.ref_name]));
        metadata.set(REF, Variant::string(self.ref_name.as_str()));
        metadata.set(METADATA, Variant::string(&self.metadata));
        metadata.set(INSTALLED_SIZE, Variant::uint64_be(installed_bytes));
        if let Some(bytes) = download_bytes {
            metadata.set(DOWNLOAD_SIZE, Variant::uint64_be(bytes));
        }
        let kind = if self.export.is_some() { "app" } else { "runtime" };
        let replacement = words.end_of_life_rebase.as_ref().map(|new| format!("{kind}/{new}/{arch}/{branch}"));
        let end_of_life = words.end_of_life.as_deref();
        set_for_clients(&mut metadata, end_of_life, replacement, words.token_type, &words.subsets);
        let body = || {
            let version = env!("CARGO_PKG_VERSION");
            format!("Name: {id}\nArch: {arch}\nBranch: {branch}\nBuilt with: Treegraft {version}\n")
        };
        Commit {
            metadata,
            parent: None,
            subject: words.subject.clone().unwrap_or_else(|| format!("Export {id}")),
            body: words.body.clone().unwrap_or_else(body),
            timestamp_secs: words.timestamp_secs,
            root_tree: root.tree,
            root_meta: root.meta,
        }
    }
}

/// Returns what an installation of a tree takes, in bytes, as Flatpak counts it: whole blocks for each regular file, as often
/// as it has a name.
pub fn installed_size(tree: &Tree) -> u64 {
    let sizes = tree.file_sizes().map(|bytes| bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES));
    sizes.fold(0, u64::saturating_add)
}

/// Owners and modes of everything that Flatpak commits: nobody but root, readable to all, writable to its owner, executable
/// to all when it is to its owner. There are no extended attributes.
struct CanonicalRules<'f> {
    filter: Option<&'f PathFilter>,
}

impl Rules for CanonicalRules<'_> {
    fn apply(&mut self, path: &str, found: Attributes) -> Option<Attributes> {
        if self.filter.is_some_and(|filter| filter.is_excluded(path)) {
            return None;
        }
        let mode = match found.mode & S_IFMT {
            S_IFDIR => S_IFDIR | 0o755,
            S_IFREG if found.mode & 0o100 != 0 => S_IFREG | 0o755,
            S_IFREG => S_IFREG | 0o644,
            _ => found.mode,
        };
        Some(Attributes { uid: 0, gid: 0, mode })
    }

    fn keeps_xattrs(&self) -> bool {
        false
    }
}

/// Reads a key file that comes with a build.
fn read_key_file(path: &Path) -> Result<(String, KeyFile), BuildDirError> {
    let fail = |source| BuildDirError::Io { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > MAX_METADATA_BYTES {
        return Err(BuildDirError::TooLarge { path: path.to_owned(), limit_bytes: MAX_METADATA_BYTES });
    }
    let data = fs::read(path).map_err(fail)?;
    let keys = KeyFile::parse(&data).map_err(|source| BuildDirError::KeyFile { path: path.to_owned(), source })?;
    let invalid = |reason: &str| BuildDirError::Metadata { path: path.to_owned(), reason: reason.to_owned() };
    let text = String::from_utf8(data).map_err(|_| invalid("it is not UTF-8"))?;
    if text.contains('\0') {
        return Err(invalid("it has a NUL character"));
    }
    Ok((text, keys))
}
