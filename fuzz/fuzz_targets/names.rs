//! Names of refs, collections, apps and keys, and patterns of refs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        treegraft_fuzz::text::check_names(text);
    }
});
