//! What may be asked of a graft.
//!
//! The options are those of `flatpak build-commit-from`, and travel as JSON from the one who pushes to the server. They
//! come from outside, so everything in them is bounded and checked before it is written into a commit.

use treegraft_object::{CollectionId, RefName};

use crate::names::{AppId, is_flatpak_ref};

/// Longest subject, in bytes: it is one line, shown in listings.
pub const MAX_SUBJECT_BYTES: usize = 4 << 10;

/// Longest body, in bytes: every client downloads it with the commit.
pub const MAX_BODY_BYTES: usize = 256 << 10;

/// Longest reason for an end of life, in bytes: it stands once more in every summary, which all clients download.
pub const MAX_END_OF_LIFE_BYTES: usize = 4 << 10;

/// Most pairs of ids for an end of life: one push rarely renames more than an app with its runtime and SDK.
pub const MAX_END_OF_LIFE_REBASES: usize = 256;

/// Most subsets of a commit: each makes an appstream branch and an indexed summary of its own for every arch.
pub const MAX_SUBSETS: usize = 32;

/// Longest name of a subset, in bytes: it is part of a ref name and of a file name.
pub const MAX_SUBSET_BYTES: usize = 64;

/// Most further collection ids: each adds a ref in `refs/mirrors` for every ref of the push.
pub const MAX_EXTRA_COLLECTION_IDS: usize = 32;

/// Most further refs that a commit is bound to: every client downloads their names with the commit.
pub const MAX_BIND_REFS: usize = 64;

/// Latest time of a commit, in seconds since 1970: the end of the year 9999, behind which `GLib` has no dates
/// and `ostree log` fails.
pub const MAX_TIMESTAMP_SECS: u64 = 253_402_300_799;

/// What a graft changes beside the bindings; nothing is changed by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct GraftOptions {
    /// The subject, instead of the pushed commit's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The body, instead of the pushed commit's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The time in seconds since 1970 UTC, instead of the pushed commit's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_secs: Option<u64>,
    /// The reason why the ref gets no more updates; an empty one takes the pushed commit's reason away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_life: Option<String>,
    /// Ids and what replaces them, for clients to move to; the first that fits a ref's id counts.
    ///
    /// An id fits the same id and those that belong to it: `org.example.App` also replaces `org.example.App.Locale`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub end_of_life_rebase: Vec<(AppId, AppId)>,
    /// The type of token that a client needs to download the commit, 0 or more; 0 stands for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<i32>,
    /// Further collection ids that the commit is bound to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_collection_ids: Vec<CollectionId>,
    /// The subsets of the repository that the commit belongs to; a single empty one takes the pushed commit's away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<String>,
    /// Further refs that the commit may be published as (`ostree.ref-binding`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind_refs: Vec<RefName>,
}

/// An option that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The option means something to Flatpak alone, and the ref is none of Flatpak's.
    #[error("`{option}` is for Flatpak's refs alone (`app/…` and `runtime/…`), and `{ref_name}` is none")]
    NotForRef {
        /// The option.
        option: &'static str,
        /// The ref.
        ref_name: RefName,
    },
    /// The option means something for refs that are none of Flatpak's.
    #[error("`{option}` is not for Flatpak's refs (`app/…` and `runtime/…`), and `{ref_name}` is one")]
    NotForFlatpakRef {
        /// The option.
        option: &'static str,
        /// The ref.
        ref_name: RefName,
    },
    /// A text is too long.
    #[error("`{option}` has {bytes} bytes, and {max_bytes} are allowed")]
    TooLong {
        /// The option.
        option: &'static str,
        /// Its length.
        bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// A text has a NUL character, which a commit cannot hold.
    #[error("`{option}` has a NUL character")]
    Nul {
        /// The option.
        option: &'static str,
    },
    /// A list is too long.
    #[error("`{option}` has {count} entries, and {max_count} are allowed")]
    TooMany {
        /// The option.
        option: &'static str,
        /// How many entries it has.
        count: usize,
        /// The bound.
        max_count: usize,
    },
    /// The name of a subset cannot be part of a ref name.
    #[error("`{subset}` is not a valid subset: {reason}")]
    Subset {
        /// The refused name, escaped.
        subset: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The type of token is negative.
    #[error("`token_type` is {value}, and must be 0 or more")]
    TokenType {
        /// The refused number.
        value: i32,
    },
    /// The time is behind the last date that clients can show.
    #[error("`timestamp_secs` is {timestamp_secs}, which is after the year 9999")]
    Timestamp {
        /// The refused time.
        timestamp_secs: u64,
    },
}

impl OptionError {
    /// Returns a stable word for the kind of the error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotForRef { .. } | Self::NotForFlatpakRef { .. } => "option-not-for-ref",
            Self::TooLong { .. } => "option-too-long",
            Self::Nul { .. } => "option-has-nul",
            Self::TooMany { .. } => "option-too-many",
            Self::Subset { .. } => "invalid-subset",
            Self::TokenType { .. } => "invalid-token-type",
            Self::Timestamp { .. } => "invalid-timestamp",
        }
    }
}

impl GraftOptions {
    /// Tells whether a new commit is wanted even when the tree is already the head's, as an end of life demands.
    pub const fn forces_commit(&self) -> bool {
        self.end_of_life.is_some() || !self.end_of_life_rebase.is_empty()
    }

    /// Tests that every option is within its bounds and can be followed for this ref.
    ///
    /// [`graft`](crate::graft()) does so, too; a server that asks before the transfer spares a push in vain.
    pub fn check(&self, ref_name: &RefName) -> Result<(), OptionError> {
        check_text("subject", self.subject.as_deref(), MAX_SUBJECT_BYTES)?;
        check_text("body", self.body.as_deref(), MAX_BODY_BYTES)?;
        check_text("end_of_life", self.end_of_life.as_deref(), MAX_END_OF_LIFE_BYTES)?;
        if let Some(timestamp_secs) = self.timestamp_secs.filter(|&secs| secs > MAX_TIMESTAMP_SECS) {
            return Err(OptionError::Timestamp { timestamp_secs });
        }
        if let Some(value) = self.token_type.filter(|&value| value < 0) {
            return Err(OptionError::TokenType { value });
        }
        let has_flatpak_prefix = is_flatpak_ref(ref_name);
        for (option, count, max_count) in [
            ("end_of_life_rebase", self.end_of_life_rebase.len(), MAX_END_OF_LIFE_REBASES),
            ("token_type", usize::from(self.token_type.is_some()), 1),
            ("extra_collection_ids", self.extra_collection_ids.len(), MAX_EXTRA_COLLECTION_IDS),
            ("subsets", self.subsets.len(), MAX_SUBSETS),
        ] {
            if count > max_count {
                return Err(OptionError::TooMany { option, count, max_count });
            }
            if count > 0 && !has_flatpak_prefix {
                return Err(OptionError::NotForRef { option, ref_name: ref_name.clone() });
            }
        }
        let (option, count) = ("bind_refs", self.bind_refs.len());
        if count > MAX_BIND_REFS {
            return Err(OptionError::TooMany { option, count, max_count: MAX_BIND_REFS });
        }
        // A client of Flatpak's knows an app by its one ref.
        if count > 0 && has_flatpak_prefix {
            return Err(OptionError::NotForFlatpakRef { option, ref_name: ref_name.clone() });
        }
        check_subsets(self.subsets.iter().map(String::as_str))
    }
}

/// Tests names of subsets, those of a commit as well. An empty one stands for none.
pub fn check_subsets<'s>(subsets: impl IntoIterator<Item = &'s str>) -> Result<(), OptionError> {
    subsets.into_iter().filter(|subset| !subset.is_empty()).try_for_each(check_subset)
}

fn check_text(option: &'static str, text: Option<&str>, max_bytes: usize) -> Result<(), OptionError> {
    match text {
        Some(text) if text.len() > max_bytes => Err(OptionError::TooLong { option, bytes: text.len(), max_bytes }),
        Some(text) if text.contains('\0') => Err(OptionError::Nul { option }),
        _ => Ok(()),
    }
}

/// Tests a name that becomes part of the ref `appstream2/SUBSET-ARCH`.
///
/// `flatpak` takes any text here, and then fails at every update of the repository when it makes no ref.
fn check_subset(subset: &str) -> Result<(), OptionError> {
    let refuse = |reason| {
        let shown = subset.chars().take(2 * MAX_SUBSET_BYTES).flat_map(char::escape_debug).collect();
        Err(OptionError::Subset { subset: shown, reason })
    };
    if subset.len() > MAX_SUBSET_BYTES {
        return refuse("it is longer than 64 bytes");
    }
    if !subset.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return refuse("it begins with something else than an ASCII letter, a digit or `_`");
    }
    if !subset.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return refuse("it has a character that is no ASCII letter, digit, `_`, `-` or `.`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> RefName {
        RefName::new("app/org.example.App/x86_64/master").expect("a ref")
    }

    fn code(options: &GraftOptions, ref_name: &RefName) -> &'static str {
        options.check(ref_name).map_or_else(|error| error.code(), |()| "fine")
    }

    #[test]
    fn no_option_is_always_fine_and_forces_nothing() {
        let options = GraftOptions::default();
        assert_eq!(options.check(&app()), Ok(()), "no option is within all bounds");
        assert!(!options.forces_commit(), "the same tree needs no new commit by default");
    }

    #[test]
    fn an_end_of_life_forces_a_commit() {
        let strip = GraftOptions { end_of_life: Some(String::new()), ..GraftOptions::default() };
        assert!(strip.forces_commit(), "taking the reason away changes the commit and not its tree");
        let id = |text: &str| AppId::new(text).expect("an id");
        let rebase = vec![(id("org.example.Old"), id("org.example.New"))];
        let rebase = GraftOptions { end_of_life_rebase: rebase, ..GraftOptions::default() };
        assert!(rebase.forces_commit(), "a replacement changes the commit and not its tree");
    }

    #[test]
    fn texts_are_bounded_and_without_nul() {
        let with_subject = |subject: String| GraftOptions { subject: Some(subject), ..GraftOptions::default() };
        assert_eq!(code(&with_subject("x".repeat(MAX_SUBJECT_BYTES)), &app()), "fine", "the bound itself is allowed");
        assert_eq!(
            code(&with_subject("x".repeat(MAX_SUBJECT_BYTES + 1)), &app()),
            "option-too-long",
            "one more is not"
        );
        assert_eq!(code(&with_subject("a\0b".to_owned()), &app()), "option-has-nul", "a commit's text ends at a NUL");
    }

    #[test]
    fn a_subset_must_be_able_to_be_part_of_a_ref() {
        let with_subset = |subset: &str| GraftOptions { subsets: vec![subset.to_owned()], ..GraftOptions::default() };
        for good in ["", "verified", "verified_floss", "a-b.c", "1"] {
            assert_eq!(code(&with_subset(good), &app()), "fine", "subset `{good}`");
        }
        for bad in ["a/b", "-a", ".a", "a b", "\u{e4}", "a\0", &"x".repeat(MAX_SUBSET_BYTES + 1)] {
            assert_eq!(code(&with_subset(bad), &app()), "invalid-subset", "subset `{bad}`");
        }
    }

    #[test]
    fn numbers_are_bounded() {
        let at = |secs| GraftOptions { timestamp_secs: Some(secs), ..GraftOptions::default() };
        assert_eq!(code(&at(MAX_TIMESTAMP_SECS), &app()), "fine", "the last second of the year 9999 is a time");
        assert_eq!(code(&at(MAX_TIMESTAMP_SECS + 1), &app()), "invalid-timestamp", "the year 10000 is none");
        let token = |value| GraftOptions { token_type: Some(value), ..GraftOptions::default() };
        assert_eq!(code(&token(0), &app()), "fine", "0 says that no token is needed");
        assert_eq!(code(&token(-1), &app()), "invalid-token-type", "negative types mean nothing");
    }

    #[test]
    fn options_that_only_flatpak_knows_are_refused_for_other_refs() {
        let os = RefName::new("os/x86_64/stable").expect("a ref");
        let id = |text: &str| AppId::new(text).expect("an id");
        let collection = CollectionId::new("org.example.Extra").expect("a collection id");
        let none = GraftOptions::default;
        for (option, options) in [
            ("token_type", GraftOptions { token_type: Some(0), ..none() }),
            ("subsets", GraftOptions { subsets: vec![String::new()], ..none() }),
            ("extra_collection_ids", GraftOptions { extra_collection_ids: vec![collection], ..none() }),
            ("end_of_life_rebase", GraftOptions { end_of_life_rebase: vec![(id("a.b.c"), id("a.b.d"))], ..none() }),
        ] {
            let expected = OptionError::NotForRef { option, ref_name: os.clone() };
            assert_eq!(options.check(&os), Err(expected), "`{option}` has no meaning for an operating system's ref");
            assert_eq!(options.check(&app()), Ok(()), "`{option}` has one for an app's");
        }
        let bound = GraftOptions { bind_refs: vec![os.clone()], ..none() };
        assert_eq!(code(&bound, &app()), "option-not-for-ref", "an app has one ref");
        assert_eq!(bound.check(&os), Ok(()), "an operating system may have several");
        let end = GraftOptions { end_of_life: Some("gone".to_owned()), ..none() };
        assert_eq!(end.check(&os), Ok(()), "the reason for an end of life is OSTree's own key");
    }

    #[test]
    fn lists_are_bounded() {
        let collection = CollectionId::new("org.example.Extra").expect("a collection id");
        let many = vec![collection; MAX_EXTRA_COLLECTION_IDS + 1];
        let options = GraftOptions { extra_collection_ids: many, ..GraftOptions::default() };
        assert_eq!(code(&options, &app()), "option-too-many", "each collection id costs a ref");
    }

    #[test]
    fn json_leaves_out_defaults_and_ignores_what_is_new() {
        let to_json = |options: &GraftOptions| serde_json::to_string(options).expect("options are JSON");
        assert_eq!(to_json(&GraftOptions::default()), "{}", "defaults are not sent");
        let json = r#"{"end_of_life":"","end_of_life_rebase":[["org.example.Old","org.example.New"]],"token_type":2}"#;
        let options: GraftOptions = serde_json::from_str(json).expect("valid options");
        assert_eq!(to_json(&options), json, "options come back as they were");
        let newer = r#"{"subject":"S","an_option_of_next_year":{"x":1}}"#;
        let options: GraftOptions = serde_json::from_str(newer).expect("unknown options are no error");
        assert_eq!(options, GraftOptions { subject: Some("S".to_owned()), ..GraftOptions::default() });
        let bad = r#"{"end_of_life_rebase":[["Old","org.example.New"]]}"#;
        let error = serde_json::from_str::<GraftOptions>(bad).expect_err("`Old` is no id").to_string();
        assert!(error.contains("`Old` is not a valid Flatpak id"), "the error names the id: {error}");
    }
}
