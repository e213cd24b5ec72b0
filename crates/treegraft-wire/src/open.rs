//! Opening a push.

use serde::{Deserialize, Serialize};
use treegraft_flatpak::GraftOptions;
use treegraft_object::{CollectionId, CommitId, DirMetaId, DirTreeId, RefName};

use crate::{ApiError, lanes::LaneSecret, publish::Waiting};

/// The name of a push on the server, valid only on the connection that opened it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PushId(pub String);

impl PushId {
    /// Returns the name of the `number`th push of a connection, from 1 on, in the order in which they were asked for.
    pub fn of_connection(number: u64) -> Self {
        Self(number.to_string())
    }
}

/// The client says who it is and what it wants to publish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Program and version, for logs.
    pub client: String,
    /// Who and where the client is, `user@host` for example: a text for those who wait for this push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Whether anything is to be changed.
    #[serde(default)]
    pub purpose: Purpose,
    /// The refs, all of which are published or none.
    pub refs: Vec<RefOffer>,
    /// Names of optional parts of the protocol that the client knows.
    #[serde(default)]
    pub features: Vec<String>,
}

impl OpenRequest {
    /// Tells whether the client knows a feature.
    pub fn has_feature(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

/// The feature of a client that reads the answer to an opening as [`OpenEvent`]s.
pub const OPEN_EVENTS: &str = "open-events";

/// One line of the answer to an opening with the feature [`OPEN_EVENTS`]. The last one is [`Opened`](Self::Opened) or
/// [`Failed`](Self::Failed).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum OpenEvent {
    /// The server waits for somebody else.
    Waiting(Waiting),
    /// The push is open.
    Opened {
        /// The server's side of it.
        answer: OpenAnswer,
    },
    /// It is not.
    Failed {
        /// Why.
        error: ApiError,
    },
    /// An event that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Whether a push is to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Send and publish.
    #[default]
    Push,
    /// Only find out what would be sent.
    DryRun,
}

/// How a pushed commit gets onto its ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraftMode {
    /// The server makes a new commit with the pushed tree on top of the ref's head.
    #[default]
    Rebase,
    /// The pushed commit itself becomes the ref's head; the old head must be among its ancestors.
    Exact,
}

/// A ref and the commit whose tree it shall get.
///
/// What is said about the commit here is only for early answers; the server believes the commit object alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefOffer {
    /// The ref on the server.
    pub name: RefName,
    /// The commit on the worker.
    pub commit: CommitId,
    /// The commit's root directory listing.
    pub root_tree: DirTreeId,
    /// The commit's root directory metadata.
    pub root_meta: DirMetaId,
    /// The commit's time in seconds since 1970 UTC.
    pub timestamp_secs: u64,
    /// How it gets onto the ref.
    #[serde(default)]
    pub mode: GraftMode,
    /// With [`GraftMode::Exact`]: whether commits that are not ancestors may be dropped from the ref.
    #[serde(default)]
    pub force: bool,
    /// Whether the commit may be older than the head.
    #[serde(default)]
    pub allow_older: bool,
    /// What the new commit says differently from the pushed one.
    #[serde(default)]
    pub graft: GraftOptions,
    /// For another try of a push: what an earlier one was told, so that it is not published twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetriedOffer>,
}

/// What the first try of a push was told about a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetriedOffer {
    /// The ref's head at that time; nothing when the ref was not there.
    #[serde(default)]
    pub head: Option<CommitId>,
}

/// The server's side of an opened push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenAnswer {
    /// Program and version, for logs.
    pub server: String,
    /// The push that was opened.
    pub push: PushId,
    /// What the repository is.
    pub repository: Repository,
    /// The refs in the order of the request.
    pub refs: Vec<RefState>,
    /// What the server takes at once.
    pub limits: Limits,
    /// What is still there of earlier pushes that did not end.
    #[serde(default)]
    pub resumed: Resumed,
    /// Names of optional parts of the protocol that the server knows.
    #[serde(default)]
    pub features: Vec<String>,
    /// With the feature [`LANES`](crate::lanes::LANES): what leads further connections to this push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane_secret: Option<LaneSecret>,
    /// Sentences that the pusher should read.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl OpenAnswer {
    /// Tells whether the server knows a feature.
    pub fn has_feature(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its collection id.
    #[serde(default)]
    pub collection_id: Option<CollectionId>,
}

/// The state of a ref when the push was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefState {
    /// The ref.
    pub name: RefName,
    /// Its head.
    #[serde(default)]
    pub head: Option<CommitId>,
    /// What the push means for it.
    pub verdict: Verdict,
    /// With [`Verdict::Unchanged`], for another try of a push: what an earlier one has published, or another push with the
    /// same tree. The head may be further by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<RefChange>,
    /// With the feature [`CHUNKS`](crate::chunks::CHUNKS): whether there is a tree with which files can be compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_basis: bool,
}

/// A step of a ref's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefChange {
    /// The head before.
    #[serde(default)]
    pub old: Option<CommitId>,
    /// The commit that was published.
    pub new: CommitId,
}

/// What a push means for a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// There is something to publish.
    Publish,
    /// The head has the same tree already.
    Unchanged,
}

/// What the server takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest object in bytes, as it is stored.
    pub object_bytes: u64,
    /// Most names in one question.
    pub question_names: u32,
    /// Most object streams at a time.
    pub streams: u32,
}

/// What is still there of earlier pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resumed {
    /// How many objects.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
}
