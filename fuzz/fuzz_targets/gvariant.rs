//! Values of any GVariant type: the text before the first NUL is the type, the rest is the value.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| treegraft_fuzz::object::check_gvariant(data));
