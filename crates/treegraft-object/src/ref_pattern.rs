//! Patterns that say which refs are meant.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{InvalidName, RefName, limits};

/// A pattern of ref names: the beginning of a ref, in whole parts between `/`, with `*` for any characters of a part.
///
/// | pattern                 | covers                                                  | does not cover                          |
/// |-------------------------|---------------------------------------------------------|-----------------------------------------|
/// | `app/org.gnome.*`       | `app/org.gnome.Maps/x86_64/stable`                      | `app/org.gnomes/…`, `runtime/org.gnome.…` |
/// | `app/org.gnome.Maps`    | every arch and branch of it                             | `app/org.gnome.Maps2/…`                 |
/// | `app/*/x86_64/stable`   | every app's stable branch for that arch                 | `app/org.example.App/x86_64/beta`       |
/// | `os/testing`            | `os/testing`, and what is below it                      | `os`, `os/testing2`                     |
/// | `*`                     | every ref                                               |                                         |
///
/// `*` never stands for a `/`, so that a pattern cannot cover more parts than it shows; what is below the last part is
/// covered because a ref of Flatpak goes on with arch and branch. Upper and lower case differ.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefPattern(String);

impl RefPattern {
    /// Checks the grammar: that of a ref name, with `*` at any place in a part.
    pub fn new(pattern: impl Into<String>) -> Result<Self, InvalidName> {
        let pattern = pattern.into();
        match problem(&pattern) {
            None => Ok(Self(pattern)),
            Some(reason) => Err(InvalidName::new("ref pattern", &pattern, reason)),
        }
    }

    /// Tells whether the pattern covers a ref.
    pub fn covers(&self, name: &RefName) -> bool {
        self.covers_text(name.as_str())
    }

    /// Tells whether the pattern covers what others use as a ref, whatever its name.
    pub fn covers_text(&self, name: &str) -> bool {
        let mut parts = name.split('/');
        self.0.split('/').all(|pattern| parts.next().is_some_and(|part| fits(pattern.as_bytes(), part.as_bytes())))
    }

    /// Returns the pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn problem(pattern: &str) -> Option<&'static str> {
    if pattern.is_empty() {
        return Some("it is empty");
    }
    if pattern.len() > limits::MAX_REF_NAME_BYTES {
        return Some("it is longer than 1024 bytes");
    }
    if pattern.contains("**") {
        return Some(
            "`*` stands within one part, and what is below the last part is covered anyway: one `*` is enough",
        );
    }
    for part in pattern.split('/') {
        let Some(first) = part.chars().next() else {
            return Some("a part between `/` is empty");
        };
        if !(first.is_alphanumeric() || matches!(first, '_' | '*')) {
            return Some("a part begins with something else than a letter, a digit, `_` or `*`");
        }
        if !part.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | '*')) {
            return Some("it has a character that is no letter, digit, `-`, `.`, `_`, `*` or `/`");
        }
    }
    None
}

/// Matches one part. Only the last `*` is ever gone back to, so that the work is bounded by the product of the lengths.
fn fits(pattern: &[u8], part: &[u8]) -> bool {
    let (mut at, mut pattern_at, mut retry) = (0, 0, None);
    while at < part.len() {
        match pattern.get(pattern_at) {
            Some(b'*') => {
                pattern_at += 1;
                retry = Some((pattern_at, at));
            }
            Some(byte) if *byte == part[at] => {
                pattern_at += 1;
                at += 1;
            }
            _ => {
                let Some((behind_star, taken)) = retry else { return false };
                retry = Some((behind_star, taken + 1));
                (pattern_at, at) = (behind_star, taken + 1);
            }
        }
    }
    pattern[pattern_at..].iter().all(|&byte| byte == b'*')
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for RefPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for RefPattern {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<RefPattern> for String {
    fn from(pattern: RefPattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, name: &str) -> bool {
        let pattern = RefPattern::new(pattern).expect("a valid pattern");
        pattern.covers(&RefName::new(name).expect("a valid ref"))
    }

    #[test]
    fn a_pattern_is_the_beginning_of_a_ref_in_whole_parts() {
        let maps = "app/org.gnome.Maps/x86_64/stable";
        for pattern in [
            "*",
            "app",
            "app/*",
            "app/org.gnome.*",
            "app/org.gnome.Maps",
            "app/*.Maps",
            "app/org.gnome.Maps/x86_64",
            maps,
            "app/*/x86_64/stable",
            "*/*/*/*",
            "app/o*g.*n*me.*s",
            "*p/org*/x*4/s*e",
        ] {
            assert!(covers(pattern, maps), "`{pattern}` covers `{maps}`");
        }
        for pattern in [
            "runtime",
            "ap",
            "app/org.gnome",
            "app/org.gnome.M",
            "app/org.gnome.*2",
            "app/org.Gnome.*",
            "app/*/stable",
            "app/*/aarch64/stable",
            "app/*/x86_64/stable/*",
            "*/*/*/*/*",
            "org.gnome.*",
            "App",
        ] {
            assert!(!covers(pattern, maps), "`{pattern}` does not cover `{maps}`");
        }
    }

    #[test]
    fn a_neighbour_with_a_longer_name_is_not_covered() {
        assert!(covers("app/org.gnome.*", "app/org.gnome.Maps/x86_64/stable"), "the example of the documentation");
        assert!(!covers("app/org.gnome.*", "app/org.gnomes.Maps/x86_64/stable"), "the dot must be there");
        assert!(!covers("app/org.gnome.Maps", "app/org.gnome.Maps2/x86_64/stable"), "a part is whole");
        assert!(!covers("os/testing", "os"), "what is above is not covered");
        assert!(!covers("os/testing", "os/testing2"), "a part is whole");
        assert!(covers("os/testing", "os/testing/more"), "what is below is covered");
    }

    #[test]
    fn a_star_never_stands_for_a_slash() {
        assert!(!covers("app/*/stable", "app/org.example.App/x86_64/stable"), "the arch is a part of its own");
        assert!(!covers("os/*/stable", "os/x86_64/evil/stable"), "nobody gets in between");
    }

    #[test]
    fn matching_takes_no_time_that_grows_without_bound() {
        let pattern = format!("{}b", "*a".repeat(120));
        assert!(!covers(&pattern, &"a".repeat(255)), "many stars do not multiply");
        assert!(covers(&format!("{pattern}*"), &format!("{}b", "a".repeat(254))), "and find what is there");
    }

    #[test]
    fn patterns_have_a_grammar() {
        for bad in ["", "/", "app/", "/app", "app//x", "**", "app/**", "a b", ".a", "app/.*", "-a", "a?", "[ab]", "a\n"]
        {
            assert!(RefPattern::new(bad).is_err(), "`{bad}` is refused");
        }
        assert!(RefPattern::new("a".repeat(1025)).is_err(), "no ref is longer than 1024 bytes");
        let error = RefPattern::new("app/**").expect_err("it is refused").to_string();
        assert!(error.contains("`app/**` is not a valid ref pattern"), "the message names it: {error}");
    }
}
