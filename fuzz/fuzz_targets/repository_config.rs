//! The `config` of a repository.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| treegraft_fuzz::config::check_repository(data));
