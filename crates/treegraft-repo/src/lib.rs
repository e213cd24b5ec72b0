//! An OSTree repository on disk.
#![forbid(unsafe_code)]

mod config;
mod find;
mod key_file;
mod lock;
mod mode;
mod open;
mod refs;
mod store;

pub use config::{Config, ConfigError, LockTimeout, MinFreeSpace};
pub use find::{ArchivedFile, Find, ReadError};
pub use key_file::{KeyFile, KeyFileError};
pub use lock::{FileLock, LockError, LockKind, RepoLock};
pub use mode::Mode;
pub use open::{OpenError, Repo};
pub use refs::{RefError, RefTarget};
