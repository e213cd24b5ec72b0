//! Signatures by the keys of a keyring, looked at by `gpgv`.
//!
//! `gpgv` knows nothing but the keyrings that it is given: no home directory, no trust database, no agent, no network. It
//! tells what it found in status lines, which are translated nowhere. Its exit status is not enough: it is 0 for the
//! signature of a key that has expired.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use super::packets::has_only_signatures;
use super::program::{self, RunError};
use super::{DEFAULT_TIMEOUT, GpgError, MAX_SIGNATURE_BYTES};
use crate::key::GPG_SIGNATURES;
use crate::trusted::{BadSignature, SignedData, TrustedKeys};

const KIND: &str = "OpenPGP";

/// A home directory that does not exist, so that nothing in it is looked at.
const NO_HOMEDIR: &str = "/nonexistent";

/// Limits the status lines of one run: some ten lines for each signature in the packet.
const MAX_STATUS_BYTES: usize = 256 * 1024;

/// Marks a status line.
const STATUS_PREFIX: &str = "[GNUPG:] ";

/// The class of a signature over bytes as they are (RFC 9580, 5.2.1); 01 is one over text.
const BINARY_CLASS: &str = "00";

/// How an armored file begins, which `gpgv` does not read.
const ARMOR: &[u8] = b"-----BEGIN PGP";

/// How much of a keyring is looked at: an armored file may have some lines of comments first.
const BEGINNING_BYTES: u64 = 4096;

/// Trusts the OpenPGP keys in some keyrings.
#[derive(Debug, Clone)]
pub struct GpgKeyrings {
    program: PathBuf,
    keyrings: Vec<PathBuf>,
}

/// Says why a keyring cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// Reports a file that cannot be read.
    #[error("Could not read the keyring `{}`", path.display())]
    Read {
        /// The keyring.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Reports a keyring in the text form, which `gpgv` does not take.
    #[error("Could not use the keyring `{0}`: it is armored; make a binary one with `gpg --dearmor <{0} >KEYRING`", path.display())]
    Armored {
        /// The keyring.
        path: PathBuf,
    },
    /// Reports a file that is no keyring.
    #[error("Could not use the keyring `{}`: it is none, as `gpg --export` makes them", path.display())]
    NotAKeyring {
        /// The keyring.
        path: PathBuf,
    },
}

impl GpgKeyrings {
    /// Takes keyrings as `gpg --export` writes them. Each must exist and look like one.
    pub fn new(keyrings: &[PathBuf]) -> Result<Self, KeyringError> {
        let mut absolute = Vec::new();
        for path in keyrings {
            let fail = |source| KeyringError::Read { path: path.clone(), source };
            let mut beginning = Vec::new();
            let file = File::open(path).map_err(fail)?;
            file.take(BEGINNING_BYTES).read_to_end(&mut beginning).map_err(fail)?;
            if beginning.windows(ARMOR.len()).any(|window| window == ARMOR) {
                return Err(KeyringError::Armored { path: path.clone() });
            }
            if !is_keyring(&beginning) {
                return Err(KeyringError::NotAKeyring { path: path.clone() });
            }
            // A name without a slash would be looked for in the home directory.
            absolute.push(std::path::absolute(path).map_err(fail)?);
        }
        Ok(Self { program: PathBuf::from("gpgv"), keyrings: absolute })
    }

    /// Runs another program instead of `gpgv`; a name without a slash is looked for in the search path.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    fn status_lines(&self, file: &Path, signature: &[u8]) -> Result<String, GpgError> {
        let mut command = Command::new(&self.program);
        command.args(["--homedir", NO_HOMEDIR, "--status-fd", "1"]);
        for keyring in &self.keyrings {
            command.arg("--keyring").arg(keyring);
        }
        command.arg("--").arg("-").arg(file);
        let program = self.program.clone();
        let finished = program::run(command, Some(signature), MAX_STATUS_BYTES, DEFAULT_TIMEOUT);
        let finished = finished.map_err(|error| match error {
            RunError::NotFound => GpgError::ProgramNotFound { program },
            RunError::Start(source) => GpgError::Start { program, source },
            RunError::Pipe(source) => GpgError::Pipe { program, source },
            RunError::TimedOut => GpgError::TimedOut { program, timeout: DEFAULT_TIMEOUT },
            RunError::OutputTooLarge => GpgError::OutputTooLarge { program, limit_bytes: MAX_STATUS_BYTES },
        })?;
        let text = String::from_utf8_lossy(&finished.output).into_owned();
        // Without a word about any signature it has not looked at one.
        if text.lines().any(|line| line.strip_prefix(STATUS_PREFIX).is_some_and(|status| status.starts_with("NEWSIG")))
        {
            return Ok(text);
        }
        let (status, stderr) = (finished.status, finished.messages.text);
        Err(GpgError::Failed { program: self.program.clone(), status, stderr })
    }
}

impl TrustedKeys for GpgKeyrings {
    fn metadata_key(&self) -> &'static str {
        GPG_SIGNATURES
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn verify(&self, signed: SignedData<'_>, signature: &[u8]) -> Result<String, BadSignature> {
        // A message that has been signed as a whole would bring its own data.
        if signature.len() > MAX_SIGNATURE_BYTES || !has_only_signatures(signature) {
            return Err(BadSignature::NotASignature { kind: KIND });
        }
        judge(&self.status_lines(signed.file, signature).map_err(BadSignature::Program)?)
    }
}

/// Tells whether the bytes begin like a keyring: a public key packet, or the header of a keybox.
fn is_keyring(beginning: &[u8]) -> bool {
    // The tag 6 in the old form of the header, with a length of one, two or four bytes, and in the new form.
    let is_public_key = matches!(beginning.first(), Some(0x98..=0x9a | 0xc6));
    is_public_key || beginning.get(8..12) == Some(b"KBXf")
}

/// Reads what `gpgv` says about each signature of a packet: one good one is enough.
fn judge(status: &str) -> Result<String, BadSignature> {
    let mut reason = None;
    let lines: Vec<&str> = status.lines().filter_map(|line| line.strip_prefix(STATUS_PREFIX)).collect();
    for block in lines.split(|line| line.starts_with("NEWSIG")) {
        match judge_one(block) {
            Some(Ok(key)) => return Ok(key),
            Some(Err(bad)) => reason = reason.or(Some(bad)),
            None => {}
        }
    }
    Err(reason.unwrap_or(BadSignature::Mismatch))
}

/// Reads the status lines of one signature (GnuPG's doc/DETAILS); nothing when there is no verdict among them.
fn judge_one(block: &[&str]) -> Option<Result<String, BadSignature>> {
    let of = |word: &str| {
        block.iter().find_map(|line| {
            let mut words = line.split(' ');
            (words.next() == Some(word)).then(|| words.collect::<Vec<_>>())
        })
    };
    let key = |words: Vec<&str>| words.first().copied().unwrap_or_default().to_owned();
    if let Some(words) = of("BADSIG") {
        drop(words);
        return Some(Err(BadSignature::Mismatch));
    }
    if let Some(words) = of("NO_PUBKEY") {
        return Some(Err(BadSignature::UnknownKey { key: key(words) }));
    }
    if let Some(words) = of("REVKEYSIG") {
        return Some(Err(BadSignature::RevokedKey { key: key(words) }));
    }
    if let Some(words) = of("EXPKEYSIG") {
        return Some(Err(BadSignature::ExpiredKey { key: key(words) }));
    }
    if let Some(words) = of("EXPSIG") {
        return Some(Err(BadSignature::Expired { key: key(words) }));
    }
    if of("ERRSIG").is_some() {
        return Some(Err(BadSignature::NotASignature { kind: KIND }));
    }
    // VALIDSIG <fingerprint> <date> <time> <expires> <version> <reserved> <algorithm> <hash> <class> <primary fingerprint>
    let (good, valid) = (of("GOODSIG"), of("VALIDSIG"));
    let (Some(_), Some(valid)) = (good, valid) else { return None };
    let fingerprint = valid.get(9).or(valid.first()).copied().unwrap_or_default().to_owned();
    if valid.get(8) != Some(&BINARY_CLASS) {
        return Some(Err(BadSignature::TextMode { key: fingerprint }));
    }
    Some(Ok(fingerprint))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "[GNUPG:] VALIDSIG AAAA 2026-11-25 1795573430 0 4 0 22 8 00 BBBB";

    fn judged(lines: &[&str]) -> String {
        match judge(&lines.join("\n")) {
            Ok(key) => key,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn only_a_good_and_valid_signature_counts() {
        let good = "[GNUPG:] GOODSIG CCCC Some One <one@example.org>";
        assert_eq!(judged(&["[GNUPG:] NEWSIG", good, VALID]), "BBBB", "the primary key is told");
        for (line, told) in [
            ("[GNUPG:] EXPKEYSIG CCCC Some One", "the key CCCC has expired"),
            ("[GNUPG:] EXPSIG CCCC Some One", "the signature of the key CCCC has expired"),
            ("[GNUPG:] REVKEYSIG CCCC Some One", "the key CCCC is revoked"),
            ("[GNUPG:] BADSIG CCCC Some One", "it does not belong to this commit"),
            ("[GNUPG:] NO_PUBKEY CCCC", "the key CCCC is not trusted"),
            ("[GNUPG:] ERRSIG CCCC 1 8 00 1795573430 4 -", "it is no OpenPGP signature"),
        ] {
            assert_eq!(judged(&["[GNUPG:] NEWSIG", line, VALID]), told, "`{line}` is no good signature");
            assert_eq!(judged(&["[GNUPG:] NEWSIG", good, line, VALID]), told, "nor is it beside a good word");
        }
        let text = VALID.replace(" 00 ", " 01 ");
        assert!(judged(&["[GNUPG:] NEWSIG", good, &text]).contains("has signed a text"), "line ends must count");
        for lines in
            [&["[GNUPG:] NEWSIG", good][..], &["[GNUPG:] NEWSIG", VALID], &[], &["GOODSIG CCCC", "VALIDSIG AAAA"]]
        {
            assert_eq!(judged(lines), "it does not belong to this commit", "half a word is none: {lines:?}");
        }
    }

    #[test]
    fn one_signature_says_nothing_about_another() {
        let good = "[GNUPG:] GOODSIG CCCC Some One";
        let mixed = ["[GNUPG:] NEWSIG", good, "[GNUPG:] NEWSIG", VALID];
        assert_eq!(judged(&mixed), "it does not belong to this commit", "the lines belong to two signatures");
        let second = ["[GNUPG:] NEWSIG", "[GNUPG:] NO_PUBKEY DDDD", "[GNUPG:] NEWSIG", good, VALID];
        assert_eq!(judged(&second), "BBBB", "one good signature is enough");
    }
}
