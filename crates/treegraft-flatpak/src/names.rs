//! Flatpak's refs and ids, with their grammar.
//!
//! A Flatpak ref is an OSTree ref of four parts: `app/ID/ARCH/BRANCH` or `runtime/ID/ARCH/BRANCH`. Extensions, debug
//! information and translations are runtimes with longer ids (`org.example.App.Locale`). Every other ref in a Flatpak
//! repository (`appstream2/x86_64`, `ostree-metadata`) is an ordinary OSTree ref.

use std::{fmt, str::FromStr};

use treegraft_object::RefName;

/// Longest id, in bytes: the bound of D-Bus names, which Flatpak's ids are.
const MAX_ID_BYTES: usize = 255;

/// A name that Flatpak does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid Flatpak {what}: {reason}")]
pub struct InvalidFlatpakName {
    /// What the name should have been: `ref`, `id`, `arch` or `branch`.
    pub what: &'static str,
    /// The refused name, escaped and shortened to what can be shown.
    pub name: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

impl InvalidFlatpakName {
    fn new(what: &'static str, name: &str, reason: &'static str) -> Self {
        Self { what, name: name.chars().take(200).flat_map(char::escape_debug).collect(), reason }
    }
}

/// Tells whether a ref belongs to Flatpak: its first part is `app` or `runtime`.
///
/// Whether the rest of it follows Flatpak's grammar is for [`FlatpakRef::parse`] to say.
pub fn is_flatpak_ref(name: &RefName) -> bool {
    kind_and_rest(name.as_str()).is_some()
}

/// Tells whether a repository makes the ref by itself: Flatpak's appstream branches, and libostree's `ostree-metadata`.
///
/// They are made from the other refs of the same repository, so that those of another one mean nothing in it.
pub fn is_generated_ref(name: &RefName) -> bool {
    let name = name.as_str();
    name == "ostree-metadata" || name.starts_with("appstream/") || name.starts_with("appstream2/")
}

fn kind_and_rest(name: &str) -> Option<(FlatpakKind, &str)> {
    [FlatpakKind::App, FlatpakKind::Runtime]
        .into_iter()
        .find_map(|kind| Some((kind, name.strip_prefix(kind.as_str())?.strip_prefix('/')?)))
}

/// What a Flatpak ref stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlatpakKind {
    /// An application.
    App,
    /// A runtime, SDK or extension.
    Runtime,
}

impl FlatpakKind {
    /// Returns the first part of the ref: `app` or `runtime`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Runtime => "runtime",
        }
    }
}

impl fmt::Display for FlatpakKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The id of an app, runtime or extension: three or more parts of `[A-Za-z0-9_]`, joined by `.`.
///
/// No part begins with a digit, and the last one may have `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(String);

impl AppId {
    /// Checks the grammar (`flatpak_is_valid_name`).
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidFlatpakName> {
        let id = id.into();
        match id_problem(&id) {
            None => Ok(Self(id)),
            Some(reason) => Err(InvalidFlatpakName::new("id", &id, reason)),
        }
    }

    /// Returns the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what follows `prefix` in this id, if it is the same id or one that belongs to it.
    ///
    /// What follows begins with a `.` or with another character that cannot continue an inner part, that is a `-`:
    /// `org.example.App` gives `.Locale` for `org.example.App.Locale`, and nothing for `org.example.Apple`.
    /// The rule is that of `flatpak_has_name_prefix`.
    pub fn suffix_after(&self, prefix: &Self) -> Option<&str> {
        let rest = self.0.strip_prefix(&prefix.0)?;
        (!rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')).then_some(rest)
    }
}

fn id_problem(id: &str) -> Option<&'static str> {
    if id.is_empty() {
        return Some("it is empty");
    }
    if id.len() > MAX_ID_BYTES {
        return Some("it is longer than 255 bytes");
    }
    let count = id.split('.').count();
    for (index, part) in id.split('.').enumerate() {
        let is_last = index + 1 == count;
        let Some(first) = part.chars().next() else {
            return Some("a part between `.` is empty");
        };
        if first.is_ascii_digit() {
            return Some("a part begins with a digit");
        }
        if !is_last && part.contains('-') {
            return Some("only the last part may have a `-`");
        }
        if !part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
            return Some("it has a character that is no ASCII letter, digit, `_`, `-` or `.`");
        }
    }
    (count < 3).then_some("it has less than three parts joined by `.`")
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for AppId {
    type Err = InvalidFlatpakName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl serde::Serialize for AppId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for AppId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A ref of Flatpak, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlatpakRef {
    kind: FlatpakKind,
    id: AppId,
    arch: String,
    branch: String,
}

impl FlatpakRef {
    /// Takes a ref apart and checks each part as Flatpak does (`flatpak_decomposed_new_from_ref`).
    pub fn parse(name: &RefName) -> Result<Self, InvalidFlatpakName> {
        let text = name.as_str();
        let refuse = |reason| InvalidFlatpakName::new("ref", text, reason);
        let (kind, rest) = kind_and_rest(text).ok_or_else(|| refuse("it begins with neither `app/` nor `runtime/`"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [id, arch, branch] = parts[..] else {
            return Err(refuse("it must have four parts: kind, id, arch and branch"));
        };
        let id = AppId::new(id)?;
        if let Some(reason) = arch_problem(arch) {
            return Err(InvalidFlatpakName::new("arch", arch, reason));
        }
        if let Some(reason) = branch_problem(branch) {
            return Err(InvalidFlatpakName::new("branch", branch, reason));
        }
        Ok(Self { kind, id, arch: arch.to_owned(), branch: branch.to_owned() })
    }

    /// Returns what the ref stands for.
    pub const fn kind(&self) -> FlatpakKind {
        self.kind
    }

    /// Returns the id of the app or runtime.
    pub const fn id(&self) -> &AppId {
        &self.id
    }

    /// Returns the processor, in Flatpak's words: `x86_64`, `aarch64`, …
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// Returns the branch, such as `stable` or `24.08`.
    pub fn branch(&self) -> &str {
        &self.branch
    }
}

fn arch_problem(arch: &str) -> Option<&'static str> {
    if arch.is_empty() {
        return Some("it is empty");
    }
    let is_valid = arch.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (!is_valid).then_some("it has a character that is no ASCII letter, digit or `_`")
}

fn branch_problem(branch: &str) -> Option<&'static str> {
    if branch.is_empty() {
        return Some("it is empty");
    }
    if branch.starts_with('.') {
        return Some("it begins with a `.`");
    }
    let is_valid = branch.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    (!is_valid).then_some("it has a character that is no ASCII letter, digit, `_`, `-` or `.`")
}

impl fmt::Display for FlatpakRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.kind, self.id, self.arch, self.branch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<FlatpakRef, InvalidFlatpakName> {
        FlatpakRef::parse(&RefName::new(name).expect("an OSTree ref"))
    }

    #[test]
    fn a_ref_has_kind_id_arch_and_branch() {
        let name = "runtime/org.example.Platform.GL-x_1/x86_64/24.08-extra";
        let parsed = parse(name).expect("a valid ref");
        assert_eq!(parsed.kind(), FlatpakKind::Runtime, "the first part is the kind");
        assert_eq!(parsed.id().as_str(), "org.example.Platform.GL-x_1", "the second part is the id");
        assert_eq!((parsed.arch(), parsed.branch()), ("x86_64", "24.08-extra"), "the last two are arch and branch");
        assert_eq!(parsed.to_string(), name, "a ref is written as it was read");
    }

    #[test]
    fn each_part_has_its_grammar() {
        for (name, what) in [
            ("appstream2/x86_64", "ref"),
            ("application/org.example.App/x86_64/master", "ref"),
            ("app/org.example.App/x86_64", "ref"),
            ("app/org.example.App/x86_64/a/b", "ref"),
            ("app", "ref"),
            ("app/App/x86_64/master", "id"),
            ("app/org.App/x86_64/master", "id"),
            ("app/org.exa-mple.App/x86_64/master", "id"),
            ("app/org.1example.App/x86_64/master", "id"),
            ("app/org..App/x86_64/master", "id"),
            ("app/org.example.App./x86_64/master", "id"),
            ("app/org.example.\u{e4}pp/x86_64/master", "id"),
            ("app/org.example.App/x86-64/master", "arch"),
            ("app/org.example.App/x86.64/master", "arch"),
            ("app/org.example.App/x86_64/m\u{e4}ster", "branch"),
        ] {
            let error = parse(name).expect_err("Flatpak refuses it");
            assert_eq!(error.what, what, "what is wrong with `{name}`: {error}");
        }
    }

    #[test]
    fn an_id_has_at_most_255_bytes() {
        assert!(AppId::new(format!("a.b.{}", "c".repeat(251))).is_ok(), "255 bytes are allowed");
        assert!(AppId::new(format!("a.b.{}", "c".repeat(252))).is_err(), "256 bytes are not");
    }

    #[test]
    fn refs_with_the_prefix_belong_to_flatpak() {
        for (name, expected) in
            [("app/x", true), ("runtime/a/b/c", true), ("app", false), ("apps/x", false), ("appstream/x86_64", false)]
        {
            assert_eq!(is_flatpak_ref(&RefName::new(name).expect("a ref")), expected, "prefix of `{name}`");
        }
    }

    #[test]
    fn an_id_belongs_to_another_at_the_border_of_a_part() {
        let id = |text: &str| AppId::new(text).expect("an id");
        let app = id("org.example.App");
        for (longer, suffix) in [
            ("org.example.App", Some("")),
            ("org.example.App.Locale", Some(".Locale")),
            ("org.example.App-extra", Some("-extra")),
            ("org.example.Apple", None),
            ("org.example.App_2", None),
            ("org.example.App2", None),
            ("org.other.App", None),
        ] {
            assert_eq!(id(longer).suffix_after(&app), suffix, "what `{longer}` has after `org.example.App`");
        }
    }
}
