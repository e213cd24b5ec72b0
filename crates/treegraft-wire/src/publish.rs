//! The end of a push: what was received, and what became visible.

use serde::{Deserialize, Serialize};
use treegraft_object::{CommitId, ContentId, RefName};

use crate::ApiError;

/// The answer to a finished object stream: everything in it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObjectsAnswer {
    /// Objects that are new.
    pub objects: u64,
    /// Their size in bytes, as they are stored.
    pub bytes: u64,
    /// Objects that were there already.
    pub already_there: u64,
    /// Content objects that were sent as recipes and did not become what they should: they must be sent as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_be_sent_whole: Vec<ContentId>,
    /// How fast the stream came.
    #[serde(default)]
    pub arrival: Arrival,
}

impl ObjectsAnswer {
    /// Adds the objects of another part of the same stream, whose arrival is told once.
    pub fn add_objects(&mut self, other: Self) {
        let Self { objects, bytes, already_there, to_be_sent_whole, arrival: _ } = other;
        self.objects += objects;
        self.bytes += bytes;
        self.already_there += already_there;
        self.to_be_sent_whole.extend(to_be_sent_whole);
    }
}

/// How fast the body of a request came to the server: what its processors did meanwhile does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Arrival {
    /// Bytes behind the first frame.
    pub bytes: u64,
    /// Bytes of all object streams of the push in the same time.
    #[serde(default)]
    pub bytes_of_all: u64,
    /// From the first frame to the last one, in microseconds.
    pub micros: u64,
}

/// What a client says when it wants its push to be published. An empty body says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PublishRequest {
    /// How many object streams of the push have to be taken before: the client need not wait for their answers.
    #[serde(default)]
    pub streams: u64,
}

/// One line of the answer to a publish request. The last one is [`Done`](Self::Done) or [`Failed`](Self::Failed).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum PublishEvent {
    /// A phase begins.
    Phase {
        /// Which one.
        phase: Phase,
    },
    /// The server waits for somebody else.
    Waiting(Waiting),
    /// All refs are published.
    Done {
        /// What was published.
        published: Published,
    },
    /// Nothing was published, unless the error says otherwise.
    Failed {
        /// Why.
        error: ApiError,
    },
    /// An event that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The server waits for somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// For whom or what, in words.
    pub reason: String,
    /// For how long already.
    pub waited_secs: u64,
    /// For whom, if that is known. It is told by the other one, and no more than a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// Who holds what others wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What they call themselves.
    pub who: String,
    /// The refs that they publish, some of them when there are many.
    #[serde(default)]
    pub refs: Vec<String>,
    /// How many refs they publish.
    #[serde(default)]
    pub ref_count: u64,
    /// Since when they hold it, in seconds since 1970 UTC.
    #[serde(default)]
    pub since_secs: u64,
}

/// What the server does during a publish, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Checks that every commit is complete.
    Check,
    /// Makes the new commits and signs them.
    Graft,
    /// Makes objects durable, moves them into place, moves the refs.
    Publish,
    /// Writes and signs the summary, or runs what is configured instead.
    Summary,
    /// Runs a hook of the server's.
    Hook,
    /// A phase that this version does not know.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Check => "checking that every commit is complete",
            Self::Graft => "grafting and signing",
            Self::Publish => "publishing",
            Self::Summary => "updating the summary",
            Self::Hook => "running the server's hook",
            Self::Unknown => "working",
        })
    }
}

/// What a push published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The refs in the order of the request.
    pub refs: Vec<PublishedRef>,
    /// Sentences that the pusher should read.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What happened to a ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRef {
    /// The ref.
    pub name: RefName,
    /// Its head before.
    #[serde(default)]
    pub old: Option<CommitId>,
    /// Its head now; the same as before when there was nothing to publish.
    pub new: CommitId,
}
