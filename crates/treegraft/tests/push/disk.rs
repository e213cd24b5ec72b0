//! A disk that refuses: any call of a push fails, once or from then on.
//!
//! `strace` makes the calls fail, so that it is the real program that meets what a full disk, a quota, a broken disk, or a file
//! system that has become read-only answers.

use std::path::Path;

use serde_json::Value;
use treegraft_testkit::{Image, Recorder, Run, SplitMix64, Sshd, memory_folder};

use crate::{
    judge::{Options, case},
    rounds::{round_count, rounds},
};

/// What fails: the calls of a push that change files, and about how often they are made.
const CALLS: [(&str, usize); 7] = [
    ("mkdirat", 16),
    ("renameat,renameat2", 18),
    ("unlinkat", 26),
    ("fchmod", 10),
    ("fsync,fdatasync", 18),
    ("syncfs", 2),
    // Only of files with known names: a push writes to pipes as well.
    ("write", 6),
];

/// Files whose writes are made to fail.
const WRITTEN: [&str; 5] = [
    ".treegraft/.treegraft-new",
    ".treegraft/summary.new",
    ".treegraft/summary.sig.new",
    "refs/heads/.treegraft-new",
    "refs/heads/team/.treegraft-new",
];

/// How the disk answers, and whether that means that it is full.
const ERRORS: [(&str, bool); 5] =
    [("ENOSPC", true), ("EDQUOT", true), ("EIO", false), ("EROFS", false), ("EACCES", false)];

#[derive(Debug, Clone, Copy)]
struct Refusal {
    calls: &'static str,
    number: usize,
    error: &'static str,
    is_full: bool,
    /// Whether all calls from that one on fail.
    is_lasting: bool,
}

impl Refusal {
    fn random(random: &mut SplitMix64) -> Self {
        // Each single call is as likely as any other.
        let mut number = random.below(CALLS.iter().map(|(_, count)| count).sum());
        let mut calls = CALLS.iter();
        let calls = loop {
            let &(calls, count) = calls.next().expect("the number is below the sum");
            if number < count {
                break calls;
            }
            number -= count;
        };
        let (error, is_full) = ERRORS[random.below(ERRORS.len())];
        Self { calls, number: number + 1, error, is_full, is_lasting: random.one_in(3) }
    }

    /// Returns the options of `strace` that make the calls fail.
    fn options(self, server: &Path) -> Vec<String> {
        let Self { calls, number, error, is_lasting, .. } = self;
        let from = if is_lasting { "+" } else { "" };
        let mut options = vec![format!("-einject={calls}:error={error}:when={number}{from}")];
        if calls == "write" {
            options.extend(WRITTEN.iter().map(|path| format!("-P{}", server.join(path).display())));
        }
        options
    }
}

#[test]
fn a_disk_that_refuses_any_call_leaves_all_or_nothing() {
    let (Some((mut case, _folder)), Some(recorder)) = (case(Options::default()), Recorder::find()) else { return };
    let before = Image::read(&case.site.server);
    let server = case.site.server.clone();
    Run::of(&mut case.push(&server, &[])).ok();
    case.expect(&server);
    let mut refused = 0;
    rounds(60, |round| {
        let mut random = SplitMix64::new(round.seed);
        let folder = memory_folder();
        let server = folder.path().join("repo");
        before.write(&server);
        let refusal = Refusal::random(&mut random);
        let run = recorder.run_with(&refusal.options(&server), &case.push(&server, &[]));
        round.note(format!("{refusal:?}: {}", run.report()));
        check_told(refusal, &run);
        refused += u64::from(!run.success());
        case.check(&server).unwrap_or_else(|error| panic!("{error}"));
    });
    assert!(refused >= round_count(60) / 4, "pushes do fail, not only {refused}");
}

/// The server's disk refuses, not the pusher's, who is told by the connection alone.
#[test]
fn a_servers_disk_that_refuses_any_call_is_told_over_ssh() {
    let (Some((mut case, _folder)), Some(recorder)) = (case(Options::default()), Recorder::find()) else { return };
    let Some(sshd) = Sshd::start() else { return };
    let before = Image::read(&case.site.server);
    let server = case.site.server.clone();
    Run::of(&mut case.push(&server, &[])).ok();
    case.expect(&server);
    let mut args = case.names.to_vec();
    args.push("--json");
    let mut refused = 0;
    rounds(20, |round| {
        let mut random = SplitMix64::new(round.seed);
        let folder = memory_folder();
        let server = folder.path().join("repo");
        before.write(&server);
        case.site.server.clone_from(&server);
        let refusal = Refusal::random(&mut random);
        let prefix = recorder.prefix_with(&refusal.options(&server));
        let prefix: Vec<_> = prefix.iter().map(|word| word.display().to_string()).collect();
        let run = Run::of(&mut case.site.push_ssh_traced(&sshd, &prefix, &case.worker, &args));
        round.note(format!("{refusal:?}: {}", run.report()));
        case.site.wait_for_receiver();
        check_told(refusal, &run);
        refused += u64::from(!run.success());
        case.check_untouched(&server).unwrap_or_else(|error| panic!("{error}"));
        case.site.push_ssh(&sshd, &case.worker, &args).ok();
        case.site.wait_for_receiver();
        case.check_done(&server).unwrap_or_else(|error| panic!("{error}"));
    });
    assert!(refused >= round_count(20) / 4, "pushes do fail, not only {refused}");
}

/// What the pusher is told: whether to make room, and never that the server is wrong.
fn check_told(refusal: Refusal, run: &Run) {
    if run.success() {
        // The call was never made, or it was one of cleaning up.
        return;
    }
    let document: Value = serde_json::from_slice(&run.stdout).unwrap_or_default();
    let code = document["error"]["code"].as_str().unwrap_or_default().to_owned();
    let is_temporary = document["error"]["is_temporary"] == true;
    assert_eq!(run.code(), Some(if is_temporary { 4 } else { 1 }), "the exit code tells the same: {}", run.report());
    assert!(!is_temporary || code != "no-space", "somebody has to make room first: {}", run.report());
    let allowed: &[&str] = if refusal.is_full {
        &["no-space", "summary-stale", "unfinished"]
    } else {
        &["repository", "summary-stale", "unfinished"]
    };
    assert!(allowed.contains(&&*code), "the code is `{code}`, not one of {allowed:?}: {}", run.report());
}
