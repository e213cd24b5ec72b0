//! What targets share, and checks that take more than a few lines.
//!
//! * [`object`]: values and content objects.
//! * [`input`]: a fuzzer's bytes as numbers, texts and choices.
//! * [`pool`]: sound objects, and new ones made of them.
//! * [`place`]: a repository for one input, and what must hold of it afterwards.
//! * [`receive`]: a client that does as its input says, against the real handlers.

pub mod input;
pub mod object;
pub mod place;
pub mod pool;
pub mod receive;
