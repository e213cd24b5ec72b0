//! Progress of long work on standard error: one display in a terminal, plain lines everywhere else.

use std::{
    fmt::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use treegraft_push::{Event, Reporter};
use treegraft_repo::{fsck, prune};
use treegraft_wire::{Holder, OpenAnswer, Phase, PublishEvent, Verdict, Waiting};

use crate::{
    human,
    ui::{Ui, Verbosity},
};

/// Nothing is drawn before: most pushes of nothing new are over by then.
const FIRST_DRAW_AFTER: Duration = Duration::from_millis(250);

/// How often the display is drawn while nothing happens, so that the rate and the spinner move.
const TICK: Duration = Duration::from_millis(100);

/// Most drawings a second: more is not seen and only costs the terminal's time.
const MAX_DRAWS_A_SECOND: u8 = 20;

/// Time over which the rate is averaged: short enough to follow the link, long enough to be read.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// Seconds between two notices that a prune still waits.
const WAITING_NOTICE_SECS: u64 = 10;

/// How progress is shown.
enum Output {
    /// One line that is drawn over and over.
    Display(Display),
    /// A line for each phase.
    Lines(Ui),
    /// Not at all.
    Nothing,
}

impl Output {
    fn new(ui: Ui, style: ProgressStyle) -> Self {
        if ui.verbosity() == Verbosity::Quiet {
            Self::Nothing
        } else if ui.has_live_stderr() {
            Self::Display(Display::new(style))
        } else {
            Self::Lines(ui)
        }
    }
}

/// A progress display that appears once the work has taken a while.
struct Display {
    bar: ProgressBar,
    started: Instant,
    is_drawn: AtomicBool,
}

impl Display {
    fn new(style: ProgressStyle) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_style(style);
        Self { bar, started: Instant::now(), is_drawn: AtomicBool::new(false) }
    }

    /// Shows the display when it is time.
    fn touch(&self) {
        if self.started.elapsed() >= FIRST_DRAW_AFTER && !self.is_drawn.swap(true, Ordering::Relaxed) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(MAX_DRAWS_A_SECOND));
            self.bar.enable_steady_tick(TICK);
        }
    }

    /// Writes a line above the display; it stays when the display goes.
    fn line(&self, ui: Ui, line: &str) {
        self.bar.suspend(|| ui.status(line));
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What is known of a push while it runs. Written by several threads, read by the display.
#[derive(Debug, Default)]
struct Counters {
    hashed_bytes: AtomicU64,
    compared: AtomicU64,
    found_objects: AtomicU64,
    found_bytes: AtomicU64,
    sent_objects: AtomicU64,
    sent_bytes: AtomicU64,
    is_planned: AtomicBool,
    /// Whether everything is sent and the server publishes.
    is_publishing: AtomicBool,
    rate: Mutex<Rate>,
}

/// Bytes a second over the last moments.
#[derive(Debug, Default)]
struct Rate {
    window_start: Option<(Instant, u64)>,
    bytes_per_sec: Option<u64>,
}

impl Rate {
    fn update(&mut self, now: Instant, sent_bytes: u64) -> Option<u64> {
        let (start, bytes) = *self.window_start.get_or_insert((now, sent_bytes));
        let millis = u64::try_from(now.duration_since(start).as_millis()).unwrap_or(u64::MAX);
        if millis >= 500 {
            self.bytes_per_sec = Some(sent_bytes.saturating_sub(bytes).saturating_mul(1000) / millis);
        }
        if now.duration_since(start) >= RATE_WINDOW {
            self.window_start = Some((now, sent_bytes));
        }
        self.bytes_per_sec
    }
}

impl Counters {
    /// Begins again, as the push does.
    fn reset(&self) {
        for counter in [&self.compared, &self.found_objects, &self.found_bytes, &self.sent_objects, &self.sent_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
        self.is_planned.store(false, Ordering::Relaxed);
        self.is_publishing.store(false, Ordering::Relaxed);
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = Rate::default();
    }

    fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    /// Writes `921 of 1,204 objects, 46.0 of 92.6 MB, 11.3 MB/s, 28,261 already there`.
    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        if read(&self.compared) == 0 && read(&self.hashed_bytes) > 0 {
            return write!(out, "Hashing, {} up to now", human::bytes(read(&self.hashed_bytes)));
        }
        let (found, sent) = (read(&self.found_objects), read(&self.sent_objects));
        let more = if self.is_planned.load(Ordering::Relaxed) { "" } else { "+" };
        let (sent_bytes, found_bytes) = (read(&self.sent_bytes), read(&self.found_bytes));
        write!(out, "{} of {}{more} objects, {}", human::count(sent), human::count(found), human::bytes(sent_bytes))?;
        if found_bytes > sent_bytes {
            write!(out, " of {}{more}", human::bytes(found_bytes))?;
        }
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner).update(Instant::now(), sent_bytes);
        if let Some(bytes_per_sec) = rate {
            write!(out, ", {}/s", human::bytes(bytes_per_sec))?;
        }
        write!(out, ", {} already there", human::count(read(&self.compared).saturating_sub(found)))
    }
}

/// The progress of a push.
pub(crate) struct PushProgress {
    ui: Ui,
    output: Output,
    counters: Arc<Counters>,
    destination: String,
    may_draw: AtomicBool,
}

impl PushProgress {
    pub(crate) fn start(ui: Ui, destination: String) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let shown = Arc::clone(&counters);
        let style = ProgressStyle::with_template("{spinner} {msg}{counters}").expect("a valid template").with_key(
            "counters",
            move |_: &ProgressState, out: &mut dyn Write| {
                // Once everything is sent, the message alone says what goes on.
                if !shown.is_publishing.load(Ordering::Relaxed) {
                    let _ = shown.write(out);
                }
            },
        );
        Arc::new(Self { ui, output: Output::new(ui, style), counters, destination, may_draw: AtomicBool::new(false) })
    }

    /// Tells whether nobody asks for a password on the same terminal any more.
    fn may_draw(&self) -> bool {
        self.may_draw.load(Ordering::Relaxed)
    }

    /// Lets the display be drawn although no server has answered: there is none that may ask for a password.
    pub(crate) fn needs_no_login(&self) {
        self.may_draw.store(true, Ordering::Relaxed);
    }

    /// Hears that more bytes of a directory were hashed.
    pub(crate) fn hashing(&self, bytes: u64) {
        Counters::add(&self.counters.hashed_bytes, bytes);
        if let Output::Display(display) = &self.output
            && self.may_draw()
        {
            display.touch();
        }
    }

    /// Hears that a directory is hashed.
    pub(crate) fn hashed(&self, files: u64) {
        self.phase(|| {
            let bytes = self.counters.hashed_bytes.load(Ordering::Relaxed);
            format!("Hashed {}, {}", human::things(files, "file"), human::bytes(bytes))
        });
    }

    /// Writes a line that stays.
    fn line(&self, line: &str) {
        match &self.output {
            Output::Display(display) => display.line(self.ui, line),
            Output::Lines(ui) => ui.status(line),
            Output::Nothing => {}
        }
    }

    /// Writes a line where there is no display that shows the same.
    fn phase(&self, line: impl FnOnce() -> String) {
        if let Output::Lines(ui) = &self.output {
            ui.status(line());
        }
    }

    fn installing(&self, host: &str, bytes: u64) {
        // A line that stays: it happens once in a while and changes something on the server.
        self.line(&format!("Installing treegraft on {host}, {}", human::bytes(bytes)));
    }

    fn opened(&self, answer: &OpenAnswer) {
        self.may_draw.store(true, Ordering::Relaxed);
        self.counters.is_publishing.store(false, Ordering::Relaxed);
        let to_publish = answer.refs.iter().filter(|state| state.verdict == Verdict::Publish).count() as u64;
        self.phase(|| {
            let refs = human::things(answer.refs.len() as u64, "ref");
            format!("Opened {}: {refs}, {} to publish", self.destination, human::count(to_publish))
        });
        if answer.resumed.objects > 0 {
            let (objects, bytes) =
                (human::things(answer.resumed.objects, "object"), human::bytes(answer.resumed.bytes));
            self.line(&format!("Resuming: {objects}, {bytes} already there"));
        }
        if let Output::Display(display) = &self.output {
            display.bar.set_message("Sending ");
        }
    }

    fn retrying(&self, reason: &str, pause: Duration, attempts: u32, max_attempts: u32) {
        // A part of a second is as good as a whole one to a person.
        let secs = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        self.line(&format!("{reason}; trying again in {secs} s, attempt {attempts} of {max_attempts}"));
        self.counters.reset();
        if let Output::Display(display) = &self.output {
            display.bar.set_message("");
        }
    }

    fn planned(&self) {
        self.counters.is_planned.store(true, Ordering::Relaxed);
        self.phase(|| {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let (found, compared) = (read(&self.counters.found_objects), read(&self.counters.compared));
            let bytes = match read(&self.counters.found_bytes) {
                0 => String::new(),
                bytes => format!(", {}", human::bytes(bytes)),
            };
            format!("Planned: {} of {} to send{bytes}", human::count(found), human::things(compared, "object"))
        });
    }

    fn publishing(&self, event: &PublishEvent) {
        if !self.counters.is_publishing.swap(true, Ordering::Relaxed) {
            let sent = self.counters.sent_objects.load(Ordering::Relaxed);
            self.phase(|| format!("Sent {}", human::things(sent, "object")));
        }
        let message = match event {
            PublishEvent::Phase { phase: Phase::Unknown } => return,
            PublishEvent::Phase { phase } => capitalised(&phase.to_string()),
            PublishEvent::Waiting(waiting) => waiting_for(waiting),
            _ => return,
        };
        self.message(message);
    }

    /// Says what goes on now: in the display, or as a line.
    fn message(&self, message: String) {
        match &self.output {
            Output::Display(display) => {
                display.bar.set_message(message);
            }
            Output::Lines(ui) => ui.status(message),
            Output::Nothing => {}
        }
    }

    fn waiting(&self, waiting: &Waiting) {
        // Nobody asks for a password any more.
        self.may_draw.store(true, Ordering::Relaxed);
        // Nothing is counted before the push is open.
        self.counters.is_publishing.store(true, Ordering::Relaxed);
        self.message(waiting_for(waiting));
    }
}

impl Reporter for PushProgress {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Installing { host, bytes } => self.installing(host, bytes),
            Event::Waiting(waiting) => self.waiting(waiting),
            Event::Opened(answer) => self.opened(answer),
            Event::Compared { objects } => self.counters.compared.store(objects, Ordering::Relaxed),
            Event::Found { objects, bytes } => {
                Counters::add(&self.counters.found_objects, objects);
                Counters::add(&self.counters.found_bytes, bytes);
            }
            Event::Planned => self.planned(),
            Event::Sending { bytes, .. } => Counters::add(&self.counters.sent_bytes, bytes),
            Event::Sent { .. } => Counters::add(&self.counters.sent_objects, 1),
            Event::Retrying { reason, pause, attempts, max_attempts } => {
                self.retrying(reason, pause, attempts, max_attempts);
            }
            Event::Publishing(event) => self.publishing(event),
            _ => {}
        }
        // Before the server has answered, ssh may ask for a password on the same terminal.
        if let Output::Display(display) = &self.output
            && self.may_draw()
        {
            display.touch();
        }
    }
}

/// The progress of a commit to a repository on this machine.
pub(crate) struct HashProgress {
    output: Output,
    bytes: Arc<AtomicU64>,
    is_storing: Arc<AtomicBool>,
}

impl HashProgress {
    pub(crate) fn start(ui: Ui) -> Self {
        let (bytes, is_storing) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (shown, stores) = (Arc::clone(&bytes), Arc::clone(&is_storing));
        let style = ProgressStyle::with_template("{spinner} {bytes_done}").expect("a valid template").with_key(
            "bytes_done",
            move |_: &ProgressState, out: &mut dyn Write| {
                let verb = if stores.load(Ordering::Relaxed) { "Storing" } else { "Hashing" };
                let _ = write!(out, "{verb}, {} up to now", human::bytes(shown.load(Ordering::Relaxed)));
            },
        );
        Self { output: Output::new(ui, style), bytes, is_storing }
    }

    /// Hears that more bytes are hashed, or stored.
    pub(crate) fn advance(&self, bytes: u64) {
        Counters::add(&self.bytes, bytes);
        if let Output::Display(display) = &self.output {
            display.touch();
        }
    }

    /// Hears that everything is hashed, and is stored from now on.
    pub(crate) fn storing(&self) {
        self.is_storing.store(true, Ordering::Relaxed);
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        if let Output::Lines(ui) = &self.output {
            ui.status(format!("Hashed {}", human::bytes(bytes)));
        }
    }
}

/// Writes `Waiting for ci@worker-7 (main), 12 s`.
fn waiting_for(waiting: &Waiting) -> String {
    let Waiting { reason, waited_secs, holder } = waiting;
    match holder {
        Some(holder) => format!("Waiting for {}, {waited_secs} s", named(holder)),
        None => format!("Waiting for {waited_secs} s: {}", human::one_line(reason)),
    }
}

/// Writes `ci@worker-7 (app/org.example.App/x86_64/stable and 2 more)`.
fn named(holder: &Holder) -> String {
    let refs = match &holder.refs[..] {
        [] => String::new(),
        [first] if holder.ref_count <= 1 => format!(" ({first})"),
        [first, ..] => format!(" ({first} and {} more)", human::count(holder.ref_count.saturating_sub(1).max(1))),
    };
    human::one_line(&format!("{}{refs}", holder.who))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The progress of a check.
pub(crate) struct CheckProgress {
    output: Output,
}

impl CheckProgress {
    pub(crate) fn start(ui: Ui) -> Self {
        let template = "{spinner} {msg} [{bar:30}] {human_pos} of {human_len}";
        let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
        Self { output: Output::new(ui, style) }
    }

    pub(crate) fn step(&self, step: fsck::Progress) {
        let Output::Display(display) = &self.output else { return };
        display.bar.set_message(match step.phase {
            fsck::Phase::Listing => "Listing objects",
            fsck::Phase::Objects => "Checking objects",
            fsck::Phase::Commits => "Checking commits",
            fsck::Phase::Refs => "Checking refs",
        });
        display.bar.set_length(step.total);
        display.bar.set_position(step.done);
        display.touch();
    }
}

/// The progress of a prune.
pub(crate) struct PruneProgress {
    ui: Ui,
    output: Output,
    /// Seconds of waiting that were told last.
    told_secs: Option<u64>,
    deleted: u64,
}

impl PruneProgress {
    pub(crate) fn start(ui: Ui) -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("a valid template");
        let output = Output::new(ui, style);
        if let Output::Display(display) = &output {
            display.bar.set_message("Listing objects");
        }
        Self { ui, output, told_secs: None, deleted: 0 }
    }

    /// Returns how many objects were deleted up to now.
    pub(crate) const fn deleted(&self) -> u64 {
        self.deleted
    }

    pub(crate) fn event(&mut self, event: prune::Event) {
        let message = match event {
            prune::Event::Listed { objects } => format!("Marking what is kept of {}", human::things(objects, "object")),
            prune::Event::Marked { objects, bytes } => {
                let message =
                    format!("Marked: {}, {} to delete", human::things(objects, "object"), human::bytes(bytes));
                if let Output::Lines(ui) = &self.output {
                    ui.status(&message);
                }
                message
            }
            prune::Event::Waiting { waited } => {
                self.waiting(waited);
                return;
            }
            prune::Event::Deleted { objects } => {
                self.deleted = objects;
                format!("Deleted {}", human::things(objects, "object"))
            }
            _ => return,
        };
        if let Output::Display(display) = &self.output {
            display.bar.set_message(message);
            display.touch();
        }
    }

    /// Says for whom a prune waits: at once, and then now and again.
    fn waiting(&mut self, waited: Duration) {
        let secs = waited.as_secs();
        if self.told_secs.is_some_and(|told| secs >= told && secs < told + WAITING_NOTICE_SECS) {
            return;
        }
        self.told_secs = Some(secs);
        let line = format!("Waiting for {secs} s: pushes or other programs hold the repository's lock");
        match &self.output {
            Output::Display(display) => display.line(self.ui, &line),
            Output::Lines(ui) => ui.status(line),
            Output::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_display_tells_what_is_known() {
        let counters = Counters::default();
        counters.compared.store(29_182, Ordering::Relaxed);
        Counters::add(&counters.found_objects, 921);
        Counters::add(&counters.found_bytes, 92_600_000);
        Counters::add(&counters.sent_objects, 17);
        Counters::add(&counters.sent_bytes, 1_200_000);
        let shown = || {
            let mut text = String::new();
            counters.write(&mut text).expect("a string takes everything");
            text
        };
        assert_eq!(
            shown(),
            "17 of 921+ objects, 1.2 MB of 92.6 MB+, 28,261 already there",
            "while the comparison goes on, totals are a lower bound"
        );
        counters.is_planned.store(true, Ordering::Relaxed);
        assert_eq!(shown(), "17 of 921 objects, 1.2 MB of 92.6 MB, 28,261 already there", "now they are exact");
    }

    #[test]
    fn a_rate_is_told_after_a_moment() {
        let mut rate = Rate::default();
        let start = Instant::now();
        assert_eq!(rate.update(start, 0), None, "one look makes no rate");
        assert_eq!(rate.update(start + Duration::from_secs(2), 3_000_000), Some(1_500_000), "bytes over seconds");
    }
}
