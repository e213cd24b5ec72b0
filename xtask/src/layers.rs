//! `cargo xtask check-layers`: crates know only the crates below them.
//!
//! ```text
//! treegraft           the program, knows everything
//!   push   server     the two ends of a push
//!   wire              the protocol between them
//!   flatpak           what flatpak means
//!   tree   sign       trees of files that become commits; signatures
//!   repo
//!   object            knows nobody
//! treegraft-testkit   knows nobody, and is known by tests and tasks alone
//! ```

use serde_json::Value;

use crate::{TaskError, shell};

/// The tests' crate, which no code outside of tests may use.
const TESTKIT: &str = "treegraft-testkit";

/// The tasks of the project, one of which measures with what the tests use.
const TASKS: &str = "xtask";

/// What each crate of the workspace may depend on, outside of its tests.
const MAY_KNOW: [(&str, &[&str]); 11] = [
    (
        "treegraft",
        &[
            "treegraft-push",
            "treegraft-server",
            "treegraft-wire",
            "treegraft-flatpak",
            "treegraft-sign",
            "treegraft-tree",
            "treegraft-repo",
            "treegraft-object",
        ],
    ),
    (
        "treegraft-push",
        &["treegraft-wire", "treegraft-flatpak", "treegraft-tree", "treegraft-repo", "treegraft-object"],
    ),
    (
        "treegraft-server",
        &["treegraft-wire", "treegraft-flatpak", "treegraft-sign", "treegraft-repo", "treegraft-object"],
    ),
    ("treegraft-flatpak", &["treegraft-tree", "treegraft-repo", "treegraft-object"]),
    ("treegraft-wire", &["treegraft-flatpak", "treegraft-object"]),
    ("treegraft-sign", &["treegraft-object"]),
    ("treegraft-tree", &["treegraft-repo", "treegraft-object"]),
    ("treegraft-repo", &["treegraft-object"]),
    ("treegraft-object", &[]),
    (TESTKIT, &[]),
    ("xtask", &[]),
];

/// The crates that are synchronous and know no terminal.
const SYNCHRONOUS: [&str; 6] =
    ["treegraft-object", "treegraft-repo", "treegraft-tree", "treegraft-sign", "treegraft-flatpak", "treegraft-wire"];
/// What belongs to the asynchronous edge; crates whose name continues one of these with `-` are meant too.
const ASYNCHRONOUS_LIBRARIES: [&str; 2] = ["tokio", "hyper"];
/// The crates that talk to a person.
const WITH_TERMINAL: [&str; 2] = ["treegraft", "xtask"];
/// What belongs to a terminal.
const TERMINAL_LIBRARIES: [&str; 2] = ["clap", "indicatif"];

/// One declared dependency.
struct Dependency<'a> {
    from: &'a str,
    to: &'a str,
    /// Whether only tests have it.
    for_tests: bool,
}

/// Asks cargo for the declared dependencies and fails when one of them points up.
pub(crate) fn run() -> Result<(), TaskError> {
    let output = shell::read(shell::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_slice(&output).map_err(|source| TaskError::Metadata { source })?;
    let violations = violations(&metadata);
    if violations.is_empty() {
        println!("Layers: every crate knows only the crates below it.");
        Ok(())
    } else {
        Err(TaskError::Layers { violations })
    }
}

/// Returns a sentence for each dependency that breaks a rule.
fn violations(metadata: &Value) -> Vec<String> {
    let packages = || metadata["packages"].as_array().into_iter().flatten();
    let mut found = Vec::new();
    if packages().next().is_none() {
        found.push("cargo names no package of the workspace".to_owned());
    }
    for package in packages() {
        let from = package["name"].as_str().unwrap_or_default();
        if may_know(from).is_none() {
            found.push(format!("`{from}` has no place in the layers; give it one in xtask/src/layers.rs"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            // The kind is null for ordinary dependencies and "build" for those of build scripts.
            let for_tests = dependency["kind"] == "dev";
            found.extend(violation(&Dependency { from, to, for_tests }));
        }
    }
    found
}

fn violation(dependency: &Dependency<'_>) -> Option<String> {
    let Dependency { from, to, for_tests } = *dependency;
    if for_tests {
        return None;
    }
    if to == TESTKIT && from != TASKS {
        return Some(format!("`{from}` -> `{to}`: only tests may use it, as a dev-dependency"));
    }
    let is_ours = may_know(to).is_some();
    if is_ours && from != TASKS && !may_know(from).is_some_and(|known| known.contains(&to)) {
        return Some(format!("`{from}` -> `{to}`: it does not lie below"));
    }
    if SYNCHRONOUS.contains(&from) && is_one_of(to, &ASYNCHRONOUS_LIBRARIES) {
        return Some(format!("`{from}` -> `{to}`: the crate is synchronous"));
    }
    if !WITH_TERMINAL.contains(&from) && is_one_of(to, &TERMINAL_LIBRARIES) {
        return Some(format!("`{from}` -> `{to}`: the crate knows no terminal"));
    }
    None
}

fn may_know(name: &str) -> Option<&'static [&'static str]> {
    MAY_KNOW.iter().find(|(from, _)| *from == name).map(|(_, known)| *known)
}

fn is_one_of(name: &str, libraries: &[&str]) -> bool {
    let belongs = |library: &&str| name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || is_suffix(rest));
    libraries.iter().any(belongs)
}

fn is_suffix(rest: &str) -> bool {
    rest.starts_with(['-', '_'])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns what the rules say about one dependency of one crate.
    fn check(from: &str, to: &str, kind: Option<&str>) -> Vec<String> {
        violations(&json!({ "packages": [{ "name": from, "dependencies": [{ "name": to, "kind": kind }] }] }))
    }

    #[test]
    fn arrows_down_are_allowed() {
        for (from, to) in [
            ("treegraft", "treegraft-server"),
            ("treegraft-push", "treegraft-flatpak"),
            ("treegraft-server", "treegraft-sign"),
            ("treegraft-flatpak", "treegraft-repo"),
            ("treegraft-wire", "treegraft-object"),
        ] {
            assert_eq!(check(from, to, None), Vec::<String>::new(), "`{from}` lies above `{to}`");
        }
    }

    #[test]
    fn arrows_up_and_sideways_are_refused() {
        for (from, to) in [
            ("treegraft-object", "treegraft-repo"),
            ("treegraft-repo", "treegraft-sign"),
            ("treegraft-push", "treegraft-server"),
            ("treegraft-push", "treegraft-sign"),
            ("treegraft-server", "treegraft-push"),
            ("treegraft-testkit", "treegraft-object"),
            ("treegraft-server", "treegraft"),
        ] {
            let found = check(from, to, None);
            assert_eq!(found, [format!("`{from}` -> `{to}`: it does not lie below")], "the arrow points up");
        }
    }

    #[test]
    fn build_scripts_follow_the_same_rules() {
        let found = check("treegraft-object", "treegraft-repo", Some("build"));
        assert_eq!(found.len(), 1, "a build-dependency is as much a dependency as any: {found:?}");
    }

    #[test]
    fn the_testkit_is_for_tests_alone() {
        assert!(check("treegraft-push", TESTKIT, Some("dev")).is_empty(), "tests use the testkit");
        let found = check("treegraft", TESTKIT, None);
        assert_eq!(found, ["`treegraft` -> `treegraft-testkit`: only tests may use it, as a dev-dependency"]);
        assert!(check(TASKS, TESTKIT, None).is_empty(), "a benchmark uses it, too");
    }

    #[test]
    fn the_lower_half_knows_no_runtime_and_no_terminal() {
        for library in ["tokio", "tokio-util", "hyper", "hyper-util", "clap", "indicatif"] {
            for from in SYNCHRONOUS {
                assert_eq!(check(from, library, None).len(), 1, "`{from}` must not depend on `{library}`");
            }
        }
        assert!(check("treegraft-push", "tokio", None).is_empty(), "the edge is asynchronous");
        assert_eq!(check("treegraft-push", "indicatif", None).len(), 1, "a library knows no terminal");
        assert!(check("treegraft-wire", "hyperlocal", None).is_empty(), "another library's name may begin alike");
        assert!(check("treegraft-wire", "tokio", Some("dev")).is_empty(), "tests may use what they like");
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        let found = check("treegraft-news", "serde", None);
        assert_eq!(found, ["`treegraft-news` has no place in the layers; give it one in xtask/src/layers.rs"]);
    }

    #[test]
    fn output_without_packages_is_no_success() {
        assert_eq!(violations(&json!({})).len(), 1, "a check that sees nothing must not pass");
    }
}
