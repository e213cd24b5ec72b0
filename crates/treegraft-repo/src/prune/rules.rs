//! Which commits are kept: how far back from each ref.

use std::{fmt, io, num::ParseIntError, os::fd::AsFd, str::FromStr};

use treegraft_object::{CommitId, summary::Summary};

use super::PruneError;
use crate::{
    RefTarget, Repo,
    durable::open_dir,
    journal::{self, Journal},
    private_dir, summary,
};

/// How many parents of a ref's commit are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// This many: none is the ref's commit alone.
    Parents(u32),
    /// The whole history.
    All,
}

/// A depth is neither a number nor `all`.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is neither a number of parents nor `all`")]
pub struct ParseDepthError {
    /// What was there instead.
    pub text: String,
    /// Why it is no number.
    #[source]
    pub source: ParseIntError,
}

/// Reads `all`, `-1` (libostree's word for it), or a number.
impl FromStr for Depth {
    type Err = ParseDepthError;

    fn from_str(text: &str) -> Result<Self, ParseDepthError> {
        match text {
            "all" | "-1" => Ok(Self::All),
            _ => text.parse().map(Self::Parents).map_err(|source| ParseDepthError { text: text.to_owned(), source }),
        }
    }
}

/// A pattern for names of refs, in which `*` stands for any characters, `/` included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPattern(String);

impl RefPattern {
    /// Makes a pattern. Every text is one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Tells whether the whole name fits.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        // The leftmost place for each part leaves the most for those behind it.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which commits are kept. A ref's own commit always is.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The depth for refs that no pattern fits.
    pub depth: Depth,
    /// For these refs a commit stays as well when it, and all from the ref down to it, are not older than this. In seconds
    /// since 1970 UTC.
    pub younger_than_secs: Option<u64>,
    /// Other depths for some refs; the first pattern that fits counts, and `younger_than_secs` does not hold for its refs. A
    /// ref of a remote is `REMOTE:NAME`, a mirrored one `COLLECTION:NAME`.
    pub patterns: Vec<(RefPattern, Depth)>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { depth: Depth::All, younger_than_secs: None, patterns: Vec::new() }
    }
}

/// How far back from one commit commits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) depth: Depth,
    pub(super) younger_than_secs: Option<u64>,
}

impl Rule {
    /// The commit alone.
    pub(super) const ITSELF: Self = Self { depth: Depth::Parents(0), younger_than_secs: None };
}

impl Rules {
    fn of(&self, name: &str) -> Rule {
        match self.patterns.iter().find(|(pattern, _)| pattern.matches(name)) {
            Some(&(_, depth)) => Rule { depth, younger_than_secs: None },
            None => Rule { depth: self.depth, younger_than_secs: self.younger_than_secs },
        }
    }
}

/// A commit that something names, and what is kept behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    pub(super) commit: CommitId,
    pub(super) rule: Rule,
}

/// Returns all that names a commit now: refs of every kind, a publish that was cut off, and the summary that clients read.
pub(super) fn roots(repo: &Repo, rules: &Rules) -> Result<Vec<Root>, PruneError> {
    let mut roots = refs_below(repo, rules, "refs/heads", "")?;
    for group in ["refs/remotes", "refs/mirrors"] {
        for directory in repo.subdirectories(group)? {
            roots.extend(refs_below(repo, rules, &format!("{group}/{directory}"), &format!("{directory}:"))?);
        }
    }
    roots.extend(journaled(repo, rules)?);
    roots.extend(summarized(repo)?);
    Ok(roots)
}

fn refs_below(repo: &Repo, rules: &Rules, directory: &str, prefix: &str) -> Result<Vec<Root>, PruneError> {
    let mut roots = Vec::new();
    for found in repo.list_refs(directory)? {
        roots.push(Root { commit: found.commit?, rule: rules.of(&format!("{prefix}{}", found.target)) });
    }
    for (name, commit) in repo.list_unnamed_refs(directory)? {
        roots.push(Root { commit, rule: rules.of(&format!("{prefix}{name}")) });
    }
    Ok(roots)
}

/// A publish that was cut off will be finished or undone: either way its refs point to one of these.
fn journaled(repo: &Repo, rules: &Rules) -> Result<Vec<Root>, PruneError> {
    let path = private_dir::path(repo).join(journal::NAME);
    let found = match open_dir(repo.dir(), private_dir::NAME) {
        Ok(private) => journal::read(private.as_fd()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let edits = match found.map_err(|source| PruneError::Io { path: path.clone(), source })? {
        None | Some(Journal::Torn) => return Ok(Vec::new()),
        Some(Journal::OtherVersion(version)) => return Err(PruneError::JournalVersion { path, version }),
        Some(Journal::Edits(edits)) => edits,
    };
    let mut roots = Vec::new();
    for edit in edits {
        let rule = match &edit.target {
            RefTarget::Mirror(collection, name) if repo.collection_id() != Some(collection) => {
                rules.of(&format!("{collection}:{name}"))
            }
            target => rules.of(target.name().as_str()),
        };
        roots.extend(edit.expected.into_iter().chain([edit.new]).map(|commit| Root { commit, rule }));
    }
    Ok(roots)
}

/// Clients fetch what the summary names, also while it is older than the refs.
fn summarized(repo: &Repo) -> Result<Vec<Root>, PruneError> {
    let Some(data) = summary::read_unsigned(repo)? else { return Ok(Vec::new()) };
    // What cannot be decoded leads no client anywhere.
    let Ok(summary) = Summary::decode(&data) else { return Ok(Vec::new()) };
    let others = summary.collections().unwrap_or_default();
    let refs = summary.refs.iter().chain(others.iter().flat_map(|(_, refs)| refs));
    Ok(refs.map(|entry| Root { commit: entry.commit, rule: Rule::ITSELF }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name, is_match) in [
            ("main", "main", true),
            ("main", "main2", false),
            ("main", "a/main", false),
            ("app/*", "app/org.example.App/x86_64/stable", true),
            ("app/*", "runtime/org.example.App/x86_64/stable", false),
            ("app/*/stable", "app/org.example.App/x86_64/stable", true),
            ("app/*/stable", "app/org.example.App/x86_64/stable2", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*ab*", "ab", false),
            ("*ab*ab*", "xabyabz", true),
            ("*a*ab", "aab", true),
            ("*/x86_64/*", "app/org.example.App/x86_64/stable", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(RefPattern::new(pattern).matches(name), is_match, "`{pattern}` and `{name}`");
        }
    }

    #[test]
    fn the_first_pattern_counts() {
        let rules = Rules {
            depth: Depth::Parents(1),
            younger_than_secs: Some(7),
            patterns: vec![
                (RefPattern::new("app/*/stable"), Depth::All),
                (RefPattern::new("app/*"), Depth::Parents(0)),
                (RefPattern::new("origin:*"), Depth::Parents(9)),
            ],
        };
        assert_eq!(rules.of("app/a/x/stable").depth, Depth::All, "the first one fits");
        assert_eq!(rules.of("app/a/x/beta"), Rule::ITSELF, "the second one does, and the age does not count for it");
        assert_eq!(rules.of("origin:x").depth, Depth::Parents(9), "a remote's ref");
        assert_eq!(rules.of("runtime/x"), Rule { depth: Depth::Parents(1), younger_than_secs: Some(7) }, "none fits");
    }

    #[test]
    fn depths_are_numbers_or_all() {
        for (text, depth) in
            [("0", Depth::Parents(0)), ("12", Depth::Parents(12)), ("all", Depth::All), ("-1", Depth::All)]
        {
            assert_eq!(text.parse::<Depth>().ok(), Some(depth), "`{text}`");
        }
        for text in ["", "-2", "x", "4294967296", "1 "] {
            assert!(text.parse::<Depth>().is_err(), "`{text}` is no depth");
        }
    }
}
