//! Whole clients against the real handlers, over a real repository.
#![no_main]

use std::sync::{LazyLock, Mutex};

use treegraft_fuzz::{place::Template, receive};

static TEMPLATE: LazyLock<Mutex<Template>> = LazyLock::new(|| Mutex::new(Template::new()));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    receive::play(&mut TEMPLATE.lock().expect("no input has panicked"), data);
});
