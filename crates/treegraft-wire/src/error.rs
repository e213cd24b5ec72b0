//! Errors as they go over the wire.

use serde::{Deserialize, Serialize};
use treegraft_object::{CommitId, RefName};

/// What went wrong, as a word that programs can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request is not what its path demands.
    BadRequest,
    /// There is nothing at this path.
    NotFound,
    /// The push is not known (any more).
    UnknownPush,
    /// The push was open for longer than the server's configuration allows.
    Expired,
    /// The repository cannot be opened or is not of a kind that can be pushed to.
    Repository,
    /// The name may not be given to a ref.
    RefName,
    /// The server's configuration does not allow this kind of graft, or forcing it.
    NotAllowed,
    /// A hook of the server's refuses the push; `detail` has what it said.
    HookRefused,
    /// A hook of the server's that has to agree could not be asked.
    HookFailed,
    /// The commit is older than the ref's head.
    OlderThanHead,
    /// With `exact`: the head is not an ancestor of the commit.
    NotFastForward,
    /// The ref was moved by somebody else while the push was under way.
    RefMoved,
    /// Objects that the pushed commits need are missing.
    Incomplete,
    /// An object is not valid; `object` names it and `detail` the rule.
    InvalidObject,
    /// Something is larger than the server's limits allow.
    TooLarge,
    /// The repository has as much as the server's configuration allows, or would have more.
    Quota,
    /// The disk is full, or would be fuller than `core.min-free-space-*` allows.
    NoSpace,
    /// The repository or the ref is locked by somebody else.
    Locked,
    /// The commit must be signed by a key that the server trusts, and has no signature of that kind.
    UnsignedCommit,
    /// The commit must be signed by a key that the server trusts, and no signature is good.
    BadSignature,
    /// A signature could not be made, or not be looked at.
    Signing,
    /// The refs are published, but the summary (or what a configured command makes) is not up to date.
    SummaryStale,
    /// The publication had begun and could not be ended: refs may have moved. The next push ends it.
    Unfinished,
    /// A graft option cannot be used for this ref.
    GraftOption,
    /// Something failed on the server; its log says more.
    Internal,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Returns the HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::RefName | Self::GraftOption => 400,
            Self::NotAllowed | Self::UnsignedCommit | Self::BadSignature | Self::HookRefused => 403,
            Self::NotFound | Self::UnknownPush => 404,
            Self::Expired => 408,
            Self::OlderThanHead | Self::NotFastForward | Self::RefMoved | Self::Incomplete => 409,
            Self::TooLarge => 413,
            Self::InvalidObject => 422,
            Self::Locked => 503,
            Self::NoSpace | Self::Quota => 507,
            Self::Repository
            | Self::HookFailed
            | Self::Signing
            | Self::SummaryStale
            | Self::Unfinished
            | Self::Internal
            | Self::Unknown => 500,
        }
    }

    /// Tells whether the same request may succeed a little later, for every error of this code.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Locked | Self::RefMoved | Self::Expired)
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    /// The kind of failure.
    pub code: ErrorCode,
    /// A sentence for a person: what could not be done to what, and why.
    pub detail: String,
    /// What the person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The ref that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ref")]
    pub ref_name: Option<String>,
    /// The object that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// For an object that is not valid or may not be pushed: the stable code of the broken rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// On a conflict: the state that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// On a conflict: the state that was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Whether the same request may succeed a little later although its code does not say so: the server was out of
    /// memory or file descriptors, for example.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub temporary: bool,
}

impl ApiError {
    /// Makes an error with nothing but a code and a sentence.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            hint: None,
            ref_name: None,
            object: None,
            rule: None,
            current: None,
            expected: None,
            temporary: false,
        }
    }

    /// Tells whether the same request may succeed a little later.
    pub const fn is_temporary(&self) -> bool {
        self.temporary || self.code.is_temporary()
    }

    /// Says that the same request may succeed a little later, whatever the code says.
    #[must_use]
    pub const fn temporary(mut self, temporary: bool) -> Self {
        self.temporary = temporary;
        self
    }

    /// Says that the commit for an exact push does not descend from the ref's head.
    pub fn not_fast_forward(name: &RefName, head: CommitId, commit: CommitId) -> Self {
        let detail = format!("The pushed commit of `{name}` does not descend from the ref's head {head}");
        Self::new(ErrorCode::NotFastForward, detail)
            .of_ref(name)
            .conflict(&head, &commit)
            .hint("push without `--exact` to put the tree on top of the head, or with `--force` to drop what is there")
    }

    /// Adds what the person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the ref that it is about.
    #[must_use]
    pub fn of_ref(mut self, name: &impl ToString) -> Self {
        self.ref_name = Some(name.to_string());
        self
    }

    /// Adds the object that it is about.
    #[must_use]
    pub fn of_object(mut self, name: &impl ToString) -> Self {
        self.object = Some(name.to_string());
        self
    }

    /// Adds the states of a conflict.
    #[must_use]
    pub fn conflict(mut self, current: &impl ToString, expected: &impl ToString) -> Self {
        self.current = Some(current.to_string());
        self.expected = Some(expected.to_string());
        self
    }
}
