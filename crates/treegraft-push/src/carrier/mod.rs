//! Byte streams to a server.
//!
//! A carrier is anything that is read and written asynchronously; [`Client`](crate::Client) speaks HTTP/2 over it. The
//! local carrier needs no code here: it is one end of an in-memory pipe whose other end a receiver serves.

pub mod bootstrap;
mod greeting;
pub mod sharing;
pub mod ssh;
mod ssh_error;
mod stream;
