//! Any bytes for a lane of an open push.
#![no_main]

use treegraft_fuzz::{connection, place};

libfuzzer_sys::fuzz_target!(|data: &[u8]| place::with_template(|template| connection::to_lane(template, data)));
