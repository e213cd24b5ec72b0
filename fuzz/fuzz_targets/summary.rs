//! Summaries.
#![no_main]

use treegraft_object::summary::Summary;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(
        !Summary::decode(data).is_ok_and(|summary| summary.encode() != data),
        "what is not refused is kept byte for byte"
    );
});
