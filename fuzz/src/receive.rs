//! A client that does as its input says, against the real handlers over HTTP/2.
//!
//! The first bytes choose the server's settings; every step after that is a byte and what the step needs. A step with
//! the highest bit set is not waited for, so that it runs beside those that follow.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Method, Request, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    runtime,
    task::{JoinHandle, JoinSet},
};
use treegraft_object::{CommitId, ContentId, ObjectKind, ObjectName, filez};
use treegraft_server::{
    Receiver, ServeError,
    config::{DetachedMetadata, FlatpakUpdate, Settings},
    rights::{Action, Rule},
    serve_connection,
};
use treegraft_wire::{
    ApiError, ErrorCode, OpenAnswer, OpenEvent, PublishEvent,
    chunks::{self, Signature},
    question,
    stream::MAX_CHUNK_BYTES,
};

use crate::{
    input::Input,
    place::{Asked, Place, Template},
    pool::{Object, Pool},
};

/// Most steps of an input: more only take longer.
const MAX_STEPS: usize = 40;

/// What is on the way between client and server.
const PIPE_BYTES: usize = 64 << 10;

/// Refs that are offered.
const REFS: [&str; 8] = [
    "main",
    "other",
    "new/ref",
    "main/below",
    "app/org.example.App/x86_64/stable",
    "runtime/org.example.App.Locale/x86_64/stable",
    "appstream/x86_64",
    "ostree-metadata",
];

/// How long a client waits for a publication, which itself may wait for streams that do not come.
const PUBLISH_PATIENCE: Duration = Duration::from_millis(200);

type Body = BoxBody<Bytes, io::Error>;

/// Plays one input and checks what it has left.
///
/// # Panics
///
/// When something is not as it has to be, which is what fuzzing looks for.
pub fn play(template: &mut Template, data: &[u8]) {
    let mut input = Input::new(data);
    let place = template.place();
    let settings = settings(template, &mut input);
    let mut asked = Asked::with(&settings);
    let receiver = place.receiver(settings);
    // Tasks of one input must not outlive it.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let mut client = Client::connect(Arc::clone(&receiver), template.pool(), &mut asked).await;
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                break;
            }
            client.step(&mut input).await;
        }
        client.close().await;
    });
    drop(runtime);
    template.check(&place, &asked);
}

/// Pushes once as it should be done, to a repository that may be damaged: any failure may be the right answer.
pub fn push_soundly(template: &Template, place: &Place) {
    let settings = Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() };
    let Some(receiver) = place.try_receiver(settings) else { return };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let mut asked = Asked::anything();
        let mut client = Client::connect(receiver, template.pool(), &mut asked).await;
        client.may_server_fail = true;
        // A graft onto `main`.
        client.step(&mut Input::new(&[14, 0, 2, 0])).await;
        client.close().await;
    });
}

fn settings(template: &Template, input: &mut Input<'_>) -> Settings {
    let flags = input.byte();
    let mut settings = Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() };
    settings.detached_metadata =
        *input.choose(&[DetachedMetadata::Exact, DetachedMetadata::Always, DetachedMetadata::Never]);
    settings.allow_force = Some(flags & 1 == 0);
    if flags & 0x10 != 0 {
        let refs = ["new", "app/*"].map(|pattern| pattern.parse().expect("a valid pattern")).to_vec();
        let (keys, allow) = (None, [Action::Rebase, Action::Older].into());
        let (max_push_bytes, max_push_objects, max_object_bytes) = (Some(100_000), None, None);
        settings.rule = vec![Rule { keys, refs, allow, max_push_bytes, max_push_objects, max_object_bytes }];
    }
    if flags & 0x20 != 0 {
        settings.ed25519_key_files = vec![template.secret_key_file()];
    }
    if flags & 0x40 != 0 {
        settings.verify_ed25519_files = vec![template.public_key_file()];
    }
    if flags & 2 != 0 {
        settings.max_push_bytes = 4000;
        settings.max_push_objects = 12;
    }
    if flags & 4 != 0 {
        settings.max_repository_bytes = Some(4000);
    }
    if flags & 8 != 0 {
        settings.max_content_bytes = 100;
        settings.max_metadata_bytes = 200;
        settings.max_object_bytes = 1000;
    }
    settings
}

/// A connection with what is known on its client's side.
struct Client<'a> {
    receiver: Arc<Receiver>,
    requests: http2::SendRequest<Body>,
    server: JoinHandle<Result<(), ServeError>>,
    /// Connections that were given up, and may still be served.
    left: Vec<JoinHandle<Result<(), ServeError>>>,
    running: JoinSet<Option<String>>,
    pushes: Vec<String>,
    pool: Pool,
    asked: &'a mut Asked,
    /// Whether the repository may be damaged.
    may_server_fail: bool,
}

impl<'a> Client<'a> {
    async fn connect(receiver: Arc<Receiver>, pool: Pool, asked: &'a mut Asked) -> Self {
        let (requests, server) = connection(&receiver).await;
        let (left, running, pushes) = (Vec::new(), JoinSet::new(), Vec::new());
        Self { receiver, requests, server, left, running, pushes, pool, asked, may_server_fail: false }
    }

    /// Waits for everything that was begun, here and on the server.
    async fn close(mut self) {
        self.join().await;
        drop(self.requests);
        self.left.push(self.server);
        for server in self.left {
            // A connection that the client has left is broken, and no more than that.
            let _ = server.await.expect("the server does not panic");
        }
        self.receiver.finish().await;
        for (name, data) in &self.pool.objects {
            self.asked.knows(*name, data);
        }
    }

    async fn join(&mut self) {
        while let Some(opened) = self.running.join_next().await {
            self.pushes.extend(opened.expect("a request does not panic"));
        }
    }

    async fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        let is_awaited = step & 0x80 == 0;
        match step % 16 {
            0 | 1 => {
                let body = self.open_request(input).to_string().into();
                self.send("pushes".to_owned(), body, End::Whole);
            }
            2 => {
                let text = self.open_request(input).to_string();
                let (from, new) = (input.short() % (text.len() + 1), input.bytes());
                let mut body = text.into_bytes();
                let to = (from + usize::from(input.byte())).min(body.len());
                body.splice(from..to, new.iter().copied());
                self.send("pushes".to_owned(), body, End::of(input));
            }
            3 => {
                let push = self.push(input);
                let names: Vec<_> = (0..input.byte() % 24).map(|_| input.choose(&self.pool.objects).0).collect();
                let mut body = question::encode(&names);
                body.extend_from_slice(input.bytes());
                self.send(format!("pushes/{push}/missing"), body, End::of(input));
            }
            sent @ (4 | 5) => {
                let push = self.push(input);
                let mut objects = self.needed(input.choose(&self.pool.commits).id());
                if sent == 5 {
                    // One is missing.
                    objects.remove(usize::from(input.byte()) % objects.len());
                }
                let body = objects.iter().flat_map(framed).collect();
                self.send(format!("pushes/{push}/objects"), body, End::Whole);
            }
            6 | 7 => {
                let push = self.push(input);
                let mut body = Vec::new();
                for _ in 0..input.byte() % 12 {
                    let kind = input.byte() % 10;
                    if kind >= 8 {
                        body.extend(self.recipe(input));
                        continue;
                    }
                    let object = match kind {
                        0 => {
                            let (object, signed) = self.pool.detached(input);
                            self.asked.signed.extend(signed);
                            object
                        }
                        1..=3 => self.pool.changed(input),
                        _ => input.choose(&self.pool.objects).clone(),
                    };
                    self.asked.knows(object.0, &object.1);
                    body.extend(framed(&object));
                }
                body.extend_from_slice(input.bytes());
                self.send(format!("pushes/{push}/objects"), body, End::of(input));
            }
            8 | 9 => {
                let push = self.push(input);
                self.asked.publishes = true;
                let body = match input.byte() {
                    count @ 0..4 => json!({ "streams": count }).to_string().into(),
                    _ => input.bytes().to_vec(),
                };
                self.send(format!("pushes/{push}/publish"), body, End::Whole);
            }
            10 | 11 => self.pool.make(input),
            12 => {
                // Whatever is under way is given up.
                self.running.abort_all();
                while self.running.join_next().await.is_some() {}
                let (requests, server) = connection(&self.receiver).await;
                self.requests = requests;
                self.pushes.clear();
                self.left.push(std::mem::replace(&mut self.server, server));
            }
            13 => {
                let path = input.text();
                self.asked.publishes |= path.contains("publish");
                let body = input.long_bytes().to_vec();
                self.send(path, body, End::of(input));
            }
            _ => {
                // As it should be done.
                let offer = self.offer(input);
                self.send(
                    "pushes".to_owned(),
                    json!({ "client": "fuzz", "refs": [offer] }).to_string().into(),
                    End::Whole,
                );
                self.join().await;
                let push = self.pushes.last().cloned().unwrap_or_default();
                let commit = offer["commit"].as_str().and_then(|text| text.parse().ok()).expect("it is a checksum");
                let body = self.needed(commit).iter().flat_map(framed).collect();
                self.send(format!("pushes/{push}/objects"), body, End::Whole);
                self.join().await;
                self.asked.publishes = true;
                self.send(format!("pushes/{push}/publish"), Vec::new(), End::Whole);
            }
        }
        if is_awaited {
            self.join().await;
        }
    }

    /// Writes a recipe of a content object, which may make it or something else.
    fn recipe(&self, input: &mut Input<'_>) -> Vec<u8> {
        let content: Vec<_> = self.pool.objects.iter().filter(|(name, _)| name.kind == ObjectKind::File).collect();
        let ((name, archived), (basis, basis_archived)) = (input.choose(&content), input.choose(&content));
        let plain = |mut archived: &[u8]| {
            let mut plain = Vec::new();
            let info = filez::copy(&mut archived, &mut io::sink(), &mut plain).ok()?;
            Some((info.header, plain))
        };
        let mut recipe = Vec::new();
        if let (Some((header, new)), Some((_, old))) = (plain(archived), plain(basis_archived)) {
            let signature = Signature::of(ContentId(basis.checksum), &old[..]).expect("memory can be read");
            let bytes = new.len() as u64;
            chunks::write_recipe(&signature, &header, bytes, &new[..], &mut recipe).expect("memory takes everything");
        }
        let flip = input.short();
        if flip < recipe.len() {
            recipe[flip] ^= input.byte();
        }
        let mut framed = framed(&(*name, recipe));
        framed[1] = 1;
        framed
    }

    fn push(&self, input: &mut Input<'_>) -> String {
        let number = usize::from(input.byte());
        match self.pushes.len() {
            0 => number.to_string(),
            // The latest is the likeliest to be of use.
            count if number < 0xf0 => self.pushes[count - 1 - number % count].clone(),
            _ => input.text(),
        }
    }

    fn open_request(&mut self, input: &mut Input<'_>) -> Value {
        let flags = input.byte();
        let offers: Vec<Value> = (0..=flags % 4).map(|_| self.offer(input)).collect();
        let mut request = json!({ "client": "fuzz", "refs": offers });
        if flags & 0x10 != 0 {
            request["features"] = json!(["open-events", input.text()]);
        }
        if flags & 0x20 != 0 {
            request["who"] = json!(input.text());
        }
        if flags & 0x40 != 0 {
            request["purpose"] = json!("dry-run");
        }
        request
    }

    fn offer(&mut self, input: &mut Input<'_>) -> Value {
        let number = usize::from(input.byte());
        let name = REFS.get(number % (REFS.len() + 1)).map_or_else(|| input.text(), |name| (*name).to_owned());
        let commit = input.choose(&self.pool.commits);
        let mut offer = json!({
            "name": name,
            "commit": commit.id(),
            "root_tree": commit.root_tree,
            "root_meta": commit.root_meta,
            "timestamp_secs": commit.timestamp_secs,
        });
        let flags = input.byte();
        for (bit, key, value) in
            [(1, "mode", json!("exact")), (2, "force", json!(true)), (4, "allow_older", json!(true))]
        {
            if flags & bit != 0 {
                offer[key] = value;
            }
        }
        if flags & 8 != 0 {
            offer["retry"] = json!({ "head": input.choose(&self.pool.commits).id() });
        }
        if flags & 0x10 != 0 {
            offer["root_tree"] = json!(input.choose(&self.pool.commits).root_tree);
        }
        if flags & 0x20 != 0 {
            offer["graft"] = graft(input);
        }
        offer
    }

    /// Lists what a commit needs: everything that it leads to, children first.
    fn needed(&self, commit: CommitId) -> Vec<Object> {
        let commit = self.pool.objects.iter().rposition(|(name, _)| *name == ObjectName::from(commit));
        // Whatever the pool had before the commit may be a part of it.
        self.pool.objects[..=commit.unwrap_or_default()].to_vec()
    }

    /// Begins a request.
    fn send(&mut self, path: String, mut body: Vec<u8>, end: End) {
        end.cut(&mut body);
        self.asked.open(&body);
        let Ok(request) =
            Request::builder().method(Method::POST).uri(format!("http://treegraft/api/v1/{path}")).body(end.body(body))
        else {
            return;
        };
        let (mut requests, may_server_fail) = (self.requests.clone(), self.may_server_fail);
        let patience = if path.ends_with("/publish") { PUBLISH_PATIENCE } else { Duration::MAX };
        let answered = async move {
            let response = requests.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            check_answer(&path, status, &body, may_server_fail)
        };
        self.running.spawn(async move { tokio::time::timeout(patience, answered).await.ok().flatten() });
    }
}

fn graft(input: &mut Input<'_>) -> Value {
    let mut graft = json!({});
    for _ in 0..input.byte() % 4 {
        let (key, value) = match input.byte() % 8 {
            0 => ("subject", json!(input.text())),
            1 => ("body", json!(input.text())),
            2 => ("timestamp_secs", json!(u64::from(input.byte()) << (input.byte() % 57))),
            3 => ("end_of_life", json!(input.text())),
            4 => ("end_of_life_rebase", json!([["org.example.App", input.text()]])),
            5 => ("token_type", json!(i32::from(input.byte()) - 1)),
            6 => ("extra_collection_ids", json!(["org.example.Other"])),
            _ => ("subsets", json!([input.text()])),
        };
        graft[key] = value;
    }
    graft
}

/// Looks at an answer; returns the push that it has opened.
fn check_answer(path: &str, status: u16, body: &[u8], may_server_fail: bool) -> Option<String> {
    // Whatever a client does, the server itself does not fail.
    let check_error = |error: &ApiError| {
        let is_clients = error.code.status() < 500 || error.code == ErrorCode::Quota;
        assert!(is_clients || may_server_fail, "the client's mistakes are not the server's: {error:?}");
    };
    if status >= 400 {
        let error: ApiError = serde_json::from_slice(body).expect("a failure has a reason");
        assert_eq!(status, error.code.status(), "the status is that of the code: {error:?}");
        check_error(&error);
        return None;
    }
    if path == "pushes" {
        if let Ok(answer) = serde_json::from_slice::<OpenAnswer>(body) {
            return Some(answer.push.0);
        }
        return body.split_inclusive(|&byte| byte == b'\n').find_map(|line| match serde_json::from_slice(line) {
            Ok(OpenEvent::Opened { answer }) => Some(answer.push.0),
            Ok(OpenEvent::Failed { error }) => {
                check_error(&error);
                None
            }
            Ok(_) => None,
            Err(error) => panic!("an opening is answered with events: {error}"),
        });
    }
    if path.ends_with("/publish") {
        for line in body.split_inclusive(|&byte| byte == b'\n') {
            if let PublishEvent::Failed { error } = serde_json::from_slice(line).expect("a publication has events") {
                check_error(&error);
            }
        }
    }
    None
}

/// How the body of a request ends.
#[derive(Clone, Copy)]
enum End {
    Whole,
    /// As if it were whole, after a share of its bytes.
    Short(u8),
    /// By a reset.
    Broken(u8),
}

impl End {
    fn of(input: &mut Input<'_>) -> Self {
        match input.byte() {
            byte @ 0x80..0xc0 => Self::Short(byte),
            byte @ 0xc0.. => Self::Broken(byte),
            _ => Self::Whole,
        }
    }

    fn cut(self, bytes: &mut Vec<u8>) {
        if let Self::Short(share) | Self::Broken(share) = self {
            bytes.truncate(bytes.len() * usize::from(share & 0x3f) / 64);
        }
    }

    fn body(self, bytes: Vec<u8>) -> Body {
        match self {
            Self::Broken(_) => {
                let frames = [Ok(Frame::data(Bytes::from(bytes))), Err(io::ErrorKind::Other.into())];
                BodyExt::boxed(StreamBody::new(stream::iter(frames)))
            }
            _ => Full::new(bytes.into()).map_err(|never| match never {}).boxed(),
        }
    }
}

/// Writes an object as it stands in a stream.
pub fn framed((name, data): &Object) -> Vec<u8> {
    let mut stream = vec![name.kind.number(), 0];
    stream.extend_from_slice(name.checksum.as_bytes());
    for chunk in data.chunks(MAX_CHUNK_BYTES) {
        stream.extend_from_slice(&u32::try_from(chunk.len()).expect("chunks are short").to_be_bytes());
        stream.extend_from_slice(chunk);
    }
    stream.extend_from_slice(&[0; 4]);
    stream
}

async fn connection(receiver: &Arc<Receiver>) -> (http2::SendRequest<Body>, JoinHandle<Result<(), ServeError>>) {
    let (here, there) = tokio::io::duplex(PIPE_BYTES);
    let server = tokio::spawn(serve_connection(Arc::clone(receiver), there));
    let (requests, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(here)).await.expect("HTTP/2 begins");
    tokio::spawn(connection);
    (requests, server)
}
