//! Clients that do what they like.
#![no_main]

use treegraft_fuzz::{place, receive};

libfuzzer_sys::fuzz_target!(|data: &[u8]| place::with_template(|template| receive::play(template, data)));
