//! Everybody at work on one repository for a while: pushers on this machine and over ssh, `ostree` and `flatpak` that commit,
//! prune and write summaries, and clients that pull over HTTP and verify what they get.
//!
//! `TREEGRAFT_SOAK_SECS` and `TREEGRAFT_SOAK_PUSHERS` make it longer and larger; what it has seen is told on standard error.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use treegraft_testkit::{BuildDir, Flatpak, Gpg, RepoMode, Run, Sshd, StaticServer, Version};

use crate::site::{Site, json};

const DEFAULT_SECS: u64 = 12;
const DEFAULT_PUSHERS: u64 = 8;

/// Refs that several pushers share.
const SHARED: u64 = 3;

const CLIENTS: u64 = 3;

/// Nothing takes longer unless two wait for each other: libostree gives up a lock after 30 s, and 64 pushes take their turns.
const DEADLOCK_SECS: &str = "280";

/// How often a client tries a pull that has met a summary and another one's signature: each is replaced by a rename.
const CLIENT_TRIES: u32 = 2;

/// The same where `ostree` and `flatpak` write the summary, too: they delete the signature before they make another one, take
/// no lock for that, and write over each other.
const CLIENT_TRIES_BESIDE_OTHERS: u32 = 10;

/// How long `ostree` and `flatpak` rest between two summaries.
const SUMMARY_PAUSE: Duration = Duration::from_secs(3);

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("`{variable}` is a number")))
}

/// A push that was taken.
struct Taken {
    name: String,
    old: Option<String>,
    new: String,
    took: Duration,
}

/// What everybody has seen.
#[derive(Default)]
struct Seen {
    is_over: AtomicBool,
    taken: Mutex<Vec<Taken>>,
    pulls: AtomicU64,
    torn: AtomicU64,
    torn_twice: AtomicU64,
    commits: AtomicU64,
    updates: AtomicU64,
    updates_failed: AtomicU64,
    prunes: AtomicU64,
    prunes_locked_out: AtomicU64,
    own_prunes: AtomicU64,
    own_prunes_locked_out: AtomicU64,
}

impl Seen {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Repeats work, at least once, until it is over.
    fn meanwhile(&self, pause: Duration, mut work: impl FnMut(u64)) {
        for number in 0.. {
            work(number);
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            thread::sleep(pause);
        }
    }
}

struct Soak {
    site: Site,
    sshd: Sshd,
    gpg: Gpg,
    flatpak: Flatpak,
    web: StaticServer,
    /// Who writes the summary.
    writers: Writers,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// Pushes alone.
    Pushers,
    /// `ostree summary` and `flatpak build-update-repo` as well.
    Everybody,
}

impl Soak {
    /// Ends a command that does not end by itself, and the test with it.
    fn bounded(&self, command: &Command) -> Run {
        let mut outer = self.site.env.command("timeout");
        outer.args(["-s", "KILL", DEADLOCK_SECS]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        let run = Run::of(&mut outer);
        assert!(!matches!(run.code(), None | Some(137)), "nobody waits without end: {}", run.report());
        run
    }

    fn ostree(&self, args: &[&str]) -> Run {
        let mut command = self.site.ostree.command();
        command.arg(args[0]).arg(format!("--repo={}", self.site.server.display())).args(&args[1..]);
        self.bounded(&command)
    }

    /// Pushes again and again, each time something else, to refs of others and to one's own.
    fn push_on(&self, pusher: u64) {
        let folder = self.site.env.root().join(format!("pusher-{pusher}"));
        let app = BuildDir::app(&format!("org.example.App{pusher}"), "org.example.Platform").with_files(pusher, 3);
        let is_app = pusher % 4 == 3;
        if is_app {
            app.write(&folder, Version::first());
        } else {
            fs::create_dir_all(folder.join("some/where")).expect("a folder can be made");
        }
        let branches = [format!("shared/{}", pusher % SHARED), format!("own/{pusher}")];
        self.seen.meanwhile(Duration::ZERO, |number| {
            let content = format!("push {number} of {pusher}");
            let (file, what) = if is_app { ("files/bin/run", "--build-dir") } else { ("some/where/file", "--tree") };
            fs::write(folder.join(file), content).expect("the folder is ours");
            let shown = folder.display().to_string();
            let mut args = vec!["--json", "--allow-older", "--retries=20", what, &shown];
            if !is_app {
                args.extend(["--branch", &branches[usize::from(number % 2 == 1)]]);
            }
            let command = if pusher.is_multiple_of(2) {
                self.site.push_unstored_command(&args)
            } else {
                self.site.push_unstored_ssh_command(&self.sshd, self.sshd.port(), &args)
            };
            let begin = Instant::now();
            let run = self.bounded(&command);
            let took = begin.elapsed();
            assert_eq!(run.code(), Some(0), "a push in company is taken: {}", run.report());
            let report = json(&run);
            let moved = &report["refs"][0];
            let text = |key: &str| moved[key].as_str().map(str::to_owned);
            let (name, new) = (text("name").expect("it has a name"), text("new").expect("it has a commit"));
            self.seen.taken.lock().expect("no holder panics").push(Taken { name, old: text("old"), new, took });
        });
    }

    /// Pulls with signatures of commits and summary; what is torn heals by itself.
    fn pull_on(&self, client: u64) {
        let repo = self.site.env.root().join(format!("client-{client}"));
        let key = self.site.env.root().join(format!("client-{client}.gpg"));
        self.gpg.write_public_key(&key);
        self.site.ostree.init(&repo, RepoMode::Archive, None);
        let key = format!("--gpg-import={}", key.display());
        let remote = ["add", "--set=gpg-verify-summary=true", &key, "origin", &self.web.url()];
        let _ = self.site.ostree.at(&repo, "remote", remote);
        let name = format!("shared/{}", client % SHARED);
        let tries = if self.writers == Writers::Everybody { CLIENT_TRIES_BESIDE_OTHERS } else { CLIENT_TRIES };
        self.seen.meanwhile(Duration::from_millis(100), |_| {
            for attempt in 1..=tries {
                let mut command = self.site.ostree.command();
                command.arg("pull").arg(format!("--repo={}", repo.display())).args(["--mirror", "origin", &name]);
                let run = self.bounded(&command);
                if run.success() {
                    break;
                }
                Seen::count(if attempt == 1 { &self.seen.torn } else { &self.seen.torn_twice });
                assert!(attempt < tries, "a client reaches the repository in the end: {}", run.report());
                thread::sleep(Duration::from_millis(500));
            }
            Seen::count(&self.seen.pulls);
        });
    }

    fn commit_on(&self) {
        let local = self.site.tree("local", &[("local", "1")]).display().to_string();
        let [key, home] = self.gpg.sign_args();
        self.seen.meanwhile(SUMMARY_PAUSE / 10, |number| {
            let subject = format!("--subject=number {number}");
            self.ostree(&["commit", "--branch=local", &subject, &key, &home, &local]).ok();
            if number.is_multiple_of(10) && self.writers == Writers::Everybody {
                self.ostree(&["summary", "--update", &key, &home]).ok();
            }
            Seen::count(&self.seen.commits);
        });
    }

    fn update_on(&self) {
        let [key, home] = self.gpg.sign_args();
        self.seen.meanwhile(SUMMARY_PAUSE, |_| {
            let mut command = self.flatpak.command();
            command.args(["build-update-repo", &key, &home]).arg(&self.site.server);
            // It fails when the one that a push has started comes in its way.
            let run = self.bounded(&command);
            Seen::count(if run.success() { &self.seen.updates } else { &self.seen.updates_failed });
        });
    }

    fn prune_on(&self) {
        self.seen.meanwhile(Duration::from_secs(1), |_| {
            let run = self.ostree(&["prune", "--refs-only"]);
            // libostree gives up after 30 s; that a push is always under way is no mistake.
            assert!(run.success() || run.stderr_text().contains("Locking repo"), "{}", run.report());
            Seen::count(if run.success() { &self.seen.prunes } else { &self.seen.prunes_locked_out });
        });
    }

    fn prune_on_by_ourselves(&self) {
        let server = self.site.server.display().to_string();
        self.seen.meanwhile(Duration::from_secs(1), |_| {
            let mut command = self.site.env.command(crate::site::TREEGRAFT);
            command.args(["prune", "--json", "--wait", "60", "--repo", &server, "--config"]).arg(self.site.config());
            let run = self.bounded(&command);
            assert!(run.success() || json(&run)["error"]["is_temporary"] == true, "{}", run.report());
            Seen::count(if run.success() { &self.seen.own_prunes } else { &self.seen.own_prunes_locked_out });
        });
    }

    /// Every push that was taken is in the history of its ref, once, on top of what it was told.
    fn check(&self) {
        self.site.ostree.fsck(&self.site.server);
        let taken = self.seen.taken.lock().expect("no holder panics");
        let mut by_ref: BTreeMap<&str, Vec<&Taken>> = BTreeMap::new();
        for push in taken.iter() {
            by_ref.entry(&push.name).or_default().push(push);
        }
        for (name, pushes) in by_ref {
            let log = self.site.ostree.log(&self.site.server, name);
            let mut history: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("commit ")).collect();
            history.reverse();
            assert_eq!(history.len(), pushes.len(), "each push to `{name}` is there once");
            for push in pushes {
                let at =
                    history.iter().position(|commit| *commit == push.new).expect("what was told is in the history");
                let before = at.checked_sub(1).map(|before| history[before]);
                assert_eq!(before, push.old.as_deref(), "it is on top of what was told");
            }
        }
        let left = |directory: &str| {
            let entries = fs::read_dir(self.site.server.join(".treegraft").join(directory));
            entries.map_or(0, Iterator::count)
        };
        assert_eq!((left("staging"), left("queue"), left("pending")), (0, 0, 0), "nothing is left over");
    }

    fn report(&self, secs: u64, pushers: u64) {
        let taken = self.seen.taken.lock().expect("no holder panics");
        let mut times: Vec<Duration> = taken.iter().map(|push| push.took).collect();
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seen = &self.seen;
        let text = format!(
            "SOAK: {secs} s, {pushers} pushers, summaries by {:?}: {} pushes ({:.1}/s), seconds each {:.2} {:.2} {:.2} {:.2} (min, median, 95 %, max); \
             {} pulls, {} torn, {} torn again; {} commits, {} updates by flatpak ({} failed); prunes: {} by ostree ({} locked out), \
             {} by treegraft ({} locked out)\n",
            self.writers,
            times.len(),
            f64::from(u32::try_from(times.len()).expect("they are few")) / Duration::from_secs(secs).as_secs_f64(),
            at(0),
            at(50),
            at(95),
            at(100),
            read(&seen.pulls),
            read(&seen.torn),
            read(&seen.torn_twice),
            read(&seen.commits),
            read(&seen.updates),
            read(&seen.updates_failed),
            read(&seen.prunes),
            read(&seen.prunes_locked_out),
            read(&seen.own_prunes),
            read(&seen.own_prunes_locked_out),
        );
        std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).expect("it can be written");
    }
}

/// A publisher and its clients need the same key.
fn soak(writers: Writers) -> Option<Soak> {
    let site = Site::new()?;
    let (sshd, flatpak, gpg) = (Sshd::start()?, Flatpak::find()?, Gpg::with_key("soak@example.org")?);
    site.sign_with(&gpg);
    let web = StaticServer::start(&site.server);
    Some(Soak { site, sshd, gpg, flatpak, web, writers, seen: Seen::default() })
}

#[test]
fn everybody_at_once() {
    run(Writers::Everybody);
}

#[test]
fn a_client_finds_what_pushers_publish_whole_or_with_its_next_try() {
    run(Writers::Pushers);
}

fn run(writers: Writers) {
    let Some(soak) = soak(writers) else { return };
    let secs = number("TREEGRAFT_SOAK_SECS", DEFAULT_SECS);
    let pushers = number("TREEGRAFT_SOAK_PUSHERS", DEFAULT_PUSHERS);
    // Clients need something to pull.
    let first: PathBuf = soak.site.tree("first", &[("first", "1")]);
    for shared in 0..SHARED {
        first_push(&soak, &first, &format!("shared/{shared}"));
    }
    // Everybody's pushes over ssh start the same program there, which has to be there before.
    let _ = soak.site.push_unstored_ssh_command(&soak.sshd, soak.sshd.port(), &[]);
    thread::scope(|scope| {
        let soak = &soak;
        let mut workers: Vec<_> = (0..pushers).map(|pusher| scope.spawn(move || soak.push_on(pusher))).collect();
        workers.extend((0..CLIENTS).map(|client| scope.spawn(move || soak.pull_on(client))));
        workers.push(scope.spawn(|| soak.commit_on()));
        if writers == Writers::Everybody {
            workers.push(scope.spawn(|| soak.update_on()));
        }
        workers.push(scope.spawn(|| soak.prune_on()));
        workers.push(scope.spawn(|| soak.prune_on_by_ourselves()));
        let begin = Instant::now();
        // Who fails ends it for all.
        while begin.elapsed() < Duration::from_secs(secs) && !workers.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(100));
        }
        soak.seen.is_over.store(true, Ordering::SeqCst);
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    soak.report(secs, pushers);
    soak.check();
}

fn first_push(soak: &Soak, folder: &Path, name: &str) {
    let shown = folder.display().to_string();
    let run = soak.site.push_unstored(&["--json", "--tree", &shown, "--branch", name]).ok();
    let new = json(&run)["refs"][0]["new"].as_str().expect("it has a commit").to_owned();
    let taken = Taken { name: name.to_owned(), old: None, new, took: Duration::ZERO };
    soak.seen.taken.lock().expect("no holder panics").push(taken);
}
