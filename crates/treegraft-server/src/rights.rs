//! Who may do what to which ref: the rules of the configuration, and what a forced command leaves of them.
//!
//! * A rule gives rights; none takes any away. What a caller may do with a ref is what all rules together allow that name
//!   the caller and cover the ref. So each rule can be read by itself, their order means nothing, and a rule that is added
//!   cannot make another one void. As soon as there is a rule, what none allows is refused.
//! * A forced command's flags ([`Caller`]) only take rights away.
//! * Nothing here comes from the client.

use std::{borrow::Borrow, collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use treegraft_object::{RefName, RefPattern};
use treegraft_wire::{ApiError, ErrorCode};

use crate::config::Settings;

/// Longest name of a key, in bytes: it is shown in messages.
const MAX_KEY_NAME_BYTES: usize = 128;

/// Patterns that a hint lists: enough to see what was meant.
const MAX_LISTED_PATTERNS: usize = 8;

/// Something that a push does to a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Put a tree on top of the ref's head as a new commit.
    Rebase,
    /// Publish a commit as it is (`--exact`).
    Exact,
    /// Drop commits from the ref (`--force`).
    Force,
    /// Publish a commit that is older than the head (`--allow-older`).
    Older,
    /// Write the ref under other collection ids as well (`--extra-collection-id`).
    Mirrors,
    /// Change the subsets of the repository that the ref belongs to (`--subset`, or `xa.subsets` of the commit).
    Subsets,
    /// Change the type of token that clients need (`--token-type`, or `xa.token-type` of the commit).
    TokenType,
}

impl Action {
    /// Every action, in the order of the reference.
    pub const ALL: [Self; 7] =
        [Self::Rebase, Self::Exact, Self::Force, Self::Older, Self::Mirrors, Self::Subsets, Self::TokenType];

    /// Returns the word for it in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rebase => "rebase",
            Self::Exact => "exact",
            Self::Force => "force",
            Self::Older => "older",
            Self::Mirrors => "mirrors",
            Self::Subsets => "subsets",
            Self::TokenType => "token-type",
        }
    }

    /// Returns what is refused, for the middle of a sentence.
    const fn what(self) -> &'static str {
        match self {
            Self::Rebase => "a graft on top of the head",
            Self::Exact => "an exact push, which keeps the commit's checksum,",
            Self::Force => "a forced push",
            Self::Older => "a commit that is older than the head",
            Self::Mirrors => "extra collection ids",
            Self::Subsets => "a change of the subsets (`--subset`, or `xa.subsets` of the commit)",
            Self::TokenType => "a change of the token type (`--token-type`, or `xa.token-type` of the commit)",
        }
    }
}

/// The name that the server's administrator has given to an ssh key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName(String);

/// A name that breaks the grammar of key names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid name of a key: it is 1 to 128 ASCII letters, digits, `-`, `_`, `.`, `@` and `+`")]
pub struct InvalidKeyName {
    name: String,
}

impl KeyName {
    /// Checks the grammar: 1 to 128 ASCII letters, digits, `-`, `_`, `.`, `@` and `+`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidKeyName> {
        let name = name.into();
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b'+');
        if name.is_empty() || name.len() > MAX_KEY_NAME_BYTES || !name.bytes().all(is_allowed) {
            let name = name.chars().take(MAX_KEY_NAME_BYTES).flat_map(char::escape_debug).collect();
            return Err(InvalidKeyName { name });
        }
        Ok(Self(name))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for KeyName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = InvalidKeyName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for KeyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for KeyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A rule of the configuration: who may do what to which refs, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// The callers that it is for; all of them without it.
    #[serde(default, deserialize_with = "some_filled")]
    pub keys: Option<Vec<KeyName>>,
    /// The refs that it is for.
    #[serde(deserialize_with = "filled")]
    pub refs: Vec<RefPattern>,
    /// What it allows.
    #[serde(default = "only_rebase")]
    pub allow: BTreeSet<Action>,
    /// How much it allows.
    #[serde(default)]
    pub max_push_bytes: Option<u64>,
    /// How many objects it allows.
    #[serde(default)]
    pub max_push_objects: Option<u64>,
    /// How large an object it allows.
    #[serde(default)]
    pub max_object_bytes: Option<u64>,
}

/// An empty list means nobody and nothing, and is hardly what somebody wanted to write.
fn filled<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() { Err(D::Error::custom("the list is empty, so that the rule is for nothing")) } else { Ok(list) }
}

fn some_filled<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    filled(deserializer).map(Some)
}

fn only_rebase() -> BTreeSet<Action> {
    BTreeSet::from([Action::Rebase])
}

impl Rule {
    fn is_for(&self, key: Option<&KeyName>) -> bool {
        self.keys.as_ref().is_none_or(|keys| key.is_some_and(|key| keys.contains(key)))
    }

    fn covers(&self, name: &RefName) -> bool {
        self.refs.iter().any(|pattern| pattern.covers(name))
    }

    fn limits(&self) -> PushLimits {
        let bound = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        PushLimits {
            push_bytes: bound(self.max_push_bytes),
            push_objects: bound(self.max_push_objects),
            object_bytes: bound(self.max_object_bytes),
        }
    }
}

/// How large a push may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushLimits {
    /// Bytes of all objects, as they are sent and stored.
    pub push_bytes: u64,
    /// Objects.
    pub push_objects: u64,
    /// Bytes of one content object, as it is sent and stored.
    pub object_bytes: u64,
}

impl PushLimits {
    /// No limit.
    pub const NONE: Self = Self { push_bytes: u64::MAX, push_objects: u64::MAX, object_bytes: u64::MAX };

    pub(crate) fn lowest(self, other: Self) -> Self {
        self.combined(other, u64::min)
    }

    fn highest(self, other: Self) -> Self {
        self.combined(other, u64::max)
    }

    fn combined(self, other: Self, choose: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            push_bytes: choose(self.push_bytes, other.push_bytes),
            push_objects: choose(self.push_objects, other.push_objects),
            object_bytes: choose(self.object_bytes, other.object_bytes),
        }
    }
}

/// Who calls, and what the flags of the forced command take away from the rights of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the key that has logged in, where the forced command says it.
    pub key: Option<KeyName>,
    /// The refs that are left; all of them when there is no pattern.
    pub only_refs: Vec<RefPattern>,
    /// The actions that are taken away.
    pub denied: BTreeSet<Action>,
    /// The limits that may be below those of the configuration.
    pub limits: PushLimits,
    /// Whether nothing may be published at all.
    pub takes_only_dry_runs: bool,
}

impl Caller {
    /// Somebody of whom nothing is known, and from whom nothing is taken away.
    pub const fn anybody() -> Self {
        Self {
            key: None,
            only_refs: Vec::new(),
            denied: BTreeSet::new(),
            limits: PushLimits::NONE,
            takes_only_dry_runs: false,
        }
    }
}

/// What one caller may do in one repository.
pub(crate) struct Rights<'r> {
    settings: &'r Settings,
    caller: &'r Caller,
}

impl<'r> Rights<'r> {
    pub(crate) const fn of(settings: &'r Settings, caller: &'r Caller) -> Self {
        Self { settings, caller }
    }

    /// Refuses what the caller may not do to the ref.
    pub(crate) fn demand(&self, name: &RefName, action: Action) -> Result<(), ApiError> {
        let Some(refusal) = self.refusal(name, action) else { return Ok(()) };
        let caller = self.caller.key.as_ref().map_or_else(|| "you".to_owned(), |key| format!("`{key}`"));
        let (detail, rule) = match refusal {
            Refusal::RefOfCommand | Refusal::NoRule => {
                (format!("The server does not allow {caller} to push to `{name}`"), "ref")
            }
            _ => (format!("The server does not allow {caller} {} for `{name}`", action.what()), action.word()),
        };
        let error = ApiError { rule: Some(rule.to_owned()), ..ApiError::new(ErrorCode::NotAllowed, detail) };
        Err(error.of_ref(name).hint(self.hint(&refusal, action)))
    }

    /// Tells whether there are refs for which the caller may have no right.
    pub(crate) const fn are_for_some_refs(&self) -> bool {
        !self.caller.only_refs.is_empty() || !self.settings.rule.is_empty()
    }

    /// Refuses to publish anything where only dry runs are taken.
    pub(crate) fn check_publish(&self) -> Result<(), ApiError> {
        if !self.caller.takes_only_dry_runs {
            return Ok(());
        }
        let error = ApiError::new(ErrorCode::NotAllowed, "The server takes dry runs only");
        Err(error.hint("`dry_run` is set in the server's `ostree-receive.conf`; its administrator can change that"))
    }

    /// Returns how large a push to the ref may be.
    ///
    /// Of several rules that name caller and ref, the most generous one counts.
    pub(crate) fn limits(&self, name: &RefName) -> PushLimits {
        let settings = PushLimits {
            push_bytes: self.settings.max_push_bytes,
            push_objects: self.settings.max_push_objects,
            object_bytes: self.settings.max_object_bytes,
        };
        let given = self.rules_for(name).map(Rule::limits).reduce(PushLimits::highest).unwrap_or(PushLimits::NONE);
        given.lowest(settings).lowest(self.caller.limits)
    }

    fn refusal(&self, name: &RefName, action: Action) -> Option<Refusal> {
        let Caller { only_refs, denied, .. } = self.caller;
        if !only_refs.is_empty() && !only_refs.iter().any(|pattern| pattern.covers(name)) {
            return Some(Refusal::RefOfCommand);
        }
        if denied.contains(&action) {
            return Some(Refusal::ActionOfCommand);
        }
        let has_rules = !self.settings.rule.is_empty();
        let setting = match action {
            Action::Exact => Some(("allow-exact", self.settings.allow_exact.unwrap_or(true))),
            Action::Force => Some(("allow-force", self.settings.allow_force.unwrap_or(has_rules))),
            Action::Older => Some(("allow-older", self.settings.allow_older.unwrap_or(true))),
            Action::Rebase | Action::Mirrors | Action::Subsets | Action::TokenType => None,
        };
        // What is said for the whole repository holds beside rules, too: whoever writes `false` means it.
        if let Some((key, false)) = setting {
            return Some(Refusal::Setting(key));
        }
        if !has_rules {
            return None;
        }
        let mut rules = self.rules_for(name).peekable();
        if rules.peek().is_none() {
            return Some(Refusal::NoRule);
        }
        if rules.any(|rule| rule.allow.contains(&action)) { None } else { Some(Refusal::NotInRules) }
    }

    fn rules_for(&self, name: &RefName) -> impl Iterator<Item = &'r Rule> {
        self.rules().filter(move |rule| rule.covers(name))
    }

    fn rules(&self) -> impl Iterator<Item = &'r Rule> {
        let key = self.caller.key.as_ref();
        self.settings.rule.iter().filter(move |rule| rule.is_for(key))
    }

    /// Says which rule it was and who can change it.
    fn hint(&self, refusal: &Refusal, action: Action) -> String {
        const WHO: &str = "the server's administrator can change that";
        let word = action.word();
        match refusal {
            Refusal::RefOfCommand => {
                format!("the command of your key in `authorized_keys` covers {}; {WHO}", listed(&self.caller.only_refs))
            }
            Refusal::ActionOfCommand => {
                format!("the command of your key in `authorized_keys` has `--deny-{word}`; {WHO}")
            }
            Refusal::Setting(key) => {
                format!("the server's administrator can set `{key} = true` for this repository in `server.toml`")
            }
            Refusal::NoRule => match self.rules().flat_map(|rule| &rule.refs).collect::<BTreeSet<_>>() {
                covered if covered.is_empty() => {
                    format!("no rule of the server's configuration is for you; {WHO} with a `[[repository.rule]]`")
                }
                covered => {
                    format!("the rules of the server's configuration let you push to {}; {WHO}", listed(covered))
                }
            },
            Refusal::NotInRules => {
                format!("no rule of the server's configuration that covers the ref has `allow = [\"{word}\"]`; {WHO}")
            }
        }
    }
}

/// Why a right is missing.
enum Refusal {
    /// The forced command is for other refs.
    RefOfCommand,
    /// The forced command denies the action.
    ActionOfCommand,
    /// There are no rules, and a setting denies the action.
    Setting(&'static str),
    /// No rule names caller and ref.
    NoRule,
    /// Rules name caller and ref, but not the action.
    NotInRules,
}

fn listed<'p>(patterns: impl IntoIterator<Item = &'p RefPattern>) -> String {
    let mut patterns = patterns.into_iter();
    let mut shown: Vec<String> =
        patterns.by_ref().take(MAX_LISTED_PATTERNS).map(|pattern| format!("`{pattern}`")).collect();
    if patterns.next().is_some() {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerConfig;

    const REFS: [&str; 4] =
        ["app/org.gnome.Maps/x86_64/stable", "app/org.kde.Kate/x86_64/stable", "os/testing", "main"];

    const CONFIGS: [&str; 4] = [
        "",
        "[defaults]\nallow-force = true\nallow-older = false\nmax-push-bytes = 500",
        "[[defaults.rule]]\nrefs = [\"app\"]\nallow = [\"rebase\", \"exact\", \"force\"]\nmax-push-objects = 7",
        "[defaults]\nallow-exact = false\n[[defaults.rule]]\nkeys = [\"ci\"]\nrefs = [\"*\"]\nallow = [\"exact\", \"older\"]
         [[defaults.rule]]\nrefs = [\"os\", \"app/org.kde.*\"]\nmax-object-bytes = 100",
    ];

    fn name(text: &str) -> RefName {
        RefName::new(text).expect("a ref")
    }

    fn settings(text: &str) -> Settings {
        ServerConfig::parse(text).expect("a valid file").settings(std::path::Path::new("/srv/repo"))
    }

    fn has(settings: &Settings, caller: &Caller, name: &RefName, action: Action) -> bool {
        Rights::of(settings, caller).demand(name, action).is_ok()
    }

    /// Whatever stands in a forced command: it takes away what it says, and gives nothing.
    #[test]
    fn a_forced_command_only_narrows() {
        let patterns: [&[&str]; 3] = [&[], &["app/org.gnome.*"], &["os", "main"]];
        let lower = PushLimits { push_bytes: 100, push_objects: 3, object_bytes: 50 };
        for (text, key) in CONFIGS.iter().flat_map(|text| [(*text, None), (*text, Some("ci"))]) {
            let settings = settings(text);
            let key = key.map(|key| KeyName::new(key).expect("a name"));
            let plain = Caller { key, ..Caller::anybody() };
            for (refs, denied) in
                patterns.iter().flat_map(|refs| (0..1_u32 << Action::ALL.len()).map(move |set| (refs, set)))
            {
                let is_denied = |action: &Action| denied & (1 << *action as u32) != 0;
                let narrowed = Caller {
                    only_refs: refs.iter().map(|text| text.parse().expect("a pattern")).collect(),
                    denied: Action::ALL.into_iter().filter(is_denied).collect(),
                    limits: lower,
                    ..plain.clone()
                };
                for name in REFS.map(name) {
                    let is_left = refs.is_empty() || narrowed.only_refs.iter().any(|pattern| pattern.covers(&name));
                    for action in Action::ALL {
                        let expected = has(&settings, &plain, &name, action) && is_left && !is_denied(&action);
                        assert_eq!(
                            has(&settings, &narrowed, &name, action),
                            expected,
                            "{action:?} of `{name}`: {narrowed:?}, {text}"
                        );
                    }
                    let (wide, narrow) =
                        (Rights::of(&settings, &plain).limits(&name), Rights::of(&settings, &narrowed).limits(&name));
                    assert_eq!(narrow, wide.lowest(lower), "limits of `{name}` are only lowered");
                }
            }
        }
    }

    #[test]
    fn what_is_forbidden_for_the_repository_is_not_allowed_by_a_rule() {
        let rule = "[[defaults.rule]]\nrefs = [\"*\"]\nallow = [\"exact\", \"force\", \"older\"]";
        let actions = [Action::Exact, Action::Force, Action::Older];
        let allowed =
            |settings: &Settings| actions.map(|action| has(settings, &Caller::anybody(), &name("main"), action));
        assert_eq!(allowed(&settings(rule)), [true; 3], "the rule allows them");
        for (at, key) in ["allow-exact", "allow-force", "allow-older"].into_iter().enumerate() {
            let text = |value: bool| format!("[defaults]\n{key} = {value}\n{rule}");
            let mut expected = [true; 3];
            assert_eq!(allowed(&settings(&text(true))), expected, "`{key} = true` changes nothing");
            expected[at] = false;
            assert_eq!(allowed(&settings(&text(false))), expected, "`{key} = false` forbids it");
        }
        let rebase_only =
            "[defaults]\nallow-exact = true\nallow-force = true\nallow-older = true\n[[defaults.rule]]\nrefs = [\"*\"]";
        assert_eq!(
            allowed(&settings(rebase_only)),
            [false; 3],
            "what no rule allows is refused, whatever else is `true`"
        );
    }

    #[test]
    fn names_of_keys_have_a_grammar() {
        for good in ["ci", "gnome-ci", "ci@example.org", "a.b_c+1", &"x".repeat(128)] {
            assert!(KeyName::new(good).is_ok(), "`{good}` is a name");
        }
        for bad in ["", "a b", "a/b", "ü", "a\n", "*", "\"", &"x".repeat(129)] {
            assert!(KeyName::new(bad).is_err(), "`{bad}` is none");
        }
    }
}
