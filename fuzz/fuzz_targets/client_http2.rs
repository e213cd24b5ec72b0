//! Any bytes in the place of a server.
#![no_main]

use treegraft_fuzz::{connection, place};

libfuzzer_sys::fuzz_target!(|data: &[u8]| place::with_template(|template| connection::to_client(template, data)));
