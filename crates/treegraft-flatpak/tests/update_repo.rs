//! A repository is brought up to date by `flatpak`, or by a command that is configured instead.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use treegraft_flatpak::{ReplacementCommand, UpdateRepo, UpdateRepoError};
use treegraft_testkit::{BuildDir, Flatpak, Gpg, Ostree, Version};

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("command");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the mode of an own file can be changed");
    path
}

fn temporary() -> tempfile::TempDir {
    // A space in the path shows that no shell takes it apart.
    tempfile::Builder::new().prefix("with space ").tempdir().expect("a temporary folder can be made")
}

fn exported_app(flatpak: &Flatpak, folder: &Path) -> PathBuf {
    let repo = folder.join("repo");
    let app = BuildDir::app("org.example.App", "org.example.Platform").with_files(1, 3);
    app.write(&folder.join("build"), Version::first());
    let _ = flatpak.build_export(&repo, &folder.join("build"), "master", &["--no-update-summary"]);
    repo
}

#[test]
fn flatpak_writes_summary_index_and_appstream() {
    let Some(flatpak) = Flatpak::find() else { return };
    let folder = temporary();
    let repo = exported_app(&flatpak, folder.path());
    assert!(!repo.join("summary.idx").exists(), "the export alone writes no index");
    UpdateRepo::default().run(&repo, &repo).expect("the update succeeds");
    for name in ["summary", "summary.idx"] {
        assert!(repo.join(name).exists(), "`{name}` was written");
    }
    let appstream = repo.join("refs/heads/appstream2").join(std::env::consts::ARCH);
    assert!(appstream.exists(), "the appstream branch was written");
    assert!(!repo.join("summary.sig").exists(), "nothing is signed without a key");
}

#[test]
fn summary_and_appstream_are_signed() {
    let (Some(flatpak), Some(gpg)) = (Flatpak::find(), Gpg::with_key("Signer <signer@example.org>")) else { return };
    let Some(ostree) = Ostree::find() else { return };
    let folder = temporary();
    let repo = exported_app(&flatpak, folder.path());
    let update = UpdateRepo {
        gpg_homedir: Some(gpg.home().to_owned()),
        gpg_keys: vec![gpg.fingerprint().to_owned()],
        ..UpdateRepo::default()
    };
    update.run(&repo, &repo).expect("the update succeeds");
    for name in ["summary.sig", "summary.idx.sig"] {
        assert!(repo.join(name).exists(), "`{name}` was written");
    }
    let appstream = format!("appstream2/{}", std::env::consts::ARCH);
    let signatures = ostree.detached_metadata(&repo, &appstream, "ostree.gpgsigs");
    assert!(signatures.starts_with("[["), "the appstream commit has a signature: {signatures}");
}

#[test]
fn a_failure_tells_what_flatpak_said() {
    if Flatpak::find().is_none() {
        return;
    }
    let folder = temporary();
    let absent = folder.path().join("absent");
    let named = folder.path().join("named");
    match UpdateRepo::default().run(&absent, &named) {
        Err(UpdateRepoError::Failed { repo, status, stderr, .. }) => {
            assert_eq!((repo, status.code()), (named, Some(1)), "the error names the repository and the exit code");
            assert!(stderr.starts_with("error: "), "it has the program's words: {stderr}");
        }
        other => panic!("an absent repository must be a failure, not {other:?}"),
    }
}

#[test]
fn an_absent_program_is_told_apart() {
    let update = UpdateRepo { program: "treegraft-test-no-such-flatpak".into(), ..UpdateRepo::default() };
    let error = update.run(Path::new("/"), Path::new("/")).expect_err("there is no such program");
    assert!(matches!(&error, UpdateRepoError::NotFound { program } if *program == update.program), "not {error:?}");
    assert!(!error.is_temporary(), "trying again does not install it");
}

#[test]
fn a_replacement_gets_the_repository_last_and_in_the_environment() {
    let folder = temporary();
    let program = script(folder.path(), "printf '%s\\n' \"$@\" \"$TREEGRAFT_REPO\"; echo warned >&2");
    let argv = [program.as_os_str().to_owned(), "--first".into(), "$(touch oops) *".into()];
    let command = ReplacementCommand::new(argv).expect("a program and arguments");
    let repo = folder.path().join("repo");
    let output = command.run(&repo).expect("the command succeeds");
    let repo = repo.to_str().expect("the path is text");
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines, ["--first", "$(touch oops) *", repo, repo], "arguments arrive as they are, without a shell");
    assert_eq!(output.stderr, "warned", "warnings of a good run are kept");
    let output = command.run(Path::new("-repo")).expect("the command succeeds");
    assert_eq!(output.stdout.lines().last(), Some("./-repo"), "a path never looks like an option");
}

#[test]
fn an_empty_list_is_no_command() {
    assert_eq!(ReplacementCommand::new(Vec::<String>::new()), None, "there is no program to run");
    assert_eq!(ReplacementCommand::new(["", "--first"]), None, "an empty name is no program");
}

#[test]
fn only_the_end_of_the_output_is_kept() {
    let folder = temporary();
    let program = script(folder.path(), "yes 'a line of noise' | head -c 3000000 >&2; echo the reason >&2; exit 3");
    let command = ReplacementCommand::new([program]).expect("a program");
    match command.run(folder.path()) {
        Err(UpdateRepoError::Failed { status, stderr, .. }) => {
            assert_eq!(status.code(), Some(3), "the exit code is kept");
            assert!(stderr.ends_with("the reason"), "the end tells why it failed");
            assert!(stderr.len() <= 16 << 10, "and not more than 16 KiB are kept, but {}", stderr.len());
        }
        other => panic!("exit code 3 must be a failure, not {other:?}"),
    }
}

#[test]
fn a_process_left_in_the_background_does_not_hold_the_update_up() {
    let folder = temporary();
    let program = script(folder.path(), "echo done; (sleep 5; touch \"$TREEGRAFT_REPO/late\") &");
    let command = ReplacementCommand::new([program]).expect("a program");
    let output = command.run(folder.path()).expect("the command itself ended well");
    assert_eq!(output.stdout, "done", "its output is there although the pipe is still open");
    assert!(!folder.path().join("late").exists(), "nobody has waited for the process in the background");
}

#[test]
fn a_command_that_hangs_is_ended_with_all_its_children() {
    let folder = temporary();
    let program = script(folder.path(), "sleep 1000 & echo $! > \"$TREEGRAFT_REPO/child\"; echo waiting >&2; wait");
    let timeout = Duration::from_secs(1);
    let command = ReplacementCommand { timeout, ..ReplacementCommand::new([program]).expect("a program") };
    let error = command.run(folder.path()).expect_err("it does not end by itself");
    assert!(error.is_temporary(), "another try may be faster");
    assert!(
        matches!(&error, UpdateRepoError::TimedOut { stderr, .. } if stderr == "waiting"),
        "the error has what it said last, not {error:?}"
    );
    let child = fs::read_to_string(folder.path().join("child")).expect("the command wrote its child's id");
    let is_running = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.trim())).unwrap_or_default();
        status.contains("Name:\tsleep") && !status.contains("State:\tZ")
    };
    // The kernel may take a moment to end it; far less than the 1000 seconds that it would sleep.
    let ended = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !is_running()
    });
    assert!(ended, "the command's child was ended, too");
}
