//! What is kept on the server, and what is believed of it.

use std::{
    fs::{self, File, FileTimes},
    os::unix::fs::{chown, symlink},
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use treegraft_testkit::{Direction, LinkOptions, Run, SlowLink, oracle};

use crate::login::{CACHE, Installs, Login, VERSION, set_mode, write_executable};

/// How long a session may take to notice that its connection is gone.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Another user than the test's own.
const NOBODY: u32 = 65_534;

fn make_older(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    // Not for writing: a receiver that has just published may still run it.
    let file = File::open(path).expect("it can be opened");
    file.set_times(FileTimes::new().set_modified(then).set_accessed(then)).expect("times can be set");
}

#[test]
fn a_broken_program_is_replaced() {
    let Some(login) = Login::new("sh") else { return };
    login.push_ok(&[], Installs::Yes);
    let program = login.kept_program();
    let whole = fs::read(&program).expect("it can be read");
    for (case, bytes) in [("empty", &[][..]), ("cut off", &whole[..whole.len() / 2]), ("no program", b"exit 0\n")] {
        fs::remove_file(&program).expect("it can be removed");
        fs::write(&program, bytes).expect("it can be written");
        set_mode(&program, 0o700);
        login.push_ok(&[], Installs::Yes);
        assert!(
            fs::read(login.kept_program()).expect("it can be read") == whole,
            "a program that is {case} is replaced"
        );
    }
    set_mode(&program, 0o600);
    login.push_ok(&[], Installs::Yes);
}

#[test]
fn what_others_can_write_is_not_believed() {
    let Some(login) = Login::new("sh") else { return };
    login.push_ok(&[], Installs::Yes);
    let program = login.kept_program();
    for mode in [0o720, 0o702] {
        set_mode(&program, mode);
        login.push_ok(&[], Installs::Yes);
    }
    login.push_ok(&[], Installs::No);
    fs::remove_dir_all(login.server.join("refs/heads")).expect("refs can be removed");
    for mode in [0o770, 0o707] {
        set_mode(&login.home(CACHE), mode);
        login.push_fails(&[], 1, &["can be written by others", "chmod go-w ~/.cache/treegraft", "--bootstrap-dir"]);
    }
}

#[test]
fn what_belongs_to_somebody_else_is_not_believed() {
    let Some(login) = Login::new("sh").filter(|_| oracle::may_mount()) else { return };
    login.push_ok(&[], Installs::Yes);
    chown(login.kept_program(), Some(NOBODY), None).expect("root may give files away");
    login.push_ok(&[], Installs::Yes);
    login.push_ok(&[], Installs::No);
    fs::remove_dir_all(login.server.join("refs/heads")).expect("refs can be removed");
    chown(login.home(CACHE), Some(NOBODY), None).expect("root may give directories away");
    login.push_fails(&[], 1, &["belongs to somebody else"]);
}

#[test]
fn a_symlink_is_no_directory_of_ones_own() {
    let Some(login) = Login::new("sh") else { return };
    fs::create_dir_all(login.home(".cache")).expect("a folder can be made");
    symlink(login.env.make_folder("elsewhere"), login.home(CACHE)).expect("a symlink can be made");
    login.push_fails(&[], 1, &["is no directory"]);
}

#[test]
fn an_installed_program_of_another_version_is_left_alone() {
    let Some(mut login) = Login::new("sh") else { return };
    let bin = login.env.make_folder("bin");
    write_executable(&bin.join("treegraft"), "#!/bin/sh\necho treegraft 0.0.1\n");
    login.before_shell(&format!("PATH={}:$PATH", bin.display()));
    login.push_ok(&[], Installs::Yes);
    login.push_ok(&[], Installs::No);
}

#[test]
fn another_directory_is_used_when_it_is_named() {
    let Some(login) = Login::new("sh") else { return };
    let named = login.env.root().join("it's an \\0101 odd! $place");
    let absolute = named.to_str().expect("it is UTF-8");
    for (given, found) in [(absolute, named.clone()), ("a/b c", login.home("a/b c")), ("~/d", login.home("d"))] {
        login.push_ok(&["--bootstrap-dir", given], Installs::Yes);
        assert_eq!(Login::list(&found).len(), 1, "the program is in `{}`", found.display());
        login.push_ok(&["--bootstrap-dir", given], Installs::No);
    }
    assert!(!login.home(CACHE).exists(), "the usual directory is not made");
}

#[test]
fn the_cache_directory_of_the_session_is_honoured() {
    let Some(mut login) = Login::new("sh") else { return };
    let cache = login.env.root().join("cache");
    login.before_shell(&format!("export XDG_CACHE_HOME='{}'", cache.display()));
    login.push_ok(&[], Installs::Yes);
    assert_eq!(Login::list(&cache.join("treegraft")).len(), 1, "the program is there");
    login.before_shell("export XDG_CACHE_HOME=relative");
    login.push_ok(&[], Installs::Yes);
    let _ = login.kept_program();
}

#[test]
fn old_programs_are_removed_with_the_next_one() {
    let Some(login) = Login::new("sh") else { return };
    // A name, its age in days, and whether it stays.
    let cases = [
        ("treegraft-0.0.1-0123456789abcdef", 40, false),
        ("treegraft-1.20.0-rc.1-0123456789abcdef", 40, false),
        ("treegraft-0.0.2-0123456789abcdef", 0, true),
        (".new-0123456789abcdef0123456789abcdef", 3, false),
        (".new-0123456789abcdef0123456789abcde0", 0, true),
        // The directory may have other files of the user's.
        ("treegraft-notes", 40, true),
        ("treegraft-notes-0123456789abcdef", 40, true),
        ("treegraft-0.0.1-0123456789abcdef0", 40, true),
        ("treegraft-0.0.1-of-last-december", 40, true),
        (".new-1", 3, true),
        (".new-0123456789abcdef0123456789abcdef.txt", 3, true),
        (".new-letters", 3, true),
        ("below/treegraft-0.0.1-0123456789abcdef", 40, true),
        ("below/.new-0123456789abcdef0123456789abcdef", 3, true),
    ];
    for (name, days, _) in cases {
        login.write_home(&format!("{CACHE}/{name}"), "x");
        make_older(&login.home(CACHE).join(name), days);
    }
    set_mode(&login.home(CACHE), 0o700);
    login.push_ok(&[], Installs::Yes);
    for (name, days, stays) in cases {
        let is_there = login.home(CACHE).join(name).exists();
        assert_eq!(is_there, stays, "old programs and leftovers go, all else stays: {name}, {days} days old");
    }
    let kept = login.kept();
    let program = kept.iter().find(|name| name.starts_with(&format!("treegraft-{VERSION}-"))).expect("it is there");
    let program = login.home(CACHE).join(program);
    make_older(&program, 40);
    login.push_ok(&[], Installs::No);
    let age = fs::metadata(&program).and_then(|metadata| metadata.modified()).expect("it has a time");
    assert!(age.elapsed().is_ok_and(|age| age < Duration::from_secs(24 * 60 * 60)), "what is used does not get old");
}

#[test]
fn an_upload_that_breaks_is_made_again() {
    let Some(login) = Login::new("sh") else { return };
    let size = fs::metadata(&login.program).expect("it is there").len();
    for at in [size / 100, size / 2, size - 1000] {
        let link = SlowLink::start(login.sshd.addr(), LinkOptions::default());
        link.cut_after(Direction::Up, at);
        let run = Run::of(&mut login.push_command(link.port(), &["--retries", "0"]));
        assert_eq!(run.code(), Some(4), "another try may succeed: {}", run.report());
        let begin = Instant::now();
        while login.kept() != Vec::<String>::new() {
            assert!(begin.elapsed() < END_TIMEOUT, "half a program is removed at once: {:?}", login.kept());
            thread::sleep(Duration::from_millis(5));
        }
    }
    login.push_ok(&[], Installs::Yes);
    login.push_ok(&[], Installs::No);
}

#[test]
fn two_pushes_at_once_install_side_by_side() {
    let Some(login) = Login::new("sh") else { return };
    let spawn = || login.push_command(login.sshd.port(), &[]).spawn().expect("it can be started");
    let mut pushes = [spawn(), spawn(), spawn()];
    for push in &mut pushes {
        assert!(push.wait().expect("it ends").success(), "each of them gets its receiver");
    }
    let _ = login.kept_program();
}

#[test]
fn a_server_that_changes_a_byte_does_not_start_it() {
    let Some(mut login) = Login::new("sh") else { return };
    let bin = login.env.make_folder("bin");
    // The last byte belongs to no part of the program that is ever run: only the checksum tells.
    let head = "#!/bin/sh\n/usr/bin/head -c $(($2 - 1))\n/usr/bin/head -c 1 >/dev/null\nprintf x\n";
    write_executable(&bin.join("head"), head);
    login.before_shell(&format!("PATH={}:$PATH", bin.display()));
    login.push_fails(&[], 4, &["another checksum"]);
    // Without any tool for checksums the program itself looks.
    for tool in ["sha256sum", "busybox", "openssl", "shasum"] {
        write_executable(&bin.join(tool), "#!/bin/sh\nexit 127\n");
    }
    login.push_fails(&[], 4, &["another checksum"]);
    assert_eq!(login.kept(), Vec::<String>::new(), "nothing stays of it");
    fs::remove_file(bin.join("head")).expect("it can be removed");
    login.push_ok(&[], Installs::Yes);
}
