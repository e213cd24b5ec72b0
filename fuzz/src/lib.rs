//! What targets share, and checks that take more than a few lines.
//!
//! * [`object`]: values and content objects.
//! * [`input`]: a fuzzer's bytes as numbers, texts and choices.
//! * [`pool`]: sound objects, and new ones made of them.
//! * [`place`]: a repository for one input, and what must hold of it afterwards.
//! * [`receive`]: a client that does as its input says, against the real handlers.
//! * [`connection`]: any bytes in the place of either side's HTTP/2.
//! * [`answers`], [`greeting`]: servers that answer as their input says, and logins that say what they like.
//! * [`repository`]: repositories with files that others have written.
//! * [`build`]: archives and build directories.
//! * [`wire`], [`graft`], [`config`], [`text`]: what the other side sends; what people and other programs write.

pub mod answers;
pub mod build;
pub mod chunks;
pub mod config;
pub mod connection;
pub mod graft;
pub mod greeting;
pub mod input;
pub mod object;
pub mod place;
pub mod pool;
pub mod receive;
pub mod repository;
pub mod text;
pub mod wire;
