//! An OSTree repository on disk: layout, configuration, lock, staging, transaction, refs, summary, fsck.
//!
//! Everything here is synchronous, and nothing prints or reads the environment. Repositories are read in the modes archive,
//! bare, bare-user and bare-user-only, and written in the modes archive and bare-user.
//!
//! # Layout
//!
//! ```text
//! <repo>/config                        key file: mode, collection id, limits                            config, key_file
//! <repo>/.lock                         libostree's lock                                                 lock
//! <repo>/objects/XX/<62 digits>.<ext>  objects; their existence makes the directory a repository        store
//! <repo>/refs/heads/<ref>              64 digits and a newline                                          refs
//! <repo>/refs/mirrors/<collection>/<ref>, refs/remotes/<remote>/<ref>
//! <repo>/state/<commit>.commitpartial  the commit's tree may be incomplete
//! <repo>/tmp/, extensions/             libostree's own; left alone
//! <repo>/summary, summary.sig          what clients fetch first                                         summary
//! <repo>/deltas/, delta-indexes/       static deltas                                                    deltas
//! <repo>/.treegraft/                   ignored by libostree; mode 0700, made by the first push
//!     publish.lock, publish.holder     one publish at a time, and who it is                             publish_lock
//!     queue/<20 digits>                those who wait for it, in the order in which they came           queue
//!     journal                          the refs of a publish that is going on; absent when there is none  journal
//!     pending/<name>                   work that has to follow a publish, until it is done              pending
//!     preview/                         what is about to be published, as a repository                   preview
//!     draft/                           the repository, for another program that writes a summary        draft
//!     staging/<random>/                one for each push                                                staging
//!         lock, boot-id, XX/<62 digits>.<ext>
//! ```
//!
//! # Invariants
//!
//! * An object has its name only after it was verified; under `objects/` it is complete, and all it refers to was there
//!   before it, commits last.
//! * A ref leads to a commit whose whole tree is under `objects/` (or in the parent repository), unless the commit is
//!   marked partial by a pull of libostree.
//! * Objects are never changed. Mutable are refs, detached metadata, the summary, and the configuration.
//! * Paths are made of checked names only ([`RefName`](treegraft_object::RefName),
//!   [`CollectionId`](treegraft_object::CollectionId), hexadecimal digits) relative to open directories, and object files
//!   are opened without following symlinks.
//!
//! # Locks
//!
//! | lock | holder | kind |
//! |---|---|---|
//! | `.lock` | whoever adds objects or moves refs, from the first look-up to the last ref | shared |
//! | `.lock` | whoever deletes objects: [`prune`], `ostree prune`, `flatpak build-update-repo --prune` | exclusive |
//! | `.treegraft/publish.lock` | one publish, or the recovery after a crashed one | exclusive |
//! | `.treegraft/queue/*`, `pending/*` | whoever waits to publish; whoever has work to do after it | exclusive |
//! | `.treegraft/staging/*/lock` | the push that owns the staging area, as long as it lives | exclusive |
//!
//! All are open-file-description locks. Readers take none: [`Repo`], [`Closure`] and [`fsck`] see objects come and, if
//! somebody prunes, go; whoever must not miss an object holds the lock shared. They are taken in the order publish lock,
//! `.lock`; see [`lock`](RepoLock) for waiting and timeouts. [`prune`] waits for neither while it
//! holds the other.
//!
//! # What a crash leaves
//!
//! * In [`Repo::init`]: a directory without `objects`, which is no repository; the next `init` finishes it.
//! * While receiving: a staging area whose lock is free. The next push adopts what is in it.
//! * While publishing: objects without a ref, which harm nothing, or a journal, which the next publish carries out.
//! * While another program writes a summary: a [`Draft`], which the next one replaces.
//! * In [`prune`]: objects without a ref.
//!
//! # Limits
//!
//! A metadata object has at most 128 MiB and is read as a whole; content objects are streamed. `config` has at most 4 MiB, a
//! ref's file 1 KiB, parents are at most 8 behind each other, trees are nested at most 2048 deep. A [`Closure`] needs some
//! 50 bytes for each distinct object, [`fsck`] 33 for each, [`prune`] 32.
#![forbid(unsafe_code)]

mod boot_id;
mod by_path;
pub mod cache;
mod closure;
mod config;
pub mod deltas;
mod detached;
mod draft;
mod durable;
pub mod fault;
mod find;
mod free_space;
pub mod fsck;
mod holders;
mod init;
mod journal;
mod key_file;
mod lock;
mod mode;
mod open;
pub mod parallel;
mod pending;
mod preview;
mod private_dir;
pub mod prune;
mod publish_lock;
mod queue;
pub mod random;
mod ref_edit;
mod refs;
mod staging;
mod store;
pub mod summary;
mod touched;
mod transaction;
mod usage;
mod xattr;

pub use by_path::ByPath;
pub use closure::{Closure, KnownObjects, MAX_MISSING_NAMES};
pub use config::{Config, ConfigError, DEFAULT_ZLIB_LEVEL, LockTimeout, MinFreeSpace};
pub use detached::{DetachedMetadataError, write_detached_metadata};
pub use draft::Draft;
pub use find::{ArchivedFile, Find, ReadError};
pub use init::InitError;
pub use key_file::{KeyFile, KeyFileError};
pub use lock::{FileLock, LockError, LockKind, RepoLock};
pub use mode::Mode;
pub use open::{OpenError, Repo};
pub use pending::{MAX_PENDING_BYTES, Pending};
pub use preview::Preview;
pub use publish_lock::{FoundRef, MAX_HOLDER_BYTES, Outcome, PublishError, PublishLock, Recovered, RecoveredRef};
pub use ref_edit::{RefEdit, RefEditError};
pub use refs::{RefError, RefTarget};
pub use staging::{Cleared, Flush, MAX_LEFTOVER_AGE_SECS, Resumed, Staged, StagedView, Staging, StagingError};
pub use store::{Content, Listing, Objects};
pub use transaction::{Committed, MAX_EDITS, Prepared, Transaction, TransactionError};
pub use usage::{Usage, UsageError};
pub use xattr::read_xattrs;
