//! Dirmetas.
#![no_main]

use treegraft_object::DirMeta;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(
        !DirMeta::decode(data).is_ok_and(|meta| meta.encode() != data),
        "what is not refused is kept byte for byte"
    );
});
