//! Requests that say what they should not: each has its code, and lies gain nothing.

mod support;

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use serde_json::{Value, json};
use support::{
    Place, Wire,
    objects::{Object, Pushed, regular_file},
    open_request,
};
use treegraft_object::{
    Checksum, CommitId, DirTree, ObjectKind, ObjectName,
    gvariant::{Dict, Variant},
};
use treegraft_repo::Find;
use treegraft_server::config::{DetachedMetadata, Settings};
use treegraft_testkit::Gpg;
use treegraft_wire::ErrorCode;

fn changed(offer: &Value, field: &str, value: Value) -> Value {
    let mut offer = offer.clone();
    offer[field] = value;
    offer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_request_that_cannot_be_granted_has_its_code() {
    let place = Place::with_refs().await;
    let before = place.snapshot();
    let pushed = Pushed::new("main", "three");
    let offer = &pushed.offer;
    let one = |offer: Value| open_request(&[&offer]);
    let name = |name: &str| one(changed(offer, "name", json!(name)));
    let graft = |name: &str, graft: Value| one(changed(&changed(offer, "name", json!(name)), "graft", graft));
    let many: Vec<Value> = (0..20).map(|index| changed(offer, "name", json!(format!("ref{index}")))).collect();
    let app = "app/org.example.App/x86_64/stable";
    let exact = changed(offer, "mode", json!("exact"));
    let cases = [
        ("no JSON", ErrorCode::BadRequest, json!("refs")),
        ("a request without fields", ErrorCode::BadRequest, json!({})),
        ("no ref", ErrorCode::BadRequest, open_request(&[])),
        ("a ref that is there twice", ErrorCode::BadRequest, open_request(&[offer, offer])),
        ("too many refs", ErrorCode::TooLarge, open_request(&many.iter().collect::<Vec<_>>())),
        ("a name that climbs", ErrorCode::BadRequest, name("../../etc/passwd")),
        ("an absolute name", ErrorCode::BadRequest, name("/main")),
        ("an empty name", ErrorCode::BadRequest, name("")),
        ("a generated ref of Flatpak", ErrorCode::RefName, name("appstream/x86_64")),
        ("the newer generated ref of Flatpak", ErrorCode::RefName, name("appstream2/x86_64")),
        ("the generated ref of collections", ErrorCode::RefName, name("ostree-metadata")),
        ("a new name beyond ASCII", ErrorCode::RefName, name("größe")),
        ("an application without branch", ErrorCode::RefName, name("app/org.example.App/x86_64")),
        ("a checksum of 63 digits", ErrorCode::BadRequest, one(changed(offer, "commit", json!("a".repeat(63))))),
        ("an unknown mode", ErrorCode::BadRequest, one(changed(offer, "mode", json!("merge")))),
        ("a time before 1970", ErrorCode::BadRequest, one(changed(offer, "timestamp_secs", json!(-1)))),
        ("subsets on a plain ref", ErrorCode::GraftOption, graft("main", json!({ "subsets": ["verified"] }))),
        ("a token type on a plain ref", ErrorCode::GraftOption, graft("main", json!({ "token_type": 1 }))),
        ("a negative token type", ErrorCode::GraftOption, graft(app, json!({ "token_type": -1 }))),
        ("a subject of 5 KiB", ErrorCode::GraftOption, graft("main", json!({ "subject": "s".repeat(5000) }))),
        ("a time after the year 9999", ErrorCode::GraftOption, graft("main", json!({ "timestamp_secs": u64::MAX }))),
        ("an exact commit that is changed", ErrorCode::GraftOption, {
            one(changed(&exact, "graft", json!({ "subject": "another" })))
        }),
        ("force without leave", ErrorCode::NotAllowed, one(changed(&exact, "force", json!(true)))),
        ("an older commit", ErrorCode::OlderThanHead, one(changed(offer, "timestamp_secs", json!(1)))),
    ];
    let wire = Wire::connect(place.receiver(Settings { max_refs: 10, ..Settings::default() })).await;
    for (wrong, code, request) in cases {
        let error = wire.open(&request).await.error();
        assert_eq!(error.code, code, "{wrong}: {error:?}");
    }
    let garbage = wire.post("pushes", "{\"client\":").await;
    assert_eq!(garbage.code(), ErrorCode::BadRequest, "a document that breaks off is none");
    let large = wire.post("pushes", vec![b' '; (16 << 20) + 1]).await;
    assert_eq!(large.code(), ErrorCode::TooLarge, "a document has its limit");
    wire.close().await;
    assert!(place.gets_unlocked(), "a push that is refused leaves no lock");
    assert_eq!(place.snapshot(), before, "nothing is visible of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_cannot_be_asked_for() {
    let place = Place::with_refs().await;
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&Pushed::new("main", "three").offer])).await.push.0;
    let send = async |method: Method, path: &str, body: Vec<u8>| {
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
        wire.send(method, path, body).await.expect("there is an answer").code()
    };
    for path in ["missing", "objects", "publish"] {
        for id in ["2", "0", "", "..", "%31", "1%00"] {
            let code = send(Method::POST, &format!("pushes/{id}/{path}"), Vec::new()).await;
            assert_eq!(code, ErrorCode::UnknownPush, "there is no push `{id}` to do `{path}` with");
        }
        let path = format!("pushes/{push}/{path}");
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(send(method.clone(), &path, Vec::new()).await, ErrorCode::NotFound, "{method} is no request");
        }
        assert_eq!(
            send(Method::POST, &format!("{path}/more"), Vec::new()).await,
            ErrorCode::NotFound,
            "too long a path"
        );
    }
    for path in ["", "pushes/", "pushes/1", "push", "refs"] {
        assert_eq!(send(Method::POST, path, Vec::new()).await, ErrorCode::NotFound, "`{path}` is no path");
    }
    let missing = format!("pushes/{push}/missing");
    let name = ObjectName::new(ObjectKind::File, Checksum::of(b"x"));
    let question = treegraft_wire::question::encode(&[name]);
    let cases = [
        ("a name that is cut", ErrorCode::BadRequest, question[..32].to_vec()),
        ("a byte too many", ErrorCode::BadRequest, [&question[..], &[1]].concat()),
        ("a tombstone", ErrorCode::BadRequest, [&[5][..], &question[1..]].concat()),
        ("detached metadata", ErrorCode::BadRequest, [&[6][..], &question[1..]].concat()),
        ("an unknown kind", ErrorCode::BadRequest, [&[0][..], &question[1..]].concat()),
        ("65,537 names", ErrorCode::TooLarge, question.repeat(65_537)),
    ];
    for (wrong, code, question) in cases {
        assert_eq!(send(Method::POST, &missing, question).await, code, "{wrong} cannot be asked for");
    }
    assert_eq!(wire.post(&missing, question.repeat(65_536)).await.body.len(), 65_536, "65,536 names are allowed");
    assert_eq!(wire.missing(&push, &[]).await.status, 200, "an empty question has an empty answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_can_ask_and_nothing_else() {
    let place = Place::with_refs().await;
    let before = place.snapshot();
    let pushed = Pushed::new("main", "three");
    // What an earlier push has left would be enough for a publication.
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&pushed.offer])).await.push.0;
    assert_eq!(wire.objects(&push, &pushed.objects).await.status, 200, "sound objects are taken");
    wire.close().await;

    let wire = place.connect().await;
    let mut request = open_request(&[&pushed.offer]);
    request["purpose"] = json!("dry-run");
    let push = wire.opened(&request).await.push.0;
    assert_eq!(wire.missing(&push, &[pushed.objects[0].0]).await.body, "+", "it is told what is there");
    assert_eq!(wire.objects(&push, &pushed.objects).await.code(), ErrorCode::BadRequest, "it takes no objects");
    assert_eq!(wire.publish(&push).await.code(), ErrorCode::BadRequest, "it cannot be published");
    wire.close().await;
    assert_eq!(place.snapshot(), before, "nothing is visible");
}

/// A client says what it likes of its commit; the commit itself counts.
#[tokio::test(flavor = "multi_thread")]
async fn lies_about_a_commit_gain_nothing() {
    let place = Place::with_refs().await;
    let head = place.head("main");
    let head_commit = place.repo().commit(head.expect("it was pushed")).expect("it can be read");
    let before = place.snapshot();

    let pushed = Pushed::new("main", "three");
    let unchanged = changed(&pushed.offer, "root_tree", json!(head_commit.root_tree));
    let wire = place.connect().await;
    let opened = wire.opened(&open_request(&[&unchanged])).await;
    assert_eq!(opened.refs[0].verdict, treegraft_wire::Verdict::Unchanged, "the server believes it for now");
    let push = opened.push.0;
    assert_eq!(wire.objects(&push, &pushed.objects).await.code(), ErrorCode::BadRequest, "it takes no objects then");
    let error = wire.publish(&push).await.published().expect_err("nothing was to be published");
    assert_eq!(error.code, ErrorCode::BadRequest, "nor does it publish: {error:?}");
    assert_eq!(place.snapshot(), before, "nothing is visible");

    // Beside a ref that is to be published, the lie is of no use either: the ref stays.
    let other = Pushed::new("third", "3");
    let push = wire.opened(&open_request(&[&unchanged, &other.offer])).await.push.0;
    wire.objects(&push, &[pushed.objects.clone(), other.objects.clone()].concat()).await;
    let published = wire.publish(&push).await.published().expect("the other ref is published");
    assert_eq!(Some(published.refs[0].new), head, "the answer says that the first ref did not move");
    assert_eq!(place.head("main"), head, "and it did not");

    let older = Pushed::new("main", "older");
    let old_commit = treegraft_object::Commit { timestamp_secs: 5, ..older.commit.clone() };
    let mut offer = changed(&older.offer, "commit", json!(old_commit.id()));
    offer["timestamp_secs"] = json!(u64::MAX);
    let push = wire.opened(&open_request(&[&offer])).await.push.0;
    let mut objects = older.objects.clone();
    objects.push((old_commit.id().into(), old_commit.encode()));
    assert_eq!(wire.objects(&push, &objects).await.status, 200, "the objects are sound");
    let error = wire.publish(&push).await.published().expect_err("the commit is older than the head");
    assert_eq!(error.code, ErrorCode::OlderThanHead, "the commit's own time counts: {error:?}");
    assert_eq!(place.head("main"), head, "the ref did not move");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_a_hole_is_refused_by_what_is_missing() {
    let place = Place::with_refs().await;
    let before = place.snapshot();
    let meta = support::objects::dirmeta();
    let (file, filez) = regular_file(b"deep");
    let inner = DirTree { files: vec![("deep".to_owned(), file)], dirs: Vec::new() };
    let tree = DirTree { files: Vec::new(), dirs: vec![("dir".to_owned(), inner.id(), meta.id())] };
    let objects: Vec<Object> = vec![(file.into(), filez), (inner.id().into(), inner.encode())];
    let pushed = Pushed::of_tree("main", &tree, objects, None);
    for (missing, _) in &pushed.objects {
        if missing.kind == ObjectKind::DirMeta {
            continue;
        }
        let mut part = pushed.clone();
        part.objects.retain(|(name, _)| name != missing);
        // A place of its own each time: what was sent before would be found otherwise.
        let place = Place::with_refs().await;
        let error = place.connect().await.push(&part).await.expect_err("an object is missing");
        assert_eq!(error.code, ErrorCode::Incomplete, "{missing}: {error:?}");
        assert!(error.detail.contains(&missing.to_string()), "{missing} is named: {error:?}");
        assert_eq!(place.snapshot(), before, "nothing is visible");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_there_already_is_no_way_around_the_rules() {
    let place = Place::with_refs().await;
    let other = place.head("other").expect("it was pushed");
    let commit = place.repo().commit(other).expect("it can be read");
    // The tree of another ref is grafted like any other: the new commit is bound to its own ref.
    let offer = support::objects::offer("main", &commit);
    let wire = place.connect().await;
    let push = wire.opened(&open_request(&[&offer])).await.push.0;
    let published = wire.publish(&push).await.published().expect("everything is there already");
    let grafted = place.repo().commit(published.refs[0].new).expect("it can be read");
    assert_eq!(grafted.root_tree, commit.root_tree, "it is the offered tree");
    assert_ne!(published.refs[0].new, other, "but a commit of its own");

    let error = {
        let exact = changed(&offer, "mode", json!("exact"));
        let push = wire.opened(&open_request(&[&exact])).await.push.0;
        wire.publish(&push).await.published().expect_err("the head is no ancestor of another ref's commit")
    };
    assert_eq!(error.code, ErrorCode::NotFastForward, "{error:?}");
    assert_eq!(error.current, place.head("main").map(|id| id.to_string()), "the head is told: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_in_each_others_way_are_refused_before_anything_moves() {
    let place = Place::with_refs().await;
    let wire = place.connect().await;
    for names in [["fourth", "main/below"], ["fourth", "main/far/below"], ["a/b", "a"], ["a", "a/b/c"]] {
        let [first, second] = names.map(|name| Pushed::new(name, name));
        let error = wire.open(&open_request(&[&first.offer, &second.offer])).await.error();
        assert_eq!(error.code, ErrorCode::RefName, "{names:?}: {error:?}");
    }
    wire.push(&Pushed::new("dir/ref", "x")).await.expect("a sound push");
    let before = place.repo().refs().expect("refs can be read");

    // What is below a name is not looked for when a push is opened.
    let (above, beside) = (Pushed::new("dir", "y"), Pushed::new("fourth", "z"));
    let push = wire.opened(&open_request(&[&beside.offer, &above.offer])).await.push.0;
    wire.objects(&push, &[above.objects, beside.objects].concat()).await;
    let error = wire.publish(&push).await.published().expect_err("there is a ref below `dir`");
    assert_eq!(error.code, ErrorCode::RefName, "{error:?}");
    assert_eq!(place.repo().refs().expect("refs can be read"), before, "no ref has moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_refs_may_get_one_exact_commit() {
    let Some(gpg) = Gpg::with_key("Test <test@example.org>") else { return };
    let place = Place::new();
    let (log, program) = (place.path("log"), place.path("gpg"));
    let script = format!("#!/bin/sh\necho \"$@\" >>'{}'\nexec gpg \"$@\"\n", log.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&program).expect("a file is made");
    file.write_all(script.as_bytes()).expect("a file can be written");
    drop(file);
    let (keys, home) = (vec![gpg.fingerprint().to_owned()], Some(gpg.home().to_owned()));
    let settings = Settings { gpg_keys: keys, gpg_homedir: home, gpg_program: program, ..Settings::default() };
    let pushed = Pushed::new("stable", "x").exact();
    let testing = changed(&pushed.offer, "name", json!("testing"));
    let wire = Wire::connect(place.receiver(settings)).await;
    let push = wire.opened(&open_request(&[&pushed.offer, &testing])).await.push.0;
    wire.objects(&push, &pushed.objects).await;
    wire.publish(&push).await.published().expect("both are published");
    assert_eq!((place.head("stable"), place.head("testing")), (Some(pushed.id), Some(pushed.id)), "with one commit");
    let calls = std::fs::read_to_string(log).expect("gpg was called");
    let signed = calls.lines().filter(|call| call.contains("--detach-sign")).count();
    assert_eq!(signed, 2, "the commit is signed once, and the summary: {calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_metadata_that_another_push_has_left_is_not_published() {
    for kept in [DetachedMetadata::Exact, DetachedMetadata::Always] {
        let place = Place::new();
        let settings = || Settings { detached_metadata: kept, ..Settings::default() };
        let base = Pushed::new("main", "base").exact();
        let child = |content: &str, parent: CommitId| {
            let (file, filez) = regular_file(content.as_bytes());
            let tree = DirTree { files: vec![("file".to_owned(), file)], dirs: Vec::new() };
            Pushed::of_tree("main", &tree, vec![(file.into(), filez)], Some(parent)).exact()
        };
        let first = child("first", base.id);
        let second = child("second", first.id);
        let wire = Wire::connect(place.receiver(settings())).await;
        wire.push(&base).await.expect("a ref to begin with");

        // Somebody offers both, sends detached metadata, and leaves.
        let offers = [("a", &first), ("b", &second)].map(|(name, of)| changed(&of.offer, "name", json!(name)));
        let planter = Wire::connect(place.receiver(settings())).await;
        let push = planter.opened(&open_request(&offers.each_ref())).await.push.0;
        let mut metadata = Dict::new();
        metadata.set("planted", Variant::bool(true));
        let left = [&first, &second].map(|pushed| (ObjectName::commit_meta(pushed.id), metadata.encode()));
        assert_eq!(planter.objects(&push, &left).await.status, 200, "it is the metadata of offered commits");
        planter.close().await;

        let pushed = Pushed { objects: [first.objects.clone(), second.objects.clone()].concat(), ..second.clone() };
        wire.push(&pushed).await.expect("it is sound");
        assert_eq!(place.head("main"), Some(second.id), "both commits are published");
        for id in [first.id, second.id] {
            let metadata = place.repo().detached_metadata(id).expect("it can be read").unwrap_or_default();
            assert!(metadata.get("planted").is_none(), "{kept:?}: what the push did not send is not its own");
        }
    }
}
