//! An `ostree-receive.conf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| treegraft_fuzz::config::check_ostree_receive(data));
