//! gpg's standard error: its messages, and between them the status lines that programs read (GnuPG's doc/DETAILS).

/// Marks a status line.
const STATUS_PREFIX: &str = "[GNUPG:] ";

/// Error codes of libgpg-error that have a variant of their own here; a status line gives `source << 24 | code`.
mod code {
    pub(super) const NO_PUBLIC_KEY: u32 = 9;
    pub(super) const BAD_PASSPHRASE: u32 = 11;
    pub(super) const NO_SECRET_KEY: u32 = 17;
    pub(super) const INVALID_USER_ID: u32 = 37;
    pub(super) const UNUSABLE_SECRET_KEY: u32 = 54;
    pub(super) const NO_PIN_ENTRY: u32 = 85;
    pub(super) const BAD_PIN: u32 = 87;
    pub(super) const CANCELED: u32 = 99;
    pub(super) const FULLY_CANCELED: u32 = 198;

    /// Selects the code without the part of gpg that it came from.
    pub(super) const MASK: u32 = 0xffff;
}

/// Names a failure that gpg's status lines identify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    NoSuchKey,
    Unusable,
    Locked,
}

/// Holds what gpg wrote to standard error, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Messages {
    /// The failure, where a status line names one that is known here.
    pub(super) failure: Option<Failure>,
    /// The messages without the status lines.
    pub(super) text: String,
}

impl Messages {
    pub(super) fn parse(stderr: &[u8]) -> Self {
        let stderr = String::from_utf8_lossy(stderr);
        let mut failure = None;
        let mut lines = Vec::new();
        for line in stderr.lines() {
            match line.strip_prefix(STATUS_PREFIX) {
                Some(status) => failure = failure_of(status).or(failure),
                None => lines.push(line),
            }
        }
        Self { failure, text: lines.join("\n").trim().to_owned() }
    }
}

/// Reads `FAILURE <operation> <code>` and `ERROR <place> <code>`.
fn failure_of(status: &str) -> Option<Failure> {
    let mut words = status.split_ascii_whitespace();
    if !matches!(words.next(), Some("FAILURE" | "ERROR")) {
        return None;
    }
    let number: u32 = words.nth(1)?.parse().ok()?;
    match number & code::MASK {
        code::NO_PUBLIC_KEY | code::NO_SECRET_KEY | code::INVALID_USER_ID => Some(Failure::NoSuchKey),
        code::UNUSABLE_SECRET_KEY => Some(Failure::Unusable),
        code::BAD_PASSPHRASE | code::NO_PIN_ENTRY | code::BAD_PIN | code::CANCELED | code::FULLY_CANCELED => {
            Some(Failure::Locked)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_taken_out_of_the_messages() {
        let messages = Messages::parse(
            b"gpg: skipped \"x\": No secret key\n[GNUPG:] INV_SGNR 9 x\n[GNUPG:] FAILURE sign 17\ngpg: signing failed\n",
        );
        assert_eq!(messages.failure, Some(Failure::NoSuchKey), "code 17 means that there is no such secret key");
        assert_eq!(
            messages.text, "gpg: skipped \"x\": No secret key\ngpg: signing failed",
            "the messages stay, in their order"
        );
    }

    #[test]
    fn the_source_of_a_code_does_not_matter() {
        let messages = Messages::parse(b"[GNUPG:] FAILURE sign 67108949\n");
        assert_eq!(messages.failure, Some(Failure::Locked), "4 << 24 | 85 is the agent's lack of a pinentry");
    }

    #[test]
    fn an_unknown_or_broken_status_line_names_no_failure() {
        for line in ["[GNUPG:] FAILURE sign 1", "[GNUPG:] FAILURE", "[GNUPG:] ERROR x y", "[GNUPG:] ", "\u{fffd}"] {
            assert_eq!(Messages::parse(line.as_bytes()).failure, None, "`{line}` identifies nothing");
        }
    }
}
