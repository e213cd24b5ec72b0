//! Lanes: further connections of one push.
//!
//! A channel of OpenSSH carries at most its window, 2 MiB, in a round trip. So a push over a long link sends its objects over
//! several channels of one ssh connection. Each lane begins, behind the banner, with a line instead of HTTP/2's preface:
//!
//! ```text
//! treegraft-lane 1 SECRET
//! ```
//!
//! What follows goes to the receiver that has made the secret, which serves it as a further connection of its own client.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The feature of a client that can open lanes.
pub const LANES: &str = "lanes";

/// What a lane's line begins with. It has fewer bytes than HTTP/2's preface, `PRI * HTTP/2.0…`, and differs from its first
/// byte on.
const LINE_BEGIN: &str = "treegraft-lane 1 ";

/// Length of a lane's line in bytes, its end included.
pub const LINE_BYTES: usize = LINE_BEGIN.len() + SECRET_DIGITS + 1;

/// Digits of either half of a secret: 128 bits.
const HALF_DIGITS: usize = 32;

const SECRET_DIGITS: usize = 2 * HALF_DIGITS;

/// What leads to an open push: the address of its receiver, which other users of the server may see, and a key, which they
/// may not.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LaneSecret(String);

/// The text is no secret of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret of a lane has {SECRET_DIGITS} hexadecimal digits")]
pub struct LaneSecretError;

impl LaneSecret {
    /// Makes a secret of 64 hexadecimal digits in lower case.
    pub fn new(digits: String) -> Result<Self, LaneSecretError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() == SECRET_DIGITS && digits.bytes().all(is_digit) {
            Ok(Self(digits))
        } else {
            Err(LaneSecretError)
        }
    }

    /// Returns the half that is the receiver's address.
    pub fn address(&self) -> &str {
        &self.0[..HALF_DIGITS]
    }

    /// Returns the half that the receiver alone knows, and whom it has told.
    pub fn key(&self) -> &str {
        &self.0[HALF_DIGITS..]
    }

    /// Returns the line by which a lane begins.
    pub fn line(&self) -> String {
        format!("{LINE_BEGIN}{}\n", self.0)
    }

    /// Reads the line by which a lane begins.
    pub fn of_line(line: &[u8]) -> Result<Self, LaneSecretError> {
        let line = std::str::from_utf8(line).map_err(|_| LaneSecretError)?;
        let digits = line.strip_prefix(LINE_BEGIN).and_then(|rest| rest.strip_suffix('\n')).ok_or(LaneSecretError)?;
        Self::new(digits.to_owned())
    }
}

/// Tells whether a connection that begins with these bytes may be a lane.
pub fn may_be_lane(begin: &[u8]) -> bool {
    let length = begin.len().min(LINE_BEGIN.len());
    begin[..length] == LINE_BEGIN.as_bytes()[..length]
}

impl TryFrom<String> for LaneSecret {
    type Error = LaneSecretError;

    fn try_from(digits: String) -> Result<Self, LaneSecretError> {
        Self::new(digits)
    }
}

impl From<LaneSecret> for String {
    fn from(secret: LaneSecret) -> Self {
        secret.0
    }
}

impl fmt::Debug for LaneSecret {
    /// Leaves out the key: what is printed for debugging may be kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaneSecret").field(&self.address()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> LaneSecret {
        LaneSecret::new("0123456789abcdef".repeat(4)).expect("it is one")
    }

    #[test]
    fn a_line_is_read_as_it_is_written_and_no_other() {
        let line = secret().line();
        assert_eq!(line.len(), LINE_BYTES, "all lines have one length");
        assert_eq!(LaneSecret::of_line(line.as_bytes()), Ok(secret()));
        for at in 0..line.len() {
            assert!(LaneSecret::of_line(&line.as_bytes()[..at]).is_err(), "it is cut at {at}");
            let mut other = line.clone().into_bytes();
            other[at] = b'X';
            assert!(LaneSecret::of_line(&other).is_err(), "the byte {at} is another one");
        }
    }

    #[test]
    fn http2_is_no_lane() {
        assert!(may_be_lane(secret().line().as_bytes()));
        assert!(may_be_lane(b"treeg"), "more may come");
        assert!(!may_be_lane(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    }

    #[test]
    fn the_key_is_not_printed() {
        let secret = LaneSecret::new(format!("{}{}", "0".repeat(32), "1".repeat(32))).expect("it is one");
        assert!(!format!("{secret:?}").contains('1'), "{secret:?}");
    }
}
