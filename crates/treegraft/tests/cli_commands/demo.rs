//! The demonstration, and that others can read what it leaves.

use std::{fs, path::PathBuf};

use treegraft_testkit::{CleanEnv, Ostree, RepoMode, Run};

#[test]
fn the_demonstration_needs_nothing_and_leaves_nothing() {
    let mut env = CleanEnv::new();
    env.set("PATH", "/nonexistent");
    let run = Run::of(env.command(env!("CARGO_BIN_EXE_treegraft")).arg("demo")).ok();
    let text = run.text();
    for expected in ["new → ", "Sent 5 of ", "all is sound", "summary: good signature", "ostree pull"] {
        assert!(text.contains(expected), "the demonstration shows `{expected}`: {text}");
    }
    assert_eq!(run.stderr_text(), "", "nothing goes wrong in it");
    let left = fs::read_dir(env.root().join("tmp")).expect("the directory can be read").count();
    assert_eq!(left, 0, "the temporary directory is removed");
}

#[test]
fn ostree_pulls_what_the_demonstration_published() {
    let Some(ostree) = Ostree::find() else { return };
    let env = CleanEnv::new();
    let run = Run::of(env.command(env!("CARGO_BIN_EXE_treegraft")).args(["demo", "--keep"])).ok();
    let text = run.text();
    let kept =
        text.lines().last().and_then(|line| line.split("cd ").nth(1)).expect("the last line names the directory");
    let server = PathBuf::from(kept).join("server/repo");
    ostree.fsck(&server);
    let client = env.root().join("client");
    ostree.init(&client, RepoMode::Archive, None);
    let added = text.lines().find(|line| line.contains("remote add")).expect("the command is shown");
    let key = added.split("--sign-verify=").nth(1).and_then(|rest| rest.split(' ').next()).expect("with the key");
    let url = format!("file://{}", server.display());
    // Some distributions build `ostree` without ed25519; the signature is then checked by the demonstration alone.
    let can_verify = ostree.run_ok(["--version"]).text().contains("sign-ed25519");
    let verify = can_verify.then(|| format!("--sign-verify={key}"));
    let options = ["add", "--no-gpg-verify"].into_iter().chain(verify.as_deref());
    let _ = ostree.at(&client, "remote", options.chain(["demo", &url]));
    ostree.pull(&client, "demo", &["demo/x86_64/stable"]);
    let subjects = ostree.log(&server, "demo/x86_64/stable");
    assert!(subjects.contains("Build 2") && subjects.contains("Build 1"), "both builds are in the history: {subjects}");
}
