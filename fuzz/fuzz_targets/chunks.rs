//! Chunks of older files, and recipes that use them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| treegraft_fuzz::chunks::check(data));
