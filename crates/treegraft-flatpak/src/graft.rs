//! Making the commit that puts a pushed tree on top of a ref's head.
//!
//! The pushed commit was made in an empty repository: it has no parent and knows neither the server's collection id nor
//! its history. The *graft* is a new commit with the same tree, the ref's head as parent, and the bindings of the server.
//!
//! For `app/` and `runtime/` refs it is, bit for bit, the commit that `flatpak build-commit-from --src-repo` would have
//! written, so its metadata has that program's order of keys:
//!
//! | key                              | value                                                                        |
//! |----------------------------------|------------------------------------------------------------------------------|
//! | `ostree.collection-binding`      | the server's collection id, else the first extra one, else ""                |
//! | `ostree.collection-refs-binding` | (collection id, ref) for the server's and all extra ids, sorted; if any      |
//! | `ostree.ref-binding`             | \[ref\]                                                                      |
//! | `xa.ref`                         | ref                                                                          |
//! | `xa.from_commit`                 | the pushed commit's checksum                                                 |
//! | `xa.download-size`               | computed anew, because the server may have compressed the same files otherwise |
//! | all other keys of the pushed commit | untouched and in their order, but for those that an option replaces       |
//! | `ostree.endoflife`, `ostree.endoflife-rebase`, `xa.token-type`, `xa.subsets` | from the options, if given       |
//!
//! For every other ref, the pushed commit's keys stay where they are. `ostree.ref-binding` (the ref, and those that an option
//! adds, sorted as `ostree commit --bind-ref` does it) and `ostree.collection-binding` are replaced in place, or follow at the end, in this order, where they were absent. The
//! bindings of another repository do not survive: without a collection id of the server's there is no collection binding,
//! and `ostree.collection-refs-binding`, which Flatpak alone reads, is removed.

use treegraft_object::{
    CollectionId, Commit, CommitId, RefName,
    gvariant::{Dict, Variant},
    limits::MAX_METADATA_BYTES,
};

use crate::names::{FlatpakRef, InvalidFlatpakName, is_flatpak_ref};
use crate::options::{GraftOptions, OptionError};

/// Key of a commit's metadata: the collection id of the repository that it is for.
pub const COLLECTION_BINDING: &str = "ostree.collection-binding";
const COLLECTION_REFS_BINDING: &str = "ostree.collection-refs-binding";
/// Key of a commit's metadata: the refs that it may be published as.
pub const REF_BINDING: &str = "ostree.ref-binding";
const END_OF_LIFE: &str = "ostree.endoflife";
const END_OF_LIFE_REBASE: &str = "ostree.endoflife-rebase";
pub(crate) const REF: &str = "xa.ref";
const FROM_COMMIT: &str = "xa.from_commit";
/// Key of a commit's metadata: what a client downloads, in bytes.
pub const DOWNLOAD_SIZE: &str = "xa.download-size";
/// Key of a commit's metadata: the type of token that clients need to download it.
pub const TOKEN_TYPE: &str = "xa.token-type";

/// Key of a commit's metadata: the subsets of the repository that it belongs to.
pub const SUBSETS: &str = "xa.subsets";

/// Most keys of a pushed commit's metadata: real ones have about 20, and each key is looked for among all others.
pub const MAX_METADATA_KEYS: usize = 4096;

/// Where a graft goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraftTarget {
    /// The ref that gets the commit.
    pub ref_name: RefName,
    /// The collection id of the repository, if it has one.
    pub collection_id: Option<CollectionId>,
    /// The ref's head now, if there is one.
    pub parent: Option<CommitId>,
    /// What [`download_size`](crate::download_size) gives for the tree in this repository.
    ///
    /// Without it, the pushed commit's `xa.download-size` stays. It has no effect on refs that are none of Flatpak's.
    pub download_bytes: Option<u64>,
}

/// A commit that cannot be grafted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraftError {
    /// The ref begins like one of Flatpak's, and no client of it would accept the rest.
    #[error("Could not graft onto `{ref_name}`")]
    Ref {
        /// The ref.
        ref_name: RefName,
        /// What is wrong with it.
        source: InvalidFlatpakName,
    },
    /// An option cannot be followed.
    #[error("Could not follow the options of the graft onto `{ref_name}`")]
    Option {
        /// The ref.
        ref_name: RefName,
        /// What is wrong with the option.
        source: OptionError,
    },
    /// The pushed commit's metadata has too many keys.
    #[error(
        "Could not graft onto `{ref_name}`: the commit's metadata has {count} keys, and {MAX_METADATA_KEYS} are allowed"
    )]
    TooManyKeys {
        /// The ref.
        ref_name: RefName,
        /// How many keys there are.
        count: usize,
    },
    /// The new commit would be larger than what clients download.
    #[error(
        "Could not graft onto `{ref_name}`: the commit would have {bytes} bytes, and {MAX_METADATA_BYTES} are allowed"
    )]
    TooLarge {
        /// The ref.
        ref_name: RefName,
        /// How large it would be.
        bytes: u64,
    },
}

impl GraftError {
    /// Returns a stable word for the kind of the error. None of them goes away by trying again.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Ref { .. } => "invalid-flatpak-ref",
            Self::Option { source, .. } => source.code(),
            Self::TooManyKeys { .. } => "too-many-keys",
            Self::TooLarge { .. } => "commit-too-large",
        }
    }
}

/// Makes the commit that puts the tree of `source` on top of the target's head.
///
/// Whether a new commit is needed at all (the head may have the same tree) is the caller's question; see
/// [`GraftOptions::forces_commit`].
pub fn graft(
    source: &Commit,
    source_id: CommitId,
    target: &GraftTarget,
    options: &GraftOptions,
) -> Result<Commit, GraftError> {
    let ref_name = || target.ref_name.clone();
    options.check(&target.ref_name).map_err(|source| GraftError::Option { ref_name: ref_name(), source })?;
    let count = source.metadata.len();
    if count > MAX_METADATA_KEYS {
        return Err(GraftError::TooManyKeys { ref_name: ref_name(), count });
    }
    let metadata = if is_flatpak_ref(&target.ref_name) {
        let flatpak_ref =
            FlatpakRef::parse(&target.ref_name).map_err(|source| GraftError::Ref { ref_name: ref_name(), source })?;
        flatpak_metadata(&source.metadata, source_id, &flatpak_ref, target, options)
    } else {
        plain_metadata(&source.metadata, target, options)
    };
    let made = Commit {
        metadata,
        parent: target.parent,
        subject: options.subject.clone().unwrap_or_else(|| source.subject.clone()),
        body: options.body.clone().unwrap_or_else(|| source.body.clone()),
        timestamp_secs: options.timestamp_secs.unwrap_or(source.timestamp_secs),
        root_tree: source.root_tree,
        root_meta: source.root_meta,
    };
    let bytes = made.encode().len() as u64;
    if bytes > MAX_METADATA_BYTES { Err(GraftError::TooLarge { ref_name: ref_name(), bytes }) } else { Ok(made) }
}

fn plain_metadata(source: &Dict, target: &GraftTarget, options: &GraftOptions) -> Dict {
    let mut metadata = source.clone();
    metadata.remove(COLLECTION_REFS_BINDING);
    let mut bindings: Vec<&RefName> = options.bind_refs.iter().chain([&target.ref_name]).collect();
    bindings.sort();
    bindings.dedup();
    metadata.set(REF_BINDING, Variant::strings(bindings));
    match &target.collection_id {
        Some(id) => metadata.set(COLLECTION_BINDING, Variant::string(id.as_str())),
        None => drop(metadata.remove(COLLECTION_BINDING)),
    }
    match options.end_of_life.as_deref() {
        Some("") => drop(metadata.remove(END_OF_LIFE)),
        Some(reason) => metadata.set(END_OF_LIFE, Variant::string(reason)),
        None => {}
    }
    metadata
}

fn flatpak_metadata(
    source: &Dict,
    source_id: CommitId,
    flatpak_ref: &FlatpakRef,
    target: &GraftTarget,
    options: &GraftOptions,
) -> Dict {
    let ref_name = target.ref_name.as_str();
    let own_id = target.collection_id.as_ref();
    let mut metadata = Dict::new();

    let main_id = own_id.or(options.extra_collection_ids.first()).map_or("", CollectionId::as_str);
    metadata.set(COLLECTION_BINDING, Variant::string(main_id));
    let extra_ids = options.extra_collection_ids.iter().filter(|&id| Some(id) != own_id);
    let mut ids: Vec<&CollectionId> = own_id.into_iter().chain(extra_ids).collect();
    ids.sort();
    if !ids.is_empty() {
        metadata.set(COLLECTION_REFS_BINDING, Variant::string_pairs(ids.into_iter().map(|id| (id, ref_name))));
    }
    metadata.set(REF_BINDING, Variant::strings([ref_name]));
    metadata.set(REF, Variant::string(ref_name));
    metadata.set(FROM_COMMIT, Variant::string(&source_id.to_string()));
    if let Some(bytes) = target.download_bytes {
        metadata.set(DOWNLOAD_SIZE, Variant::uint64_be(bytes));
    }

    let is_replaced = |key: &str| match key {
        COLLECTION_BINDING | COLLECTION_REFS_BINDING | REF_BINDING | REF | FROM_COMMIT => true,
        DOWNLOAD_SIZE => target.download_bytes.is_some(),
        END_OF_LIFE => options.end_of_life.is_some(),
        END_OF_LIFE_REBASE => !options.end_of_life_rebase.is_empty(),
        TOKEN_TYPE => options.token_type.is_some(),
        SUBSETS => !options.subsets.is_empty(),
        _ => false,
    };
    for (key, value) in source.iter().filter(|(key, _)| !is_replaced(key)) {
        metadata.set(key, value.clone());
    }

    let replacement = replacement(flatpak_ref, options);
    set_for_clients(&mut metadata, options.end_of_life.as_deref(), replacement, options.token_type, &options.subsets);
    metadata
}

/// Sets what clients are told beside the content: that the ref has ended and what replaces it, the type of token, subsets.
pub(crate) fn set_for_clients(
    metadata: &mut Dict,
    end_of_life: Option<&str>,
    replacement: Option<String>,
    token_type: Option<i32>,
    subsets: &[String],
) {
    if let Some(reason) = end_of_life.filter(|reason| !reason.is_empty()) {
        metadata.set(END_OF_LIFE, Variant::string(reason));
    }
    if let Some(replacement) = replacement {
        metadata.set(END_OF_LIFE_REBASE, Variant::string(&replacement));
    }
    if let Some(token_type) = token_type {
        metadata.set(TOKEN_TYPE, Variant::int32(token_type));
    }
    let mut subsets = subsets.iter().filter(|subset| !subset.is_empty()).peekable();
    if subsets.peek().is_some() {
        metadata.set(SUBSETS, Variant::strings(subsets));
    }
}

/// Returns the ref that clients move to, if a pair of ids fits the ref.
fn replacement(flatpak_ref: &FlatpakRef, options: &GraftOptions) -> Option<String> {
    let fitting = |(old, new)| Some((flatpak_ref.id().suffix_after(old)?, new));
    let (suffix, new) = options.end_of_life_rebase.iter().map(|(old, new)| (old, new)).find_map(fitting)?;
    let (kind, arch, branch) = (flatpak_ref.kind(), flatpak_ref.arch(), flatpak_ref.branch());
    Some(format!("{kind}/{new}{suffix}/{arch}/{branch}"))
}
