//! Which commits are kept: how far back from each ref.

use std::{io, num::ParseIntError, os::fd::AsFd, str::FromStr};

use treegraft_object::{CommitId, InvalidName, RefPattern, summary::Summary};

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

/// Which refs a depth is for: `PATTERN` for the repository's own, `REMOTE:PATTERN` for those of a remote,
/// `COLLECTION:PATTERN` for those that are mirrored from another collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The remote or the collection.
    origin: Option<String>,
    pattern: RefPattern,
}

impl Selector {
    fn selects(&self, origin: Option<&str>, name: &str) -> bool {
        self.origin.as_deref() == origin && self.pattern.covers_text(name)
    }
}

impl FromStr for Selector {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (origin, pattern) = match text.split_once(':') {
            Some((origin, pattern)) if !origin.is_empty() => (Some(origin.to_owned()), pattern),
            _ => (None, text),
        };
        Ok(Self { origin, pattern: RefPattern::new(pattern)? })
    }
}

/// Which commits are kept. A ref's own commit always is.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The depth for refs that nothing selects.
    pub depth: Depth,
    /// For these refs a commit stays as well when it, and all from the ref down to it, are not older than this. In seconds
    /// since 1970 UTC.
    pub younger_than_secs: Option<u64>,
    /// Other depths for some refs. The first one that selects a ref counts, and `younger_than_secs` does not hold for it.
    pub others: Vec<(Selector, Depth)>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { depth: Depth::All, younger_than_secs: None, others: Vec::new() }
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
    /// Returns the rule for a ref of a remote or a collection, or of the repository itself.
    fn of(&self, origin: Option<&str>, name: &str) -> Rule {
        match self.others.iter().find(|(selector, _)| selector.selects(origin, name)) {
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
    let mut roots = refs_below(repo, rules, "refs/heads", None)?;
    for group in ["refs/remotes", "refs/mirrors"] {
        for directory in repo.subdirectories(group)? {
            roots.extend(refs_below(repo, rules, &format!("{group}/{directory}"), Some(&directory))?);
        }
    }
    roots.extend(journaled(repo, rules)?);
    roots.extend(summarized(repo)?);
    Ok(roots)
}

fn refs_below(repo: &Repo, rules: &Rules, directory: &str, origin: Option<&str>) -> Result<Vec<Root>, PruneError> {
    let mut roots = Vec::new();
    for found in repo.list_refs(directory)? {
        roots.push(Root { commit: found.commit?, rule: rules.of(origin, found.target.as_str()) });
    }
    for (name, commit) in repo.list_unnamed_refs(directory)? {
        roots.push(Root { commit, rule: rules.of(origin, &name) });
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
                rules.of(Some(collection.as_str()), name.as_str())
            }
            target => rules.of(None, target.name().as_str()),
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

    fn others(list: &[(&str, Depth)]) -> Vec<(Selector, Depth)> {
        list.iter().map(|&(text, depth)| (text.parse().expect("it is valid"), depth)).collect()
    }

    #[test]
    fn patterns_are_for_refs_of_one_origin() {
        for (text, origin, name, is_selected) in [
            ("main", None, "main", true),
            ("main", None, "main2", false),
            ("main", Some("origin"), "main", false),
            ("app/*/x86_64/stable", None, "app/org.example.App/x86_64/stable", true),
            ("app/*/stable", None, "app/org.example.App/x86_64/stable", false),
            ("*", None, "app/org.example.App/x86_64/stable", true),
            ("*", None, "-a name that only libostree takes", true),
            ("*", Some("origin"), "main", false),
            ("origin:*", Some("origin"), "main", true),
            ("origin:*", Some("origin2"), "main", false),
            ("origin:*", None, "main", false),
            ("org.example.Other:app", Some("org.example.Other"), "app/a/x86_64/stable", true),
        ] {
            let selector: Selector = text.parse().expect("it is valid");
            assert_eq!(selector.selects(origin, name), is_selected, "`{text}`, and `{name}` of {origin:?}");
        }
        for text in ["", ":", "origin:", ":main", "origin:**", "a:b:c", "a b"] {
            assert!(text.parse::<Selector>().is_err(), "`{text}` selects nothing");
        }
    }

    #[test]
    fn the_first_one_that_selects_a_ref_counts() {
        let rules = Rules {
            depth: Depth::Parents(1),
            younger_than_secs: Some(7),
            others: others(&[
                ("app/*/*/stable", Depth::All),
                ("app", Depth::Parents(0)),
                ("origin:*", Depth::Parents(9)),
            ]),
        };
        assert_eq!(rules.of(None, "app/a/x/stable").depth, Depth::All, "the first one does");
        assert_eq!(rules.of(None, "app/a/x/beta"), Rule::ITSELF, "the second one does, and the age does not count");
        assert_eq!(rules.of(Some("origin"), "x").depth, Depth::Parents(9), "a remote's ref");
        let usual = Rule { depth: Depth::Parents(1), younger_than_secs: Some(7) };
        assert_eq!(rules.of(None, "runtime/x"), usual, "none does");
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
