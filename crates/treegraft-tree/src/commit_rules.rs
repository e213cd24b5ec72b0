//! What `ostree commit` changes about the files of a tree.

use std::collections::{BTreeMap, BTreeSet};

use treegraft_object::file_header::{S_IFDIR, S_IFMT, S_IFREG};

use crate::{Attributes, Rules};

/// The options of `ostree commit` that change owners and modes, or leave files out.
#[derive(Debug, Clone, Default)]
pub struct CommitRules {
    /// User id of everything.
    pub owner_uid: Option<u32>,
    /// Group id of everything.
    pub owner_gid: Option<u32>,
    /// Owned by root, writable to its owner alone, without set-user-id and the like.
    pub is_canonical: bool,
    /// Whether extended attributes are committed; with `is_canonical` they never are.
    pub keeps_xattrs: bool,
    /// Modes of some paths.
    pub modes: BTreeMap<String, ModeRule>,
    /// Paths that are left out.
    pub skipped: BTreeSet<String>,
    matched: BTreeSet<String>,
    /// The first path for which a rule asks for what is not done.
    refused: Option<String>,
}

/// What becomes of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeRule {
    /// These bits are added.
    Add(u32),
    /// These bits are all that it has, but for the kind of the file.
    Set(u32),
}

/// A rule cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A line is no rule.
    #[error("Line {line} is not valid: {reason}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The tree has no such path.
    #[error("Nothing in the tree has the path `{path}`")]
    Unmatched {
        /// The path.
        path: String,
    },
    /// Bits are added to the mode of a directory below the root.
    #[error(
        "The mode of the directory `{path}` cannot be added to, which `ostree commit` ignores; set it as a whole with `=`"
    )]
    Directory {
        /// The path.
        path: String,
    },
}

impl CommitRules {
    /// Reads lines like `2048 /path` (bits that are added) and `=2541 /path` (the whole mode), with decimal numbers, as the
    /// file of `ostree commit --statoverride` has them. Empty lines do not count.
    pub fn read_modes(&mut self, text: &str) -> Result<(), RuleError> {
        for (index, line) in text.split('\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let fail = |reason| RuleError::Line { line: index + 1, reason };
            let (mode, path) = line.split_once(' ').ok_or_else(|| fail("there is no blank before the path"))?;
            let (is_whole, digits) = match mode.strip_prefix('=') {
                Some(digits) => (true, digits),
                None => (false, mode.strip_prefix('+').unwrap_or(mode)),
            };
            let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
            let mode = digits.parse::<u32>().ok().filter(|mode| is_number && mode & !0o7777 == 0);
            let mode = mode.ok_or_else(|| fail("the mode is no decimal number up to 4095"))?;
            let rule = if is_whole { ModeRule::Set(mode) } else { ModeRule::Add(mode) };
            if self.modes.insert(path.to_owned(), rule).is_some() {
                return Err(fail("there is a line for this path before"));
            }
        }
        Ok(())
    }

    /// Reads a path in each line, as the file of `ostree commit --skip-list` has them. Empty lines do not count.
    pub fn read_skipped(&mut self, text: &str) {
        self.skipped.extend(text.split('\n').filter(|line| !line.is_empty()).map(str::to_owned));
    }

    /// Fails when a rule had nothing to act on.
    pub fn check(&self) -> Result<(), RuleError> {
        if let Some(path) = &self.refused {
            return Err(RuleError::Directory { path: path.clone() });
        }
        match self.modes.keys().chain(&self.skipped).find(|&path| !self.matched.contains(path)) {
            Some(path) => Err(RuleError::Unmatched { path: path.clone() }),
            None => Ok(()),
        }
    }
}

impl Rules for CommitRules {
    fn apply(&mut self, path: &str, found: Attributes) -> Option<Attributes> {
        let Attributes { uid, gid, mut mode } = found;
        let kind = mode & S_IFMT;
        let rule = self.modes.get(path).copied();
        let is_skipped = self.skipped.contains(path);
        if rule.is_some() || is_skipped {
            self.matched.insert(path.to_owned());
        }
        if is_skipped {
            return None;
        }
        match rule {
            Some(ModeRule::Add(_)) if kind == S_IFDIR && path != "/" => {
                self.refused.get_or_insert_with(|| path.to_owned());
            }
            Some(ModeRule::Add(bits)) => mode |= bits,
            Some(ModeRule::Set(bits)) => mode = kind | bits,
            None => {}
        }
        if self.is_canonical {
            let mask = if kind == S_IFREG || kind == S_IFDIR { S_IFMT | 0o755 } else { u32::MAX };
            return Some(Attributes { uid: 0, gid: 0, mode: mode & mask });
        }
        Some(Attributes { uid: self.owner_uid.unwrap_or(uid), gid: self.owner_gid.unwrap_or(gid), mode })
    }

    fn keeps_xattrs(&self) -> bool {
        self.keeps_xattrs && !self.is_canonical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rules() {
        let mut rules = CommitRules::default();
        rules.read_modes("2048 /a b\n\n=493 /c\n+64 /d\n").expect("each line is a rule");
        let expected = [("/a b", ModeRule::Add(2048)), ("/c", ModeRule::Set(493)), ("/d", ModeRule::Add(64))];
        assert_eq!(rules.modes, expected.map(|(path, rule)| (path.to_owned(), rule)).into());
        for (text, line) in [
            ("2048", 1),
            ("\nx /a", 2),
            ("=4096 /a", 1),
            ("-1 /a", 1),
            ("0x10 /a", 1),
            ("=+5 /a", 1),
            ("1 /x\n=2 /x", 2),
        ] {
            let error = rules.read_modes(text).expect_err(text);
            assert!(matches!(error, RuleError::Line { line: found, .. } if found == line), "`{text}`: {error}");
        }
    }

    #[test]
    fn rules_that_nothing_fits_are_told() {
        let attributes = |mode| Attributes { uid: 1, gid: 2, mode };
        let mut rules = CommitRules::default();
        rules.read_modes("2048 /file\n=448 /dir").expect("each line is a rule");
        rules.read_skipped("/gone\n");
        assert_eq!(rules.check(), Err(RuleError::Unmatched { path: "/dir".to_owned() }));
        assert_eq!(rules.apply("/dir", attributes(0o40_755)), Some(attributes(0o40_700)));
        assert_eq!(rules.apply("/file", attributes(0o100_644)), Some(attributes(0o104_644)));
        assert_eq!(rules.apply("/gone", attributes(0o100_644)), None);
        assert_eq!(rules.check(), Ok(()), "all had something to act on");
        rules.read_modes("1 /sub").expect("it is a rule");
        assert_eq!(rules.apply("/sub", attributes(0o40_755)), Some(attributes(0o40_755)));
        assert_eq!(rules.check(), Err(RuleError::Directory { path: "/sub".to_owned() }));
    }
}
