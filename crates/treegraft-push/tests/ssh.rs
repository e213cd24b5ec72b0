//! What is made of the ways in which ssh ends.

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use treegraft_push::{
    Bootstrap, Event, Reporter, SilentReporter, SshCarrier, SshOptions, SshTarget,
    carrier::{
        bootstrap::{InstallFailure, Program},
        ssh::{SshError, SshStream},
    },
};

/// How often, and how long at most, a test looks whether ssh has ended.
const POLL: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(60);

/// A directory with a program that stands for ssh.
struct FakeSsh {
    dir: TempDir,
}

impl FakeSsh {
    fn new(script: &str) -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        let path = dir.path().join("ssh");
        let text = format!("#!/bin/sh\ncd '{}'\n{script}\n", dir.path().display());
        // By another process: a test that starts a program at this moment would hand the open file on to it, and nothing
        // can be executed as long as somebody can write it.
        let write = "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh").args(["-c", write, "sh", &text]).arg(&path).status().expect("sh runs");
        assert!(written.success(), "the program is written");
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn start(&self) -> (SshCarrier, SshStream) {
        self.start_with(SshOptions::default(), &silent())
    }

    fn start_with(&self, options: SshOptions, reporter: &Arc<dyn Reporter>) -> (SshCarrier, SshStream) {
        let target = SshTarget { user: None, host: "host".to_owned(), port: None, path: "/srv/repo".to_owned() };
        let options = SshOptions { program: self.path("ssh"), nonce: "abc".to_owned(), ..options };
        SshCarrier::start(&target, &options, reporter).expect("it can be started")
    }

    /// Writes a program that may be offered: the header of one, and what follows.
    fn program(&self, bytes: &[u8]) -> SshOptions {
        let path = self.path("program");
        let header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";
        fs::write(&path, [header, bytes].concat()).expect("it can be written");
        let program = Program::inspect(&path).expect("it is one");
        SshOptions { bootstrap: Some(Arc::new(Bootstrap { program, directory: None })), ..SshOptions::default() }
    }

    /// Waits for the banner before it asks.
    async fn failure_after_greeting(&self) -> SshError {
        let (carrier, mut stream) = self.start();
        stream.read_u8().await.expect_err("there is no banner");
        drop(stream);
        carrier.failure().await
    }

    /// Waits until the script has written its last file.
    async fn has_ended(&self) {
        let ended = async {
            while !self.path("ended").exists() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(TIMEOUT, ended).await.expect("ssh was not killed");
    }

    async fn failure(&self) -> SshError {
        let (carrier, stream) = self.start();
        drop(stream);
        carrier.failure().await
    }
}

fn silent() -> Arc<dyn Reporter> {
    Arc::new(SilentReporter)
}

#[tokio::test]
async fn a_refusal_is_not_tried_again_and_a_broken_connection_is() {
    let cases = [
        ("ci@host: Permission denied (publickey).", false),
        ("Host key verification failed.", false),
        ("Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures", false),
        ("command-line: line 0: Bad configuration option: nosuch", false),
        ("Unable to negotiate with 192.0.2.1 port 22: no matching host key type found. Their offer: ssh-dss", false),
        ("ssh: connect to host host port 22: Connection refused", true),
        ("ssh: connect to host host port 22: Connection timed out", true),
        ("kex_exchange_identification: Connection closed by remote host", true),
        ("client_loop: send disconnect: Broken pipe", true),
        ("", true),
    ];
    for (message, is_temporary) in cases {
        let error = FakeSsh::new(&format!("echo '{message}' >&2; exit 255")).failure().await;
        assert!(matches!(error, SshError::Connect { .. }), "255 is ssh's own failure: {error:?}");
        assert_eq!(error.is_temporary(), is_temporary, "{message}");
        assert!(error.to_string().contains(message), "ssh's own words are told: {error}");
        assert!(!error.to_string().contains("could not connect"), "it may have been connected: {error}");
    }
}

#[tokio::test]
async fn a_missing_program_is_not_tried_again() {
    let error = FakeSsh::new("echo 'sh: treegraft: not found' >&2; exit 127").failure().await;
    assert!(matches!(error, SshError::NoReceiver { .. }), "{error:?}");
    assert!(!error.is_temporary(), "trying again does not install it");
}

#[tokio::test]
async fn a_login_that_is_no_shell_is_not_tried_again() {
    let error = FakeSsh::new("echo 'This account is currently not available.'; exit 1").failure_after_greeting().await;
    assert!(matches!(error, SshError::NoShell { .. }), "nothing of ours has run: {error:?}");
    assert!(!error.is_temporary(), "trying again makes it no shell");
    assert!(error.to_string().contains("not available"), "what the login says is told: {error}");
    let error = FakeSsh::new("echo treegraft-shell 1 abc; exit 1").failure_after_greeting().await;
    assert!(matches!(error, SshError::Ended { .. }), "a shell has run our code: {error:?}");
}

#[tokio::test]
async fn a_named_command_that_refuses_is_not_tried_again_and_one_that_breaks_is() {
    let cases = [
        ("echo 'there is no shell behind it' >&2; exit 1", false),
        ("echo welcome; exit 0", false),
        ("exit 4", true),
        ("exit 75", true),
        ("exit 137", true),
        ("kill -9 $$", true),
        ("echo treegraft-receive 1; exit 1", true),
    ];
    for (script, is_temporary) in cases {
        let ssh = FakeSsh::new(script);
        let options = SshOptions { remote_command: Some("treegraft".to_owned()), ..SshOptions::default() };
        let (carrier, mut stream) = ssh.start_with(options, &silent());
        stream.read_u8().await.expect_err("nothing follows");
        drop(stream);
        let error = carrier.failure().await;
        assert!(matches!(error, SshError::Ended { .. }), "the command was there: {script}: {error:?}");
        assert_eq!(error.is_temporary(), is_temporary, "{script}");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_gets_no_program() {
    let ssh = FakeSsh::new("echo treegraft-needs 1 abc Linux sparc64; cat >input");
    let (carrier, mut stream) = ssh.start_with(ssh.program(b""), &silent());
    // It goes out unless the far side has answered already.
    let _ = stream.write_all(b"eager").await;
    stream.read_u8().await.expect_err("there is no banner");
    drop(stream);
    let error = carrier.failure().await;
    let SshError::Install { reason, .. } = &error else { panic!("the program is offered: {error:?}") };
    let (program_machine, kernel, machine) = ("x86_64", "Linux".to_owned(), "sparc64".to_owned());
    assert_eq!(**reason, InstallFailure::Machine { program_machine, kernel, machine });
    let input = fs::read(ssh.path("input")).expect("it was written");
    assert!(input.is_empty() || input == b"eager", "nothing else was sent: {input:?}");
}

/// Hears that something is installed.
#[derive(Default)]
struct Installs(std::sync::Mutex<Vec<(String, u64)>>);

impl Reporter for Installs {
    fn event(&self, event: Event<'_>) {
        if let Event::Installing { host, bytes } = event {
            self.0.lock().expect("no thread panics").push((host.to_owned(), bytes));
        }
    }
}

#[tokio::test]
async fn what_was_written_before_the_banner_is_written_again_behind_it() {
    let big = vec![b'x'; 3 << 20];
    // Lines up to the nonce are dropped; then come the script and the program, and then all of it once more.
    let ssh = FakeSsh::new(
        "printf 'Welcome> treegraft-needs 1 abc Linux x86_64 \\nMore\\n'\n\
         while read -r line; do [ \"$line\" = abc ] && break; done\n\
         read -r script; head -c 3145748 >program.copy\n\
         printf 'treegraft-receive 1\\nbehind'; cat >input; echo >ended",
    );
    let reporter = Arc::new(Installs::default());
    let (carrier, mut stream) = ssh.start_with(ssh.program(&big), &(Arc::clone(&reporter) as Arc<dyn Reporter>));
    stream.write_all(b"first\n").await.expect("nobody waits for the far side");
    stream.write_all(b"\0second without an end").await.expect("nobody waits for the far side");
    let mut behind = [0; 6];
    stream.read_exact(&mut behind).await.expect("the banner comes");
    assert_eq!(&behind, b"behind", "what comes with the banner is not lost");
    stream.write_all(b", third").await.expect("the stream is open");
    stream.shutdown().await.expect("it can be ended");
    carrier.close();
    drop(stream);
    ssh.has_ended().await;
    let input = fs::read(ssh.path("input")).expect("it was written");
    assert_eq!(String::from_utf8_lossy(&input), "first\n\0second without an end, third", "in order, each once");
    let copy = fs::read(ssh.path("program.copy")).expect("it was written");
    assert!(copy == fs::read(ssh.path("program")).expect("it is there"), "every byte of the program arrives");
    assert_eq!(*reporter.0.lock().expect("no thread panics"), [("host".to_owned(), 3_145_748)], "it is told once");
}

#[tokio::test]
async fn who_writes_much_before_the_banner_waits_for_it() {
    let ssh = FakeSsh::new(
        "while [ ! -e go ]; do sleep 0.01; done; printf 'treegraft-receive 1\\n'; cat >input; echo >ended",
    );
    let (carrier, mut stream) = ssh.start();
    let much = vec![b'x'; 1 << 20];
    let early = tokio::time::timeout(Duration::from_millis(200), stream.write_all(&much)).await;
    assert!(early.is_err(), "what is recorded has a bound");
    fs::write(ssh.path("go"), "").expect("a file can be written");
    stream.write_all(&much).await.expect("behind the banner there is none");
    stream.shutdown().await.expect("it can be ended");
    carrier.close();
    drop(stream);
    ssh.has_ended().await;
    let input = fs::read(ssh.path("input")).expect("it was written");
    assert!(
        input.len() > much.len() && input.len() < 2 * much.len(),
        "the first part and all of the second: {}",
        input.len()
    );
}

#[tokio::test]
async fn a_failure_while_the_program_is_sent_is_heard() {
    let ssh = FakeSsh::new("echo treegraft-needs 1 abc Linux x86_64; echo treegraft-failed 1 abc owner; exit 1");
    let options = ssh.program(&vec![0; 8 << 20]);
    let (carrier, mut stream) = ssh.start_with(options, &silent());
    // It goes out unless the far side has answered already.
    let _ = stream.write_all(b"eager").await;
    stream.read_u8().await.expect_err("there is no banner");
    drop(stream);
    let error = carrier.failure().await;
    let SshError::Install { reason, .. } = &error else { panic!("the server refuses: {error:?}") };
    assert_eq!(**reason, InstallFailure::NotPrivate, "not that the pipe broke");
}

#[tokio::test]
async fn a_carrier_that_is_closed_lets_ssh_end_by_itself() {
    let ssh = FakeSsh::new("cat >/dev/null; echo >ended");
    let (carrier, stream) = ssh.start();
    carrier.close();
    drop(stream);
    ssh.has_ended().await;
}
