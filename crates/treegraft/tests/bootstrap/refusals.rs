//! Servers that cannot take the program, and what the user is told.

use std::fs;

use treegraft_testkit::{SshdOptions, oracle};

use crate::login::{CACHE, Installs, Login, write_executable};

const OTHER_DIRECTORY: &str = "--bootstrap-dir /var/tmp/treegraft-USER";

/// Code that mounts something over the home, for this session alone.
fn mount_over_home(options: &str) -> String {
    format!(
        "[ -n \"$MOUNTED\" ] || MOUNTED=1 exec unshare --mount sh -c 'export MOUNTED; \
         mount -t tmpfs -o {options} none \"$HOME\" && exec \"$0\" \"$@\"' \"$0\" \"$@\""
    )
}

#[test]
fn a_file_in_the_way() {
    let Some(login) = Login::new("sh") else { return };
    fs::remove_dir(login.home(".cache")).expect("it is empty");
    login.write_home(".cache", "a file");
    login.push_fails(&[], 1, &["Could not install treegraft", ".cache", OTHER_DIRECTORY]);
    login.push_ok(&["--bootstrap-dir", "elsewhere"], Installs::Yes);
}

#[test]
fn a_home_that_is_not_there() {
    let Some(mut login) = Login::new("sh") else { return };
    login.before_shell("HOME=/nonexistent/home");
    login.push_fails(&[], 1, &["home directory /nonexistent/home does not exist", OTHER_DIRECTORY]);
    let named = login.env.root().join("named");
    login.push_ok(&["--bootstrap-dir", named.to_str().expect("it is UTF-8")], Installs::Yes);
}

#[test]
fn a_home_that_is_read_only() {
    let Some(mut login) = Login::new("sh").filter(|_| oracle::may_mount()) else { return };
    login.before_shell(&mount_over_home("ro"));
    login.push_fails(&[], 1, &["Read-only file system", OTHER_DIRECTORY]);
}

#[test]
fn a_home_without_programs() {
    let Some(mut login) = Login::new("sh").filter(|_| oracle::may_mount()) else { return };
    login.before_shell(&mount_over_home("noexec"));
    login.push_fails(&[], 1, &["may not be executed", "noexec", OTHER_DIRECTORY]);
    let named = login.env.root().join("named");
    login.push_ok(&["--bootstrap-dir", named.to_str().expect("it is UTF-8")], Installs::Yes);
}

#[test]
fn a_disk_that_is_full() {
    let Some(mut login) = Login::new("sh").filter(|_| oracle::may_mount()) else { return };
    login.before_shell(&mount_over_home("size=1m"));
    login.push_fails(&[], 1, &["No space left on device", OTHER_DIRECTORY]);
    login.before_shell(&mount_over_home("nr_inodes=1"));
    login.push_fails(&[], 1, &["No space left on device", OTHER_DIRECTORY]);
}

#[test]
fn another_kind_of_machine() {
    let Some(mut login) = Login::new("sh") else { return };
    let other = login.env.root().join("treegraft-for-another-machine");
    let mut bytes = fs::read(&login.program).expect("it can be read");
    // The kind of machine in the header of the program: a little-endian number.
    let is_arm = bytes[18] == 183;
    bytes[18] = if is_arm { 62 } else { 183 };
    fs::write(&other, bytes).expect("a file can be written");
    let offered = ["--bootstrap-program", other.to_str().expect("it is UTF-8")];
    let machine = if is_arm { "x86_64" } else { "aarch64" };
    login.push_fails(&offered, 1, &[&format!("it is for Linux on {machine}"), "--bootstrap-program FILE"]);

    let bin = login.env.make_folder("bin");
    let older = "#!/bin/sh\n[ \"$1\" = receive ] || exec echo treegraft 0.0.1\nexec";
    write_executable(&bin.join("treegraft"), &format!("{older} '{}' \"$@\"\n", login.program.display()));
    login.before_shell(&format!("PATH={}:$PATH", bin.display()));
    login.push_ok(&offered, Installs::No);
}

#[test]
fn a_program_without_its_libraries() {
    let Some(login) = Login::new("sh") else { return };
    let dynamic = login.env.root().join("dynamic");
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_treegraft")).expect("it can be read");
    let loader = b"/ld-linux-";
    let at = bytes.windows(loader.len()).position(|window| window == loader).expect("a program names its loader");
    bytes[at + 1..at + 3].copy_from_slice(b"no");
    fs::write(&dynamic, bytes).expect("a file can be written");
    let offered = ["--bootstrap-program", dynamic.to_str().expect("it is UTF-8")];
    login.push_fails(&offered, 1, &["needs libraries", "static build", "--bootstrap-program FILE"]);
    assert_eq!(login.kept(), Vec::<String>::new(), "nothing stays of it");
}

#[test]
fn a_program_that_is_another_one() {
    let Some(login) = Login::new("sh") else { return };
    login.push_fails(&["--bootstrap-program", "/bin/false"], 1, &["does not start there, with exit code 1"]);
    login.push_fails(&["--bootstrap-program", "/bin/echo"], 1, &["the same version"]);
    let run = login.push(&["--bootstrap-program", "/etc/passwd"]);
    assert_eq!(run.code(), Some(1), "it is no program: {}", run.report());
    assert!(run.stderr_text().contains("`/etc/passwd` is no program"), "{}", run.report());
    assert_eq!(login.kept(), Vec::<String>::new(), "nothing stays of them");
}

#[test]
fn accounts_that_run_no_commands() {
    // The last one is as `git-shell`.
    for shell in ["/usr/sbin/nologin", "/bin/false", "./refuse"] {
        let Some(login) = Login::new(shell) else { return };
        let refuse = login.home("refuse");
        write_executable(&refuse, "#!/bin/sh\necho 'fatal: unrecognized command' >&2\nexit 128\n");
        login.push_fails(&[], 1, &["does not run `treegraft receive`", "authorized_keys"]);
        assert!(!login.home(CACHE).exists(), "nothing is installed");
    }
}

#[test]
fn nothing_is_installed_when_that_is_not_wanted() {
    let Some(login) = Login::new("sh") else { return };
    login.push_fails(&["--no-bootstrap"], 1, &["`treegraft` was not found", "without `--no-bootstrap`"]);
    assert!(!login.home(".cache/treegraft").exists(), "nothing is installed");
}

#[test]
fn a_forced_command_ignores_what_the_client_wants() {
    let Some(login) = Login::new("sh") else { return };
    let (program, server) = (login.program.display(), login.server.display());
    let options = SshdOptions {
        key_options: format!("restrict,command=\"'{program}' receive '{server}'\""),
        ..SshdOptions::default()
    };
    let Some(sshd) = treegraft_testkit::Sshd::start_with(&options) else { return };
    let login = Login { sshd, ..login };
    login.push_ok(&[], Installs::No);
    assert!(!login.home(CACHE).exists(), "nothing is installed");
}
