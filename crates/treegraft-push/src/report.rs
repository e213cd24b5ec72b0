//! What a push tells while it runs.

use treegraft_wire::{OpenAnswer, PublishEvent};

/// Something that happened during a push.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'e> {
    /// The server does not have the program, and gets it.
    Installing {
        /// The server.
        host: &'e str,
        /// The program's size.
        bytes: u64,
    },
    /// The server knows the refs and has answered.
    Opened(&'e OpenAnswer),
    /// More objects were looked at: how many in all up to now.
    Compared {
        /// Objects that the server was asked about.
        objects: u64,
    },
    /// More objects are known to be missing on the server.
    Found {
        /// How many more.
        objects: u64,
        /// Their size in bytes, where it is known before they are sent.
        bytes: u64,
    },
    /// All that has to be sent is known.
    Planned,
    /// Bytes of objects left for the server.
    Sending {
        /// How many more.
        bytes: u64,
    },
    /// An object left for the server as a whole.
    Sent,
    /// The server has everything; publication goes on there.
    Publishing(&'e PublishEvent),
}

/// Hears what a push does. Called from several threads.
pub trait Reporter: Send + Sync {
    /// Hears one event. It must return soon: the push waits.
    fn event(&self, event: Event<'_>);
}

/// A reporter that says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentReporter;

impl Reporter for SilentReporter {
    fn event(&self, _: Event<'_>) {}
}
