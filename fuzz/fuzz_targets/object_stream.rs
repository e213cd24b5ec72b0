//! Streams of objects.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| treegraft_fuzz::wire::check_stream(data));
