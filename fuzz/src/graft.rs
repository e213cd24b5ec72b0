//! Checks of grafts of foreign commits.

use std::sync::LazyLock;

use treegraft_flatpak::{GraftOptions, GraftTarget, graft};
use treegraft_object::{Checksum, Commit, CommitId, RefName};

use crate::input::Input;

static NAMES: LazyLock<[RefName; 3]> = LazyLock::new(|| {
    ["main", "app/org.example.App/x86_64/stable", "runtime/org.example.App.Locale/x86_64/stable"]
        .map(|name| RefName::new(name).expect("a valid name"))
});

/// Checks a graft of a commit, with options as they come from the client.
///
/// # Panics
///
/// When what comes out is not a valid commit of the same tree, which is what fuzzing looks for.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (ref_name, flags) = (input.choose(&*NAMES).clone(), input.byte());
    let options = serde_json::from_slice::<GraftOptions>(input.long_bytes());
    let Ok(source) = Commit::decode(input.take(usize::MAX)) else { return };
    let options = options.unwrap_or_default();
    let target = GraftTarget {
        ref_name,
        collection_id: (flags & 1 != 0).then(|| "org.example.Stable".parse().expect("a valid id")),
        parent: (flags & 2 != 0).then(|| CommitId(Checksum::of(b"head"))),
        download_bytes: (flags & 4 != 0).then_some(u64::MAX),
    };
    if let Ok(grafted) = graft(&source, source.id(), &target, &options) {
        let again = Commit::decode(&grafted.encode()).expect("a graft is a valid commit");
        assert_eq!(again, grafted, "it is read as it was made");
        assert!(grafted.has_same_tree(&source), "a graft has the tree that was pushed");
        assert_eq!(grafted.parent, target.parent, "its parent is the head");
    }
}
