//! Detached metadata.
#![no_main]

use treegraft_object::detached;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(
        !detached::decode(data).is_ok_and(|dict| dict.encode() != data),
        "what is not refused is kept byte for byte"
    );
});
