//! A server that answers as its input says, and the client that pushes to it.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Collected, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use treegraft_push::{Client, PushOptions, SilentReporter, Source, push};
use treegraft_wire::{GraftMode, OpenRequest, Purpose, question::NAME_BYTES};

use crate::{connection, input::Input, place::Template};

/// What is on the way between both sides.
const PIPE_BYTES: usize = 64 << 10;

type Answer = Response<BoxBody<Bytes, io::Error>>;

/// Pushes to a server whose answers the input decides.
///
/// # Panics
///
/// When something panics, which is what fuzzing looks for.
pub fn check(template: &Template, data: &[u8]) {
    let runtime = connection::idle_time_runtime();
    let source = Source::open(&template.path(), &[]).expect("the repository is sound");
    let flags = data.first().copied().unwrap_or_default();
    let options = PushOptions {
        mode: if flags & 1 == 0 { GraftMode::Rebase } else { GraftMode::Exact },
        force: flags & 2 != 0,
        purpose: if flags & 0x1c == 0x1c { Purpose::DryRun } else { Purpose::Push },
        ..PushOptions::default()
    };
    let answers = Arc::new(Mutex::new(data.get(1..).unwrap_or_default().to_vec()));
    runtime.block_on(async {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::spawn(async move {
            let service = service_fn(|request| {
                let answers = Arc::clone(&answers);
                async move { Ok::<_, Infallible>(answer(&answers, request).await) }
            });
            let server = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(there), service);
            // A client that does not like the answers closes.
            let _ = server.await;
        });
        let client = Client::connect(here).await.expect("the server is there");
        let _ = push(&client, source, &options, Arc::new(SilentReporter)).await;
        drop(client);
        server.await.expect("it does not panic");
    });
}

async fn answer(answers: &Mutex<Vec<u8>>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = Input::new(&answers);
    let answer = made(&path, &body, &mut input);
    let rest = input.take(usize::MAX).to_vec();
    *answers = rest;
    answer
}

/// Makes the answer that is right but for what the input chooses.
fn made(path: &str, body: &[u8], input: &mut Input<'_>) -> Answer {
    let (mut status, mut content_type, mut answer) = match path.rsplit('/').next() {
        Some("missing") => (200, "application/octet-stream", presence(body.len() / NAME_BYTES, input)),
        Some("objects") => (200, "application/json", br#"{"objects":1,"bytes":1,"already_there":0}"#.to_vec()),
        Some("publish") => (200, "application/x-ndjson", published(input)),
        _ => (201, "application/x-ndjson", opened(body, input)),
    };
    let flags = input.byte();
    if flags & 1 != 0 {
        status = *input.choose(&[200, 201, 204, 302, 400, 409, 500, 503]);
    }
    if flags & 2 != 0 {
        content_type = *input.choose(&["application/json", "application/x-ndjson", "", "text/html"]);
    }
    if flags & 4 != 0 {
        answer = input.long_bytes().to_vec();
    }
    if flags & 8 != 0 {
        let (at, count) = (input.short() % (answer.len() + 1), usize::from(input.byte()));
        let end = (at + count).min(answer.len());
        answer.splice(at..end, input.bytes().iter().copied());
    }
    let mut frames = vec![Ok(Frame::data(Bytes::from(answer)))];
    if flags & 16 != 0 {
        frames.push(Err(io::ErrorKind::Other.into()));
    }
    let body = match frames.len() {
        1 => Full::new(frames.remove(0).ok().and_then(|frame| frame.into_data().ok()).unwrap_or_default())
            .map_err(|never| match never {})
            .boxed(),
        _ => BodyExt::boxed(StreamBody::new(stream::iter(frames))),
    };
    Response::builder().status(status).header(CONTENT_TYPE, content_type).body(body).expect("a valid answer")
}

fn presence(names: usize, input: &mut Input<'_>) -> Vec<u8> {
    (0..names).map(|_| *input.choose(b"-o+")).collect()
}

fn opened(body: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let Ok(request) = serde_json::from_slice::<OpenRequest>(body) else { return Vec::new() };
    let refs: Vec<_> = (request.refs.iter().enumerate())
        .map(|(index, offer)| {
            let mut state = json!({ "name": offer.name, "verdict": *input.choose(&["publish", "unchanged"]) });
            match input.byte() % 4 {
                0 => {}
                1 => state["head"] = json!(offer.commit),
                _ => state["head"] = json!(request.refs[(index + 1) % request.refs.len()].commit),
            }
            state
        })
        .collect();
    let limits = json!({
        "object_bytes": input.short(),
        "question_names": input.byte(),
        "streams": input.byte(),
    });
    let waiting = json!({ "event": "waiting", "reason": "somebody is there", "waited_secs": 1 });
    let answer = json!({ "server": "fuzz", "push": input.text(), "repository": {}, "refs": refs, "limits": limits });
    format!("{waiting}\n{}\n", json!({ "event": "opened", "answer": answer })).into_bytes()
}

fn published(input: &mut Input<'_>) -> Vec<u8> {
    let id = "0".repeat(64);
    let refs = json!([{ "name": "main", "new": id }, { "name": "other", "new": id, "old": id }]);
    let events = [
        json!({ "event": "phase", "phase": input.text() }),
        json!({ "event": "waiting", "reason": "another push", "waited_secs": 5, "holder": { "who": input.text() } }),
        json!({ "event": input.text() }),
        json!({ "event": "done", "published": { "refs": refs, "notes": [input.text()] } }),
    ];
    let first = usize::from(input.byte()) % events.len();
    events[first..].iter().fold(String::new(), |text, event| format!("{text}{event}\n")).into_bytes()
}
