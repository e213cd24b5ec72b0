//! Pushes that are interrupted at random: by killing either side, by cutting the link, by a flipped byte.
//!
//! Each round pushes two refs at once, breaks something on the way, looks at what that has left, and pushes again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use treegraft_testkit::{Direction, LinkOptions, RepoMode, Run, SlowLink, SplitMix64, Sshd};

use crate::{
    rounds::rounds,
    site::{END_TIMEOUT, Site, json, objects},
};

/// The refs that move together.
const REFS: [&str; 2] = ["one", "two"];

/// What the handshake of ssh and the answers of the server come to in the direction of the client, in bytes.
const DOWN_BYTES: usize = 6_000;

/// What sshd says in clear text, up to its host key and the signature by it, in bytes.
const KEY_EXCHANGE_BYTES: u64 = 3_000;

/// What the handshake of ssh and the questions come to in the other direction, besides the objects.
const UP_BYTES: usize = 8_000;

/// How long a line stalls that does.
const STALL: Duration = Duration::from_millis(700);

/// What breaks.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillClient,
    /// Client and receiver in one process, without ssh.
    KillLocal,
    KillReceiver,
    KillSessions,
    Cut,
    Flip,
    /// Nothing comes through for a while.
    StallThenGo,
    /// Nothing comes through, and then the connection ends.
    StallThenCut,
}

/// When it breaks.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After so many bytes in a direction.
    Carried(Direction, u64),
    /// When so many objects are staged.
    Staged(usize),
    /// While refs and summary are written.
    Journal,
    /// When the first ref has moved.
    RefMoved,
}

fn fault(random: &mut SplitMix64, new_bytes: usize) -> (Fault, Moment) {
    let (direction, bytes) = match random.below(3) {
        0 => (Direction::Down, random.below(DOWN_BYTES)),
        _ => (Direction::Up, random.below(new_bytes + UP_BYTES)),
    };
    let carried = Moment::Carried(direction, bytes as u64);
    let fault = match random.below(11) {
        0 | 1 => Fault::KillClient,
        8 => Fault::KillLocal,
        2 | 3 => Fault::KillReceiver,
        4 => Fault::KillSessions,
        5 | 6 => return (Fault::Cut, carried),
        9 => return (Fault::StallThenGo, carried),
        10 => return (Fault::StallThenCut, carried),
        _ => return (Fault::Flip, carried),
    };
    let moment = match random.below(6) {
        3.. if !matches!(fault, Fault::KillLocal) => carried,
        0 => Moment::Journal,
        1 => Moment::RefMoved,
        _ => Moment::Staged(random.below(40)),
    };
    (fault, moment)
}

/// A server, a worker, and what the worker has committed last.
struct Place {
    site: Site,
    sshd: Sshd,
    worker: PathBuf,
    committed: u64,
}

impl Place {
    fn new() -> Option<Self> {
        let (site, sshd) = (Site::new()?, Sshd::start()?);
        let worker = site.env.root().join("worker");
        site.ostree.init(&worker, RepoMode::Archive, None);
        // What is tested is what processes leave, not what disks do.
        for repo in [&worker, &site.server] {
            site.ostree.at(repo, "config", ["set", "core.fsync", "false"]).ok();
        }
        for name in REFS {
            site.tree(name, &[("same/a", "a"), ("same/b/c", "c")]);
        }
        Some(Self { site, sshd, worker, committed: 0 })
    }

    /// Commits something new to both refs; returns the new objects and about how many bytes they have.
    fn commit(&mut self, random: &mut SplitMix64) -> (BTreeSet<String>, usize) {
        let before = objects(&self.worker);
        self.committed += 1;
        let mut bytes = 0;
        for name in REFS {
            let folder = self.site.env.root().join(name).join("new");
            fs::create_dir_all(&folder).expect("a folder can be made");
            for index in 0..=random.below(25) {
                // Some are kept in memory until they are verified, some are not.
                let size = 1 + if random.one_in(8) { random.below(200_000) } else { random.below(5_000) };
                bytes += size;
                fs::write(folder.join(index.to_string()), random.bytes(size)).expect("a file can be written");
            }
            let tree = self.site.env.root().join(name);
            self.site.worker("worker", RepoMode::Archive, &tree, name, 1_000 * self.committed);
        }
        (objects(&self.worker).difference(&before).cloned().collect(), bytes)
    }

    /// Returns the heads of both refs on the server.
    fn heads(&self) -> [Option<String>; 2] {
        REFS.map(|name| fs::read_to_string(self.site.server.join("refs/heads").join(name)).ok())
    }

    fn private(&self, name: &str) -> PathBuf {
        self.site.server.join(".treegraft").join(name)
    }

    fn has_come(&self, moment: Moment, link: &SlowLink, old: &[Option<String>; 2]) -> bool {
        match moment {
            Moment::Carried(direction, bytes) => link.carried_bytes(direction) >= bytes,
            Moment::Staged(count) => staged(&self.private("staging")).len() >= count,
            Moment::Journal => self.private("journal").exists(),
            Moment::RefMoved => self.heads() != *old,
        }
    }

    /// Tells whether something was broken: there must be a receiver to kill it.
    fn break_it(&self, fault: Fault, client: &mut Child) -> bool {
        match fault {
            Fault::KillClient | Fault::KillLocal => client.kill().expect("a child can be killed"),
            // It may also be gone already.
            Fault::KillReceiver => {
                return self.site.receiver().is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
            }
            Fault::KillSessions => self.sshd.kill_sessions(),
            Fault::Cut | Fault::Flip | Fault::StallThenGo | Fault::StallThenCut => unreachable!("the link does it"),
        }
        true
    }

    /// Pushes and breaks it. Returns the exit code, nothing when the client was killed.
    fn push_broken(&self, fault: Fault, moment: Moment) -> Option<i32> {
        let link = SlowLink::start(self.sshd.addr(), LinkOptions::default());
        match (fault, moment) {
            (Fault::Cut, Moment::Carried(direction, bytes)) => link.cut_after(direction, bytes),
            (Fault::Flip, Moment::Carried(direction, bytes)) => link.flip_byte_at(direction, bytes),
            (Fault::StallThenGo | Fault::StallThenCut, Moment::Carried(direction, bytes)) => {
                link.stall_after(direction, bytes);
            }
            _ => {}
        }
        fs::remove_file(self.site.receiver_pid()).ok();
        let old = self.heads();
        let mut command = match fault {
            Fault::KillLocal => self.site.push_local_command(&self.worker, &REFS),
            _ => self.site.push_ssh_command(&self.sshd, link.port(), &self.worker, &REFS),
        };
        let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
        let begin = Instant::now();
        let mut is_broken = matches!(fault, Fault::Cut | Fault::Flip | Fault::StallThenGo | Fault::StallThenCut);
        loop {
            if let Some(status) = client.try_wait().expect("a child can be asked for its state") {
                return status.code();
            }
            if !is_broken && self.has_come(moment, &link, &old) {
                is_broken = self.break_it(fault, &mut client);
            }
            // A flipped byte in a packet's length makes ssh wait for the rest of it without end.
            if matches!(fault, Fault::Flip) && begin.elapsed() > Duration::from_secs(3) {
                link.cut_now();
            }
            // How long a line is silent makes no difference, only that it is.
            if begin.elapsed() > STALL {
                match fault {
                    Fault::StallThenGo => link.resume(),
                    Fault::StallThenCut => link.cut_now(),
                    _ => {}
                }
            }
            assert!(begin.elapsed() < END_TIMEOUT, "the client ends when the server is gone ({fault:?}, {moment:?})");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Looks at what a broken push has left; the objects of `new` that are not on the server in any form are returned.
    fn check_broken(&self, old: &[Option<String>; 2], new: &BTreeSet<String>) -> BTreeSet<String> {
        self.site.ostree.fsck(&self.site.server);
        let moved = self.heads().iter().zip(old).filter(|(now, old)| now != old).count();
        if !self.private("journal").exists() {
            assert_ne!(moved, 1, "both refs have moved or none");
        }
        let staged = staged(&self.private("staging"));
        let published = objects(&self.site.server);
        new.iter().filter(|name| !staged.contains(*name) && !published.contains(*name)).cloned().collect()
    }

    /// Looks at the server after a push that went through.
    fn check_pushed(&self) {
        let (ostree, server) = (&self.site.ostree, &self.site.server);
        ostree.fsck(server);
        let summary = ostree.at(server, "summary", ["-v"]).text();
        for name in REFS {
            assert_eq!(ostree.ls(server, name), ostree.ls(&self.worker, name), "`{name}` has the tree that was pushed");
            let head = ostree.rev_parse(server, name);
            assert!(
                summary.contains(&format!("* {name}\n")) && summary.contains(&head),
                "the summary has it: {summary}"
            );
        }
        assert!(!self.private("journal").exists(), "no journal is left");
        let left: Vec<_> = fs::read_dir(self.private("staging")).map(Iterator::collect).unwrap_or_default();
        assert!(left.is_empty(), "the staging area is empty: {left:?}");
    }
}

/// Lists the objects in all staging areas like [`objects`] does.
fn staged(areas: &Path) -> BTreeSet<String> {
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let mut found = BTreeSet::new();
    for area in list(areas) {
        for folder in list(&area.path()).filter(|entry| entry.file_name().len() == 2) {
            for file in list(&folder.path()) {
                found.insert(format!("{}/{}", folder.file_name().display(), file.file_name().display()));
            }
        }
    }
    found
}

#[test]
fn pushes_that_break_anywhere_are_resumed() {
    let Some(mut place) = Place::new() else { return };
    rounds(8, |round| {
        let mut random = SplitMix64::new(round.seed);
        let (new, bytes) = place.commit(&mut random);
        let old = place.heads();
        for _ in 0..=random.below(2) {
            let (fault, moment) = fault(&mut random, bytes);
            let code = place.push_broken(fault, moment);
            round.note(format!("{fault:?} at {moment:?}: exit code {code:?}"));
            let is_refused = code == Some(1) && is_in_key_exchange(fault, moment);
            assert!(
                is_refused || matches!(code, None | Some(0 | 4)),
                "a broken connection is temporary ({fault:?}, {moment:?}): {code:?}"
            );
            place.site.wait_for_receiver();
            let lacking = place.check_broken(&old, &new);
            if matches!(fault, Fault::StallThenGo) {
                assert_eq!(code, Some(0), "a line that goes on costs nothing");
            }
            if code == Some(0) {
                assert_eq!(lacking, BTreeSet::new(), "a push that went through is complete");
            }
        }
        let is_done = place.heads().iter().zip(&old).all(|(now, old)| now != old);
        let lacking = place.check_broken(&old, &new);
        let run = push_again(&place);
        let report = json(&run);
        // Once the refs have moved, nobody asks for the commits that were pushed.
        let sent = if is_done { 0 } else { lacking.len() as u64 };
        assert_eq!(report["sent_objects"], sent, "exactly what is missing is sent, not {lacking:?}: {}", run.report());
        place.site.wait_for_receiver();
        place.check_pushed();
    });
}

/// Tells whether a byte is flipped while sshd shows its host key: to ssh that is another key, which is a refusal.
fn is_in_key_exchange(fault: Fault, moment: Moment) -> bool {
    matches!((fault, moment), (Fault::Flip, Moment::Carried(Direction::Down, at)) if at < KEY_EXCHANGE_BYTES)
}

fn push_again(place: &Place) -> Run {
    fs::remove_file(place.site.receiver_pid()).ok();
    place.site.push_ssh(&place.sshd, &place.worker, &[REFS[0], REFS[1], "--json"]).ok()
}
