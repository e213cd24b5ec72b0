//! Recordings of real programs lead to what the programs left.

use std::process::Command;

use treegraft_testkit::{Crash, Recorder};

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-e", "-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn a_program_is_recorded_and_played_back() {
    let Some(recorder) = Recorder::find() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let root = folder.path().join("odd name's");
    std::fs::create_dir(&root).expect("the folder is empty");
    std::fs::write(root.join("old"), "old").expect("a file can be written");
    let script = "cd \"$ROOT\"; mkdir \"$ROOT/d\"; echo one > d/a; echo two >> d/a; sync d/a; mv d/a d/b; sync d; \
        ln d/b c; ln -s d/b link; chmod 600 c; rm old; (echo 3 >> c) & wait; truncate -s 3 d/b";
    // The recording itself is held against what is there now.
    let (run, disk) = recorder.run(&root, shell(script).env("ROOT", &root));
    run.ok();
    let image = |crash| disk.after(disk.events(), crash);
    assert_eq!(image(Crash::Kill).content("d/b"), Some(b"one".as_slice()), "the last bytes are there after a kill");
    let synced = image(Crash::PowerStrict);
    assert!(!synced.has("d"), "the directory that `d` is in was not synced");
    assert!(synced.has("old"), "neither was its removal");

    let sync_of = |what: &str| {
        let mut calls = (0..disk.events()).filter(|&event| disk.is_sync(event) && disk.call(event).ends_with(what));
        calls.next().expect("it was synced")
    };
    let file = sync_of("d/a");
    assert_eq!(disk.after(file + 1, Crash::Kill).content("d/a"), Some(b"one\ntwo\n".as_slice()), "at that moment");
    assert!(disk.without_sync(file).events() == disk.events(), "the other calls stay");
}

#[test]
#[should_panic(expected = "the recording leads to what the program has left")]
fn a_change_that_escapes_the_recording_is_found() {
    let recorder = Recorder::find().expect("the recording leads to what the program has left; skipped without strace");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let recording = recorder.begin(folder.path());
    std::fs::write(folder.path().join("secret"), "made by somebody else").expect("a file can be written");
    drop(recording.finish());
}
