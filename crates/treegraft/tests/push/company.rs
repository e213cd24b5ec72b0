//! Pushes in company: other pushes to the same refs, `ostree` writing, pruning and checking, clients that pull.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use treegraft_testkit::{RepoMode, Run};

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
