//! Values in GVariant's text format.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        treegraft_fuzz::build::check_variant_text(text);
    }
});
