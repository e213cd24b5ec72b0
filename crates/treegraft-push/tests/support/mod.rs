//! A worker's repository, and a server that answers whatever a test wants.

use std::{error::Error, fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tempfile::TempDir;
use treegraft_object::{
    Commit, CommitId, DirMeta, DirTree, FileHeader, FileKind, ObjectName, Xattrs, filez, gvariant::Dict,
};
use treegraft_push::{Client, Outcome, PushError, PushOptions, PushRef, Reporter, SilentReporter, Source, push};
use treegraft_repo::Repo;

/// What an honest server says of each stream.
pub(crate) const STORED_BYTES: u64 = 100;

/// An archive repository to push from.
pub(crate) struct Worker {
    dir: TempDir,
}

impl Worker {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        Repo::init(&dir.path().join("repo"), None).expect("a repository can be made");
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("repo").join(path)
    }

    fn write(&self, name: ObjectName, data: &[u8]) {
        let path = self.path(&name.loose_path("filez"));
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory can be made");
        fs::write(path, data).expect("a file can be written");
    }

    /// Commits a tree of files with these contents.
    pub(crate) fn commit(&self, name: &str, contents: &[&[u8]], parent: Option<CommitId>) -> CommitId {
        let (kind, xattrs) = (FileKind::Regular, Xattrs::default());
        let header = FileHeader { uid: 0, gid: 0, mode: 0o100_644, kind, xattrs: xattrs.clone() };
        let mut tree = DirTree::default();
        for (index, content) in contents.iter().enumerate() {
            let mut data = Vec::new();
            let info = filez::write(&header, content.len() as u64, &mut { *content }, 0, &mut data).expect("valid");
            self.write(info.id.into(), &data);
            tree.files.push((format!("file{index:03}"), info.id));
        }
        let meta = DirMeta { uid: 0, gid: 0, mode: 0o40_755, xattrs };
        let (metadata, subject, body) = (Dict::new(), "A subject".to_owned(), String::new());
        let (root_tree, root_meta) = (tree.id(), meta.id());
        let commit = Commit { metadata, parent, subject, body, timestamp_secs: 1_000_000, root_tree, root_meta };
        self.write(meta.id().into(), &meta.encode());
        self.write(tree.id().into(), &tree.encode());
        self.write(commit.id().into(), &commit.encode());
        fs::write(self.path("refs/heads").join(name), format!("{}\n", commit.id())).expect("a file can be written");
        commit.id()
    }

    /// Opens the repository to push `main`.
    pub(crate) fn source(&self) -> Source {
        self.source_of(&["main"])
    }

    /// Opens the repository to push these refs.
    pub(crate) fn source_of(&self, refs: &[&str]) -> Source {
        let refs: Vec<PushRef> = refs.iter().map(|name| name.parse().expect("a valid name")).collect();
        Source::open(&self.path(""), &refs).expect("the commits are there")
    }

    /// Writes detached metadata of a commit.
    pub(crate) fn sign(&self, commit: CommitId) {
        self.write(ObjectName::commit_meta(commit), b"signatures");
    }

    /// Deletes an object.
    pub(crate) fn remove(&self, name: ObjectName) {
        fs::remove_file(self.path(&name.loose_path("filez"))).expect("it is there");
    }
}

/// A request to the server.
#[derive(Debug, Clone)]
pub(crate) struct Called {
    /// Behind `/api/v1/`.
    pub(crate) path: String,
    /// Nothing for a stream of objects, which is still under way.
    pub(crate) body: Bytes,
}

impl Called {
    /// Answers an opening as a server that has only heads.
    pub(crate) fn opened_with_head(&self, head: CommitId) -> Option<Reply> {
        (self.path == "pushes").then(|| answer(201, opened_with(&refs(&self.body, Some(head)))))
    }
}

/// Makes the answer to an opening with these refs.
pub(crate) fn opened_with(refs: &Value) -> Value {
    let limits = json!({ "object_bytes": 1 << 30, "question_names": 65_536, "streams": 8 });
    json!({ "server": "test", "push": "1", "repository": {}, "refs": refs, "limits": limits })
}

fn refs(request: &[u8], head: Option<CommitId>) -> Value {
    let request: Value = serde_json::from_slice(request).expect("a client writes JSON");
    let offers = request["refs"].as_array().expect("a list");
    offers.iter().map(|offer| json!({ "name": offer["name"], "head": head, "verdict": "publish" })).collect()
}

pub(crate) type Reply = Response<Full<Bytes>>;
pub(crate) type Broken = Box<dyn Error + Send + Sync>;

pub(crate) trait IntoBody {
    fn into_body(self) -> Bytes;
}

impl IntoBody for Value {
    fn into_body(self) -> Bytes {
        self.to_string().into()
    }
}

impl IntoBody for &'static str {
    fn into_body(self) -> Bytes {
        Bytes::from_static(self.as_bytes())
    }
}

impl IntoBody for String {
    fn into_body(self) -> Bytes {
        self.into()
    }
}

impl IntoBody for Vec<u8> {
    fn into_body(self) -> Bytes {
        self.into()
    }
}

pub(crate) fn answer(status: u16, body: impl IntoBody) -> Reply {
    Response::builder().status(status).body(Full::new(body.into_body())).expect("a valid response")
}

/// Answers that refs were published.
pub(crate) fn published(names: impl IntoIterator<Item = impl AsRef<str>>) -> Reply {
    let state = |name: &str| json!({ "name": name, "new": "0".repeat(64) });
    let refs: Value = names.into_iter().map(|name| state(name.as_ref())).collect();
    answer(200, format!("{}\n", json!({ "event": "done", "published": { "refs": refs } })))
}

/// Answers as a server that has nothing yet and takes everything.
fn default_reply(called: &Called) -> Reply {
    match called.path.rsplit('/').next().expect("there is a last part") {
        "pushes" => answer(201, opened_with(&refs(&called.body, None))),
        "missing" => answer(200, vec![b'-'; called.body.len() / 33]),
        "objects" => answer(200, json!({ "objects": 0, "bytes": STORED_BYTES, "already_there": 0 })),
        "publish" => published(["main"]),
        path => panic!("nobody asks for `{path}`"),
    }
}

/// Pushes `main` to a server that answers with `reply`; where that gives nothing, as an honest one does.
///
/// Streams of objects are read to their end only for an honest answer.
pub(crate) async fn push_to<F>(
    worker: &Worker,
    options: &PushOptions,
    reply: impl Fn(Called) -> F + Send + Sync + 'static,
) -> Result<Outcome, PushError>
where
    F: Future<Output = Result<Option<Reply>, Broken>> + Send + 'static,
{
    push_with(worker, options, Arc::new(SilentReporter), reply).await
}

pub(crate) async fn push_with<F>(
    worker: &Worker,
    options: &PushOptions,
    reporter: Arc<dyn Reporter>,
    reply: impl Fn(Called) -> F + Send + Sync + 'static,
) -> Result<Outcome, PushError>
where
    F: Future<Output = Result<Option<Reply>, Broken>> + Send + 'static,
{
    push(&connect(reply).await, worker.source(), options, reporter).await
}

/// Connects to a server that answers with `reply`; an error of it breaks the connection.
pub(crate) async fn connect<F>(reply: impl Fn(Called) -> F + Send + Sync + 'static) -> Client
where
    F: Future<Output = Result<Option<Reply>, Broken>> + Send + 'static,
{
    let (here, there) = tokio::io::duplex(1 << 20);
    let reply = Arc::new(reply);
    let service = service_fn(move |request: Request<Incoming>| serve(Arc::clone(&reply), request));
    tokio::spawn(async move {
        // How the connection ends is of no interest.
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(there), service).await;
    });
    Client::connect(here).await.expect("HTTP/2 begins")
}

async fn serve<F>(reply: Arc<impl Fn(Called) -> F>, request: Request<Incoming>) -> Result<Reply, Broken>
where
    F: Future<Output = Result<Option<Reply>, Broken>>,
{
    let path = request.uri().path().trim_start_matches("/api/v1/").to_owned();
    let mut stream = Some(request.into_body());
    let body = match stream.take_if(|_| !path.ends_with("objects")) {
        Some(body) => body.collect().await?.to_bytes(),
        None => Bytes::new(),
    };
    let called = Called { path, body };
    if let Some(reply) = reply(called.clone()).await? {
        return Ok(reply);
    }
    if let Some(stream) = stream {
        stream.collect().await?;
    }
    Ok(default_reply(&called))
}
