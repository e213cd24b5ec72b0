//! Any bytes in the place of a client.
#![no_main]

use treegraft_fuzz::{connection, place};

libfuzzer_sys::fuzz_target!(|data: &[u8]| place::with_template(|template| connection::to_server(template, data)));
