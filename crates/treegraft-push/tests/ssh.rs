//! What is made of the ways in which ssh ends.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use tempfile::TempDir;
use treegraft_push::{SshCarrier, SshOptions, SshTarget, carrier::ssh::SshError};

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
        fs::write(&path, format!("#!/bin/sh\ncd '{}'\n{script}\n", dir.path().display())).expect("it can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn start(&self) -> (SshCarrier, treegraft_push::carrier::ssh::SshStream) {
        let target = SshTarget { user: None, host: "host".to_owned(), port: None, path: "/srv/repo".to_owned() };
        let options = SshOptions { program: self.path("ssh"), ..SshOptions::default() };
        SshCarrier::start(&target, &options).expect("it can be started")
    }

    async fn failure(&self) -> SshError {
        let (carrier, stream) = self.start();
        drop(stream);
        carrier.failure().await
    }
}

#[tokio::test]
async fn a_refusal_is_not_tried_again_and_a_broken_connection_is() {
    let cases = [
        ("ci@host: Permission denied (publickey).", false),
        ("Host key verification failed.", false),
        ("Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures", false),
        ("command-line: line 0: Bad configuration option: nosuch", false),
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
async fn a_carrier_that_is_closed_lets_ssh_end_by_itself() {
    let ssh = FakeSsh::new("cat >/dev/null; echo >ended");
    let (carrier, stream) = ssh.start();
    carrier.close();
    drop(stream);
    let ended = async {
        while !ssh.path("ended").exists() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(TIMEOUT, ended).await.expect("ssh was not killed");
}
