//! Repositories with files that somebody else has written, or that a crash has left.
#![no_main]

use treegraft_fuzz::{place, repository};

libfuzzer_sys::fuzz_target!(|data: &[u8]| place::with_template(|template| repository::check(template, data)));
