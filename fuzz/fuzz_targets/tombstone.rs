//! Tombstones.
#![no_main]

use treegraft_object::tombstone;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(
        !tombstone::decode(data).is_ok_and(|commit| tombstone::encode(commit) != data),
        "what is not refused is kept byte for byte"
    );
});
