//! Pushes in company: other pushes to the same refs, `ostree` writing, pruning and checking, clients that pull.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use treegraft_repo::{FileLock, LockKind};
use treegraft_testkit::{Direction, LinkOptions, RepoMode, Run, SlowLink, SplitMix64, Sshd};

use crate::{
    rounds::rounds,
    site::{Site, TREEGRAFT, json},
};

/// How many push to the same ref, and how often each.
const PUSHERS: u64 = 6;
const PUSHES: u64 = 2;

/// Nothing here takes longer unless two wait for each other. libostree gives up a lock after 30 s.
const DEADLOCK_SECS: &str = "100";

impl Site {
    /// Runs a program that is killed, and the test with it, when it does not end by itself.
    fn run_bounded<A: AsRef<std::ffi::OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Run {
        let mut command: Command = self.env.command("timeout");
        let run = Run::of(command.args(["-s", "KILL", DEADLOCK_SECS, program]).args(args));
        assert_ne!(run.code(), None, "nothing waits without end: {}", run.report());
        assert_ne!(run.code(), Some(137), "nothing waits without end: {}", run.report());
        run
    }

    fn push_bounded(&self, worker: &Path, args: &[&str]) -> Run {
        let worker = worker.display().to_string();
        let server = self.server.display().to_string();
        let fixed = ["push", "--json", "--config", "/dev/null", "--repo", &worker, &server];
        self.run_bounded(TREEGRAFT, fixed.iter().chain(args))
    }

    fn ostree_bounded(&self, args: &[&str]) -> Run {
        self.run_bounded("ostree", [&[&*format!("--repo={}", self.server.display())], args].concat())
    }

    /// Returns the commits of a ref, newest first.
    fn history(&self, name: &str) -> Vec<String> {
        let log = self.ostree.log(&self.server, name);
        log.lines().filter_map(|line| line.strip_prefix("commit ")).map(str::to_owned).collect()
    }

    /// Returns the names of all files that any commit of a ref has in its root.
    fn files_ever(&self, name: &str) -> Vec<String> {
        let list = |commit: &String| self.ostree.at(&self.server, "ls", ["--nul-filenames-only", commit, "/"]).text();
        let text: String = self.history(name).iter().map(list).collect();
        text.split(['\0', '/']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}

/// Makes a worker whose only file tells which push it was.
fn worker(site: &Site, file: &str, timestamp_secs: u64) -> PathBuf {
    let tree = site.tree(&format!("tree-{file}"), &[(file, file)]);
    site.worker(&format!("worker-{file}"), RepoMode::Archive, &tree, "main", timestamp_secs)
}

/// Pushes until the server takes it; returns how often it was refused for the time being.
fn push_until_taken(site: &Site, worker: &Path, target: &str) -> u64 {
    for refused in 0.. {
        let run = site.push_bounded(worker, &[target, "--allow-older"]);
        match run.code() {
            Some(0) => return refused,
            Some(4) => {
                let code = json(&run)["error"]["code"].clone();
                assert!(["ref-moved", "locked"].contains(&code.as_str().unwrap_or_default()), "{}", run.report());
            }
            _ => panic!("a push in company is taken or told to try again: {}", run.report()),
        }
    }
    unreachable!("it ends by returning")
}

/// Runs `work` again and again, at least once, until others are done.
fn meanwhile(is_done: &AtomicBool, mut work: impl FnMut(u64)) {
    for number in 0.. {
        work(number);
        if is_done.load(Ordering::SeqCst) {
            return;
        }
    }
}

#[test]
fn many_pushers_and_ostree_work_at_once() {
    let Some(site) = Site::new() else { return };
    rounds(1, |round| {
        let round = round.seed % 1_000_000;
        let shared = format!("shared-{round}");
        let is_done = AtomicBool::new(false);
        // `ostree fsck` and a pull list objects first and read them later; nothing keeps a prune out in between.
        let pruning = Mutex::new(());
        let client = site.env.root().join(format!("client-{round}"));
        site.ostree.init(&client, RepoMode::Archive, None);
        site.ostree.remote_add(&client, "origin", &format!("file://{}", site.server.display()), None);
        push_until_taken(&site, &worker(&site, &format!("first-{round}"), 1), &format!("main:{shared}"));
        thread::scope(|scope| {
            let pushers: Vec<_> = (0..PUSHERS)
                .map(|pusher| {
                    let (site, shared) = (&site, &shared);
                    scope.spawn(move || {
                        for push in 0..PUSHES {
                            let file = format!("file-{round}-{pusher}-{push}");
                            let worker = worker(site, &file, 1_000 + pusher + 100 * push);
                            push_until_taken(site, &worker, &format!("main:{shared}"));
                            let own = format!("main:own-{round}-{pusher}");
                            assert_eq!(push_until_taken(site, &worker, &own), 0, "nobody else moves this ref");
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                let local = site.tree("local", &[("local", "1")]).display().to_string();
                meanwhile(&is_done, |number| {
                    let subject = format!("--subject=number {number}");
                    site.ostree_bounded(&["commit", "--branch=local", &subject, &local]).ok();
                    site.ostree_bounded(&["summary", "-u"]).ok();
                });
            });
            scope.spawn(|| {
                meanwhile(&is_done, |_| {
                    let _pruning = pruning.lock().expect("no holder panics");
                    // It may not get its lock while pushes hold theirs one after the other.
                    let run = site.ostree_bounded(&["prune", "--refs-only"]);
                    assert!(run.success() || run.stderr_text().contains("lock"), "{}", run.report());
                });
            });
            scope.spawn(|| {
                meanwhile(&is_done, |number| {
                    let _pruning = pruning.lock().expect("no holder panics");
                    let server = site.server.display().to_string();
                    // All history is looked at in the end, so only what refs do not lead to may go.
                    let mut args = vec!["prune", "--json", "--wait", "30", "--config", "/dev/null", "--repo", &server];
                    args.extend((number % 2 == 1).then_some("--dry-run"));
                    let run = site.run_bounded(TREEGRAFT, args);
                    assert!(run.success() || json(&run)["error"]["is_temporary"] == true, "{}", run.report());
                });
            });
            scope.spawn(|| {
                meanwhile(&is_done, |_| {
                    let server = site.server.display().to_string();
                    site.run_bounded(TREEGRAFT, ["fsck", "--repo", &server]).ok();
                });
            });
            scope.spawn(|| {
                meanwhile(&is_done, |_| {
                    let _pruning = pruning.lock().expect("no holder panics");
                    site.ostree_bounded(&["fsck", "--quiet"]).ok();
                    let client = format!("--repo={}", client.display());
                    site.run_bounded("ostree", [&client, "pull", "--mirror", "origin", &shared]).ok();
                });
            });
            let results: Vec<_> = pushers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            is_done.store(true, Ordering::SeqCst);
            for result in results {
                result.expect("a pusher does not panic");
            }
        });
        check_after(&site, round, &shared);
    });
}

fn check_after(site: &Site, round: u64, shared: &str) {
    site.push_bounded(&worker(site, &format!("last-{round}"), 10_000), &[&format!("main:{shared}")]).ok();
    site.ostree.fsck(&site.server);
    let (found, once): (Vec<_>, BTreeSet<_>) = (site.files_ever(shared), site.files_ever(shared).into_iter().collect());
    assert_eq!(found.len(), once.len(), "no push is there twice: {found:?}");
    let pushed = (0..PUSHERS).flat_map(|pusher| (0..PUSHES).map(move |push| format!("file-{round}-{pusher}-{push}")));
    let pushed = pushed.chain([format!("first-{round}"), format!("last-{round}")]).collect();
    assert_eq!(once, pushed, "every push that was taken is in the history");
    for pusher in 0..PUSHERS {
        let own = site.history(&format!("own-{round}-{pusher}"));
        assert_eq!(own.len() as u64, PUSHES, "every push to an own ref is in its history");
    }
    let summary = site.ostree.at(&site.server, "summary", ["-v"]).text();
    for name in site.ostree.refs(&site.server) {
        let head = site.ostree.rev_parse(&site.server, &name);
        let entry = summary.split("* ").find(|entry| entry.starts_with(&format!("{name}\n")));
        assert!(
            entry.is_some_and(|entry| entry.contains(&head)),
            "the summary has the head {head} of {name}: {summary}"
        );
    }
}

#[test]
fn eight_pushes_to_one_ref_become_one_history() {
    let Some(site) = Site::new() else { return };
    let workers: Vec<_> = (0..8).map(|number| worker(&site, &format!("at-once-{number}"), 1_000 + number)).collect();
    let reports: Vec<_> = thread::scope(|scope| {
        let site = &site;
        let push = |worker: &PathBuf| json(&site.push_bounded(worker, &["main:shared", "--allow-older"]).ok());
        let pushes: Vec<_> = workers.iter().map(|worker| scope.spawn(move || push(worker))).collect();
        pushes.into_iter().map(|push| push.join().expect("it does not panic")).collect()
    });
    let mut history = site.history("shared");
    history.reverse();
    assert_eq!(history.len(), 8, "all of them are there: {history:?}");
    for report in &reports {
        let (old, new) = (&report["refs"][0]["old"], &report["refs"][0]["new"]);
        let at = history.iter().position(|commit| new == commit).expect("what was told is in the history");
        let before = at.checked_sub(1).map(|before| history[before].as_str());
        assert_eq!(old.as_str(), before, "each is on top of the one that it has told: {report}");
    }
    let found: BTreeSet<_> = site.files_ever("shared").into_iter().collect();
    assert_eq!(found, (0..8).map(|number| format!("at-once-{number}")).collect(), "and none lost its tree");
    assert!(!site.server.join(".treegraft/publish.holder").exists(), "nobody publishes any more");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_transfer_that_stands_still_holds_up_no_other_push() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let tree = site.tree("large", &[("small", "1")]);
    fs::write(tree.join("large"), SplitMix64::new(1).bytes(3_000_000)).expect("a file can be written");
    let slow = site.worker("slow", RepoMode::Archive, &tree, "main", 1_000);
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    link.stall_after(Direction::Up, 1_000_000);
    let mut command = site.push_ssh_command(&sshd, link.port(), &slow, &["main:slow"]);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
    wait_until("the transfer stands still", || link.carried_bytes(Direction::Up) >= 1_000_000);
    for number in 0..2 {
        let quick = worker(&site, &format!("quick-{number}"), 1_000);
        site.push_bounded(&quick, &[&format!("main:quick-{number}")]).ok();
        // Also to the same ref: whoever is ready first publishes first.
        site.push_bounded(&quick, &["main:slow", "--allow-older"]).ok();
        site.ostree_bounded(&["summary", "-u"]).ok();
    }
    assert!(client.try_wait().expect("it can be asked").is_none(), "the slow one is still at it");
    link.resume();
    assert!(client.wait().expect("it ends").success(), "and is published in the end");
    assert_eq!(site.history("slow").len(), 3, "on top of what was quicker");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_push_that_waits_says_for_whom() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let out = |name: &str| site.env.root().join(name);
    let (began, go_on) = (out("began"), out("go-on"));
    let text = format!(
        "#!/bin/sh\ntouch '{}'\nwhile [ ! -e '{}' ]; do sleep 0.05; done\nexec ostree summary -u --repo=\"$1\"\n",
        began.display(),
        go_on.display()
    );
    fs::write(out("update"), text).expect("a file can be written");
    site.configure(&format!("update-command = [\"sh\", \"{}\"]", out("update").display()));
    let first = worker(&site, "first", 1_000);
    let mut command = site.push_ssh_command(&sshd, sshd.port(), &first, &["main:app-of-first", "main:other"]);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
    wait_until("the first one publishes", || began.exists());
    let second = worker(&site, "second", 2_000);
    let mut command = site.push_ssh_command(&sshd, sshd.port(), &second, &["main:of-second"]);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let lines = BufReader::new(waiting.stderr.take().expect("it is piped")).lines();
    let told = lines.map_while(Result::ok).find(|line| line.starts_with("Waiting for")).expect("it says that it waits");
    let host = Run::of(site.env.command("uname").arg("-n")).ok().text();
    let user = Run::of(site.env.command("id").arg("-un")).ok().text();
    assert_eq!(told, format!("Waiting for {user}@{host} (app-of-first and 1 more), 0 s"), "for whom, and for how long");
    fs::write(&go_on, "").expect("a file can be written");
    assert!(client.wait().expect("it ends").success(), "the first one is published");
    // Nobody reads what it says any more, which is no reason to fail.
    assert!(waiting.wait().expect("it ends").success(), "and the second one after it");
}

#[test]
fn a_push_to_a_locked_repository_says_who_has_locked_it() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = worker(&site, "first", 1_000);
    let lock = FileLock::try_acquire(&site.server.join(".lock"), LockKind::Exclusive).expect("it can be locked");
    assert!(lock.is_some(), "nobody else has it");
    let mut command = site.push_ssh_command(&sshd, sshd.port(), &worker, &["main"]);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let lines = BufReader::new(waiting.stderr.take().expect("it is piped")).lines();
    let told = lines.map_while(Result::ok).find(|line| line.starts_with("Waiting for")).expect("it says that it waits");
    let this = format!("(process {}), 0 s", std::process::id());
    assert!(told.starts_with("Waiting for `") && told.ends_with(&this), "the one that has it is told: {told}");
    drop(lock);
    assert!(waiting.wait().expect("it ends").success(), "and it goes on when it is free");

    site.ostree.at(&site.server, "config", ["set", "core.lock-timeout-secs", "1"]).ok();
    let lock = FileLock::try_acquire(&site.server.join(".lock"), LockKind::Exclusive).expect("it can be locked");
    let run = site.push_ssh(&sshd, &worker, &["main:other", "--json"]);
    let error = &json(&run)["error"];
    assert_eq!((run.code(), &error["code"]), (Some(4), &serde_json::Value::from("locked")), "{}", run.report());
    let this = format!("(process {}) holds it", std::process::id());
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with(&this)), "the error tells it as well: {error}");
    drop(lock);
}

/// The repository's time-out is five minutes.
#[test]
fn who_leaves_while_it_waits_for_a_lock_is_gone_at_once() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = worker(&site, "first", 1_000);
    site.push_ssh(&sshd, &worker, &["main:first"]).ok();
    let tree = site.tree("second", &[("only here", "second")]);
    let worker = site.worker("second-worker", RepoMode::Archive, &tree, "main", 1_000);
    for name in [".lock", ".treegraft/publish.lock"] {
        let lock = FileLock::try_acquire(&site.server.join(name), LockKind::Exclusive).expect("it can be locked");
        assert!(lock.is_some(), "nobody else has `{name}`");
        let mut command = site.push_ssh_command(&sshd, sshd.port(), &worker, &["main:second"]);
        let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let lines = BufReader::new(waiting.stderr.take().expect("it is piped")).lines();
        let told = lines.map_while(Result::ok).find(|line| line.starts_with("Waiting for"));
        assert!(told.is_some(), "it waits for `{name}`");
        waiting.kill().expect("it runs");
        waiting.wait().expect("it ends");
        site.wait_for_receiver();
        let tickets = fs::read_dir(site.server.join(".treegraft/queue")).map_or(0, Iterator::count);
        assert_eq!(tickets, 0, "nobody stands in the queue for it ({name})");
        drop(lock);
        assert_eq!(site.ostree.refs(&site.server), ["first"], "nothing was published ({name})");
    }
    let report = json(&site.push_ssh(&sshd, &worker, &["main:second", "--json"]).ok());
    assert!(report["resumed"]["objects"].as_u64() > Some(0), "what had arrived before the publish was kept: {report}");
    site.ostree.fsck(&site.server);
}

#[test]
fn what_a_holder_says_is_not_believed() {
    let Some(site) = Site::new() else { return };
    let worker = worker(&site, "first", 1_000);
    let private = site.server.join(".treegraft");
    site.push_bounded(&worker, &["main:first"]).ok();
    let lock = FileLock::try_acquire(&private.join("publish.lock"), LockKind::Exclusive).expect("it can be locked");
    assert!(lock.is_some(), "nobody else has it");
    let long = "x".repeat(1_000);
    for (number, (text, shown)) in [
        (
            r#"{"who":"a\u001b[2J\nError: b","refs":["c\r"],"ref_count":1}"#,
            "Waiting for a [2J Error: b (c), 0 s".to_owned(),
        ),
        (&*format!(r#"{{"who":"{long}"}}"#), format!("Waiting for {}…, 0 s", "x".repeat(200))),
        ("no JSON", "Waiting for 0 s: another push publishes to this repository".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(private.join("publish.holder"), text).expect("a file can be written");
        let mut command = site.push_local_command(&worker, &[&format!("main:other-{number}")]);
        let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let lines = BufReader::new(waiting.stderr.take().expect("it is piped")).lines();
        let told =
            lines.map_while(Result::ok).find(|line| line.starts_with("Waiting for")).expect("it says that it waits");
        assert_eq!(told, shown, "one line without control characters");
        waiting.kill().expect("it runs");
        waiting.wait().expect("it ends");
    }
    drop(lock);
    site.push_bounded(&worker, &["main:last"]).ok();
    let left: Vec<_> = fs::read_dir(private.join("queue")).expect("it was made").collect();
    assert!(left.is_empty(), "the tickets of the killed ones are gone: {left:?}");
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_exact_push_and_a_rebase_do_not_both_win() {
    let Some(site) = Site::new() else { return };
    rounds(3, |round| {
        let target = format!("main:race-{}", round.seed % 1_000_000);
        let name = target.trim_start_matches("main:");
        let chain = site.worker(name, RepoMode::Archive, &site.tree("chain", &[("chain", "1")]), "main", 1_000);
        site.push_bounded(&chain, &[&target, "--exact"]).ok();
        for number in 2..4 {
            let tree = site.tree("chain", &[("chain", &number.to_string())]);
            site.worker(name, RepoMode::Archive, &tree, "main", 1_000 * number);
        }
        let last = site.ostree.rev_parse(&chain, "main");
        let other = worker(&site, &format!("other-{}", round.seed % 1_000_000), 5_000);
        let (exact, rebased) = thread::scope(|scope| {
            let exact = scope.spawn(|| site.push_bounded(&chain, &[&target, "--exact"]));
            let rebased = scope.spawn(|| site.push_bounded(&other, &[&target, "--allow-older"]));
            (exact.join().expect("it does not panic"), rebased.join().expect("it does not panic"))
        });
        let history = site.history(name);
        assert!(rebased.success(), "a tree can be put on top of anything: {}", rebased.report());
        if exact.success() {
            assert_eq!(history.len(), 4, "the rebased commit is on top of the chain: {history:?}");
            assert_eq!(history[1], last, "the exact commit kept its checksum");
        } else {
            let error = &json(&exact)["error"];
            let expected = if error["code"] == "ref-moved" { 4 } else { 1 };
            assert!(
                ["ref-moved", "not-fast-forward", "older-than-head"]
                    .contains(&error["code"].as_str().unwrap_or_default()),
                "it is told plainly: {}",
                exact.report()
            );
            assert_eq!(exact.code(), Some(expected), "{}", exact.report());
            assert_eq!(history.len(), 2, "nothing of the chain was published: {history:?}");
        }
        site.ostree.fsck(&site.server);
    });
}
