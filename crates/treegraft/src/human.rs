//! Numbers, sizes and times as people read them.

use std::time::Duration;

use jiff::Timestamp;
use treegraft_object::Checksum;

/// Digits of a checksum that tell one commit from another in any repository that is known.
const SHORT_CHECKSUM_DIGITS: usize = 12;

/// Writes a number with a comma between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a number of things: `1 ref`, `2 refs`.
pub(crate) fn things(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// Writes a size in decimal units: `512 bytes`, `92.6 MB`, `640 MB`.
pub(crate) fn bytes(size_bytes: u64) -> String {
    if size_bytes < 1000 {
        return things(size_bytes, "byte");
    }
    // Tenths of the unit; rounding may carry into the next unit.
    let (mut unit_bytes, mut unit) = (1000_u64, "kB");
    for next in ["MB", "GB", "TB", "PB"] {
        if size_bytes < unit_bytes.saturating_mul(1000) - unit_bytes / 2 {
            break;
        }
        unit_bytes *= 1000;
        unit = next;
    }
    let tenths = (u128::from(size_bytes) * 10 + u128::from(unit_bytes) / 2) / u128::from(unit_bytes);
    if tenths < 1000 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", (u128::from(size_bytes) + u128::from(unit_bytes) / 2) / u128::from(unit_bytes))
    }
}

/// Longest text in characters that is shown within a line.
const MAX_LINE_CHARS: usize = 200;

/// Makes one line out of a text from elsewhere: line breaks become `; `, control characters are left out, the end of a
/// long one is cut off.
pub(crate) fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join("; ");
    let mut shown: String = joined.chars().filter(|char| !char.is_control()).take(MAX_LINE_CHARS + 1).collect();
    if let Some((end, _)) = shown.char_indices().nth(MAX_LINE_CHARS) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// Writes how long something took: `0.3 s`, `8.2 s`, `3 min 20 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    if secs < 60 { format!("{:.1} s", duration.as_secs_f64()) } else { format!("{} min {} s", secs / 60, secs % 60) }
}

/// Writes a time as `2026-01-31 12:00:00 UTC`.
pub(crate) fn date(secs: u64) -> String {
    i64::try_from(secs)
        .ok()
        .and_then(|secs| Timestamp::from_second(secs).ok())
        .map_or_else(|| format!("second {secs}"), |timestamp| timestamp.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Writes the beginning of a checksum.
pub(crate) fn short(checksum: Checksum) -> String {
    let mut hex = checksum.to_hex();
    hex.truncate(SHORT_CHECKSUM_DIGITS);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (29_182, "29,182"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text, "a comma stands between thousands");
        }
    }

    #[test]
    fn sizes_have_three_digits_at_most() {
        for (size_bytes, text) in [
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (92_600_000, "92.6 MB"),
            (640_000_000, "640 MB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (1_500_000_000, "1.5 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(size_bytes), text, "{size_bytes} bytes");
        }
    }

    #[test]
    fn dates_are_in_utc() {
        assert_eq!(date(1_700_000_000), "2023-11-14 22:13:20 UTC", "seconds since 1970 become a date");
        assert_eq!(date(u64::MAX), format!("second {}", u64::MAX), "a time without a date stays a number");
    }
}
