//! `POST /api/v1/pushes/{id}/objects`: takes a stream of objects into the staging area.

use std::{
    io::{self, Read},
    panic::resume_unwind,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, Scope, ScopedJoinHandle},
};

use hyper::{Request, StatusCode, body::Incoming, header::CONTENT_ENCODING};
use tokio::runtime::Handle;
use treegraft_object::limits::{MAX_DETACHED_METADATA_BYTES, MAX_METADATA_BYTES};
use treegraft_object::{ContentId, ObjectKind, ObjectName, filez};
use treegraft_repo::{Staged, Staging};
use treegraft_wire::{
    ApiError, ErrorCode, ObjectsAnswer,
    stream::{self, Encoding, StreamError},
};

use super::{blocking, recipe};
use crate::{
    Receiver,
    body::{self, Answer, BlockingBody},
    connection::Connection,
    error::from_staging,
    session::Session,
};

/// Most objects that a thread lists to be sent as a whole after all: the list takes memory, and has to be read.
const MAX_UNMADE_OBJECTS: usize = 100_000;

/// Recipes of fewer bytes are read as a whole, so that another thread can follow them.
const HELPED_BYTES: u64 = 128 << 10;

pub(super) async fn post(connection: &Connection, id: &str, request: Request<Incoming>) -> Result<Answer, ApiError> {
    let (session, deadline) = connection.pushes.get(id)?;
    let stream = Session::begin_stream(session)?;
    let slot = connection.pushes.stream_slot()?;
    let is_compressed = is_compressed(&connection.receiver, &request)?;
    let body = BlockingBody::new(request.into_body(), deadline, Arc::clone(stream.arrived_bytes()));
    let arrival = body.arrival();
    let receiver = Arc::clone(&connection.receiver);
    let taking = move || {
        // Both are held as long as the thread works, also for a client that does not wait for the answer.
        let _slot = slot;
        let answer = if is_compressed {
            let body = stream::decompress(body).map_err(|error| from_stream(&error.into()))?;
            // The windows bound what came as it is. Of what is compressed, a little may be endless.
            take(&receiver, &stream, stream.wanted(body))?
        } else {
            take(&receiver, &stream, body)?
        };
        stream.finish(&answer);
        Ok(answer)
    };
    let mut answer = deadline.bound(blocking(&connection.receiver, taking)).await?;
    answer.arrival = *arrival.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(body::json_answer(StatusCode::OK, &answer))
}

/// Tells whether the stream is compressed as a whole.
fn is_compressed(receiver: &Receiver, request: &Request<Incoming>) -> Result<bool, ApiError> {
    match request.headers().get(CONTENT_ENCODING) {
        None => Ok(false),
        Some(encoding) if encoding == stream::ZSTD && receiver.settings.offer_chunks => Ok(true),
        Some(encoding) => {
            let detail = format!("The content encoding {encoding:?} is not offered");
            Err(ApiError::new(ErrorCode::BadRequest, detail))
        }
    }
}

fn take(receiver: &Receiver, session: &Session, body: impl Read) -> Result<ObjectsAnswer, ApiError> {
    let taker = Taker { receiver, session, staging: session.staging()? };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let mut helper = None;
        let mut answer = ObjectsAnswer::default();
        let mut objects = stream::Reader::new(body);
        while let Some((name, encoding, object)) = objects.next_object().map_err(|error| from_stream(&error))? {
            session.budget.take_object()?;
            let mut object = session.budget.metered(encoding, object);
            if encoding == Encoding::Archive {
                taker.take_archived(name, &mut object, &mut answer)?;
                continue;
            }
            if helper.as_ref().is_some_and(Helper::has_failed) {
                break;
            }
            // Each of those that work has buffers: more than there are cores gain nothing.
            let is_core_free = session.makers.load(Ordering::Relaxed) < cores;
            let mut start = Vec::new();
            if is_core_free {
                let reading = object.by_ref().take(HELPED_BYTES).read_to_end(&mut start);
                reading.map_err(|error| taker.explain(recipe::refusal(name, &error.into())))?;
            }
            if is_core_free && (start.len() as u64) < HELPED_BYTES {
                if helper.is_none() {
                    helper = Helper::start(scope, taker);
                }
                if let Some(helper) = &helper {
                    match helper.recipes.try_send((name, encoding, start)) {
                        Ok(()) => continue,
                        Err(TrySendError::Full((_, _, recipe)) | TrySendError::Disconnected((_, _, recipe))) => {
                            start = recipe;
                        }
                    }
                }
            }
            taker.make(name, encoding, &mut io::Cursor::new(start).chain(object), &mut answer)?;
        }
        if let Some(helper) = helper {
            answer.add_objects(helper.finish()?);
        }
        Ok(answer)
    })
}

/// Makes objects beside the thread that reads their stream. A client fills streams faster than objects can be made, so at the
/// end a single stream would have much work left, and every other core none.
struct Helper<'scope> {
    recipes: SyncSender<(ObjectName, Encoding, Vec<u8>)>,
    thread: ScopedJoinHandle<'scope, Result<ObjectsAnswer, ApiError>>,
}

impl<'scope> Helper<'scope> {
    /// Starts it, unless the system gives no thread.
    fn start(scope: &'scope Scope<'scope, '_>, taker: Taker<'scope>) -> Option<Self> {
        // It takes nothing before it has nothing else to do.
        let (recipes, to_do) = sync_channel(0);
        let runtime = Handle::current();
        let make_all = move || {
            // What is staged is flushed on the runtime.
            let _entered = runtime.enter();
            let mut answer = ObjectsAnswer::default();
            for (name, encoding, recipe) in to_do {
                taker.make(name, encoding, &mut Vec::as_slice(&recipe), &mut answer)?;
            }
            Ok(answer)
        };
        let thread = thread::Builder::new().spawn_scoped(scope, make_all).ok()?;
        Some(Self { recipes, thread })
    }

    /// Tells whether it has come to its end too early. It says why when it is waited for.
    fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for what it is at.
    fn finish(self) -> Result<ObjectsAnswer, ApiError> {
        drop(self.recipes);
        self.thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// A thread that makes an object, counted as long as it does.
struct Maker<'m>(&'m AtomicUsize);

impl<'m> Maker<'m> {
    fn begin(makers: &'m AtomicUsize) -> Self {
        let _before = makers.fetch_add(1, Ordering::Relaxed);
        Self(makers)
    }
}

impl Drop for Maker<'_> {
    fn drop(&mut self) {
        let _before = self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes objects into the staging area of a push.
#[derive(Clone, Copy)]
struct Taker<'t> {
    receiver: &'t Receiver,
    session: &'t Session,
    staging: &'t Staging,
}

impl Taker<'_> {
    fn take_archived(
        self,
        name: ObjectName,
        object: &mut impl Read,
        answer: &mut ObjectsAnswer,
    ) -> Result<(), ApiError> {
        let staged = stage(self.receiver, self.session, self.staging, name, object);
        self.note(staged.map_err(|error| self.explain(error))?, answer);
        Ok(())
    }

    fn make(
        self,
        name: ObjectName,
        encoding: Encoding,
        recipe: &mut impl Read,
        answer: &mut ObjectsAnswer,
    ) -> Result<(), ApiError> {
        self.session.check_wanted()?;
        let maker = Maker::begin(&self.session.makers);
        let made = recipe::stage(self.receiver, self.session, self.staging, name, encoding, recipe);
        drop(maker);
        match made.map_err(|error| self.explain(error))? {
            Some(staged) => self.note(staged, answer),
            None if answer.to_be_sent_whole.len() < MAX_UNMADE_OBJECTS => {
                answer.to_be_sent_whole.push(ContentId(name.checksum));
            }
            None => {
                let detail = format!("More than {MAX_UNMADE_OBJECTS} objects of a stream could not be made of recipes");
                return Err(ApiError::new(ErrorCode::TooLarge, detail).hint("push with `--compare never`"));
            }
        }
        Ok(())
    }

    /// An object that breaks off because the push is too large is no damaged object.
    fn explain(self, error: ApiError) -> ApiError {
        self.session.budget.refusal().unwrap_or(error)
    }

    fn note(self, staged: Staged, answer: &mut ObjectsAnswer) {
        if let Some(flush) = self.staging.due_flush(&staged) {
            self.receiver.work.spawn_blocking(|| flush.run());
        }
        if staged.is_new {
            answer.objects += 1;
            answer.bytes += staged.archived_bytes;
        } else {
            answer.already_there += 1;
        }
    }
}

/// Takes one object.
fn stage(
    receiver: &Receiver,
    session: &Session,
    staging: &Staging,
    name: ObjectName,
    object: &mut impl Read,
) -> Result<Staged, ApiError> {
    if name.kind == ObjectKind::File {
        let mut object = within_content_limit(receiver, name, object)?;
        return staging.stage_content(name, &mut object, session.budget.object_bytes()).map_err(from_staging);
    }
    let data = read_metadata(receiver, session, name, object)?;
    staging.stage_metadata(name, &data).map_err(from_staging)
}

/// Looks at the size that a content object promises before anything of it is unpacked, and gives back the whole object.
///
/// A `.filez` never gives more than it promises; what is too short for a promise is refused when it is verified.
fn within_content_limit<'o, R: Read>(
    receiver: &Receiver,
    name: ObjectName,
    object: &'o mut R,
) -> Result<impl Read + use<'o, R>, ApiError> {
    let mut start = Vec::with_capacity(filez::PROMISE_BYTES);
    object
        .take(filez::PROMISE_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(|error| from_stream(&error.into()).of_object(&name))?;
    let limit_bytes = receiver.settings.max_content_bytes;
    match filez::promised_bytes(&start) {
        Some(bytes) if bytes > limit_bytes => {
            let detail = format!("`{name}` has {bytes} bytes unpacked, at most {limit_bytes} are allowed");
            Err(ApiError::new(ErrorCode::TooLarge, detail).of_object(&name).hint(administrators("max-content-bytes")))
        }
        _ => Ok(io::Cursor::new(start).chain(object)),
    }
}

/// Reads a metadata object of a kind that may be pushed, up to the size that its kind may have.
fn read_metadata(
    receiver: &Receiver,
    session: &Session,
    name: ObjectName,
    object: &mut impl Read,
) -> Result<Vec<u8>, ApiError> {
    let refuse = |rule: &str, reason: &str| {
        let detail = format!("The object `{name}` cannot be pushed: {reason}");
        ApiError { rule: Some(rule.to_owned()), ..ApiError::new(ErrorCode::BadRequest, detail).of_object(&name) }
    };
    let limit_bytes = match name.kind {
        ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta => {
            receiver.settings.max_metadata_bytes.min(MAX_METADATA_BYTES)
        }
        ObjectKind::CommitMeta if session.offers_commit(name.checksum) => MAX_DETACHED_METADATA_BYTES,
        ObjectKind::CommitMeta => return Err(refuse("foreign-commitmeta", "its commit is not offered by this push")),
        _ => return Err(refuse("object-kind", "only a repository itself makes such objects")),
    };
    let mut data = Vec::new();
    let read = object
        .take(limit_bytes + 1)
        .read_to_end(&mut data)
        .map_err(|error| from_stream(&error.into()).of_object(&name))?;
    if read as u64 > limit_bytes {
        let detail = format!("`{name}` has more than {limit_bytes} bytes");
        let error = ApiError::new(ErrorCode::TooLarge, detail).of_object(&name);
        let has_setting = name.kind != ObjectKind::CommitMeta && limit_bytes < MAX_METADATA_BYTES;
        return Err(if has_setting { error.hint(administrators("max-metadata-bytes")) } else { error });
    }
    Ok(data)
}

fn administrators(setting: &str) -> String {
    format!("the server's administrator can raise `{setting}` for this repository")
}

pub(super) fn from_stream(error: &StreamError) -> ApiError {
    let reason = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    ApiError::new(ErrorCode::BadRequest, format!("{error}{reason}"))
}
