//! Logins that say what they like before the protocol begins, or never begin it.

use std::{fs, path::Path, sync::Arc, sync::LazyLock};

use tempfile::TempDir;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use treegraft_push::{
    Bootstrap, Client, PushOptions, SilentReporter, Source, SshCarrier, SshOptions, SshTarget,
    carrier::bootstrap::Program, push,
};

use crate::place::Template;

/// The start of a 64-bit program for Linux on `x86_64`, as far as it is looked at.
const PROGRAM: [u8; 64] = {
    let mut header = [0; 64];
    let start = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0";
    let mut at = 0;
    while at < start.len() {
        header[at] = start[at];
        at += 1;
    }
    header
};

/// What ssh would print, and the program that a server without it is offered.
struct Files {
    dir: TempDir,
    program: Program,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let dir = TempDir::new().expect("a directory can be made");
    let path = dir.path().join("program");
    fs::write(&path, PROGRAM).expect("it can be written");
    let program = Program::inspect(&path).expect("it looks like a program");
    Files { dir, program }
});

/// Pushes through an ssh that only says `data`: `cat -T FILE -- …` in its place, which prints the file and fails.
///
/// # Panics
///
/// When something panics, which is what fuzzing looks for.
pub fn check(template: &Template, data: &[u8]) {
    let said = FILES.dir.path().join("said");
    fs::write(&said, data).expect("it can be written");
    let source = Source::open(&template.path(), &[]).expect("the repository is sound");
    let options = SshOptions {
        program: Path::new("cat").to_owned(),
        arguments: vec![said.into_os_string()],
        remote_command: None,
        bootstrap: Some(Arc::new(Bootstrap { program: FILES.program.clone(), directory: None })),
        sharing: None,
        nonce: "nonce".to_owned(),
    };
    let target = SshTarget { user: None, host: "host".to_owned(), port: None, path: "repo".to_owned() };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        // A program has this from Rust's own start, which a target does not have.
        let _ignored = signal(SignalKind::pipe()).expect("signals can be caught");
        let (carrier, stream) =
            SshCarrier::start(&target, &options, &(Arc::new(SilentReporter) as _)).expect("`cat` is there");
        if let Ok(client) = Client::connect(stream).await {
            let pushed = push(&client, source, &PushOptions::default(), Arc::new(SilentReporter)).await;
            assert!(pushed.is_err(), "who only speaks has not taken a push");
        }
        let _ = carrier.failure().await.to_string();
    });
}
