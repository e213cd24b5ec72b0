//! What a user is told when a push over ssh does not get through.

use insta::assert_snapshot;
use treegraft_testkit::{Run, Sshd};

use crate::place::Place;

/// Replaces what differs from server to server.
fn seen(place: &Place, sshd: &Sshd, run: &Run) -> String {
    place.seen(run).replace(&format!("{}@{}", sshd.user(), sshd.host()), "USER@HOST").replace(sshd.host(), "HOST")
}

fn push(place: &Place, sshd: &Sshd, arguments: &[&str]) -> Run {
    let config = sshd.client_config();
    let destination = format!("{}:{}", sshd.host(), place.path("server").display());
    let mut command = place.command();
    command.args(["push", "--repo", "worker", &destination, "-F"]).arg(config).args(arguments);
    Run::of(&mut command)
}

#[test]
fn a_server_without_the_program_is_told_about() {
    let (Some(place), Some(sshd)) = (Place::new(), Sshd::start()) else { return };
    let run = push(&place, &sshd, &["--remote-command", "/nonexistent/treegraft"]);
    assert_eq!(run.code(), Some(1), "trying again does not install it: {}", run.stderr_text());
    assert!(run.stderr_text().contains("--remote-command"), "the hint says what to do: {}", run.stderr_text());
}

#[test]
fn a_refused_key_is_told_about() {
    let (Some(place), Some(sshd)) = (Place::new(), Sshd::start()) else { return };
    let run =
        push(&place, &sshd, &["-o", "IdentityFile=none", "-o", "IdentitiesOnly=yes", "-o", "PubkeyAuthentication=no"]);
    let text = seen(&place, &sshd, &run);
    assert_eq!(run.code(), Some(1), "trying again does not make the key right: {text}");
    assert!(text.contains("Permission denied"), "ssh's own words are shown: {text}");
    assert!(text.contains("Hint: try `ssh HOST` by itself"), "and what to try: {text}");
}

#[test]
fn a_repository_that_is_not_there_is_told_by_the_server() {
    let (Some(place), Some(sshd)) = (Place::new(), Sshd::start()) else { return };
    std::fs::remove_dir_all(place.path("server")).expect("a directory can be removed");
    let program = env!("CARGO_BIN_EXE_treegraft");
    let run = push(&place, &sshd, &["--remote-command", program]);
    assert_snapshot!(seen(&place, &sshd, &run), @r"
    exit 1
    --- stderr
    Error: Could not find a repository at `PLACE/server`: nothing is there
    Hint: on the server: create one with `treegraft init PLACE/server`
    ");
}

#[test]
fn a_wrong_configuration_of_the_server_is_told_by_the_server() {
    let (Some(place), Some(sshd)) = (Place::new(), Sshd::start()) else { return };
    std::fs::write(place.path("bad.toml"), "[defaults]\nallow-farce = true\n").expect("a file can be written");
    let script = format!(
        "#!/bin/sh\nshift\nexec {} receive --config {} \"$@\"\n",
        env!("CARGO_BIN_EXE_treegraft"),
        place.path("bad.toml").display()
    );
    std::fs::write(place.path("wrapper"), script).expect("a file can be written");
    let wrapper = format!("sh {}", place.path("wrapper").display());
    let run = push(&place, &sshd, &["--remote-command", &wrapper]);
    assert_snapshot!(seen(&place, &sshd, &run), @r"
    exit 1
    --- stderr
    Error: The configuration file `PLACE/bad.toml` is not valid: TOML parse error at line 2, column 1
        |
      2 | allow-farce = true
        | ^^^^^^^^^^^
      unknown field `allow-farce`, expected one of KEYS
    Hint: on the server: every key is documented in docs/reference/server.toml
    ");
}
