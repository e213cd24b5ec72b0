//! What a push tells while it runs.

use std::time::Duration;

use treegraft_object::ObjectName;
use treegraft_wire::{OpenAnswer, PublishEvent, Waiting};

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
    /// The server waits for somebody else before it can open the push.
    Waiting(&'e Waiting),
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
        /// How many more of the objects' own bytes, as they were found.
        bytes: u64,
        /// How many bytes it took to say them.
        sent_bytes: u64,
    },
    /// All of an object left for the server.
    Sent {
        /// The object.
        object: ObjectName,
        /// Whether only what is new in it was sent.
        in_parts: bool,
    },
    /// A stream of objects has arrived.
    Arrived {
        /// The bytes of those that are new on the server, as it stores them.
        stored_bytes: u64,
    },
    /// Everything has left for the server, which is asked to publish it once all has come.
    Departed,
    /// Publication goes on there.
    Publishing(&'e PublishEvent),
    /// The push failed for a reason that may pass, and will be tried again from its beginning.
    Retrying {
        /// The reason, in a few words.
        reason: &'e str,
        /// How long the push waits before it.
        pause: Duration,
        /// Which try it will be, counted from 1.
        attempts: u32,
        /// How many tries there may be.
        max_attempts: u32,
    },
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
