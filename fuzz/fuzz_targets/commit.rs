//! Commits.
#![no_main]

use treegraft_object::Commit;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(
        !Commit::decode(data).is_ok_and(|commit| commit.encode() != data),
        "what is not refused is kept byte for byte"
    );
});
