//! Grafts of foreign commits.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| treegraft_fuzz::graft::check(data));
