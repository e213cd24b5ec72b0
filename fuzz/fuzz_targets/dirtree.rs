//! Dirtrees.
#![no_main]

use treegraft_object::DirTree;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(
        !DirTree::decode(data).is_ok_and(|tree| tree.encode() != data),
        "what is not refused is kept byte for byte"
    );
});
