//! Login shells of every kind.

use std::os::unix::fs::symlink;

use treegraft_testkit::{Oracle, oracle};

use crate::login::{CACHE, Installs, Login, mode, write_executable};

/// A name that means something to every shell.
const ODD_NAME: &str = r#"a b'c"d!!e\f\\g$HOME`h`;i&j|k*?[l]{m,n}~#ü"#;

/// A push to an empty home, and another one.
#[track_caller]
fn first_and_second_push(login: &Login) {
    login.push_ok(&[], Installs::Yes);
    let program = login.kept_program();
    assert_eq!(mode(&login.home(CACHE)), 0o700, "nobody else can exchange the program");
    assert_eq!(mode(&program), 0o700, "nor write to it");
    login.push_ok(&[], Installs::No);
    assert_eq!(login.kept_program(), program, "it is the same one");
}

/// A push to a server that has the program.
#[track_caller]
fn push_without_bootstrap(login: &mut Login) {
    let bin = login.env.make_folder("bin");
    symlink(&login.program, bin.join("treegraft")).expect("a symlink can be made");
    login.before_shell(&format!("PATH={}:$PATH", bin.display()));
    login.push_ok(&["--no-bootstrap"], Installs::No);
    login.push_ok(&[], Installs::No);
}

/// Pushes through a login shell that greets in its start-up file, to a repository with an odd name.
#[track_caller]
fn every_way(shell: &str, start_up_file: &str) {
    let Some(mut login) = Login::with_repository(shell, ODD_NAME) else { return };
    if !start_up_file.is_empty() {
        login.write_home(start_up_file, "echo Welcome to this machine\necho -n Last login: never\n");
    }
    first_and_second_push(&login);
    push_without_bootstrap(&mut login);
}

#[test]
fn sh() {
    every_way("sh", "");
}

#[test]
fn bash_with_a_greeting() {
    every_way("bash", ".bashrc");
}

#[test]
fn restricted_bash() {
    every_way("bash -r", "");
}

#[test]
fn busybox() {
    if oracle::require(Oracle::Busybox).is_some() {
        every_way("busybox sh", "");
    }
}

#[test]
fn csh_with_a_greeting() {
    if oracle::require(Oracle::Csh).is_some() {
        every_way("csh", ".cshrc");
    }
}

#[test]
fn fish_with_a_greeting() {
    if oracle::require(Oracle::Fish).is_some() {
        every_way("fish", ".config/fish/config.fish");
    }
}

#[test]
fn zsh_with_a_greeting() {
    if oracle::require(Oracle::Zsh).is_some() {
        every_way("zsh", ".zshenv");
    }
}

#[test]
fn every_posix_shell_can_run_the_scripts() {
    for (package, sh) in
        [(None, "bash --posix"), (Some(Oracle::Busybox), "busybox sh"), (Some(Oracle::Zsh), "zsh --emulate sh")]
    {
        if package.is_some_and(|package| oracle::require(package).is_none()) {
            continue;
        }
        let Some(mut login) = Login::new("bash") else { return };
        let bin = login.env.make_folder("bin");
        write_executable(&bin.join("sh"), &format!("#!/bin/dash\nexec {sh} \"$@\"\n"));
        login.before_shell(&format!("PATH={}:$PATH", bin.display()));
        first_and_second_push(&login);
    }
}

#[test]
fn a_login_that_prints_much_is_understood() {
    let Some(mut login) = Login::new("sh") else { return };
    login.before_shell("seq 1 9000; printf treegraft-receive; printf 'treegraft-needs 1 x Linux m68k\\n> '");
    first_and_second_push(&login);
}

#[test]
fn a_login_that_prints_without_end_is_given_up() {
    let Some(mut login) = Login::new("sh") else { return };
    login.before_shell("yes");
    login.push_fails(&[], 1, &["does not run `treegraft receive`", "prints without end"]);
}
