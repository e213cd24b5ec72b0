//! A repository with a receiver, and a client that sends whatever a test wants.
#![expect(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod objects;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Method, Request, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};
use treegraft_object::{CommitId, ObjectName, RefName};
use treegraft_repo::{FileLock, LockKind, Repo};
use treegraft_server::{Clock, Receiver, ServeError, config::Settings, serve_connection};
use treegraft_wire::{ApiError, ErrorCode, OpenAnswer, PublishEvent, Published};

use objects::{Object, Pushed, framed_object};

const PIPE_BYTES: usize = 64 << 10;

/// How long a lock may be held on by a process that has not become another program yet.
const UNLOCK_TIMEOUT: Duration = Duration::from_secs(60);

fn clock() -> u64 {
    1_767_225_600
}

/// An archive repository in a directory of its own.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::named("repo")
    }

    /// Makes a place whose repository has another name.
    pub(crate) fn named(repository: &str) -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        Repo::init(&dir.path().join(repository), None).expect("a repository can be made");
        Self { dir }
    }

    /// Makes pushes to a repository fast, for a test that does many.
    pub(crate) fn without_fsync(&self, repository: &str) {
        let config = self.path(repository).join("config");
        let text = fs::read_to_string(&config).expect("it can be read").replace("[core]", "[core]\nfsync=false");
        fs::write(config, text).expect("it can be written");
    }

    /// Makes a repository with `main` and a neighbour, pushed as they should be.
    pub(crate) async fn with_refs() -> Self {
        let place = Self::new();
        for (name, content) in [("main", "one"), ("other", "two")] {
            let pushed = Pushed::new(name, content);
            place.connect().await.push(&pushed).await.expect("a sound push is published");
        }
        place
    }

    pub(crate) fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn repo(&self) -> Repo {
        self.repo_of("repo")
    }

    pub(crate) fn repo_of(&self, repository: &str) -> Repo {
        Repo::open(&self.path(repository)).expect("the repository is there")
    }

    pub(crate) fn head(&self, name: &str) -> Option<CommitId> {
        self.head_of("repo", name)
    }

    pub(crate) fn head_of(&self, repository: &str, name: &str) -> Option<CommitId> {
        self.repo_of(repository).resolve_ref(&RefName::new(name).expect("a valid name")).expect("refs can be read")
    }

    /// Lists all refs, mirrors included, as files with their contents.
    pub(crate) fn refs_of(&self, repository: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        list(&self.path(repository).join("refs"), "", &mut found);
        found.into_iter().filter(|(path, _)| !path.ends_with('/')).map(|(path, (_, text))| (path, text)).collect()
    }

    pub(crate) fn receiver(&self, settings: Settings) -> Arc<Receiver> {
        self.receiver_with_clock(settings, clock)
    }

    pub(crate) fn receiver_with_clock(&self, settings: Settings, clock: Clock) -> Arc<Receiver> {
        Arc::new(Receiver::open(&self.path("repo"), settings, clock).expect("it can be pushed to"))
    }

    pub(crate) async fn connect(&self) -> Wire {
        Wire::connect(self.receiver(Settings::default())).await
    }

    /// Lists everything in the repository with contents and modes, apart from what is not published.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        list(&self.path("repo"), "", &mut found);
        found
    }

    /// Lists the staged objects by their file names.
    pub(crate) fn staged(&self) -> Vec<String> {
        let mut found = BTreeMap::new();
        let staging = self.path("repo/.treegraft/staging");
        if staging.exists() {
            list(&staging, "", &mut found);
        }
        let names = found.into_keys().filter(|path| path.matches('/').count() == 2 && !path.ends_with('/'));
        names.map(|path| path.splitn(2, '/').last().unwrap_or_default().replace('/', "")).collect()
    }

    /// Tells whether nobody holds the repository's lock, nor that of a staging area, or will in a moment.
    ///
    /// A process that another test has just started has copies of all locks until it has become another program.
    pub(crate) fn gets_unlocked(&self) -> bool {
        let begin = Instant::now();
        while !self.is_unlocked() {
            if begin.elapsed() > UNLOCK_TIMEOUT {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Tells whether nobody holds the repository's lock, nor that of a staging area.
    pub(crate) fn is_unlocked(&self) -> bool {
        let mut locks = vec![self.path("repo/.lock")];
        if let Ok(areas) = fs::read_dir(self.path("repo/.treegraft/staging")) {
            locks.extend(areas.map(|area| area.expect("it can be listed").path().join("lock")));
        }
        locks.iter().all(|path| FileLock::try_acquire(path, LockKind::Exclusive).expect("it can be locked").is_some())
    }
}

fn list(dir: &Path, prefix: &str, found: &mut BTreeMap<String, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("a directory can be listed") {
        let entry = entry.expect("a directory can be listed");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // A staging area is looked at while objects get their names: what has just been renamed is listed under the new one.
        let Ok(metadata) = entry.metadata() else { continue };
        if name == ".treegraft" {
            continue;
        }
        if metadata.is_dir() {
            list(&entry.path(), &format!("{name}/"), found);
            found.insert(format!("{name}/"), (metadata.mode(), Vec::new()));
        } else {
            let Ok(content) = fs::read(entry.path()) else { continue };
            found.insert(name, (metadata.mode(), content));
        }
    }
}

/// What came back for a request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the error, whose status must be that of its code.
    pub(crate) fn error(&self) -> ApiError {
        let error: ApiError = self.json();
        assert_eq!(self.status, error.code.status(), "the status is that of the code: {error:?}");
        error
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.error().code
    }

    /// Returns the end of a publication.
    pub(crate) fn published(&self) -> Result<Published, ApiError> {
        if self.status != 200 {
            return Err(self.error());
        }
        let text = std::str::from_utf8(&self.body).expect("lines are UTF-8");
        match serde_json::from_str(text.lines().last().expect("there is a last line")).expect("a valid event") {
            PublishEvent::Done { published } => Ok(published),
            PublishEvent::Failed { error } => Err(error),
            other => panic!("a publication ends with `done` or `failed`, not {other:?}"),
        }
    }
}

async fn handshake(io: tokio::io::DuplexStream) -> http2::SendRequest<Body> {
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("HTTP/2 begins");
    tokio::spawn(connection);
    requests
}

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A connection to a receiver.
pub(crate) struct Wire {
    requests: http2::SendRequest<Body>,
    server: JoinHandle<Result<(), ServeError>>,
    pub(crate) receiver: Arc<Receiver>,
}

impl Wire {
    pub(crate) async fn connect(receiver: Arc<Receiver>) -> Self {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::spawn(serve_connection(Arc::clone(&receiver), there));
        Self { requests: handshake(here).await, server, receiver }
    }

    /// Connects by something that leads to `receiver` already.
    pub(crate) async fn over(receiver: Arc<Receiver>, io: tokio::io::DuplexStream) -> Self {
        Self { requests: handshake(io).await, server: tokio::spawn(async { Ok(()) }), receiver }
    }

    /// Ends the connection, and waits until the receiver has done what it had begun.
    pub(crate) async fn close(self) {
        let receiver = Arc::clone(&self.receiver);
        self.disconnect().await;
        receiver.finish().await;
    }

    /// Ends the connection.
    pub(crate) async fn disconnect(self) {
        drop(self.requests);
        let _ = self.server.await.expect("the server does not panic");
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Body) -> Result<Reply, hyper::Error> {
        let uri = format!("http://treegraft/api/v1/{path}");
        self.send_request(Request::builder().method(method).uri(uri).body(body).expect("a valid request")).await
    }

    pub(crate) async fn send_request(&self, request: Request<Body>) -> Result<Reply, hyper::Error> {
        let response = self.requests.clone().send_request(request).await?;
        let status = response.status().as_u16();
        Ok(Reply { status, body: response.into_body().collect().await?.to_bytes() })
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.try_post(path, body).await.expect("there is an answer")
    }

    pub(crate) async fn try_post(&self, path: &str, body: impl Into<Bytes>) -> Result<Reply, hyper::Error> {
        let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
        self.send(Method::POST, path, body).await
    }

    pub(crate) async fn open(&self, request: &Value) -> Reply {
        self.post("pushes", request.to_string()).await
    }

    /// Opens a push that must be taken.
    pub(crate) async fn opened(&self, request: &Value) -> OpenAnswer {
        let reply = self.open(request).await;
        assert_eq!(reply.status, 201, "the push is opened: {reply:?}");
        reply.json()
    }

    pub(crate) async fn objects(&self, push: &str, objects: &[Object]) -> Reply {
        let stream: Vec<u8> = objects.iter().flat_map(|(name, data)| framed_object(*name, data)).collect();
        self.post(&format!("pushes/{push}/objects"), stream).await
    }

    /// Begins a stream of objects that stays open until the returned sender is dropped.
    pub(crate) fn begin_objects(&self, push: &str) -> (mpsc::Sender<Bytes>, JoinHandle<Result<Reply, hyper::Error>>) {
        let (sender, receiver) = mpsc::channel(1);
        let frames = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async {
            let bytes = receiver.recv().await?;
            Some((Ok(Frame::data(bytes)), receiver))
        });
        let (requests, path) = (self.requests.clone(), format!("http://treegraft/api/v1/pushes/{push}/objects"));
        let answer = tokio::spawn(async move {
            let body = BodyExt::boxed(StreamBody::new(Box::pin(frames)));
            let request = Request::builder().method(Method::POST).uri(path).body(body).expect("a valid request");
            let response = { requests }.send_request(request).await?;
            let status = response.status().as_u16();
            Ok(Reply { status, body: response.into_body().collect().await?.to_bytes() })
        });
        (sender, answer)
    }

    pub(crate) async fn missing(&self, push: &str, names: &[ObjectName]) -> Reply {
        self.post(&format!("pushes/{push}/missing"), treegraft_wire::question::encode(names)).await
    }

    pub(crate) async fn publish(&self, push: &str) -> Reply {
        self.post(&format!("pushes/{push}/publish"), Bytes::new()).await
    }

    /// Begins a publication and gives up its answer once `told` has come in it.
    pub(crate) async fn publish_until(&self, push: &str, told: &str) {
        let uri = format!("http://treegraft/api/v1/pushes/{push}/publish");
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        let request = Request::builder().method(Method::POST).uri(uri).body(body).expect("a valid request");
        let response = self.requests.clone().send_request(request).await.expect("there is an answer");
        let (mut body, mut text) = (response.into_body(), String::new());
        while !text.contains(told) {
            let frame = body.frame().await.expect("the event comes").expect("the connection holds");
            text += &String::from_utf8_lossy(&frame.into_data().unwrap_or_default());
        }
    }

    /// Pushes as it should be done.
    pub(crate) async fn push(&self, pushed: &Pushed) -> Result<Published, ApiError> {
        let push = self.opened(&open_request(&[&pushed.offer])).await.push.0;
        let reply = self.objects(&push, &pushed.objects).await;
        assert_eq!(reply.status, 200, "sound objects are taken: {reply:?}");
        self.publish(&push).await.published()
    }
}

pub(crate) fn open_request(offers: &[&Value]) -> Value {
    json!({ "client": "test", "refs": offers })
}
