//! Sending objects: several streams, each filled by a blocking thread from one queue.

use std::{
    cell::Cell,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::{sync::mpsc, task::JoinSet};
use treegraft_object::{ContentId, ObjectKind};
use treegraft_repo::ReadError;
use treegraft_wire::{
    ObjectsAnswer, PushId,
    stream::{self, Batch},
};

use crate::{
    Client, ClientError, Event, PlannedObject, PushError, Reporter, Source, push::last_words, source::SourceObjects,
};

/// Batches of a stream that wait for HTTP/2: enough that reading and sending overlap.
const WAITING_BATCHES: usize = 4;

/// Objects to send, shared by all streams.
type Queue = Arc<Mutex<mpsc::UnboundedReceiver<PlannedObject>>>;

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Transferred {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// Sends everything from `queue` in `streams` streams until it is closed and empty.
pub(crate) async fn transfer(
    client: &Client,
    push: &PushId,
    source: &Arc<Source>,
    reporter: &Arc<dyn Reporter>,
    queue: mpsc::UnboundedReceiver<PlannedObject>,
    streams: u32,
) -> Result<Transferred, PushError> {
    let queue: Queue = Arc::new(Mutex::new(queue));
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let (client, push, queue) = (client.clone(), push.clone(), Arc::clone(&queue));
        let (source, reporter) = (Arc::clone(source), Arc::clone(reporter));
        tasks.spawn(async move { send_stream(&client, &push, source, reporter, queue).await });
    }
    let mut total = Transferred::default();
    loop {
        match next_stream(&mut tasks).await {
            Ok(Some(sent)) => {
                total.objects += sent.objects;
                total.bytes += sent.bytes;
            }
            Ok(None) => return Ok(total),
            Err(error) => return Err(last_words(error, first_failure(&mut tasks)).await),
        }
    }
}

async fn next_stream(tasks: &mut JoinSet<Result<Transferred, PushError>>) -> Result<Option<Transferred>, PushError> {
    tasks.join_next().await.map(|result| result.map_err(|_| PushError::Worker)?).transpose()
}

/// Waits for the first failure that is not only a broken connection.
async fn first_failure(tasks: &mut JoinSet<Result<Transferred, PushError>>) -> Result<(), PushError> {
    loop {
        match next_stream(tasks).await {
            Ok(Some(_)) | Err(PushError::Client(ClientError::Connection(_))) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

async fn send_stream(
    client: &Client,
    push: &PushId,
    source: Arc<Source>,
    reporter: Arc<dyn Reporter>,
    queue: Queue,
) -> Result<Transferred, PushError> {
    // A stream that has nothing to send is not opened: most pushes of a few objects need one.
    let waiting = Arc::clone(&queue);
    let first = tokio::task::spawn_blocking(move || next(&waiting)).await.map_err(|_| PushError::Worker)?;
    let Some(first) = first else {
        return Ok(Transferred::default());
    };
    let (batches, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(WAITING_BATCHES);
    let body = futures_util::stream::unfold(receiver, |mut receiver| async {
        let batch = receiver.recv().await?;
        Some((batch.map(Frame::data), receiver))
    });
    let filling = tokio::task::spawn_blocking(move || fill(&source.objects, &*reporter, first, &queue, &batches));
    let answer: Result<ObjectsAnswer, _> = client.objects(push, Box::pin(body)).await;
    // What the server says explains why the stream could not be filled further, not the other way round. Nothing waits for
    // the thread then: it ends with the request's body, which a server that has answered may leave unread.
    if let Err(error @ (ClientError::Api(_) | ClientError::Answer { .. })) = answer {
        return Err(error.into());
    }
    match (answer, filling.await.map_err(|_| PushError::Worker)?) {
        (_, Err(FillError::Read(error))) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
        (Ok(_), Err(FillError::Closed)) => {
            let reason = "it came before all objects of its stream were sent".to_owned();
            Err(ClientError::Answer { reason }.into())
        }
        (Ok(_), Ok(transferred)) => Ok(transferred),
    }
}

fn next(queue: &Queue) -> Option<PlannedObject> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
}

/// Why a stream was not filled to its end.
enum FillError {
    /// An object could not be read.
    Read(ReadError),
    /// Nobody takes the batches any more: the request has ended.
    Closed,
}

impl From<io::Error> for FillError {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// Writes objects into a stream until the queue is closed and empty.
fn fill(
    objects: &SourceObjects,
    reporter: &dyn Reporter,
    first: PlannedObject,
    queue: &Queue,
    batches: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<Transferred, FillError> {
    let mut total = Transferred::default();
    // Reading and writing fail alike; which of both it was decides whether another try helps.
    let is_closed = Cell::new(false);
    let mut writer = stream::Writer::new(|Batch { bytes, object_bytes }| {
        batches.blocking_send(Ok(bytes)).map_err(|_| {
            is_closed.set(true);
            io::Error::from(io::ErrorKind::BrokenPipe)
        })?;
        reporter.event(Event::Sending { bytes: object_bytes });
        Ok(())
    });
    let mut current = Some(first);
    while let Some(object) = current {
        let sent = writer.object(object.name, |out| {
            if object.name.kind == ObjectKind::File {
                let id = ContentId(object.name.checksum);
                match objects.open_archived(id).map_err(FillError::Read)? {
                    Some((mut file, repo)) => out.copy_from(&mut file).map_err(|source| {
                        if is_closed.get() {
                            return FillError::Closed;
                        }
                        FillError::Read(ReadError::Io { path: repo.path_of(id), source })
                    }),
                    None => objects.write_archived(id, out).map_err(|error| match error {
                        ReadError::Write { .. } => FillError::Closed,
                        error => FillError::Read(error),
                    }),
                }
            } else {
                let name = object.name;
                let data = objects.find().metadata(name).map_err(FillError::Read)?;
                let data = data.ok_or(FillError::Read(ReadError::NotFound { name }))?;
                io::Write::write_all(out, &data).map_err(FillError::from)
            }
        });
        match sent {
            Ok(bytes) => total.bytes += bytes,
            Err(error) => {
                // The stream must break off, not end: the server would take what came for whole.
                let _ = batches.blocking_send(Err(io::Error::other("an object could not be read")));
                return Err(error);
            }
        }
        total.objects += 1;
        reporter.event(Event::Sent { object: object.name });
        current = next(queue);
    }
    writer.finish()?;
    Ok(total)
}
