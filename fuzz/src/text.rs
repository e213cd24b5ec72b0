//! Checks of texts that people and other programs write.

use std::fmt::Debug;

use treegraft_flatpak::{AppId, FlatpakRef};
use treegraft_object::{Checksum, CollectionId, RefName, RefPattern};
use treegraft_push::{Destination, PushRef};
use treegraft_server::rights::KeyName;

/// Checks a name of each kind, and a pattern before a line feed with a ref behind it.
///
/// # Panics
///
/// When a name is not what it has to be, which is what fuzzing looks for.
pub fn check_names(text: &str) {
    if let Some(name) = shown_as_read::<RefName>(text) {
        let is_safe = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.starts_with('-');
        assert!(name.as_str().split('/').all(is_safe), "no ref climbs out of its directory");
        // Only to see that it does not panic.
        let _ = FlatpakRef::parse(&name);
    }
    if let Some(id) = shown_as_read::<CollectionId>(text) {
        assert!(!id.as_str().contains('/'), "no collection id climbs out of its directory");
    }
    shown_as_read::<RefPattern>(text);
    shown_as_read::<KeyName>(text);
    shown_as_read::<Checksum>(text);
    let _ = AppId::new(text).map(|id| id.suffix_after(&id).map(str::len));
    let _ = text.parse::<PushRef>();
    let Some((pattern, name)) = text.split_once('\n') else { return };
    let (Ok(pattern), Ok(name)) = (pattern.parse::<RefPattern>(), name.parse::<RefName>()) else { return };
    let (covers, parts) = (pattern.covers(&name), |text: &str| text.split('/').count());
    if covers {
        assert!(parts(pattern.as_str()) <= parts(name.as_str()), "a pattern covers no more parts than it shows");
    }
    if !pattern.as_str().contains('*') {
        let rest = name.as_str().strip_prefix(pattern.as_str());
        assert_eq!(covers, rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')), "it is a beginning");
    }
}

/// Reads a text as a name that is shown as it was read.
fn shown_as_read<T: std::str::FromStr + ToString + Debug>(text: &str) -> Option<T> {
    let name: T = text.parse().ok()?;
    assert_eq!(name.to_string(), text, "a name is shown as it was read");
    Some(name)
}

/// Checks where a push is to go.
///
/// # Panics
///
/// When ssh could take a part of it for something else, which is what fuzzing looks for.
pub fn check_destination(text: &str) {
    if let Ok(Destination::Ssh(target)) = text.parse() {
        let is_safe = |word: &str| !word.is_empty() && !word.starts_with('-');
        assert!(is_safe(&target.host) && target.user.as_deref().is_none_or(is_safe), "no part is an option of ssh's");
        let words = [&target.host].into_iter().chain(&target.user);
        assert!(words.into_iter().all(|word| !word.contains(char::is_whitespace)), "no part is two");
        assert!(!target.path.is_empty() && !target.path.contains(['\0', '\n']), "the path is one line");
        assert_ne!(target.port, Some(0), "there is no port 0");
    }
}
