//! Objects that break a rule: each is refused by its own code, and nothing of it becomes visible.

mod support;

use support::{
    Place, Reply, Wire,
    objects::{Object, Pushed, deflated, dirmeta, framed_object, named, regular_file},
    open_request,
};
use treegraft_object::{
    Checksum, DirTree, ObjectKind, ObjectName, detached,
    gvariant::{ArrayWriter, Dict, TupleWriter, Variant},
    limits::MAX_DETACHED_METADATA_BYTES,
    tombstone,
};
use treegraft_server::config::Settings;
use treegraft_wire::ErrorCode;

const SUM: &[u8] = &[7; 32];

/// What is wrong, the codes of the answer and of the broken rule, and the object.
struct Case {
    wrong: &'static str,
    code: ErrorCode,
    rule: Option<&'static str>,
    object: Object,
}

fn invalid(wrong: &'static str, rule: &'static str, object: Object) -> Case {
    Case { wrong, code: ErrorCode::InvalidObject, rule: Some(rule), object }
}

fn array(alignment: usize, elements: &[Vec<u8>]) -> Vec<u8> {
    let mut array = ArrayWriter::new(alignment);
    for element in elements {
        array.push(element);
    }
    array.finish()
}

fn file(name: &str) -> Vec<u8> {
    TupleWriter::new().string(name).variable(1, SUM).finish()
}

fn dir(name: &str) -> Vec<u8> {
    TupleWriter::new().string(name).variable(1, SUM).variable(1, SUM).finish()
}

fn dirtree(files: &[Vec<u8>], dirs: &[Vec<u8>]) -> Object {
    let data = TupleWriter::new().variable(1, &array(1, files)).variable(1, &array(1, dirs)).finish();
    named(ObjectKind::DirTree, data)
}

fn dirmeta_of(mode: u32, xattrs: &[(&[u8], &[u8])]) -> Object {
    let tuple = TupleWriter::new().fixed(4, &[0; 4]).fixed(4, &[0; 4]).fixed(4, &mode.to_be_bytes());
    named(ObjectKind::DirMeta, tuple.variable(1, &xattr_list(xattrs)).finish())
}

fn xattr_list(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let entry = |(name, value): &(&[u8], &[u8])| TupleWriter::new().variable(1, name).variable(1, value).finish();
    array(1, &entries.iter().map(entry).collect::<Vec<_>>())
}

/// Makes a `.filez`. Its name is of no interest where the bytes are refused.
fn filez(size: u64, mode: u32, target: &str, xattrs: &[(&[u8], &[u8])], behind: &[u8]) -> Object {
    let header = TupleWriter::new()
        .fixed(8, &size.to_be_bytes())
        .fixed(4, &[0; 4])
        .fixed(4, &[0; 4])
        .fixed(4, &mode.to_be_bytes())
        .fixed(4, &[0; 4])
        .string(target)
        .variable(1, &xattr_list(xattrs))
        .finish();
    let length = u32::try_from(header.len()).expect("headers are short").to_be_bytes();
    content([&length[..], &[0; 4], &header, behind].concat())
}

fn content(data: Vec<u8>) -> Object {
    (ObjectName::new(ObjectKind::File, Checksum::of(b"any")), data)
}

fn commit_meta(of: ObjectName, data: Vec<u8>) -> Object {
    (ObjectName::new(ObjectKind::CommitMeta, of.checksum), data)
}

fn dict(entries: &[(&str, Variant)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, Variant)| TupleWriter::new().string(key).variable(8, &value.encode()).finish();
    array(8, &entries.iter().map(entry).collect::<Vec<_>>())
}

fn bad_commit(metadata: &[u8], parent: &[u8], root_tree: &[u8]) -> Object {
    let tuple = TupleWriter::new().variable(8, metadata).variable(1, parent).variable(1, &[]).string("Subject");
    let tuple = tuple.string("").fixed(8, &[0; 8]).variable(1, root_tree).variable(1, SUM);
    named(ObjectKind::Commit, tuple.finish())
}

fn tree_cases() -> Vec<Case> {
    let long = "n".repeat(256);
    let case = |wrong, rule, object| invalid(wrong, rule, object);
    vec![
        case("a path that climbs", "entry-name", dirtree(&[file("../../etc/passwd")], &[])),
        case("an absolute path", "entry-name", dirtree(&[file("/etc/passwd")], &[])),
        case("the parent directory", "entry-name", dirtree(&[], &[dir("..")])),
        case("the directory itself", "entry-name", dirtree(&[], &[dir(".")])),
        case("an empty name", "entry-name", dirtree(&[file("")], &[])),
        case("a name of 256 bytes", "entry-name", dirtree(&[file(&long)], &[])),
        case("names out of order", "entry-order", dirtree(&[file("b"), file("a")], &[])),
        case("a name that is there twice", "entry-order", dirtree(&[file("a"), file("a")], &[])),
        case("a file and a directory of one name", "entry-twice", dirtree(&[file("a")], &[dir("a")])),
        case("a dirtree that is not in normal form", "not-normal-form", named(ObjectKind::DirTree, vec![0, 0])),
        case("an empty dirtree object", "not-normal-form", named(ObjectKind::DirTree, Vec::new())),
        case("a directory with a file's mode", "mode", dirmeta_of(0o100_644, &[])),
        case("xattrs out of order", "xattr-order", dirmeta_of(0o40_755, &[(b"user.b\0", b"1"), (b"user.a\0", b"2")])),
        case("a parent of 31 bytes", "checksum-length", bad_commit(&[], &[7; 31], SUM)),
        case("a commit without root", "checksum-length", bad_commit(&[], &[], &[])),
        case("a key that is there twice", "duplicate-key", {
            bad_commit(&dict(&[("a", Variant::bool(true)), ("a", Variant::bool(true))]), &[], SUM)
        }),
        case("a commit that is none", "not-normal-form", named(ObjectKind::Commit, b"no commit".to_vec())),
        case("another object's checksum", "checksum-mismatch", {
            let tree = DirTree::default();
            (ObjectName::new(ObjectKind::DirTree, Checksum::of(b"another")), tree.encode())
        }),
    ]
}

fn content_cases() -> Vec<Case> {
    let hello = deflated(b"hello");
    let with_size = |size: u64| filez(size, 0o100_644, "", &[], &hello);
    let bomb = deflated(&vec![0; 8 << 20]);
    let case = |wrong, rule, object| invalid(wrong, rule, object);
    vec![
        case("a size that is too small", "content-size", with_size(4)),
        case("a size that is too great", "content-size", with_size(6)),
        case("a bomb behind a small size", "content-size", filez(1000, 0o100_644, "", &[], &bomb)),
        case("junk behind the stream", "trailing-bytes", filez(5, 0o100_644, "", &[], &[&hello[..], b"junk"].concat())),
        case("a stream without its end", "deflate", filez(5, 0o100_644, "", &[], &hello[..hello.len() - 1])),
        case("no stream at all", "deflate", filez(0, 0o100_644, "", &[], &[])),
        case("a symlink with content", "trailing-bytes", filez(0, 0o120_777, "target", &[], &hello)),
        case("a symlink with a size", "content-size", filez(5, 0o120_777, "target", &[], &[])),
        case("a symlink without target", "symlink-target", filez(0, 0o120_777, "", &[], &[])),
        case("a device", "mode", filez(0, 0o020_644, "", &[], &[])),
        case("xattrs out of order", "xattr-order", {
            filez(5, 0o100_644, "", &[(b"user.b\0", b"1"), (b"user.a\0", b"2")], &hello)
        }),
        case("a header of 4 GiB", "too-large", content([&[0xff; 4][..], &[0; 12]].concat())),
        case("a header that does not come", "header-frame", content([&[0, 0, 1, 0][..], &[0; 12]].concat())),
        case("nothing", "header-frame", content(Vec::new())),
        case("another file's checksum", "checksum-mismatch", content(regular_file(b"hello").1)),
        Case { wrong: "the greatest size", code: ErrorCode::TooLarge, rule: None, object: with_size(u64::MAX) },
        Case {
            wrong: "a bomb that promises what it gives",
            code: ErrorCode::TooLarge,
            rule: None,
            object: filez(8 << 20, 0o100_644, "", &[], &bomb),
        },
    ]
}

fn detached_cases(offered: ObjectName) -> Vec<Case> {
    let limit = usize::try_from(MAX_DETACHED_METADATA_BYTES).expect("a mebibyte");
    let bad = |wrong, code, rule, object| Case { wrong, code, rule, object };
    let stranger = ObjectName::new(ObjectKind::Commit, Checksum::of(b"of somebody else"));
    let tombstone = ObjectName::new(ObjectKind::TombstoneCommit, offered.checksum);
    let valid = dict(&[("key", Variant::bool(true))]);
    let text = dict(&[(detached::SIGNATURE_KEYS[0], Variant::string("no signature"))]);
    vec![
        bad("oversized detached metadata", ErrorCode::TooLarge, None, commit_meta(offered, vec![0; limit + 1])),
        bad(
            "detached metadata of a commit that is not offered",
            ErrorCode::BadRequest,
            Some("foreign-commitmeta"),
            commit_meta(stranger, valid),
        ),
        bad(
            "a tombstone",
            ErrorCode::BadRequest,
            Some("object-kind"),
            (tombstone, tombstone::encode(treegraft_object::CommitId(offered.checksum))),
        ),
        invalid("signatures that are a text", "value-type", commit_meta(offered, text)),
        invalid("an empty key", "empty-key", commit_meta(offered, dict(&[("", Variant::bool(true))]))),
        invalid("detached metadata that is none", "not-normal-form", commit_meta(offered, vec![0])),
        bad("a commit above the limit", ErrorCode::TooLarge, None, {
            let subject = "s".repeat(200_000);
            let tuple = TupleWriter::new().variable(8, &[]).variable(1, &[]).variable(1, &[]).string(&subject);
            named(ObjectKind::Commit, tuple.finish())
        }),
    ]
}

fn settings() -> Settings {
    Settings { max_content_bytes: 4 << 20, max_metadata_bytes: 100_000, ..Settings::default() }
}

/// Sends a bad object between two good ones.
async fn send(wire: &Wire, pushed: &Pushed, bad: &Object) -> Reply {
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let stream = [pushed.objects[0].clone(), bad.clone(), pushed.objects[1].clone()];
    let reply = wire.objects(&push, &stream).await;
    let published = wire.publish(&push).await.published();
    let error = published.expect_err("a push whose objects were refused is not published");
    assert_eq!(error.code, ErrorCode::Incomplete, "what was refused is missing: {error:?}");
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_object_is_refused_by_its_own_rule_and_leaves_no_trace() {
    let place = Place::with_refs().await;
    let before = place.snapshot();
    let pushed = Pushed::new("main", "three");
    let cases = tree_cases().into_iter().chain(content_cases()).chain(detached_cases(pushed.id.into()));
    for Case { wrong, code, rule, object } in cases {
        let wire = Wire::connect(place.receiver(settings())).await;
        let error = send(&wire, &pushed, &object).await.error();
        assert_eq!((error.code, error.rule.as_deref()), (code, rule), "{wrong} is refused by its own rule: {error:?}");
        assert_eq!(error.object, Some(object.0.to_string()), "{wrong}: the object is named");
        wire.close().await;
        let bad = object.0.to_string();
        assert!(!place.staged().iter().any(|name| bad.starts_with(name.as_str())), "{wrong} is not kept");
        assert_eq!(place.snapshot(), before, "{wrong} changes nothing that is visible");
        assert!(place.gets_unlocked(), "{wrong} leaves no lock");
    }
    place.connect().await.push(&pushed).await.expect("a sound push is published afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_its_format_is_refused() {
    let place = Place::with_refs().await;
    let before = place.snapshot();
    let pushed = Pushed::new("main", "three");
    let (name, data) = pushed.objects[1].clone();
    let good = framed_object(name, &data);
    let (name, data) = &pushed.objects[0];
    let file = framed_object(*name, data);
    let changed = |position: usize, byte: u8| {
        let mut stream = good.clone();
        stream[position] = byte;
        stream
    };
    let cases = [
        ("an unknown kind", changed(0, 99)),
        ("kind zero", changed(0, 0)),
        ("an unknown encoding", changed(1, 1)),
        ("a chunk above 1 MiB", changed(34, 1)),
        ("a stream that ends in a name", good[..20].to_vec()),
        ("a stream that ends before an object's end", good[..good.len() - 4].to_vec()),
        ("a stream that ends in a chunk", good[..good.len() - 6].to_vec()),
        ("a stream that ends in the frame of a file", file[..45].to_vec()),
        ("a stream that ends in the header of a file", file[..60].to_vec()),
        ("a stream that ends in the content of a file", file[..file.len() - 6].to_vec()),
    ];
    for (wrong, stream) in cases {
        let wire = place.connect().await;
        let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
        let reply = wire.post(&format!("pushes/{push}/objects"), stream).await;
        assert_eq!(reply.code(), ErrorCode::BadRequest, "{wrong} is no stream: {reply:?}");
        wire.close().await;
        assert_eq!(place.staged(), Vec::<String>::new(), "{wrong}: nothing is kept");
        assert_eq!(place.snapshot(), before, "{wrong} changes nothing that is visible");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_heard_although_much_more_is_on_its_way() {
    let place = Place::with_refs().await;
    let pushed = Pushed::new("main", "three");
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let mut stream = framed_object(ObjectName::new(ObjectKind::DirTree, Checksum::of(b"wrong")), &[0]);
    stream.resize(20 << 20, 0);
    let error = wire.post(&format!("pushes/{push}/objects"), stream).await.error();
    assert_eq!(error.code, ErrorCode::InvalidObject, "not the broken stream is told, but why: {error:?}");
}

/// Every level of the tree is an object of its own, so that only the whole shows how deep it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_too_deep_is_the_clients_mistake() {
    let place = Place::with_refs().await;
    let before = place.snapshot();
    let meta = dirmeta();
    let mut tree = DirTree::default();
    let mut objects = vec![(meta.id().into(), meta.encode())];
    for _ in 0..2100 {
        objects.push((tree.id().into(), tree.encode()));
        tree = DirTree { files: Vec::new(), dirs: vec![("d".to_owned(), tree.id(), meta.id())] };
    }
    let pushed = Pushed::of_tree("main", &tree, objects, None);
    let error = place.connect().await.push(&pushed).await.expect_err("no path can be that long");
    assert_eq!((error.code, error.rule.as_deref()), (ErrorCode::InvalidObject, Some("too-deep")), "{error:?}");
    assert_eq!(place.snapshot(), before, "nothing is visible");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_refused_do_not_spoil_those_before_them() {
    let place = Place::with_refs().await;
    let pushed = Pushed::new("main", "three");
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    let (first, second) = (&pushed.objects[0], &pushed.objects[2]);
    let bad = commit_meta(pushed.id.into(), vec![0]);
    wire.objects(&push, &[first.clone(), bad, second.clone()]).await.error();
    let reply = wire.missing(&push, &[first.0, second.0]).await;
    assert_eq!(&reply.body[..], b"+-", "those before the refused one are kept, those behind it never came");
    let mut metadata = Dict::new();
    metadata.set("key", Variant::string("value"));
    let rest: Vec<Object> = pushed.objects[1..].to_vec();
    assert_eq!(wire.objects(&push, &rest).await.status, 200, "the push goes on");
    assert_eq!(wire.objects(&push, &[commit_meta(pushed.id.into(), metadata.encode())]).await.status, 200, "as usual");
    wire.publish(&push).await.published().expect("and is published");
}
