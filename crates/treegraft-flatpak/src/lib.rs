//! What Flatpak means on top of OSTree.
//!
//! * [`build_dir`]: what `flatpak build-finish` leaves, as the commit that `flatpak build-export` makes of it.
//! * [`names`]: Flatpak's refs (`app/ID/ARCH/BRANCH`, `runtime/ID/ARCH/BRANCH`) and ids, with their grammar.
//! * [`mod@graft`]: the commit that puts a pushed tree on top of a ref's head, with the metadata that
//!   `flatpak build-commit-from` writes.
//! * [`options`]: what may be asked of a graft: texts, time, end of life, token type, subsets, collection ids.
//! * [`process`]: running a program that an administrator has configured.
//! * [`size`]: the download size that Flatpak shows to its users.
//! * [`update_repo`]: bringing summary, index and appstream branches up to date with the `flatpak` program.
//!
//! Everything but [`update_repo`] works without the `flatpak` program, and all of it also serves repositories that have
//! nothing to do with Flatpak: a ref that is none of Flatpak's gets plain OSTree bindings and nothing else.
#![forbid(unsafe_code)]

pub mod build_dir;
pub mod graft;
pub mod names;
pub mod options;
pub mod process;
pub mod size;
pub mod update_repo;

pub use build_dir::{BuildDir, BuildDirError, CommitWords, ExportOptions, installed_size};
pub use graft::{COLLECTION_BINDING, DOWNLOAD_SIZE, GraftError, GraftTarget, REF_BINDING, SUBSETS, TOKEN_TYPE, graft};
pub use names::{AppId, FlatpakKind, FlatpakRef, InvalidFlatpakName, is_flatpak_ref, is_generated_ref};
pub use options::{GraftOptions, OptionError, check_subsets};
pub use size::{DownloadSizes, KnownSizes, SizeError, download_size};
pub use update_repo::{ReplacementCommand, UpdateOutput, UpdateRepo, UpdateRepoError};
