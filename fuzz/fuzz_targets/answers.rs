//! Servers that answer what they like.
#![no_main]

use treegraft_fuzz::{answers, place};

libfuzzer_sys::fuzz_target!(|data: &[u8]| place::with_template(|template| answers::check(template, data)));
