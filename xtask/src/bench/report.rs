//! What a run took, and the rows of the tables.

use std::path::Path;

use super::write;
use crate::TaskError;

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) seconds: f64,
    /// What went to the server, where a link has counted it.
    pub(super) up_bytes: Option<u64>,
    pub(super) peak: Peak,
}

/// The memory that a push needs at most on each side, where it was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peak {
    pub(super) client_mib: Option<u64>,
    /// That of the receiver which needs most.
    pub(super) server_mib: Option<u64>,
}

pub(super) fn print_header() {
    println!("| case | way | seconds (min, median, max) | MB up at most | client MiB | server MiB |");
    println!("|---|---|---|---|---|---|");
}

/// Returns the seconds of the fastest, of the middle and of the slowest sample, of which there is at least one.
pub(super) fn spread(samples: &[Sample]) -> (f64, f64, f64) {
    let mut seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1])
}

/// Returns the most that went to the server in MB, or 0 where no link has counted it.
pub(super) fn most_up_megabytes(samples: &[Sample]) -> f64 {
    let bytes = samples.iter().filter_map(|sample| sample.up_bytes).max().unwrap_or(0);
    // Hundredths are enough, and an integer of 32 bits has them for up to 40 GB.
    f64::from(u32::try_from(bytes / 10_000).unwrap_or(u32::MAX)) / 100.0
}

/// Writes rows whose fields are separated by commas, with a row of names before them.
pub(super) fn write_table(path: &Path, names: &str, rows: &[String]) -> Result<(), TaskError> {
    let mut text = format!("{names}\n");
    for row in rows {
        text += row;
        text += "\n";
    }
    write(path, &text)
}

/// Prints the row of a way; there is at least one sample.
pub(super) fn print_row(case: &str, way: &str, samples: &[Sample], peak: &Peak) {
    let (min, median, max) = spread(samples);
    let shown = |number: Option<String>| number.unwrap_or_else(|| "–".to_owned());
    let up = shown(samples.iter().filter_map(|sample| sample.up_bytes).max().map(megabytes));
    let mib = |mib: Option<u64>| shown(mib.map(|mib| mib.to_string()));
    let (client, server) = (mib(peak.client_mib), mib(peak.server_mib));
    println!("| {case} | {way} | {min:.1}, {median:.1}, {max:.1} | {up} | {client} | {server} |");
}

/// Shows bytes as megabytes with one decimal.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}
