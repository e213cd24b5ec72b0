//! Pushes that are tried again: what passes is waited for, what is refused is not, and nothing is published twice.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use treegraft_repo::{LockKind, Repo, RepoLock};
use treegraft_testkit::{Direction, LinkOptions, RepoMode, SlowLink, SplitMix64, Sshd};

use crate::{
    rounds::rounds,
    site::{Site, json, objects},
};

/// How long anything here may take, pauses between tries included.
const PATIENCE: Duration = Duration::from_secs(120);

/// A push that runs, and what it has said up to now.
struct Pushing {
    child: Child,
    lines: mpsc::Receiver<String>,
    reader: JoinHandle<()>,
    said: Vec<String>,
}

impl Pushing {
    fn start(command: Command) -> Self {
        Self::start_with(command, "--retries=5")
    }

    fn start_with(mut command: Command, retries: &str) -> Self {
        let mut child = command
            .args(["--json", retries])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let stderr: ChildStderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, reader, said: Vec::new() }
    }

    /// Waits until it says something with this in it.
    fn wait_for(&mut self, text: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("it says `{text}`, after {:?}", self.said));
            self.said.push(line);
            if self.said.last().is_some_and(|line| line.contains(text)) {
                return;
            }
        }
    }

    /// Waits for its end; returns how it ended, what it printed and all that it said.
    fn end(mut self) -> (Output, Vec<String>) {
        let output = self.child.wait_with_output().expect("a child can be waited for");
        self.reader.join().expect("it does not panic");
        self.said.extend(self.lines.iter());
        (output, self.said)
    }

    /// Waits for its end with success; returns its document and all that it said.
    fn ok(self) -> (Value, Vec<String>) {
        let (output, said) = self.end();
        assert_eq!(output.status.code(), Some(0), "the push went through: {said:#?}");
        (serde_json::from_slice(&output.stdout).expect("it prints a document"), said)
    }
}

fn retries(said: &[String]) -> u64 {
    said.iter().filter(|line| line.contains("; trying again in ")).count() as u64
}

/// Waits until a file is there.
fn wait_until_there(path: &Path) {
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < PATIENCE, "`{}` appears", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

fn size(repo: &Path, object: &str) -> u64 {
    fs::metadata(repo.join("objects").join(object)).expect("it is there").len()
}

fn random_tree(site: &Site, name: &str, seed: u64, count: usize) -> PathBuf {
    let tree = site.env.root().join(format!("tree-{name}"));
    fs::create_dir_all(&tree).expect("a folder can be made");
    let mut random = SplitMix64::new(seed);
    for index in 0..count {
        let bytes = 1 + random.below(60_000);
        fs::write(tree.join(index.to_string()), random.bytes(bytes)).expect("a file can be written");
    }
    tree
}

#[test]
fn a_link_that_is_cut_again_and_again_is_survived() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    rounds(3, |round| {
        let mut random = SplitMix64::new(round.seed);
        let name = format!("cut-{}", round.seed % 1_000_000);
        let worker = site.worker(&name, RepoMode::Archive, &random_tree(&site, &name, round.seed, 60), "main", 1_000);
        let link = SlowLink::start(sshd.addr(), LinkOptions::default());
        let (mut up, mut down) = (0, 0);
        for _ in 0..=random.below(3) {
            let (direction, at) = if random.one_in(3) {
                down += 1_000 + random.below(6_000) as u64;
                (Direction::Down, down)
            } else {
                up += 3_000 + random.below(700_000) as u64;
                (Direction::Up, up)
            };
            link.cut_after(direction, at);
            round.note(format!("cut after {at} bytes {direction:?}"));
        }
        let target = format!("main:{name}");
        let there = objects(&site.server);
        let command = site.push_ssh_command(&sshd, link.port(), &worker, &[&target]);
        let (report, said) = Pushing::start(command).ok();
        round.note(said.join("\n"));
        let number = |key: &str| report[key].as_u64().expect("a number");
        assert_eq!(number("attempts"), retries(&said) + 1, "each try is told: {report}");
        let lacking = objects(&worker).difference(&there).count() as u64;
        assert_eq!(number("sent_objects"), lacking, "each object is counted once over all tries: {report}");
        assert_eq!(report["resumed"]["objects"], 0, "nothing is of an earlier push: {report}");
        let stored: u64 = objects(&worker).difference(&there).map(|object| size(&worker, object)).sum();
        assert!(number("sent_bytes") >= stored, "bytes count as often as they are sent: {report}");
        assert_eq!(report["refs"][0]["status"], "new", "the ref was not there before the first try: {report}");
        assert_eq!(report["refs"][0]["new"], site.ostree.rev_parse(&site.server, &name), "and is where it says");
        site.ostree.fsck(&site.server);
    });
}

#[test]
fn a_receiver_that_is_killed_is_called_again() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &random_tree(&site, "t", 1, 400), "main", 1_000);
    // Slow enough to be caught in the middle.
    let options = LinkOptions { up_bytes_per_sec: Some(8_000_000), ..LinkOptions::default() };
    let link = SlowLink::start(sshd.addr(), options);
    let pushing = Pushing::start(site.push_ssh_command(&sshd, link.port(), &worker, &["main"]));
    let begin = Instant::now();
    while link.carried_bytes(Direction::Up) < 3_000_000 {
        assert!(begin.elapsed() < PATIENCE, "objects are sent");
        thread::sleep(Duration::from_millis(1));
    }
    kill_process(site.receiver().expect("it has written its id"), Signal::KILL).expect("it runs");
    let (report, said) = pushing.ok();
    assert_eq!(report["attempts"], 2, "the second one went through: {said:#?}");
    assert_eq!(report["sent_objects"], objects(&worker).len() as u64, "each object is counted once: {report}");
    let stored: u64 = objects(&worker).iter().map(|object| size(&worker, object)).sum();
    assert_eq!(report["stored_bytes"], stored, "and so is each byte that is stored: {report}");
    assert_eq!(report["already_there_objects"], 0, "all of it is new: {report}");
    let told = said.iter().find(|line| line.contains("trying again")).expect("it is told");
    assert!(told.starts_with("Connection lost"), "with its reason: {told}");
    assert!(told.ends_with("attempt 2 of 6"), "and how many may follow: {told}");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_server_that_is_down_at_first_is_waited_for() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    link.refuse_new();
    let mut pushing = Pushing::start(site.push_ssh_command(&sshd, link.port(), &worker, &["main"]));
    pushing.wait_for("attempt 2 of 6");
    pushing.wait_for("attempt 3 of 6");
    link.accept_new();
    let (report, said) = pushing.ok();
    assert_eq!(report["attempts"], 1 + retries(&said), "{said:#?}");
    assert_eq!(site.ostree.refs(&site.server), ["main"], "it is published");
}

#[test]
fn a_locked_repository_is_waited_for() {
    let Some(site) = Site::new() else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    site.ostree.at(&site.server, "config", ["set", "core.lock-timeout-secs", "1"]).ok();
    let repo = Repo::open(&site.server).expect("a repository");
    let lock = RepoLock::acquire(&repo, LockKind::Exclusive, &mut |_| ()).expect("nobody else has it");
    let mut pushing = Pushing::start(site.push_local_command(&worker, &["main"]));
    pushing.wait_for("attempt 2 of 6");
    drop(lock);
    let (report, said) = pushing.ok();
    assert!(report["attempts"].as_u64() > Some(1), "{report}");
    assert!(said.iter().any(|line| line.starts_with("Could not lock ")), "the reason is told: {said:#?}");
    assert_eq!(site.ostree.refs(&site.server), ["main"], "it is published");
}

#[test]
fn a_refusal_is_final() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    site.configure("allow-exact = false");
    for command in [
        site.push_local_command(&worker, &["main", "--exact"]),
        site.push_ssh_command(&sshd, sshd.port(), &worker, &["main", "--exact"]),
        site.push_ssh_command(&sshd, sshd.port(), &worker, &["main", "-o", "PubkeyAuthentication=no"]),
    ] {
        let (output, said) = Pushing::start(command).end();
        assert_eq!(output.status.code(), Some(1), "no retry helps: {said:#?}");
        assert_eq!(retries(&said), 0, "so there is none: {said:#?}");
    }
}

/// Returns a command for a program that ends when it is interrupted: what a shell starts in the background ignores that, and
/// so would all that the tests start.
fn heeding_interrupts(site: &Site, command: &Command) -> Command {
    let mut heeding = site.env.command("env");
    // It becomes the program, and keeps the process's id.
    heeding.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    heeding
}

#[test]
fn a_push_that_waits_can_be_interrupted() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    link.refuse_new();
    let command = site.push_ssh_command(&sshd, link.port(), &worker, &["main"]);
    let mut pushing = Pushing::start(heeding_interrupts(&site, &command));
    pushing.wait_for("attempt 3 of 6");
    let pid = Pid::from_raw(i32::try_from(pushing.child.id()).expect("it fits")).expect("it runs");
    kill_process(pid, Signal::INT).expect("it runs");
    let (output, said) = pushing.end();
    assert_eq!(output.status.signal(), Some(2), "it ends by the signal, as a shell expects it: {said:#?}");
    assert!(!said.iter().any(|line| line.contains("attempt 4")), "and tries nothing any more: {said:#?}");
}

/// A server whose metadata is updated by a command that waits for a word.
struct HeldPublish {
    began: PathBuf,
    go_on: PathBuf,
}

impl HeldPublish {
    fn new(site: &Site) -> Self {
        let (began, go_on) = (site.env.root().join("began"), site.env.root().join("go-on"));
        let script = site.env.root().join("update");
        let text = format!(
            "#!/bin/sh\ntouch '{}'\nwhile [ ! -e '{}' ]; do sleep 0.05; done\nexec ostree summary -u --repo=\"$1\"\n",
            began.display(),
            go_on.display()
        );
        fs::write(&script, text).expect("a file can be written");
        site.configure(&format!("update-command = [\"sh\", \"{}\"]", script.display()));
        Self { began, go_on }
    }
}

/// Pushes, loses the connection when the ref has moved, and does `meanwhile` before it can be tried again.
fn lose_the_answer(site: &Site, sshd: &Sshd, worker: &Path, args: &[&str], meanwhile: impl FnOnce()) -> Value {
    let held = HeldPublish::new(site);
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    // On a slow machine it may have to try more often before it is let in again.
    let mut pushing = Pushing::start_with(site.push_ssh_command(sshd, link.port(), worker, args), "--retries=50");
    wait_until_there(&held.began);
    link.refuse_new();
    link.cut_now();
    pushing.wait_for("trying again");
    fs::write(&held.go_on, "").expect("a file can be written");
    site.wait_for_receiver();
    meanwhile();
    link.accept_new();
    let (report, said) = pushing.ok();
    assert!(retries(&said) > 0, "it was tried again: {said:#?}");
    assert_eq!(report["status"], "published", "what was published is told as such: {report}");
    report
}

#[test]
fn a_publication_whose_answer_was_lost_is_told_as_what_it_is() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    for (number, extra) in [&[][..], &["--exact"], &["--end-of-life=over", "--allow-older"]].into_iter().enumerate() {
        fs::remove_file(site.env.root().join("began")).ok();
        fs::remove_file(site.env.root().join("go-on")).ok();
        let name = format!("w{number}");
        let tree = site.tree("t", &[("a", &number.to_string())]);
        let worker = site.worker(&name, RepoMode::Archive, &tree, "main", 1_000);
        let target = format!("main:lost-{number}");
        let args = [extra, &[target.as_str()]].concat();
        let report = lose_the_answer(&site, &sshd, &worker, &args[..], || ());
        let row = &report["refs"][0];
        let head = site.ostree.rev_parse(&site.server, &target["main:".len()..]);
        assert_eq!((&row["status"], &row["old"]), (&Value::from("new"), &Value::Null), "the ref is new: {report}");
        assert_eq!(row["new"], head, "and is told with its head: {report}");
        assert!(report["sent_objects"].as_u64() > Some(0), "what the first try sent counts: {report}");
        let log = site.ostree.log(&site.server, &target["main:".len()..]);
        assert_eq!(log.matches("commit ").count(), 1, "it was published once: {log}");
    }
    site.ostree.fsck(&site.server);
}

#[test]
fn what_others_put_on_top_meanwhile_stays() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    for (number, extra) in [&[][..], &["--exact"]].into_iter().enumerate() {
        fs::remove_file(site.env.root().join("began")).ok();
        fs::remove_file(site.env.root().join("go-on")).ok();
        let old =
            site.worker(&format!("old{number}"), RepoMode::Archive, &site.tree("t", &[("a", "0")]), "main", 1_000);
        let target = format!("main:top-{number}");
        let name = &target["main:".len()..];
        site.configure("");
        site.push_local(&old, &[&target, "--exact"]).ok();
        let before = site.ostree.rev_parse(&site.server, name);
        let tree = site.tree("t", &[("a", "1")]);
        let worker = site.worker(&format!("old{number}"), RepoMode::Archive, &tree, "main", 2_000);
        // The other one is older, so that a push on top of it would be allowed.
        let other =
            site.worker(&format!("other{number}"), RepoMode::Archive, &site.tree("o", &[("a", "2")]), "main", 500);
        let args = [extra, &[&*target, "--allow-older"]].concat();
        let report = lose_the_answer(&site, &sshd, &worker, &args, || {
            site.push_local(&other, &[&target, "--allow-older"]).ok();
        });
        let head = site.ostree.rev_parse(&site.server, name);
        assert_eq!(site.ostree.rev_parse(&site.server, &format!("{name}^^")), before, "three commits, no fourth one");
        assert_eq!(
            (report["refs"][0]["old"].as_str(), report["refs"][0]["new"].as_str()),
            (Some(&*before), Some(&*site.ostree.rev_parse(&site.server, &format!("{name}^")))),
            "the push tells what it has published: {report}"
        );
        assert_eq!(site.ostree.at(&site.server, "cat", [name, "/a"]).text(), "2", "the other one's tree is on top");
        assert!(report["notes"].to_string().contains(&head), "the pusher reads that the ref has moved on: {report}");
    }
    site.ostree.fsck(&site.server);
}

#[test]
fn two_runs_of_one_job_do_no_harm() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    for number in 0..3_u64 {
        let name = format!("job-{number}");
        let worker = site.worker(&name, RepoMode::Archive, &random_tree(&site, &name, number, 40), "main", 1_000);
        let target = format!("main:{name}");
        let link = SlowLink::start(sshd.addr(), LinkOptions::default());
        if number > 0 {
            link.cut_after(Direction::Up, 400_000 * number);
        }
        let start = || Pushing::start(site.push_ssh_command(&sshd, link.port(), &worker, &[&target]));
        let both = [start(), start()];
        let reports = both.map(|pushing| pushing.ok().0);
        let log = site.ostree.log(&site.server, &name);
        assert_eq!(log.matches("commit ").count(), 1, "the build is published once: {log}");
        let head = site.ostree.rev_parse(&site.server, &name);
        for report in &reports {
            assert_eq!(report["refs"][0]["new"], head, "both tell the same commit: {reports:?}");
        }
    }
    site.ostree.fsck(&site.server);
}

#[test]
fn tries_are_told_in_the_summary_for_people() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    link.cut_after(Direction::Up, 4_000);
    let run = site.push_ssh_through(&sshd, link.port(), &worker, &["main", "--retries=5"]).ok();
    assert!(run.text().contains(" and 2 attempts ("), "{}", run.report());
    let run = site.push_ssh_through(&sshd, link.port(), &worker, &["main", "--retries=5", "--json"]).ok();
    assert_eq!(json(&run)["attempts"], 1, "the next one needs one: {}", run.report());
}
