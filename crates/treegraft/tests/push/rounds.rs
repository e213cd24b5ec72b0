//! How often tests with random parts are repeated, and what random means in each round.

use std::{
    io::Write as _,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

/// The environment variable with the number of rounds, for long runs by hand.
const ROUNDS: &str = "TREEGRAFT_ROUNDS";

/// The environment variable with the seed of the first round, to see a failure again.
const SEED: &str = "TREEGRAFT_SEED";

/// One round. When it fails, its seed is shown with what was noted in it.
pub(crate) struct Round {
    pub(crate) seed: u64,
    notes: Vec<String>,
}

impl Round {
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if thread::panicking() {
            let text = format!("failed in the round with {SEED}={}\n{}\n", self.seed, self.notes.join("\n"));
            std::io::stderr().lock().write_all(text.as_bytes()).ok();
        }
    }
}

/// Runs `work` with another seed in each round, and others each time.
pub(crate) fn rounds(usual: u64, mut work: impl FnMut(&mut Round)) {
    let (first, count) = (first_seed(), round_count(usual));
    for seed in first..first + count {
        work(&mut Round { seed, notes: Vec::new() });
    }
    tell(&format!("{count} rounds"));
}

/// Says on standard error, past the capture of the test harness, how much was tried.
pub(crate) fn tell(text: &str) {
    let who = thread::current().name().unwrap_or_default().to_owned();
    let line = format!("TRIED: {who}: {text}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("standard error of a test is open");
}

/// Returns how many rounds are wanted.
pub(crate) fn round_count(usual: u64) -> u64 {
    number(ROUNDS).unwrap_or(usual)
}

/// Returns the seed of the first round.
pub(crate) fn first_seed() -> u64 {
    number(SEED).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        u64::from(now.subsec_nanos()) << 20
    })
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("`{variable}` is a number, not `{text}`")))
}
