//! Archive headers.
#![no_main]

use treegraft_object::FileHeader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(
        !FileHeader::decode_archive(data).is_ok_and(|(header, size)| header.encode_archive(size)[8..] != *data),
        "what is not refused is kept byte for byte"
    );
});
