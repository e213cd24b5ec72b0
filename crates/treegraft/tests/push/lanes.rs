//! Several channels of one ssh connection, over a link whose round trips are long.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use treegraft_repo::{FileLock, LockKind};
use treegraft_testkit::{LinkOptions, RepoMode, Run, SlowLink, SplitMix64, Sshd, SshdOptions};

use crate::site::{Site, TREEGRAFT, json, objects};

/// A round trip of 100 ms: four channels are worth it. So slow that a push of [`tree`] goes on when they are there.
const FAR: LinkOptions = LinkOptions {
    one_way_delay: Duration::from_millis(50),
    up_bytes_per_sec: Some(8_000_000),
    down_bytes_per_sec: None,
};

const CHANNELS: usize = 4;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Makes 30 MB that do not compress.
fn tree(site: &Site) -> PathBuf {
    let (tree, mut random) = (site.env.make_folder("big"), SplitMix64::new(11));
    for index in 0..600 {
        fs::write(tree.join(index.to_string()), random.bytes(50_000)).expect("a file can be written");
    }
    tree
}

/// What a push over a long link has done.
struct Pushed {
    run: Run,
    site: Site,
    logins: usize,
}

impl Pushed {
    fn new(options: &SshdOptions, args: &[&str]) -> Option<Self> {
        let (site, sshd) = (Site::new()?, Sshd::start_with(options)?);
        let worker = site.worker("w", RepoMode::Archive, &tree(&site), "main", 1_000);
        let link = SlowLink::start(sshd.addr(), FAR);
        let root = site.env.root().display().to_string();
        let args: Vec<String> = args.iter().map(|arg| arg.replace("ROOT", &root)).collect();
        let mut all = vec!["main", "--json"];
        all.extend(args.iter().map(String::as_str));
        let run = site.push_ssh_through(&sshd, link.port(), &worker, &all).ok();
        site.ostree.fsck(&site.server);
        assert_eq!(objects(&site.server).len(), objects(&worker).len(), "every object arrives: {}", run.report());
        Some(Self { run, logins: link.connections(), site })
    }

    fn channels(&self) -> usize {
        self.site.receivers().len()
    }
}

#[test]
fn a_long_link_gets_several_channels_with_one_login() {
    let Some(pushed) = Pushed::new(&SshdOptions::default(), &[]) else { return };
    assert_eq!(pushed.channels(), CHANNELS, "each lane has its receiver: {}", pushed.run.report());
    assert_eq!(pushed.logins, 1, "they share a connection");
}

#[test]
fn streams_move_while_all_that_the_server_takes_are_open() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let (old, mut random) = (site.env.make_folder("old"), SplitMix64::new(12));
    let changed: Vec<_> = (0..8).map(|index| format!("changed-{index}")).collect();
    for name in &changed {
        fs::write(old.join(name), random.bytes(50_000)).expect("a file can be written");
    }
    site.push_local(&site.worker("first", RepoMode::Archive, &old, "main", 1_000), &[]).ok();
    let new = tree(&site);
    for name in &changed {
        let content = [fs::read(old.join(name)).expect("it was written"), b"more".to_vec()].concat();
        fs::write(new.join(name), content).expect("a file can be written");
    }
    let worker = site.worker("second", RepoMode::Archive, &new, "main", 1_001);
    let link = SlowLink::start(sshd.addr(), FAR);
    let run = site.push_ssh_through(&sshd, link.port(), &worker, &["main", "--json", "--compare=always"]).ok();
    site.ostree.fsck(&site.server);
    assert_eq!(json(&run)["sent_in_parts"], changed.len(), "streams of recipes were open: {}", run.report());
    assert_eq!(site.receivers().len(), CHANNELS, "each lane has its receiver: {}", run.report());
}

#[test]
fn the_users_own_sharing_is_used() {
    let args = ["-o", "ControlMaster=auto", "-o", "ControlPath=ROOT/cm%%-%r"];
    let Some(pushed) = Pushed::new(&SshdOptions::default(), &args) else { return };
    assert_eq!(pushed.channels(), CHANNELS, "each lane has its receiver: {}", pushed.run.report());
    assert_eq!(pushed.logins, 1, "they share a connection");
}

#[test]
fn a_server_that_takes_one_session_gets_one() {
    let options = SshdOptions { config_lines: vec!["MaxSessions 1".to_owned()], ..SshdOptions::default() };
    let Some(pushed) = Pushed::new(&options, &[]) else { return };
    assert_eq!(pushed.channels(), 1, "no lane comes up: {}", pushed.run.report());
    assert_eq!(pushed.logins, 1, "and none logs in by itself");
    assert_eq!(json(&pushed.run)["attempts"], 1, "that costs no try");
    assert_eq!(pushed.run.stderr_text().to_lowercase().matches("session").count(), 0, "nor a word");
}

#[test]
fn a_user_who_forbids_sharing_gets_one_channel() {
    let Some(pushed) = Pushed::new(&SshdOptions::default(), &["-o", "ControlMaster=no"]) else { return };
    assert_eq!((pushed.channels(), pushed.logins), (1, 1), "{}", pushed.run.report());
}

#[test]
fn lanes_go_through_a_forced_command() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &tree(&site), "main", 1_000);
    let link = SlowLink::start(sshd.addr(), FAR);
    let (log, repo) = (site.env.root().join("calls"), site.server.display());
    let command = format!(
        "restrict,command=\"echo x >> {log}; exec {TREEGRAFT} receive --config {config} --repo {repo} --as ci\"",
        log = log.display(),
        config = site.config().display(),
    );
    let key = sshd.add_client_key("forced", &command);
    let mut push = site.env.command(TREEGRAFT);
    push.args(["push", "--repo"]).arg(&worker).arg("-i").arg(key);
    push.args(["-F", "none", "-p", &link.port().to_string()]);
    // The first key that is offered counts.
    let options = sshd.client_options();
    for pair in options.chunks(2).filter(|pair| pair[0] == "-o" && !pair[1].starts_with("IdentityFile")) {
        push.args(pair);
    }
    push.arg(format!("{}:/somewhere/else", sshd.host()));
    let run = Run::of(&mut push).ok();
    let calls = fs::read_to_string(log).expect("it was called").lines().count();
    assert_eq!((calls, link.connections()), (CHANNELS, 1), "{}", run.report());
    site.ostree.fsck(&site.server);
    assert_eq!(objects(&site.server).len(), objects(&worker).len(), "every object arrives");
}

#[test]
fn a_lane_that_is_killed_costs_a_try_and_nothing_else() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &tree(&site), "main", 1_000);
    let link = SlowLink::start(sshd.addr(), FAR);
    let mut command = site.push_ssh_command(&sshd, link.port(), &worker, &["main", "--json", "--retries=3"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let pushing = command.spawn().expect("it can be started");
    let begun = Instant::now();
    while site.receivers().len() < CHANNELS {
        assert!(begun.elapsed() < TIMEOUT, "the lanes come up");
        thread::sleep(Duration::from_millis(5));
    }
    // Now they are used.
    thread::sleep(Duration::from_millis(500));
    for lane in &site.receivers()[1..CHANNELS] {
        kill_process(*lane, Signal::KILL).expect("it runs");
    }
    let output = pushing.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the push is tried again: {said}");
    site.ostree.fsck(&site.server);
    assert_eq!(objects(&site.server).len(), objects(&worker).len(), "every object arrives: {said}");
}

/// Returns how many directories there are for sockets of shared connections.
fn socket_dirs(site: &Site) -> usize {
    let entries = fs::read_dir(site.env.root().join("tmp")).expect("it is there").flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"treegraft-ssh-")).count()
}

#[test]
fn what_a_killed_push_leaves_is_removed_by_the_next_one() {
    let (Some(site), Some(sshd)) = (Site::new(), Sshd::start()) else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("tree", &[("file", "1")]), "main", 1_000);
    let lock = FileLock::try_acquire(&site.server.join(".lock"), LockKind::Exclusive).expect("it can be locked");
    assert!(lock.is_some(), "nobody else has it");
    let waiting = |target: &str| {
        let mut command = site.push_ssh_command(&sshd, sshd.port(), &worker, &[target]);
        let mut push = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let lines = BufReader::new(push.stderr.take().expect("it is piped")).lines();
        let told = lines.map_while(Result::ok).find(|line| line.starts_with("Waiting for"));
        assert!(told.is_some(), "it waits for the lock");
        push
    };
    let mut killed = waiting("main:first");
    killed.kill().expect("it runs");
    killed.wait().expect("it ends");
    assert_eq!(socket_dirs(&site), 1, "it could not remove its directory");
    let pushes = [waiting("main:second"), waiting("main:third")];
    assert_eq!(socket_dirs(&site), 2, "pushes that are under way keep theirs, and the dead one's is gone");
    drop(lock);
    for mut push in pushes {
        assert!(push.wait().expect("it ends").success(), "it is published");
    }
    assert_eq!(socket_dirs(&site), 0, "nothing is left");
}

#[test]
fn a_lane_that_leads_nowhere_is_refused() {
    let Some(site) = Site::new() else { return };
    let mut receiver = site.env.command(TREEGRAFT);
    receiver.arg("receive").arg("--config").arg(site.config()).arg("--repo").arg(&site.server);
    let line = format!("treegraft-lane 1 {}\n", "0123456789abcdef".repeat(4));
    let run = Run::with_input(&mut receiver, line.as_bytes());
    assert_eq!(run.code(), Some(4), "{}", run.report());
    assert_eq!(run.text(), "treegraft-receive 1", "nothing else is said");
    assert!(run.stderr_text().contains("lane"), "the reason is told: {}", run.report());
}
