//! The pushing side: from a worker's repository to a server's.
//!
//! * [`Destination`]: where to push to, as users write it.
//! * [`carrier`]: byte streams to a server. HTTP/2 runs over each of them alike.
//! * [`Source`]: the repository and the refs to push.
//! * [`push`](push()): opens, plans, transfers, publishes; says what it does to a [`Reporter`].
//! * [`retry`]: does so again when it failed for a reason that passes.
//!
//! This crate draws nothing, reads no environment and knows no terminal.
#![forbid(unsafe_code)]

mod basis;
pub mod carrier;
mod client;
mod destination;
mod error;
mod plan;
mod push;
mod references;
mod report;
pub mod retry;
mod source;
mod transfer;

pub use basis::BasisRepo;
pub use carrier::{
    bootstrap::Bootstrap,
    ssh::{SshCarrier, SshOptions},
};
pub use client::{Client, ClientError};
pub use destination::{Destination, DestinationError, SshTarget};
pub use error::PushError;
pub use plan::PlannedObject;
pub use push::{Outcome, PushOptions, push};
pub use references::MakingAhead;
pub use report::{Event, Reporter, SilentReporter};
pub use retry::{Attempt, RetryPolicy};
pub use source::{PushRef, Source, SourceError};
pub use transfer::Compare;
