//! The listing of `gpg --list-secret-keys --with-colons` (GnuPG's doc/DETAILS).

use super::{KeyProblem, SecretKeyInfo};

// Places of the fields in a record, counted from 0.
const VALIDITY: usize = 1;
const TEXT: usize = 9;
const CAPABILITIES: usize = 11;
const TOKEN: usize = 14;

/// Says what a listing leaves to sign with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    None,
    One(SecretKeyInfo),
    Unusable(KeyProblem),
    Many(Vec<String>),
}

/// Holds one primary key of the listing with the best of its parts.
#[derive(Default)]
struct Key {
    fingerprint: String,
    user_id: Option<String>,
    /// What keeps the whole key from signing, whatever its subkeys are.
    whole: Option<KeyProblem>,
    /// What keeps each part (primary key and subkeys) from signing.
    parts: Vec<Option<KeyProblem>>,
}

impl Key {
    fn problem(&self) -> Option<KeyProblem> {
        if self.whole.is_some() {
            return self.whole;
        }
        if self.parts.contains(&None) {
            return None;
        }
        // A part that is for signing says more than one that never was.
        let telling = self.parts.iter().flatten().find(|problem| **problem != KeyProblem::NotForSigning);
        Some(telling.copied().unwrap_or(KeyProblem::NotForSigning))
    }
}

/// Chooses the key that signs; keys that cannot sign count only when there is no other.
pub(super) fn choose(listing: &str) -> Choice {
    let keys = parse(listing);
    let mut usable = keys.iter().filter(|key| key.problem().is_none());
    match (usable.next(), usable.next()) {
        (Some(key), None) => {
            Choice::One(SecretKeyInfo { fingerprint: key.fingerprint.clone(), user_id: key.user_id.clone() })
        }
        (Some(_), Some(_)) => {
            Choice::Many(keys.iter().filter(|key| key.problem().is_none()).map(|key| key.fingerprint.clone()).collect())
        }
        (None, _) => keys.first().and_then(Key::problem).map_or(Choice::None, Choice::Unusable),
    }
}

fn parse(listing: &str) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for line in listing.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let field = |place: usize| fields.get(place).copied().unwrap_or_default();
        let record = field(0);
        if record == "sec" {
            keys.push(Key { whole: validity_problem(field(VALIDITY)), ..Key::default() });
        }
        let Some(key) = keys.last_mut() else { continue };
        match record {
            "sec" | "ssb" => {
                key.parts.push(part_problem(field(VALIDITY), field(CAPABILITIES), field(TOKEN)));
            }
            "fpr" if key.fingerprint.is_empty() => field(TEXT).clone_into(&mut key.fingerprint),
            "uid" if key.user_id.is_none() => key.user_id = Some(field(TEXT).to_owned()),
            _ => {}
        }
    }
    keys
}

fn validity_problem(validity: &str) -> Option<KeyProblem> {
    match validity {
        "e" => Some(KeyProblem::Expired),
        "r" => Some(KeyProblem::Revoked),
        "i" | "d" => Some(KeyProblem::Unspecified),
        _ => None,
    }
}

fn part_problem(validity: &str, capabilities: &str, token: &str) -> Option<KeyProblem> {
    // Lower case is what this part can do, upper case what the whole key can; `D` is a disabled key.
    if !capabilities.contains('s') {
        return Some(KeyProblem::NotForSigning);
    }
    if capabilities.contains('D') {
        return Some(KeyProblem::Unspecified);
    }
    validity_problem(validity).or((token == "#").then_some(KeyProblem::SecretPartMissing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, validity: &str, fingerprint: &str, capabilities: &str, token: &str) -> String {
        format!(
            "{kind}:{validity}:255:22:KEYID:1:::u:::{capabilities}:::{token}::ed25519:::0:\nfpr:::::::::{fingerprint}:\n"
        )
    }

    fn one(fingerprint: &str) -> Choice {
        Choice::One(SecretKeyInfo { fingerprint: fingerprint.to_owned(), user_id: None })
    }

    #[test]
    fn an_offline_primary_key_with_a_signing_subkey_can_sign() {
        let listing = record("sec", "u", "AA", "cESC", "#") + &record("ssb", "u", "BB", "s", "+");
        assert_eq!(choose(&listing), one("AA"), "the subkey signs; the key is known by its primary fingerprint");
    }

    #[test]
    fn a_key_on_a_smartcard_can_sign() {
        let listing = record("sec", "u", "AA", "scSC", "D2760001240103040006");
        assert_eq!(choose(&listing), one("AA"), "a serial number in place of `+` is a card, not a missing secret");
    }

    #[test]
    fn the_reason_that_keeps_a_key_from_signing_is_told() {
        for (listing, problem) in [
            (record("sec", "u", "AA", "scSC", "#"), KeyProblem::SecretPartMissing),
            (record("sec", "e", "AA", "sc", "+"), KeyProblem::Expired),
            (record("sec", "r", "AA", "sc", "+"), KeyProblem::Revoked),
            (record("sec", "u", "AA", "ecEC", "+"), KeyProblem::NotForSigning),
            (record("sec", "u", "AA", "scSCD", "+"), KeyProblem::Unspecified),
            (record("sec", "u", "AA", "cC", "+") + &record("ssb", "e", "BB", "s", "+"), KeyProblem::Expired),
            (record("sec", "e", "AA", "c", "+") + &record("ssb", "u", "BB", "s", "+"), KeyProblem::Expired),
        ] {
            assert_eq!(choose(&listing), Choice::Unusable(problem), "of `{listing}`");
        }
    }

    #[test]
    fn two_keys_that_can_sign_are_both_named() {
        let listing = record("sec", "u", "AA", "scSC", "+") + &record("sec", "u", "BB", "scSC", "+");
        assert_eq!(choose(&listing), Choice::Many(vec!["AA".to_owned(), "BB".to_owned()]), "gpg would take the first");
    }

    #[test]
    fn a_key_that_cannot_sign_does_not_make_another_ambiguous() {
        let listing = record("sec", "e", "AA", "sc", "+") + &record("sec", "u", "BB", "scSC", "+");
        assert_eq!(choose(&listing), one("BB"), "the expired predecessor is passed over");
    }

    #[test]
    fn an_empty_or_foreign_listing_has_no_key() {
        for listing in ["", "\n", "tru::1:::\nfpr:::::::::AA:\n", "sec"] {
            let choice = choose(listing);
            assert!(!matches!(choice, Choice::One(_) | Choice::Many(_)), "`{listing}` gives no key: {choice:?}");
        }
    }
}
