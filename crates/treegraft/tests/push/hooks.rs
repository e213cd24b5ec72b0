//! The administrator's programs before and after a publish.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use treegraft_testkit::{RepoMode, Run, Sshd};

use crate::site::{Site, TREEGRAFT, json};

const PATIENCE: Duration = Duration::from_secs(120);

/// Writes a program.
fn script(site: &Site, name: &str, text: &str) -> PathBuf {
    let path = site.env.root().join(name);
    fs::write(&path, format!("#!/bin/sh\nset -eu\nout='{}'\n{text}\n", site.env.root().display()))
        .expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    path
}

fn worker(site: &Site, content: &str, timestamp_secs: u64) -> PathBuf {
    let tree = site.tree("tree", &[("file", content)]);
    site.worker("worker", RepoMode::Archive, &tree, "main", timestamp_secs)
}

/// Returns the command of a push over ssh with a key to which the server has given a name.
fn push_as(site: &Site, sshd: &Sshd, name: &str, worker: &Path, args: &[&str]) -> Command {
    let mut command = site.push_ssh_command(sshd, sshd.port(), worker, args);
    let (receive, server) = (site.receive_script(), site.server.display());
    let forced = format!("restrict,command=\"{} receive --as {name} --repo {server}\"", receive.display());
    command.arg("-i").arg(sshd.add_client_key(name, &forced));
    command
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("the hook has written it");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("it is JSON ({error}): {text}"))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn notes(report: &Value) -> String {
    let notes = report["notes"].as_array().expect("a list");
    notes.iter().map(|note| note.as_str().expect("a text")).collect::<Vec<_>>().join("\n---\n")
}

#[test]
fn the_hook_before_sees_what_will_be_published() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let server = site.server.canonicalize().expect("it is there");
    let hook = script(
        &site,
        "pre",
        &format!(
            "cat > $out/input\nenv > $out/env\npwd > $out/pwd\necho \"$@\" > $out/args\n\
             ostree --repo=\"$TREEGRAFT_STAGED_REPO\" cat main /file > $out/ostree\n\
             ostree --repo=\"$TREEGRAFT_STAGED_REPO\" fsck --quiet > $out/fsck\n\
             '{TREEGRAFT}' --repo \"$TREEGRAFT_STAGED_REPO\" ls main / > $out/treegraft\n\
             ostree --repo=\"$TREEGRAFT_REPO\" refs > $out/refs\n\
             echo looked at it"
        ),
    );
    site.configure(&format!("pre-publish-hook = [\"{}\", \"one\", \"two words\"]", hook.display()));
    let first = worker(&site, "1", 1_000);
    let out = |name: &str| site.env.root().join(name);
    let text = |name: &str| fs::read_to_string(out(name)).expect("the hook has written it");
    let mut command = site.push_ssh_command(&sshd, sshd.port(), &first, &["main", "--json"]);
    command.env("TREEGRAFT_FOO", "of the client").env("LC_FOO", "of the client");
    let report = json(&Run::of(&mut command).ok());
    let (old, input) = (site.ostree.rev_parse(&site.server, "main"), read_json(&out("input")));
    assert_eq!(report["notes"][0], "The server's pre-publish hook says: looked at it", "what it says is passed on");
    assert_eq!(input["hook"], "pre-publish");
    assert_eq!(input["repo"], server.display().to_string());
    assert_eq!(input["recovered"], false);
    assert_eq!(input["key"], Value::Null, "this key has no name: {input}");
    assert!(input["client"].as_str().is_some_and(|client| client.starts_with("treegraft ")), "{input}");
    let told = &input["refs"][0];
    assert_eq!((&told["name"], &told["old"]), (&Value::from("main"), &Value::Null), "a new ref: {input}");
    assert_eq!((&told["new"], &told["mode"]), (&Value::from(&*old), &Value::from("rebase")), "{input}");
    assert_eq!(told["pushed"], site.ostree.rev_parse(&first, "main"), "the worker's commit is told: {input}");
    assert_eq!(told["commit"]["timestamp_secs"], 1_000, "{input}");
    assert_eq!((text("ostree").as_str(), text("refs").as_str()), ("1", ""), "the tree is there, the ref is not yet");
    assert!(text("treegraft").contains("file"), "treegraft reads it as well: {}", text("treegraft"));
    assert_eq!(text("args"), "one two words\n", "arguments stay what they are");
    assert_eq!(text("pwd").trim_end(), server.display().to_string(), "it runs in the repository");
    let mut variables: Vec<_> =
        text("env").lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    variables.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()));
    variables.sort_unstable();
    let known =
        ["HOME", "LC_ALL", "LOGNAME", "PATH", "TREEGRAFT_HOOK", "TREEGRAFT_REPO", "TREEGRAFT_STAGED_REPO", "USER"];
    assert_eq!(variables, known, "nothing else is in the environment");

    worker(&site, "2", 2_000);
    site.push_local(&first, &["main"]).ok();
    let told = read_json(&out("input"))["refs"][0].clone();
    assert_eq!(told["old"], old, "the head before is told: {told}");
    assert_eq!(told["commit"]["parent"], old, "and is the parent: {told}");
    assert_eq!(text("ostree"), "2", "also for a push of the same machine");
    assert!(!site.server.join(".treegraft/preview").exists(), "the preview is gone");
    site.ostree.fsck(&site.server);
}

#[test]
fn both_hooks_know_the_name_of_the_key() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let hook =
        script(&site, "hook", "cat > $out/$TREEGRAFT_HOOK\necho \"${TREEGRAFT_KEY-none}\" > $out/$TREEGRAFT_HOOK.key");
    site.configure(&format!("pre-publish-hook = [\"{0}\"]\npost-publish-hook = [\"{0}\"]", hook.display()));
    let worker = worker(&site, "1", 1_000);
    let check = |what: &str, mut push: Command, expected: Option<&str>| {
        // On the server itself this is a variable of the pusher's.
        Run::of(push.env("TREEGRAFT_KEY", "release")).ok();
        for hook in ["pre-publish", "post-publish"] {
            let key = fs::read_to_string(site.env.root().join(format!("{hook}.key"))).expect("the hook has written it");
            assert_eq!(key.trim_end(), expected.unwrap_or("none"), "{what}: the variable of the {hook} hook");
            let told = &read_json(&site.env.root().join(hook))["key"];
            assert_eq!(told.as_str(), expected, "{what}: the document of the {hook} hook");
        }
    };
    check("a named key", push_as(&site, &sshd, "gnome-ci", &worker, &["main:1"]), Some("gnome-ci"));
    check("another one", push_as(&site, &sshd, "release", &worker, &["main:2"]), Some("release"));
    check("a key without a name", site.push_ssh_command(&sshd, sshd.port(), &worker, &["main:3"]), None);
    check("a push on the server", site.push_local_command(&worker, &["main:4"]), None);
}

#[test]
fn a_refusal_is_told_and_nothing_is_visible() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let hook = script(
        &site,
        "pre",
        "cat > $out/input\n[ ! -e $out/allowed ] || exit 0\nprintf 'no \\033[2Jrelease\\ton Fridays\\r\\n' >&2\necho sorry\nexit 3",
    );
    let post = script(&site, "post", "touch $out/after");
    site.configure(&format!(
        "pre-publish-hook = [\"{}\"]\npost-publish-hook = [\"{}\"]",
        hook.display(),
        post.display()
    ));
    let worker = worker(&site, "1", 1_000);
    for mut command in [
        site.push_ssh_command(&sshd, sshd.port(), &worker, &["main", "--json", "--retries=5"]),
        site.push_local_command(&worker, &["main", "--json", "--retries=5"]),
    ] {
        let run = Run::of(&mut command);
        assert_eq!(run.code(), Some(1), "a refusal is final: {}", run.report());
        let error = &json(&run)["error"];
        assert_eq!(error["code"], "hook-refused", "{error}");
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains("no [2Jrelease on Fridays\nsorry"), "the pusher reads what it said: {message:?}");
        assert!(!run.stderr_text().contains(['\u{1b}', '\r']), "but no terminal does: {:?}", run.stderr_text());
        assert!(!run.stderr_text().contains("trying again"), "{}", run.report());
    }
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "no ref is visible");
    assert!(!site.env.root().join("after").exists(), "the hook after a publish hears of publishes alone");
    site.ostree.fsck(&site.server);

    fs::write(site.env.root().join("allowed"), "").expect("a file can be written");
    let report = json(&site.push_local(&worker, &["main", "--json"]).ok());
    assert!(report["resumed"]["objects"].as_u64() > Some(0), "what had arrived was kept: {report}");
    assert!(site.env.root().join("after").exists(), "now it was published");
    fs::remove_file(site.env.root().join("allowed")).expect("it is there");
    fs::remove_file(site.env.root().join("input")).expect("it is there");
    site.push_local(&worker, &["main"]).ok();
    site.push_local(&worker, &["main:other", "--dry-run"]).ok();
    assert!(!site.env.root().join("input").exists(), "nothing to publish and a dry run are nobody's business");
}

#[test]
fn a_hook_that_does_not_end_is_killed_with_its_children() {
    let Some(site) = Site::new() else { return };
    let text = "echo $$ > $out/pids\nsleep 1000 & echo $! >> $out/pids\necho waiting >&2\nwait";
    let hook = script(&site, "slow", text);
    let hook = hook.display();
    let worker = worker(&site, "1", 1_000);
    site.configure(&format!("pre-publish-hook = [\"{hook}\"]\nhook-timeout-secs = 1"));
    let run = site.push_local(&worker, &["main", "--json"]);
    assert_eq!(run.code(), Some(1), "{}", run.report());
    let error = &json(&run)["error"];
    assert_eq!(error["code"], "hook-failed", "it did not refuse, it did not answer: {error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("within 1 s") && text.contains("waiting")));
    assert_all_gone(&site);
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "who cannot be asked has not agreed");

    site.configure(&format!("post-publish-hook = [\"{hook}\"]\nhook-timeout-secs = 1"));
    let report = json(&site.push_local(&worker, &["main", "--json"]).ok());
    assert!(notes(&report).contains("post-publish hook failed (it did not end within 1 s"), "{report}");
    assert_all_gone(&site);
    assert_eq!(site.ostree.refs(&site.server), ["main"], "the publish has nothing to do with it");
}

fn assert_all_gone(site: &Site) {
    let pids = fs::read_to_string(site.env.root().join("pids")).expect("the hook has written it");
    assert_eq!(pids.lines().count(), 2, "the program and its child");
    for pid in pids.lines() {
        let pid = Pid::from_raw(pid.parse().expect("a number")).expect("a process");
        wait_until("the process is gone", || !is_alive(pid));
    }
}

/// A process that ended stays until its parent has heard of it; nothing of it runs.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

#[test]
fn the_hook_after_fails_without_a_failure_of_the_publish() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let hook = script(
        &site,
        "post",
        "cat > $out/input\nostree --repo=\"$TREEGRAFT_REPO\" summary --view > $out/summary\n\
         [ -z \"${TREEGRAFT_STAGED_REPO+x}\" ]\necho 'the CDN \u{7}does not answer' >&2\nexit 7",
    );
    site.configure(&format!("post-publish-hook = [\"{}\"]", hook.display()));
    let worker = worker(&site, "1", 1_000);
    let run = site.push_ssh(&sshd, &worker, &["main", "--json"]).ok();
    let (report, head) = (json(&run), site.ostree.rev_parse(&site.server, "main"));
    assert_eq!(report["status"], "published", "{report}");
    let expected = "post-publish hook failed (exit status: 7: the CDN does not answer)";
    assert!(notes(&report).contains(expected), "what it is: {report}");
    let input = read_json(&site.env.root().join("input"));
    assert_eq!((&input["hook"], &input["refs"][0]["new"]), (&Value::from("post-publish"), &Value::from(&*head)));
    let summary = fs::read_to_string(site.env.root().join("summary")).expect("the hook has written it");
    assert!(summary.contains(&head), "the summary has the new head by then: {summary}");
    assert!(run.stderr_text().contains("Running the server's hook"), "the wait is told: {}", run.report());

    site.configure("post-publish-hook = [\"/no/such/program\"]");
    let report = json(&site.push_local(&worker, &["main:other", "--json"]).ok());
    assert!(notes(&report).contains("there is no program `/no/such/program`"), "{report}");
    site.configure("pre-publish-hook = [\"/no/such/program\"]");
    let run = site.push_local(&worker, &["main:third", "--json"]);
    assert_eq!(json(&run)["error"]["code"], "hook-failed", "{}", run.report());
    assert_eq!(site.ostree.refs(&site.server), ["main", "other"]);
}

#[test]
fn pipes_that_fill_up_block_nobody() {
    let Some(site) = Site::new() else { return };
    // It reads nothing, and says more than pipe and memory take.
    let hook = script(&site, "loud", "head -c 3000000 /dev/zero | tr '\\0' x\necho\necho the end");
    site.configure(&format!("pre-publish-hook = [\"{0}\"]\npost-publish-hook = [\"{0}\"]", hook.display()));
    let worker = worker(&site, "1", 1_000);
    // Its input is larger than a pipe.
    let targets: Vec<String> =
        (0..300).map(|number| format!("main:{number}/{}", "long/".repeat(20) + "name")).collect();
    let args: Vec<&str> = targets.iter().map(String::as_str).chain(["--json"]).collect();
    let report = json(&site.push_local(&worker, &args).ok());
    assert_eq!(report["refs"].as_array().map(Vec::len), Some(300), "all are published");
    assert!(notes(&report).len() < 20_000, "a bounded part of the output is passed on");
}

#[test]
fn others_publish_while_the_hook_after_runs() {
    let Some(site) = Site::new() else { return };
    let hook = script(
        &site,
        "post",
        "grep -q '\"slow\"' && { touch $out/began; while [ ! -e $out/go-on ]; do sleep 0.05; done; }\ntrue",
    );
    site.configure(&format!("post-publish-hook = [\"{}\"]\nhook-timeout-secs = 300", hook.display()));
    let worker = worker(&site, "1", 1_000);
    let mut slow = site.push_local_command(&worker, &["main:slow"]);
    let mut slow = slow.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
    wait_until("the hook runs", || site.env.root().join("began").exists());
    site.push_local(&worker, &["main:quick"]).ok();
    site.push_local(&worker, &["main:slow"]).ok();
    site.ostree.at(&site.server, "prune", ["--refs-only"]).ok();
    fs::write(site.env.root().join("go-on"), "").expect("a file can be written");
    assert!(slow.wait().expect("it ends").success(), "the slow one was published as well");
    assert_eq!(site.ostree.refs(&site.server), ["quick", "slow"]);
    site.ostree.fsck(&site.server);
}

#[test]
fn a_hook_that_was_interrupted_runs_again() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let hook = script(
        &site,
        "post",
        "cat > $out/input.$$\n[ ! -e $out/block ] || { touch $out/began; exec sleep 300; }\nmv $out/input.$$ $out/input",
    );
    let update = script(
        &site,
        "update",
        "[ ! -e $out/block-update ] || { touch $out/began; exec sleep 300; }\nexec ostree summary -u --repo=\"$1\"",
    );
    site.configure(&format!(
        "post-publish-hook = [\"{}\"]\nupdate-command = [\"{}\"]",
        hook.display(),
        update.display()
    ));
    let out = |name: &str| site.env.root().join(name);
    for (number, (block, is_recorded)) in
        [("block", true), ("block-update", true), ("block-update", false)].into_iter().enumerate()
    {
        let worker = worker(&site, &number.to_string(), 1_000 + number as u64);
        let old = (number > 0).then(|| site.ostree.rev_parse(&site.server, "main"));
        fs::write(out(block), "").expect("a file can be written");
        fs::remove_file(out("began")).ok();
        fs::remove_file(site.receiver_pid()).ok();
        let key = format!("builder-{number}");
        let mut command = push_as(&site, &sshd, &key, &worker, &["main"]);
        let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
        wait_until("the program runs", || out("began").exists());
        kill_process(site.receiver().expect("it has written its id"), Signal::KILL).expect("it runs");
        assert!(!client.wait().expect("it ends").success(), "the answer is lost ({block})");
        assert!(!out("input").exists(), "the hook has not ended ({block})");
        fs::remove_file(out(block)).expect("it is there");
        if !is_recorded {
            // As if it had been killed between the last ref and the record.
            fs::remove_dir_all(site.server.join(".treegraft/pending")).expect("the record is there");
        }

        let report = json(
            &Run::of(&mut push_as(&site, &sshd, &format!("finisher-{number}"), &worker, &["main", "--json"])).ok(),
        );
        assert_eq!(report["status"], "unchanged", "the refs had moved ({block}): {report}");
        assert!(notes(&report).contains("post-publish hook ran for an interrupted publish of `main`"), "{report}");
        let input = read_json(&out("input"));
        assert_eq!(input["recovered"], true, "it is told that it may have run before ({block}): {input}");
        let known_key = is_recorded.then_some(&*key);
        assert_eq!(input["key"].as_str(), known_key, "the key of the push, not of the one that finishes it ({block})");
        assert_eq!(input["refs"].as_array().map(Vec::len), Some(1), "{input}");
        let head = site.ostree.rev_parse(&site.server, "main");
        assert_eq!(input["refs"][0]["new"], head, "{input}");
        assert_eq!(input["refs"][0]["old"].as_str(), old.as_deref(), "{input}");
        fs::remove_file(out("input")).expect("it is there");
        let report = json(&site.push_local(&worker, &["main", "--json"]).ok());
        assert!(
            !out("input").exists() && notes(&report).is_empty(),
            "once it has ended, it is over ({block}): {report}"
        );
    }
    site.ostree.fsck(&site.server);
}
