//! Grafts onto refs that are none of Flatpak's change the bindings and nothing else.

use proptest::prelude::*;
use treegraft_flatpak::{GraftOptions, GraftTarget, graft};
use treegraft_object::{
    Checksum, CollectionId, Commit, CommitId, DirMetaId, DirTreeId, RefName,
    gvariant::{Dict, Variant},
};
use treegraft_testkit::{Ostree, RepoMode};

const BINDINGS: [&str; 3] = ["ostree.ref-binding", "ostree.collection-binding", "ostree.collection-refs-binding"];

fn value() -> impl Strategy<Value = Variant> {
    prop_oneof![
        "[a-zä€]{0,300}".prop_map(|text| Variant::string(&text)),
        any::<bool>().prop_map(Variant::bool),
        any::<i32>().prop_map(Variant::int32),
        any::<u64>().prop_map(Variant::uint64_be),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Variant::bytes(&bytes)),
        prop::collection::vec("[a-z]{0,9}", 0..9).prop_map(Variant::strings),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z.]{1,20}",
        1 => prop::sample::select(BINDINGS.to_vec()).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["xa.ref", "xa.from_commit", "xa.download-size", "ostree.endoflife"])
            .prop_map(str::to_owned),
    ]
}

fn metadata() -> impl Strategy<Value = Dict> {
    prop::collection::vec((key(), value()), 0..20).prop_map(|entries| entries.into_iter().collect())
}

fn commit(metadata: Dict) -> Commit {
    Commit {
        metadata,
        parent: Some(CommitId(Checksum::of(b"the worker's history"))),
        subject: "Subject".to_owned(),
        body: "Body".to_owned(),
        timestamp_secs: 1_700_000_000,
        root_tree: DirTreeId(Checksum::of(b"tree")),
        root_meta: DirMetaId(Checksum::of(b"meta")),
    }
}

fn target(collection_id: Option<&str>) -> GraftTarget {
    GraftTarget {
        ref_name: RefName::new("os/x86_64/stable").expect("a ref"),
        collection_id: collection_id.map(|id| CollectionId::new(id).expect("a collection id")),
        parent: Some(CommitId(Checksum::of(b"head"))),
        download_bytes: Some(1),
    }
}

fn without_bindings(metadata: &Dict) -> Vec<(String, Variant)> {
    let others = metadata.iter().filter(|(key, _)| !BINDINGS.contains(key));
    others.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

proptest! {
    #[test]
    fn only_the_bindings_change(metadata in metadata(), has_collection in any::<bool>()) {
        let source = commit(metadata);
        let target = target(has_collection.then_some("org.example.Os"));
        let made = graft(&source, source.id(), &target, &GraftOptions::default()).expect("a valid graft");

        prop_assert_eq!(without_bindings(&made.metadata), without_bindings(&source.metadata), "other keys stay in order");
        let refs = made.metadata.get("ostree.ref-binding").and_then(Variant::as_strings);
        prop_assert_eq!(refs, Some(vec!["os/x86_64/stable"]), "the commit is bound to the one ref");
        let id = made.metadata.get_str("ostree.collection-binding");
        prop_assert_eq!(id, target.collection_id.as_ref().map(CollectionId::as_str), "and to the server's collection");
        prop_assert!(made.metadata.get("ostree.collection-refs-binding").is_none(), "and to no other");

        let keys = |dict: &Dict| dict.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
        let kept: Vec<String> =
            keys(&source.metadata).into_iter().filter(|key| made.metadata.get(key).is_some()).collect();
        prop_assert_eq!(&keys(&made.metadata)[..kept.len()], &kept[..], "bindings that were there keep their place");

        prop_assert_eq!(made.parent, target.parent, "the head is the parent");
        prop_assert!(made.has_same_tree(&source), "the tree is the pushed one");
        prop_assert_eq!((&made.subject, &made.body, made.timestamp_secs), (&source.subject, &source.body, source.timestamp_secs));
        prop_assert_eq!(Commit::decode(&made.encode()), Ok(made), "the graft is a valid commit");
    }

    #[test]
    fn a_second_graft_changes_nothing(metadata in metadata(), has_collection in any::<bool>()) {
        let target = target(has_collection.then_some("org.example.Os"));
        let source = commit(metadata);
        let once = graft(&source, source.id(), &target, &GraftOptions::default()).expect("a valid graft");
        let twice = graft(&once, once.id(), &target, &GraftOptions::default()).expect("a valid graft");
        prop_assert_eq!(once, twice, "a graft is already bound to its target");
    }
}

#[test]
fn absent_bindings_follow_at_the_end() {
    let source = commit([("version", Variant::string("1"))].into_iter().collect());
    let made = graft(&source, source.id(), &target(Some("org.example.Os")), &GraftOptions::default());
    let made = made.expect("a valid graft");
    let keys: Vec<&str> = made.metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["version", "ostree.ref-binding", "ostree.collection-binding"], "in the order of `ostree commit`");
}

#[test]
fn options_replace_texts_and_the_end_of_life() {
    let source = commit([("ostree.endoflife", Variant::string("old"))].into_iter().collect());
    let graft_with =
        |options: &GraftOptions| graft(&source, source.id(), &target(None), options).expect("a valid graft");
    let options = GraftOptions {
        subject: Some("S".to_owned()),
        body: Some("B".to_owned()),
        timestamp_secs: Some(5),
        end_of_life: Some("new".to_owned()),
        ..GraftOptions::default()
    };
    let made = graft_with(&options);
    assert_eq!((made.subject.as_str(), made.body.as_str(), made.timestamp_secs), ("S", "B", 5), "options win");
    assert_eq!(made.metadata.get_str("ostree.endoflife"), Some("new"), "the reason is replaced");
    let strip = GraftOptions { end_of_life: Some(String::new()), ..GraftOptions::default() };
    assert_eq!(graft_with(&strip).metadata.get("ostree.endoflife"), None, "an empty reason takes it away");
}

#[test]
fn further_refs_are_bound_in_order() {
    let source = commit(Dict::new());
    let names = ["os/x86_64/testing", "a", "os/x86_64/stable", "a"].map(|name| RefName::new(name).expect("a ref"));
    let options = GraftOptions { bind_refs: names.to_vec(), ..GraftOptions::default() };
    let made = graft(&source, source.id(), &target(None), &options).expect("a valid graft");
    let bound = made.metadata.get("ostree.ref-binding").and_then(Variant::as_strings);
    assert_eq!(bound, Some(vec!["a", "os/x86_64/stable", "os/x86_64/testing"]), "sorted, each once");
}

#[test]
fn what_cannot_be_grafted_is_refused() {
    let plain = GraftOptions::default();
    let source = commit(Dict::new());
    let onto = |name: &str| GraftTarget { ref_name: RefName::new(name).expect("a ref"), ..target(None) };
    let code = |source: &Commit, target: &GraftTarget, options: &GraftOptions| {
        graft(source, source.id(), target, options).map_or_else(|error| error.code(), |_| "fine")
    };
    let bad_ref = onto("app/App/x86_64/master");
    assert_eq!(code(&source, &bad_ref, &plain), "invalid-flatpak-ref", "no client of Flatpak accepts such a ref");
    let token = GraftOptions { token_type: Some(1), ..plain.clone() };
    assert_eq!(
        code(&source, &onto("os/stable"), &token),
        "option-not-for-ref",
        "the error of the option shows through"
    );
    let keys = |count: usize| (0..count).map(|n| (format!("k{n}"), Variant::bool(true))).collect::<Dict>();
    assert_eq!(code(&commit(keys(4096)), &onto("os/stable"), &plain), "fine", "the bound itself is allowed");
    assert_eq!(code(&commit(keys(4097)), &onto("os/stable"), &plain), "too-many-keys", "one more key is not");
}

#[test]
fn a_commit_that_outgrows_what_clients_download_is_refused() {
    let limit = usize::try_from(treegraft_object::limits::MAX_METADATA_BYTES).expect("a size in memory");
    let mut source = commit([("x", Variant::bytes(&vec![0; limit - 200]))].into_iter().collect());
    source.parent = None;
    assert!(source.encode().len() <= limit, "what was pushed is within the limit");
    let ref_name = RefName::new(format!("os/{}", "x".repeat(200))).expect("a ref");
    let target = GraftTarget { ref_name, ..target(None) };
    let error = graft(&source, source.id(), &target, &GraftOptions::default()).expect_err("the binding is too much");
    assert_eq!(error.code(), "commit-too-large", "the binding and the parent make the commit larger: {error}");
}

#[test]
fn ostree_accepts_the_graft_for_its_ref_and_collection() {
    let Some(ostree) = Ostree::find() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (repo, client, tree) = (folder.path().join("repo"), folder.path().join("client"), folder.path().join("tree"));
    std::fs::create_dir(&tree).expect("a folder can be made");
    std::fs::write(tree.join("file"), "content").expect("a file can be written");
    ostree.init(&repo, RepoMode::Archive, Some("org.example.Os"));
    ostree.init(&client, RepoMode::Archive, None);
    let name = "os/x86_64/stable";
    let pushed =
        ostree.commit(&repo, &tree, "worker", 1_700_000_000, &["--add-metadata-string=version=7", "--generate-sizes"]);
    let pushed: CommitId = pushed.parse().expect("a checksum");
    let object = |id: CommitId| repo.join(treegraft_object::ObjectName::from(id).loose_path("filez"));
    let source = Commit::decode(&std::fs::read(object(pushed)).expect("it was written")).expect("a commit");
    let target = GraftTarget { parent: None, ..target(Some("org.example.Os")) };
    let made = graft(&source, pushed, &target, &GraftOptions::default()).expect("a valid graft");
    let path = object(made.id());
    std::fs::create_dir_all(path.parent().expect("objects have a folder")).expect("a folder can be made");
    std::fs::write(path, made.encode()).expect("an object can be written");
    let _ = ostree.at(&repo, "refs", [&format!("--create={name}"), &made.id().to_string()]);
    ostree.summary_update(&repo, &[]);

    let url = format!("file://{}", repo.display());
    let args = ["add", "--no-gpg-verify", "--collection-id=org.example.Os", "up", &url];
    let _ = ostree.at(&client, "remote", args);
    ostree.pull(&client, "up", &[name]);
    assert_eq!(ostree.rev_parse(&client, &format!("up:{name}")), made.id().to_string(), "the client has the graft");
    assert_eq!(ostree.metadata(&client, &format!("up:{name}"), "version"), "'7'", "with the pushed metadata");
    ostree.fsck(&client);
}
