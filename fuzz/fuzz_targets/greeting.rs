//! Logins that say what they like.
#![no_main]

use treegraft_fuzz::{greeting, place};

libfuzzer_sys::fuzz_target!(|data: &[u8]| place::with_template(|template| greeting::check(template, data)));
