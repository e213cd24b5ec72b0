//! Objects that are made of what the server has: what is told about its files, and recipes that are not what they should be.

mod support;

use std::{fs, io::Write as _, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, header::CONTENT_ENCODING};
use serde_json::{Value, json};
use support::{
    Place, Reply, Wire,
    objects::{Pushed, framed_object, regular_file},
    open_request,
};
use treegraft_object::{Checksum, ContentId, DirTree, FileHeader, FileKind, ObjectKind, ObjectName, Xattrs};
use treegraft_server::{
    config::{ServerConfig, Settings},
    rights::{Caller, KeyName},
};
use treegraft_wire::{
    ErrorCode, ObjectsAnswer, OpenAnswer,
    chunks::{self, CHUNKS, Place as FilePlace, Signature},
    stream::Compressor,
};

fn old() -> Vec<u8> {
    lines(5000)
}

fn lines(count: u64) -> Vec<u8> {
    (0..count).flat_map(|number| format!("{} lines were there before\n", number * number).into_bytes()).collect()
}

fn new() -> Vec<u8> {
    [b"something new, and ", &old()[..], b", and more"].concat()
}

/// A commit with `usr/lib/file`, whose content goes as it is.
fn pushed(name: &str, content: &[u8]) -> Pushed {
    let meta = support::objects::dirmeta().id();
    let (file, filez) = regular_file(content);
    let lib = DirTree { files: vec![("file".to_owned(), file)], dirs: Vec::new() };
    let usr = DirTree { files: Vec::new(), dirs: vec![("lib".to_owned(), lib.id(), meta)] };
    let root = DirTree { files: Vec::new(), dirs: vec![("usr".to_owned(), usr.id(), meta)] };
    let objects = vec![(file.into(), filez), (lib.id().into(), lib.encode()), (usr.id().into(), usr.encode())];
    Pushed::of_tree(name, &root, objects, None)
}

fn comparing(offers: &[&Value]) -> Value {
    let mut request = open_request(offers);
    request["features"] = json!([CHUNKS]);
    request
}

fn at(ref_index: u32, path: &str) -> FilePlace {
    FilePlace { ref_index, path: path.to_owned() }
}

async fn signatures(wire: &Wire, push: &str, places: &[FilePlace]) -> Vec<Option<Signature>> {
    let reply = wire.post(&format!("pushes/{push}/signatures"), chunks::encode_places(places)).await;
    assert_eq!(reply.status, 200, "the question is answered: {reply:?}");
    chunks::decode_signatures(&reply.body, places.len()).expect("it is an answer")
}

/// A repository with `main`, and an open push of its next commit.
async fn opened(settings: Settings) -> (Place, Wire, OpenAnswer, Pushed) {
    let place = Place::new();
    place.connect().await.push(&pushed("main", &old())).await.expect("a sound push is published");
    let wire = Wire::connect(place.receiver(settings)).await;
    let next = pushed("main", &new());
    let open = wire.opened(&comparing(&[&next.offer])).await;
    (place, wire, open, next)
}

fn header() -> FileHeader {
    FileHeader { uid: 0, gid: 0, mode: 0o100_644, kind: FileKind::Regular, xattrs: Xattrs::new() }
}

fn recipe_of(signature: &Signature, content: &[u8], content_bytes: u64) -> Vec<u8> {
    let mut recipe = Vec::new();
    chunks::write_recipe(signature, &header(), content_bytes, content, &mut recipe).expect("memory takes everything");
    recipe
}

/// Writes an object as it stands in a stream, as a recipe.
fn framed_recipe(name: ObjectName, recipe: &[u8]) -> Vec<u8> {
    let mut framed = framed_object(name, recipe);
    framed[1] = 1;
    framed
}

async fn send(wire: &Wire, push: &str, stream: Vec<u8>) -> Reply {
    wire.post(&format!("pushes/{push}/objects"), stream).await
}

#[tokio::test]
async fn a_file_is_made_of_its_older_version_and_published() {
    let (place, wire, open, next) = opened(Settings::default()).await;
    assert!(open.features.iter().any(|feature| feature == CHUNKS), "the server can do it: {open:?}");
    assert!(open.refs[0].has_basis, "and has something to compare with");
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    let signature = found[0].as_ref().expect("the file is there in its older version");
    assert_eq!(signature.basis, regular_file(&old()).0, "it is compared with that");
    let (name, filez) = &next.objects[0];
    let recipe = recipe_of(signature, &new(), new().len() as u64);
    assert!(recipe.len() < new().len() / 2, "{} bytes are less than the file", recipe.len());
    let mut stream = framed_recipe(*name, &recipe);
    for (name, data) in &next.objects[1..] {
        stream.extend(framed_object(*name, data));
    }
    let mut compressor = Compressor::new().expect("it can compress");
    let body = [compressor.write(&stream).expect("it compresses"), compressor.finish().expect("it ends")].concat();
    let answer: ObjectsAnswer = encoded(&wire, &open.push.0, "zstd", body).await.json();
    assert_eq!((answer.objects, answer.to_be_sent_whole.len()), (6, 0), "all of them are taken: {answer:?}");
    wire.publish(&open.push.0).await.published().expect("it is published");
    let stored = fs::read(place.path("repo").join(name.loose_path("filez"))).expect("the file is there");
    assert_eq!(stored, *filez, "as it would be if it had been sent");
}

/// A few bytes may ask for much work, again and again.
#[tokio::test]
async fn what_is_made_in_vain_counts_against_the_limits() {
    let content_bytes = new().len() as u64;
    let settings = Settings { max_push_bytes: 3 * content_bytes, ..Settings::default() };
    let (_place, wire, open, _) = opened(settings).await;
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    let signature = found[0].as_ref().expect("the file is there in its older version");
    let wrong = ObjectName::from(ContentId(Checksum::of(b"something else")));
    let stream = framed_recipe(wrong, &recipe_of(signature, &new(), content_bytes));
    for _ in 0..2 {
        let answer: ObjectsAnswer = send(&wire, &open.push.0, stream.clone()).await.json();
        assert_eq!(answer.to_be_sent_whole, [ContentId(wrong.checksum)], "it becomes another object");
    }
    assert_eq!(send(&wire, &open.push.0, stream).await.code(), ErrorCode::TooLarge, "and that is not for nothing");
}

#[tokio::test]
async fn what_cannot_be_made_has_an_end() {
    let (_place, wire, open, _) = opened(Settings::default()).await;
    let absent = Signature { basis: ContentId(Checksum::of(b"nobody has it")), chunks: Vec::new() };
    let name = ObjectName::from(ContentId(Checksum::of(b"something else")));
    let stream = framed_recipe(name, &recipe_of(&absent, b"", 0)).repeat(200_001);
    let refused = encoded(&wire, &open.push.0, "zstd", zstd_with_window(&stream, 20)).await.error();
    assert_eq!(refused.code, ErrorCode::TooLarge, "nobody reads such a list: {refused:?}");
}

/// A few bytes may ask for days of work.
#[tokio::test(flavor = "multi_thread")]
async fn work_ends_with_its_client() {
    let place = Place::new();
    let large = lines(110_000);
    place.connect().await.push(&pushed("main", &large)).await.expect("a sound push is published");
    let wire = Wire::connect(place.receiver(Settings::default())).await;
    let open = wire.opened(&comparing(&[&pushed("main", &new()).offer])).await;
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    let signature = found[0].as_ref().expect("the file is there in its older version");
    // To find its last chunk, the whole file is inflated.
    let &(last_bytes, _) = signature.chunks.last().expect("it has chunks");
    let last = &large[large.len() - usize::from(last_bytes)..];
    let wrong = ObjectName::from(ContentId(Checksum::of(b"something else")));
    let stream = framed_recipe(wrong, &recipe_of(signature, last, last.len() as u64)).repeat(100_000);
    let body = zstd_with_window(&stream, 20);
    tokio::select! {
        reply = encoded(&wire, &open.push.0, "zstd", body) => panic!("it takes much longer: {reply:?}"),
        () = tokio::time::sleep(Duration::from_millis(500)) => {}
    }
    wire.disconnect().await;
    assert!(place.gets_unlocked(), "the push is given up");
}

#[tokio::test]
async fn what_is_damaged_is_not_compared() {
    for damage in ["an empty file", "no directory", "no commit"] {
        let (place, wire, open, next) = opened(Settings::default()).await;
        let older = pushed("main", &old());
        let head = place.head("main").expect("it is published");
        let repo = place.path("repo");
        match damage {
            "an empty file" => fs::write(repo.join(older.objects[0].0.loose_path("filez")), b""),
            "no directory" => fs::remove_file(repo.join(older.objects[1].0.loose_path("dirtree"))),
            _ => fs::remove_file(repo.join(ObjectName::from(head).loose_path("commit"))),
        }
        .expect("it can be damaged");
        let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
        assert_eq!(found, [None], "{damage}: there is nothing to compare with");
        let (id, _) = regular_file(&old());
        let signature = Signature { basis: id, chunks: Vec::new() };
        let stream = framed_recipe(next.objects[0].0, &recipe_of(&signature, &new(), new().len() as u64));
        let answer: ObjectsAnswer = send(&wire, &open.push.0, stream).await.json();
        let is_needed = answer.to_be_sent_whole.len() == 1;
        assert_eq!(is_needed, damage == "an empty file", "{damage}: nothing else is needed for a recipe: {answer:?}");
    }
}

#[tokio::test]
async fn an_update_that_fits_as_it_is_fits_as_recipes() {
    let (place, ..) = opened(Settings::default()).await;
    // Half of it is new, so the recipe has about as many bytes as the object.
    let added: Vec<u8> = (0_u32..4000).flat_map(|number| *Checksum::of(&number.to_be_bytes()).as_bytes()).collect();
    let content = [&added[..], &old()].concat();
    let next = pushed("main", &content);
    let new_bytes: u64 = next.objects.iter().map(|(_, data)| data.len() as u64).sum();
    let used_bytes = treegraft_repo::Usage::of(&place.repo()).expect("it can be counted").object_bytes;
    let limit = used_bytes + new_bytes + 10_000;
    let wire =
        Wire::connect(place.receiver(Settings { max_repository_bytes: Some(limit), ..Settings::default() })).await;
    let open = wire.opened(&comparing(&[&next.offer])).await;
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    let recipe = recipe_of(found[0].as_ref().expect("the file is there"), &content, content.len() as u64);
    assert!(recipe.len() as u64 > 20_000, "it counts: {}", recipe.len());
    let behind = next.objects[1..].iter().flat_map(|(name, data)| framed_object(*name, data));
    let stream = framed_recipe(next.objects[0].0, &recipe).into_iter().chain(behind).collect();
    assert_eq!(send(&wire, &open.push.0, stream).await.status, 200, "all of it is taken");
    wire.publish(&open.push.0).await.published().expect("it is published");
}

async fn encoded(wire: &Wire, push: &str, encoding: &'static str, body: Vec<u8>) -> Reply {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
    let uri = format!("http://treegraft/api/v1/pushes/{push}/objects");
    let request = Request::builder().method(Method::POST).uri(uri).header(CONTENT_ENCODING, encoding);
    wire.send_request(request.body(body).expect("a valid request")).await.expect("there is an answer")
}

#[tokio::test]
async fn nothing_is_told_about_what_is_not_there() {
    let (_place, wire, open, _) = opened(Settings::default()).await;
    let places = [
        at(0, "usr/lib/other"),
        at(0, "usr/lib"),
        at(0, ""),
        at(0, "/usr/lib/file/"),
        at(0, "usr/lib/../lib/file"),
        at(0, "usr/lib/file/deeper"),
        at(1, "usr/lib/file"),
        at(u32::MAX, "usr/lib/file"),
    ];
    let found = signatures(&wire, &open.push.0, &places).await;
    for (place, signature) in places.iter().zip(found) {
        assert_eq!(signature, None, "there is no file at {place:?}");
    }
    let reply = wire.post(&format!("pushes/{}/signatures", open.push.0), vec![0; 5]).await;
    assert_eq!(reply.code(), ErrorCode::BadRequest, "half a place is no question");
    let reply = wire.post(&format!("pushes/{}/signatures", open.push.0), vec![0; (1 << 20) + 1]).await;
    assert_eq!(reply.code(), ErrorCode::TooLarge, "a question has a limit");
    assert_eq!(wire.post("pushes/99/signatures", Vec::new()).await.code(), ErrorCode::UnknownPush, "nor is a push");
}

#[tokio::test]
async fn what_is_not_made_right_is_to_be_sent_as_a_whole() {
    let settings = Settings { max_object_bytes: 1_000_000, ..Settings::default() };
    let (place, wire, open, next) = opened(settings).await;
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    let signature = found[0].as_ref().expect("the file is there in its older version");
    let (name, bytes) = (next.objects[0].0, new().len() as u64);
    let absent = Signature { basis: ContentId(Checksum::of(b"nobody has it")), ..signature.clone() };
    let unlike =
        Signature { chunks: signature.chunks.iter().map(|&(length, _)| (length, [0; 8])).collect(), ..absent.clone() };
    let lying: Vec<_> = signature.chunks.iter().rev().copied().collect();
    for (what, recipe) in [
        ("other content", recipe_of(signature, &old(), old().len() as u64)),
        ("a size too small", recipe_of(signature, &new(), bytes - 1)),
        ("a size too large", recipe_of(signature, &new(), bytes + 1)),
        ("a size beyond the limit", recipe_of(signature, &new(), 1 << 40)),
        ("a basis that is not there", recipe_of(&absent, &new(), bytes)),
        ("no basis that is there, and nothing taken of it", recipe_of(&unlike, &new(), bytes)),
        ("chunks that are elsewhere", recipe_of(&Signature { chunks: lying, ..signature.clone() }, &new(), bytes)),
        ("nothing", recipe_of(signature, b"", bytes)),
    ] {
        let behind = &next.objects[1];
        let stream = [framed_recipe(name, &recipe), framed_object(behind.0, &behind.1)].concat();
        let answer: ObjectsAnswer = send(&wire, &open.push.0, stream).await.json();
        let is_whole_needed = answer.to_be_sent_whole == [ContentId(name.checksum)];
        assert!(is_whole_needed, "{what}: it is asked for: {answer:?}");
        assert_eq!(answer.objects + answer.already_there, 1, "{what}: what is behind it is taken");
        assert!(!is_content_staged(&place), "{what}: nothing of it is kept");
    }
    let publish = format!("pushes/{}/publish", open.push.0);
    let error = wire.post(&publish, "{\"streams\":8}").await.published().expect_err("a file is missing");
    assert_eq!(error.code, ErrorCode::Incomplete, "who counts on the recipes is told: {error:?}");
    assert_eq!(wire.objects(&open.push.0, &next.objects).await.status, 200, "as a whole it is taken");
    wire.post(&publish, "{\"streams\":9}").await.published().expect("and published");
}

#[tokio::test]
async fn what_is_no_recipe_is_refused() {
    let (place, wire, open, next) = opened(Settings::default()).await;
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    let good = recipe_of(found[0].as_ref().expect("the file is there"), &new(), new().len() as u64);
    let name = next.objects[0].0;
    let head = good.len() - new().len().min(40);
    for (what, stream) in [
        ("a recipe for a directory", framed_recipe(ObjectName::new(ObjectKind::DirTree, name.checksum), &good)),
        ("a recipe without a head", framed_recipe(name, &good[..20])),
        ("a recipe that ends within a step", framed_recipe(name, &good[..head])),
        ("a step without bytes", framed_recipe(name, &[&good[..], &[0]].concat())),
        ("an encoding that nobody knows", {
            let mut stream = framed_object(name, &good);
            stream[1] = 3;
            stream
        }),
        ("a stream that breaks off", framed_recipe(name, &good)[..good.len() / 2].to_vec()),
    ] {
        let reply = send(&wire, &open.push.0, stream).await;
        assert_eq!(reply.code(), ErrorCode::BadRequest, "{what}");
        assert!(!is_content_staged(&place), "{what}: nothing of it is kept");
    }
    let stream = framed_recipe(name, &good);
    for (what, encoding, body) in [
        ("an encoding that nobody knows", "br", stream.clone()),
        ("bytes that are not compressed", "zstd", stream.clone()),
        ("a window that is too large", "zstd", zstd_with_window(&stream, 27)),
        ("a compressed stream that breaks off", "zstd", {
            let whole = zstd_with_window(&stream, 20);
            whole[..whole.len() - 10].to_vec()
        }),
    ] {
        let reply = encoded(&wire, &open.push.0, encoding, body).await;
        assert_eq!(reply.code(), ErrorCode::BadRequest, "{what}");
    }
}

fn is_content_staged(place: &Place) -> bool {
    place.staged().iter().any(|name| name.contains(".filez"))
}

/// Compresses with a window of so many bits.
fn zstd_with_window(stream: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("it can compress");
    encoder.window_log(window_log).expect("it is a window");
    encoder.write_all(stream).expect("it compresses");
    encoder.finish().expect("it ends")
}

#[tokio::test]
async fn what_is_made_counts_against_the_limits_of_the_push() {
    let settings = Settings { max_push_bytes: 20_000, ..Settings::default() };
    let (place, wire, open, _) = opened(settings).await;
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    let signature = found[0].as_ref().expect("the file is there");
    // Copies cost nothing to send, and what they make cannot be compressed to nothing.
    let noise: Vec<u8> =
        (0_u32..4000).flat_map(|number| Checksum::of(&number.to_be_bytes()).as_bytes()[..8].to_vec()).collect();
    let (id, _) = regular_file(&noise);
    let reply =
        send(&wire, &open.push.0, framed_recipe(id.into(), &recipe_of(signature, &noise, noise.len() as u64))).await;
    assert_eq!(reply.code(), ErrorCode::TooLarge, "more than the push may have");
    drop(place);
}

#[tokio::test]
async fn a_server_that_does_not_want_to_tells_nothing() {
    let (_place, wire, open, next) = opened(Settings { offer_chunks: false, ..Settings::default() }).await;
    assert!(open.features.is_empty() && !open.refs[0].has_basis, "it is not offered: {open:?}");
    let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
    assert_eq!(found, [None], "nor done");
    let signature = Signature { basis: regular_file(&old()).0, chunks: Vec::new() };
    let stream = framed_recipe(next.objects[0].0, &recipe_of(&signature, &new(), new().len() as u64));
    let refused = encoded(&wire, &open.push.0, "zstd", zstd_with_window(&stream, 20)).await;
    assert_eq!(refused.code(), ErrorCode::BadRequest, "nothing is decompressed");
    assert_eq!(send(&wire, &open.push.0, stream).await.code(), ErrorCode::BadRequest, "and no recipe followed");
}

#[tokio::test]
async fn a_client_that_does_not_know_it_hears_nothing_of_it() {
    let (_place, wire, _, next) = opened(Settings::default()).await;
    let open = wire.opened(&open_request(&[&next.offer])).await;
    assert!(open.features.is_empty() && !open.refs[0].has_basis, "it is not offered: {open:?}");
}

const RULES: &str = r#"
[defaults]
flatpak-update = "never"
[[defaults.rule]]
keys = ["all"]
refs = ["runtime"]
[[defaults.rule]]
keys = ["sdk"]
refs = ["runtime/org.example.Sdk"]
"#;

#[tokio::test]
async fn a_new_ref_is_compared_with_related_ones_that_the_caller_may_push_to() {
    let place = Place::new();
    let publish = async |name: &str, content: &[u8]| {
        place.connect().await.push(&pushed(name, content)).await.expect("a sound push is published");
    };
    let platform = "runtime/org.example.Platform/x86_64/1";
    publish(platform, b"the platform's").await;
    publish("runtime/org.example.Other/x86_64/1", b"of somebody else").await;
    let settings = ServerConfig::parse(RULES).expect("valid rules").settings(std::path::Path::new("/"));
    let compared = async |key: &str, name: &str| {
        let key = KeyName::new(key).expect("a valid name");
        let receiver = treegraft_server::Receiver::open(&place.path("repo"), settings.clone(), || 1_767_225_600)
            .expect("it can be pushed to")
            .for_caller(Caller { key: Some(key), ..Caller::anybody() });
        let wire = Wire::connect(receiver.into()).await;
        let offer = pushed(name, b"new").offer;
        let open = wire.opened(&comparing(&[&offer])).await;
        let found = signatures(&wire, &open.push.0, &[at(0, "usr/lib/file")]).await;
        assert_eq!(open.refs[0].has_basis, found[0].is_some(), "what is told at the opening is so");
        found[0].as_ref().map(|signature| signature.basis)
    };
    let id = |content: &[u8]| Some(regular_file(content).0);
    let (sdk, next) = ("runtime/org.example.Sdk/x86_64/1", "runtime/org.example.Platform/x86_64/2");
    assert_eq!(compared("all", sdk).await, id(b"the platform's"), "a Sdk with its Platform");
    assert_eq!(compared("sdk", sdk).await, None, "but not if the Platform is none of the caller's business");
    assert_eq!(compared("all", next).await, id(b"the platform's"), "a branch with another one");
    assert_eq!(compared("all", "runtime/org.example.Third/x86_64/1").await, None, "and nothing with a stranger");
    publish(next, b"the next platform's").await;
    assert_eq!(
        compared("all", "runtime/org.example.Sdk/x86_64/2").await,
        id(b"the next platform's"),
        "its own branch first"
    );
    assert_eq!(
        compared("all", "runtime/org.example.Platform/aarch64/1").await,
        id(b"the platform's"),
        "and machine last"
    );
}
