//! One repository that can be pushed to.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::task::TaskTracker;
use treegraft_repo::{Mode, OpenError, PublishLock, Repo};
use treegraft_sign::{SigningKeys, TrustedKeys};
use treegraft_wire::ApiError;

use crate::{
    config::Settings,
    error::from_publish,
    hooks, metadata, publish,
    rights::{Caller, Rights},
    signing::{self, KeyError},
};

/// Tells the time in seconds since 1970 UTC.
pub type Clock = fn() -> u64;

/// The account that the receiver runs as, for the environment of hooks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Its name.
    pub user: Option<String>,
    /// Its home directory.
    pub home: Option<PathBuf>,
}

/// One repository and its settings.
#[derive(Debug)]
pub struct Receiver {
    pub(crate) repo: Arc<Repo>,
    pub(crate) settings: Settings,
    pub(crate) caller: Caller,
    /// Sentences for every pusher.
    pub(crate) notes: Vec<String>,
    pub(crate) keys: SigningKeys,
    pub(crate) trusted: Vec<Box<dyn TrustedKeys>>,
    pub(crate) clock: Clock,
    pub(crate) account: Account,
    /// Work on blocking threads. It outlives the request that began it, and the connection.
    pub(crate) work: TaskTracker,
}

/// A repository cannot be pushed to.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Only archive repositories can be served to clients.
    #[error("`{path}` is a repository of mode `{mode}`, only archive repositories can be pushed to", path = path.display())]
    NotArchive {
        /// The repository.
        path: PathBuf,
        /// Its mode.
        mode: Mode,
    },
    /// It is not writable for the user that the server runs as.
    #[error("The repository `{path}` is not writable for this user", path = path.display())]
    NotWritable {
        /// The repository.
        path: PathBuf,
    },
    /// A key that the configuration names cannot be used.
    #[error("Could not load the keys of the server's configuration")]
    Keys(#[from] KeyError),
}

impl Receiver {
    /// Opens the repository at `path` for pushes.
    pub fn open(path: &Path, settings: Settings, clock: Clock) -> Result<Self, ReceiverError> {
        let repo = Repo::open(path)?;
        if repo.mode() != Mode::Archive {
            return Err(ReceiverError::NotArchive { path: path.to_owned(), mode: repo.mode() });
        }
        if !repo.is_writable() {
            return Err(ReceiverError::NotWritable { path: path.to_owned() });
        }
        let keys = signing::load(&settings)?;
        let trusted = signing::load_trusted(&settings)?;
        let work = TaskTracker::new();
        Ok(Self {
            repo: Arc::new(repo),
            settings,
            caller: Caller::anybody(),
            notes: Vec::new(),
            keys,
            trusted,
            clock,
            account: Account::default(),
            work,
        })
    }

    /// Says who pushes. Without it nothing is known of the caller, who has the rights that everybody has.
    #[must_use]
    pub fn for_caller(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// Adds sentences that every pusher reads, about the configuration for example.
    #[must_use]
    pub fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// Returns what the caller may do.
    pub(crate) const fn rights(&self) -> Rights<'_> {
        Rights::of(&self.settings, &self.caller)
    }

    /// Says which account it runs as.
    #[must_use]
    pub fn with_account(mut self, account: Account) -> Self {
        self.account = account;
        self
    }

    /// Returns the repository.
    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Writes and signs the summary anew, and what belongs to it, as a push does at its end.
    ///
    /// An interrupted publish is finished first. `waiting` is called again and again while another one holds the lock, with
    /// the time waited so far. Returns notes for the administrator.
    pub fn update_summary(&self, waiting: &mut dyn FnMut(Duration)) -> Result<Vec<String>, ApiError> {
        let mut lock = PublishLock::acquire(&self.repo, waiting).map_err(from_publish)?;
        let mut notes = publish::finish_recovery(self, &mut lock)?;
        notes.extend(metadata::update(self, &lock)?);
        drop(lock);
        notes.extend(hooks::run_orphans(self));
        Ok(notes)
    }

    /// Waits until all that was begun is done, after the connections have ended.
    ///
    /// What had arrived before a connection broke is still being stored then, and a publication goes on to its end.
    pub async fn finish(&self) {
        self.work.close();
        self.work.wait().await;
    }
}
