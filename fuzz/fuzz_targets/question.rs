//! Questions which objects are missing, and their answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| treegraft_fuzz::wire::check_question(data));
