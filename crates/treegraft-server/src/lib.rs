//! The receiving side of a push: handlers, policy, graft, signatures, publication.
//!
//! * [`config`]: what the server's administrator decides, from a file. [`rights`]: who may do what, by its rules.
//! * [`ostree_receive`]: the same from a configuration of ostree-push.
//! * [`Receiver`]: one repository that can be pushed to, with its settings. [`serve_connection`] answers the requests of
//!   one connection; whether that is an ssh session's pipes, an in-memory pipe or a socket makes no difference.
//! * `handlers`: one file per request of the protocol. They are asynchronous and short; the work is done by synchronous
//!   code on blocking threads.
//! * `pushes`: the pushes of a connection and their bounds, `budget` how much each may send. `session`: one push, its locks and its staging area; `knowledge`
//!   is what it has found in the repository, `recorded_sizes` what earlier ones have left for it.
//! * `holder`: who publishes, for those who wait.
//! * `hooks`: the administrator's programs that are asked before a publication and told after it.
//! * `publish`: the steps of a publication; `commits` checks, grafts and signs, `metadata` writes the summary, `policy`
//!   holds what is asked for against rights and settings, `earlier` finds what another try of the push has published.
//! * `prune`: deleting what nothing leads to, with all that belongs to it.
//!
//! # What holds
//!
//! * The shared repository lock is held from the opening of a push until its refs have moved, so that no prune can
//!   remove an object that a client was told to be there.
//! * Nothing that a client says widens its rights; the settings come from the administrator's file alone.
//! * A connection that ends takes its pushes with it, but what had arrived is stored to its end, and a publication that
//!   has begun goes on: [`Receiver::finish`] waits for both. What was received stays in the staging area for the next push.
#![forbid(unsafe_code)]

mod bases;
mod body;
mod budget;
mod commits;
pub mod config;
mod connection;
mod earlier;
mod error;
mod handlers;
mod holder;
mod hooks;
mod knowledge;
mod lanes;
mod metadata;
pub mod ostree_receive;
mod policy;
mod prune;
mod publish;
mod pushes;
mod receiver;
mod recorded_sizes;
pub mod rights;
mod session;
mod signing;
mod streams;
mod text;

pub use connection::{ServeError, serve_connection, serve_refusal};
pub use lanes::relay_lane;
pub use prune::{PruneError, Pruned};
pub use receiver::{Account, Clock, Receiver, ReceiverError};
