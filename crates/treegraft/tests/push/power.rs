//! Kills and power losses at every moment of a push.
//!
//! What the program does to the repository is recorded once. Then the repository is made as a crash after each call may
//! have left it, and looked at: see [`Case::check`].

use std::{
    collections::HashSet,
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use treegraft_testkit::{Crash, Disk, Flatpak, Image, ImageEntry, Recorder, Run, SplitMix64, Sshd, memory_folder};

use crate::{
    judge::{Case, Options, SummaryBy, case},
    rounds::{first_seed, round_count, tell},
    site::{Site, TREEGRAFT},
};

/// What stands for the id of another boot.
const OTHER_BOOT: &[u8] = b"00000000-0000-4000-8000-000000000000\n";

/// How many images are looked at at a time.
const THREADS: usize = 2;

/// Syncs without any of which a power loss does damage, by the call that makes them; the last one of each is left out.
///
/// Two of `refs/heads` stand in for each other, and a journal that comes back after its removal is carried out again.
const NEEDED_SYNCS: [&str; 9] = [
    "syncfs ",
    "fsync objects",
    "fsync .treegraft/.treegraft-new",
    "fsync refs/heads/.treegraft-new",
    "fsync refs/heads/team/.treegraft-new",
    "fsync refs/heads/team",
    "fsync .treegraft/summary.new",
    "fsync .treegraft/summary.sig.new",
    "fsync ",
];

/// More refs than directories are synced one by one, each in another directory.
const MANY_REFS: [&str; 20] = [
    "main", "a/x", "b/x", "c/x", "d/x", "e/x", "f/x", "g/x", "h/x", "i/x", "j/x", "k/x", "l/x", "m/x", "n/x", "o/x",
    "p/x", "q/x", "r/x", "s/x",
];

/// An app that there is already, and a new one.
const APPS: [&str; 2] = ["app/org.example.App/x86_64/stable", "app/org.example.App/x86_64/beta"];

/// A moment at which the machine or the process ends, and how.
type Moment = (usize, Crash);

/// What was found at some moments.
#[derive(Default)]
struct Findings {
    /// How many images differed from each other.
    images: usize,
    failures: Vec<String>,
}

impl Findings {
    fn assert_none(&self) {
        let shown = self.failures.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n\n");
        assert_eq!(self.failures.len(), 0, "of {} images:\n{shown}", self.images);
    }
}

/// A check of what a crash has left.
type Check<'c> = &'c (dyn Fn(&Path) -> Result<(), String> + Sync);

/// How long to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    FirstFailure,
}

/// Looks at what is left at some moments; what is the same is looked at once.
fn look(disk: &Disk, moments: &[Moment], until: Until, check: Check<'_>) -> Findings {
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (seen, findings) = (Mutex::new(HashSet::new()), Mutex::new(Findings::default()));
    let work = || {
        while let Some(&moment) = moments.get(next.fetch_add(1, Ordering::Relaxed)) {
            let image = image(disk, moment);
            if is_over.load(Ordering::Relaxed)
                || !seen.lock().expect("no thread panics with it").insert(image.fingerprint())
            {
                continue;
            }
            let (_folder, server) = materialise(&image);
            let found = panic::catch_unwind(AssertUnwindSafe(|| check(&server)));
            let found = found.unwrap_or_else(|_| Err("a check panicked, see above".to_owned()));
            let mut findings = findings.lock().expect("no thread panics with it");
            findings.images += 1;
            if let Err(error) = found {
                let (count, crash) = moment;
                let call = count.checked_sub(1).map_or("nothing", |last| disk.call(last));
                let text = format!("{crash:?} after call {count} of {} (`{call}`): {error}", disk.events());
                findings.failures.push(text);
                is_over.store(until == Until::FirstFailure, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let findings = findings.into_inner().expect("no thread panics with it");
    tell(&format!("{} images of {} moments", findings.images, moments.len()));
    findings
}

fn image(disk: &Disk, (count, crash): Moment) -> Image {
    let mut image = disk.after(count, crash);
    if crash != Crash::Kill {
        reboot(&mut image);
    }
    image
}

fn materialise(image: &Image) -> (tempfile::TempDir, PathBuf) {
    let folder = memory_folder();
    let server = folder.path().join("repo");
    image.write(&server);
    (folder, server)
}

/// Gives the machine of an image another boot id than the one in which it was written, as far as that was written.
fn reboot(image: &mut Image) {
    let boot_id = fs::read("/proc/sys/kernel/random/boot_id").expect("the system has been booted");
    for (path, entry) in &mut image.entries {
        if let ImageEntry::File(_, bytes) = entry
            && path.ends_with("boot-id")
            && boot_id.starts_with(bytes)
        {
            *bytes = OTHER_BOOT[..bytes.len()].into();
        }
    }
}

/// All moments from a call on: kills, and power losses with `seeds` seeds of each kind at each moment.
fn moments(disk: &Disk, from: usize, first_seed: u64, seeds: u64) -> Vec<Moment> {
    let mut moments = Vec::new();
    for count in from..=disk.events() {
        moments.extend([(count, Crash::Kill), (count, Crash::PowerStrict)]);
        for seed in (0..seeds).map(|seed| first_seed + seed) {
            let seed = SplitMix64::new(seed ^ (count as u64) << 48).next_u64();
            moments.extend([(count, Crash::PowerOrdered(seed)), (count, Crash::PowerRandom(seed))]);
        }
    }
    moments
}

/// Records the push of a case.
fn record(case: &mut Case, recorder: &Recorder) -> Disk {
    let server = case.site.server.clone();
    let (run, disk) = recorder.run(&server, &case.push(&server, &[]));
    run.ok();
    case.expect(&server);
    case.check_done(&server).expect("an undisturbed push leaves everything in order");
    disk
}

#[test]
fn no_moment_of_a_push_is_one_at_which_the_power_must_not_fail() {
    let (Some((mut case, _folder)), Some(recorder)) = (case(Options::default()), Recorder::find()) else { return };
    let disk = record(&mut case, &recorder);
    let findings =
        look(&disk, &moments(&disk, 0, first_seed(), round_count(1)), Until::End, &|server| case.check(server));
    assert!(findings.images > 100, "there are many images, not {}", findings.images);
    findings.assert_none();
}

/// Nothing is there before a first push: no private directory, no summary.
#[test]
fn no_moment_of_a_first_push_is_one_at_which_the_power_must_not_fail() {
    let first = Options { is_first: true, ..Options::default() };
    let (Some((mut case, _folder)), Some(recorder)) = (case(first), Recorder::find()) else { return };
    look_at_random(&mut case, &recorder, 60);
}

/// What would be too many single syncs is made durable at once.
#[test]
fn no_moment_of_a_push_of_many_refs_is_one_at_which_the_power_must_not_fail() {
    let many = Options { names: &MANY_REFS, ..Options::default() };
    let (Some((mut case, _folder)), Some(recorder)) = (case(many), Recorder::find()) else { return };
    look_at_random(&mut case, &recorder, 60);
}

/// Looks at some moments of a push.
fn look_at_random(case: &mut Case, recorder: &Recorder, usual: u64) {
    let disk = record(case, recorder);
    let mut random = SplitMix64::new(first_seed());
    let some: Vec<_> = (0..usual * round_count(1)).map(|_| random_moment(&disk, &mut random)).collect();
    look(&disk, &some, Until::End, &|server| case.check(server)).assert_none();
}

/// The summary of `ostree` is no less durable than ours when the journal goes.
#[test]
fn no_moment_of_a_push_with_a_foreign_summary_is_one_at_which_the_power_must_not_fail() {
    let summary_by = SummaryBy::Command(r#""ostree", "summary", "--update", "--repo""#);
    let Some((mut case, _folder)) = case(Options { summary_by, ..Options::default() }) else { return };
    let Some(recorder) = Recorder::find() else { return };
    let disk = record(&mut case, &recorder);
    let moments = moments(&disk, journaled(&disk), first_seed(), 3 * round_count(1));
    look(&disk, &moments, Until::End, &|server| case.check(server)).assert_none();
}

/// Returns when the journal is written.
fn journaled(disk: &Disk) -> usize {
    let is_journaled = |&event: &usize| disk.call(event).ends_with(".treegraft/journal");
    (0..disk.events()).find(is_journaled).expect("there is a journal")
}

/// The index and the summary of `flatpak` are complete before clients see them, whatever happens.
#[test]
fn no_moment_of_a_push_with_flatpaks_summary_is_one_at_which_the_power_must_not_fail() {
    let flatpak = Options { summary_by: SummaryBy::Flatpak, names: &APPS, ..Options::default() };
    let (Some((mut case, _folder)), Some(recorder), Some(_)) = (case(flatpak), Recorder::find(), Flatpak::find())
    else {
        return;
    };
    let disk = record(&mut case, &recorder);
    assert!(case.site.server.join("refs/heads/appstream2/x86_64").exists(), "Flatpak has made its branches");
    let is_draft = |&event: &usize| disk.call(event).contains(".treegraft/draft");
    let from = (0..disk.events()).find(is_draft).expect("there is a draft");
    let mut moments = moments(&disk, from, first_seed(), round_count(1));
    let mut random = SplitMix64::new(first_seed());
    moments.retain(|_| random.one_in(3));
    look(&disk, &moments, Until::End, &|server| case.check(server)).assert_none();
}

/// The hook before a publish has nothing to lose. The one after it is run again until it has ended.
#[test]
fn no_moment_of_a_push_with_hooks_is_one_at_which_the_power_must_not_fail() {
    let hooks = Options { has_hooks: true, ..Options::default() };
    let (Some((mut case, _folder)), Some(recorder)) = (case(hooks), Recorder::find()) else { return };
    fs::remove_file(case.site.server.join("heard")).expect("the hook has heard of the pushes before");
    let disk = record(&mut case, &recorder);
    let (from, mut random) = (journaled(&disk), SplitMix64::new(first_seed()));
    let mut some: Vec<_> = (0..40 * round_count(1)).map(|_| random_moment(&disk, &mut random)).collect();
    // Each moment at which a hook may have to run again.
    some.extend((from..=disk.events()).map(|count| (count, random_crash(&mut random))));
    look(&disk, &some, Until::End, &|server| case.check(server)).assert_none();
    assert_needed(&disk, &case, "fsync .treegraft/pending/.treegraft-new");
}

/// The test of the test: without syncs there must be losses, and none of them by a kill.
#[test]
fn without_syncs_a_power_loss_costs_something_and_a_kill_does_not() {
    let (Some((mut case, _folder)), Some(recorder)) =
        (case(Options { fsync: false, ..Options::default() }), Recorder::find())
    else {
        return;
    };
    let disk = record(&mut case, &recorder);
    let syncs = (0..disk.events()).filter(|&event| disk.is_sync(event)).count();
    assert_eq!(syncs, 0, "`core.fsync=false` asks for no durability, and none is paid for");
    let kills: Vec<_> = (0..=disk.events()).step_by(3).map(|count| (count, Crash::Kill)).collect();
    look(&disk, &kills, Until::End, &|server| case.check(server)).assert_none();
    let losses: Vec<_> = (0..100).map(|seed| (disk.events(), Crash::PowerOrdered(seed))).collect();
    let findings = look(&disk, &losses, Until::FirstFailure, &|server| case.check(server));
    assert!(!findings.failures.is_empty(), "a power loss after a push without syncs is noticed");
}

/// The other test of the test: a single sync that is forgotten is found.
#[test]
fn a_push_that_forgets_one_sync_is_found_out() {
    let (Some((mut case, _folder)), Some(recorder)) = (case(Options::default()), Recorder::find()) else { return };
    let disk = record(&mut case, &recorder);
    for needed in NEEDED_SYNCS {
        assert_needed(&disk, &case, needed);
    }
}

/// Leaves out the last sync that is made by a call, which must be noticed.
fn assert_needed(disk: &Disk, case: &Case, needed: &str) {
    let is_it = |&event: &usize| disk.is_sync(event) && disk.call(event) == needed;
    let event = (0..disk.events()).rfind(is_it).unwrap_or_else(|| panic!("`{needed}` is called"));
    let wrong = disk.without_sync(event);
    // The damage mostly stays, and at the end nothing else is at risk.
    let mut moments = moments(&wrong, event, 0, 8);
    moments.reverse();
    let findings = look(&wrong, &moments, Until::FirstFailure, &|server| case.check(server));
    assert!(!findings.failures.is_empty(), "a push without `{needed}` does damage in one of {}", findings.images);
}

/// The next push is cut off as well, while it finishes the publish of the first, or takes over what that had received.
#[test]
fn no_moment_of_a_recovery_is_one_at_which_the_power_must_not_fail() {
    let (Some((mut case, _folder)), Some(recorder)) = (case(Options::default()), Recorder::find()) else { return };
    let disk = record(&mut case, &recorder);
    let mut random = SplitMix64::new(first_seed());
    for _ in 0..round_count(1) {
        for is_wanted in [has_journal, has_staged] {
            let first = std::iter::repeat_with(|| random_moment(&disk, &mut random));
            let mut first = first.map(|moment| (moment, image(&disk, moment))).take(1_000);
            let (moment, left) = first.find(|(_, image)| is_wanted(image)).expect("many images have it");
            let (_folder, server) = materialise(&left);
            let (run, second) = recorder.run(&server, &case.push(&server, &[]));
            run.ok();
            let mut again: Vec<_> = (0..20).map(|_| random_moment(&second, &mut random)).collect();
            again.extend((0..20).map(|_| (random.below(second.events() + 1), Crash::Kill)));
            let findings = look(&second, &again, Until::End, &|server| case.check(server));
            assert!(findings.images > 5, "there are several images, not {}", findings.images);
            assert_eq!(findings.failures, Vec::<String>::new(), "in the push after {moment:?}");
        }
    }
}

fn random_moment(disk: &Disk, random: &mut SplitMix64) -> Moment {
    (random.below(disk.events() + 1), random_crash(random))
}

fn random_crash(random: &mut SplitMix64) -> Crash {
    let seed = random.next_u64();
    let kinds = [Crash::Kill, Crash::PowerStrict, Crash::PowerOrdered(seed), Crash::PowerRandom(seed)];
    kinds[random.below(kinds.len())]
}

fn has_journal(image: &Image) -> bool {
    image.has(".treegraft/journal")
}

fn has_staged(image: &Image) -> bool {
    let is_object = |path: &PathBuf| path.starts_with(".treegraft/staging") && path.extension().is_some();
    image.entries.keys().any(is_object)
}

/// The receiver behind ssh does what the one in the client's process does.
#[test]
fn no_moment_of_a_push_over_ssh_is_one_at_which_the_power_must_not_fail() {
    let (Some((mut case, _folder)), Some(recorder)) = (case(Options::default()), Recorder::find()) else { return };
    let Some(sshd) = Sshd::start() else { return };
    let recording = recorder.begin(&case.site.server);
    let prefix: Vec<_> = recording.prefix().iter().map(|word| word.display().to_string()).collect();
    let command = case.site.push_ssh_traced(&sshd, &prefix, &case.worker, case.names);
    Run::of(&mut { command }).ok();
    case.site.wait_for_receiver();
    let disk = recording.finish();
    let server = case.site.server.clone();
    case.expect(&server);
    let mut random = SplitMix64::new(first_seed());
    let some: Vec<_> = (0..40 * round_count(1)).map(|_| random_moment(&disk, &mut random)).collect();
    look(&disk, &some, Until::End, &|server| case.check(server)).assert_none();
}

/// A repository that is being made is none or whole, and making it again goes through.
#[test]
fn no_moment_of_making_a_repository_is_one_at_which_the_power_must_not_fail() {
    let (Some(site), Some(recorder)) = (Site::new(), Recorder::find()) else { return };
    let folder = memory_folder();
    let init = |path: &Path| {
        let mut command = site.env.command(TREEGRAFT);
        command.arg("init").arg(path);
        command
    };
    let (run, disk) = recorder.run(folder.path(), &init(&folder.path().join("repo")));
    run.ok();
    let check = |parent: &Path| {
        let path = parent.join("repo");
        let again = Run::of(&mut init(&path));
        if !again.success() && !again.stderr_text().contains("there is one already") {
            return Err(format!("it can be made again: {}", again.report()));
        }
        let config = fs::read_to_string(path.join("config")).unwrap_or_default();
        if !config.contains("mode=archive") {
            return Err(format!("the configuration is whole: {config:?}"));
        }
        let repo = format!("--repo={}", path.display());
        let run = site.ostree.run_raw(["refs", &repo]);
        if run.success() { Ok(()) } else { Err(format!("`ostree` can use it: {}", run.report())) }
    };
    let findings = look(&disk, &moments(&disk, 0, first_seed(), 2 * round_count(1)), Until::End, &check);
    assert!(findings.images > 10, "there are several images, not {}", findings.images);
    findings.assert_none();
}
