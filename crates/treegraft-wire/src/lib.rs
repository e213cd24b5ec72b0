//! The push protocol: one HTTP API under `/api/v1`, whatever carries it.
//!
//! A push is five kinds of requests; docs/protocol.md has them in full, with an example of each.
//!
//! | request | question | answer |
//! |---|---|---|
//! | `POST /api/v1/pushes` | [`OpenRequest`] | [`OpenAnswer`]: heads, limits, what is left of an earlier push |
//! | `POST /api/v1/pushes/{id}/missing` | [`question`]: object names, binary | [`question::Presence`] of each, binary |
//! | `POST /api/v1/pushes/{id}/signatures` | [`chunks`]: paths of files, binary | [`chunks::Signature`] of each, binary |
//! | `POST /api/v1/pushes/{id}/objects` | [`stream`]: objects, framed | [`ObjectsAnswer`] |
//! | `POST /api/v1/pushes/{id}/publish` | nothing, or a [`PublishRequest`] | [`PublishEvent`]s, one JSON document a line |
//!
//! Questions and objects go in as many requests at once as the server's limits allow. Unknown fields of JSON documents
//! are ignored on both sides, and so are unknown features; what would change the meaning of a request gets a new path.
//! A request that fails is answered with an [`ApiError`].
//!
//! Over ssh both sides speak HTTP/2 on standard input and output. The receiving side first writes [`RECEIVE_BANNER`], so
//! that whatever a login shell prints before it can be told from the protocol. [`login_command`] is what starts it.
//! [`lanes`] are further connections of the same push.
#![forbid(unsafe_code)]

pub mod chunks;
mod error;
pub mod lanes;
pub mod login_command;
mod open;
mod publish;
pub mod question;
pub mod stream;

pub use error::{ApiError, ErrorCode};
pub use open::{
    GraftMode, Limits, OPEN_EVENTS, OpenAnswer, OpenEvent, OpenRequest, Purpose, PushId, RefChange, RefOffer, RefState,
    Repository, Resumed, RetriedOffer, Verdict,
};
pub use publish::{
    Arrival, Holder, ObjectsAnswer, Phase, PublishEvent, PublishRequest, Published, PublishedRef, Waiting,
};

/// The path below which this version of the API lives.
pub const API_ROOT: &str = "/api/v1";

/// What the receiving side writes before the first byte of HTTP/2 when it serves standard input and output.
pub const RECEIVE_BANNER: &str = "treegraft-receive 1\n";

/// Largest JSON document of a request, in bytes: an open request of a push of some ten thousand refs.
pub const MAX_JSON_BYTES: usize = 16 << 20;

/// Noticing that the other side is gone when nothing says so, as after a power loss or behind a firewall that forgets.
///
/// Without it a dead connection holds the repository's lock for ever.
pub mod keep_alive {
    use std::time::Duration;

    /// How often HTTP/2's `PING` asks whether the other side is still there.
    pub const INTERVAL: Duration = Duration::from_secs(60);
    /// How long the answer may take: on a slow link it waits behind some megabytes in the buffers of ssh and TCP, and the
    /// first one until a person has typed a password.
    pub const TIMEOUT: Duration = Duration::from_secs(300);
}

/// The windows of HTTP/2, on both sides: what may be on the way to a reader that has not read yet.
pub mod window {
    /// A connection's window in bytes: the product of 1 Gbit/s and 200 ms.
    pub const CONNECTION_BYTES: u32 = 25 << 20;
    /// The window of a lane in bytes: what one channel of OpenSSH has on its way, twice.
    pub const LANE_BYTES: u32 = 4 << 20;
    /// A stream's window in bytes: a few streams fill the connection, one slow reader does not.
    pub const STREAM_BYTES: u32 = 8 << 20;
    /// The largest frame in bytes: the cost of a frame stays small against its content.
    pub const FRAME_BYTES: u32 = 256 << 10;
}
