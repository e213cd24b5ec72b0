//! Commits as users name them: a ref, a checksum or the beginning of one, and `^` for a commit's parent.

use treegraft_object::{CommitId, ObjectKind};
use treegraft_repo::{Find, Repo};

use crate::{error::CommandError, human};

/// Fewest digits of an abbreviated checksum: with less, a word may be meant.
const MIN_ABBREVIATION_DIGITS: usize = 6;

/// Most names in a hint.
const MAX_HINTED_NAMES: usize = 5;

/// A name that leads to no commit.
#[derive(Debug, thiserror::Error)]
enum RevisionError {
    #[error("The repository `{repo}` has no ref or commit `{name}`")]
    NotFound { repo: String, name: String },
    #[error("The checksum `{name}` is not unique: {count} commits begin with it")]
    Ambiguous { name: String, count: usize },
    #[error("The commit `{commit}` has no parent")]
    NoParent { commit: CommitId },
}

/// Finds the commit that `name` stands for.
pub(crate) fn resolve(repo: &Repo, name: &str) -> Result<CommitId, CommandError> {
    let base = name.trim_end_matches('^');
    let mut id = resolve_base(repo, base)?;
    for _ in base.len()..name.len() {
        id = repo.commit(id)?.parent.ok_or_else(|| CommandError::user(RevisionError::NoParent { commit: id }))?;
    }
    Ok(id)
}

fn resolve_base(repo: &Repo, name: &str) -> Result<CommitId, CommandError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let refs = repo.refs()?;
    if let Some(&id) = refs.get(name) {
        return Ok(id);
    }
    let is_hex = name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if is_hex && name.len() >= MIN_ABBREVIATION_DIGITS {
        let mut found = Vec::new();
        for object in repo.objects() {
            let object = object?;
            if object.kind == ObjectKind::Commit && object.checksum.to_hex().starts_with(name) {
                found.push(CommitId(object.checksum));
            }
        }
        match found[..] {
            [] => {}
            [id] => return Ok(id),
            _ => {
                let error = RevisionError::Ambiguous { name: name.to_owned(), count: found.len() };
                return Err(CommandError::user(error).hint("write more of the checksum's digits"));
            }
        }
    }
    let error = RevisionError::NotFound { repo: repo.path().display().to_string(), name: name.to_owned() };
    Err(CommandError::user(error).hint(nearest_refs_hint(name, refs.keys().map(treegraft_object::RefName::as_str))))
}

/// Names the refs that are most like `name`, or tells what there is instead.
pub(crate) fn nearest_refs_hint<'n>(name: &str, existing: impl Iterator<Item = &'n str>) -> String {
    let existing: Vec<&str> = existing.collect();
    let mut near: Vec<(usize, &str)> = existing
        .iter()
        .map(|candidate| (distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance * 3 <= name.len().max(candidate.len()) || candidate.contains(name))
        .collect();
    near.sort_unstable();
    near.truncate(MAX_HINTED_NAMES);
    let listed = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match (&near[..], &existing[..]) {
        (_, []) => "the repository has no refs at all".to_owned(),
        ([_, ..], _) => {
            let names: Vec<&str> = near.iter().map(|&(_, name)| name).collect();
            format!("did you mean {}?", listed(&names))
        }
        ([], few) if few.len() <= MAX_HINTED_NAMES => format!("the repository has {}", listed(few)),
        ([], many) => format!("list its {} with `treegraft refs`", human::things(many.len() as u64, "ref")),
    }
}

/// Counts the characters that must be changed, added or taken away to make one text of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, of_a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, &of_b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(of_a != of_b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_edits() {
        for (a, b, edits) in [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("main", "mian", 2), ("a", "b", 1)]
        {
            assert_eq!(distance(a, b), edits, "from `{a}` to `{b}`");
            assert_eq!(distance(b, a), edits, "and back");
        }
    }

    #[test]
    fn hints_name_what_is_near() {
        let refs = ["app/org.example.App/x86_64/stable", "app/org.example.App/x86_64/beta", "os/x86_64"];
        let hint = |name| nearest_refs_hint(name, refs.into_iter());
        assert_eq!(hint("os/x86-64"), "did you mean `os/x86_64`?", "a typing error is seen");
        assert!(hint("org.example.App").contains("stable"), "a part of a name leads to the whole one");
        assert!(hint("zzz").starts_with("the repository has `app/"), "a few refs are listed");
        assert_eq!(nearest_refs_hint("x", std::iter::empty()), "the repository has no refs at all");
    }
}
