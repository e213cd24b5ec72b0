//! One stream of objects: a request, whose body a blocking thread fills.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io::{self, BufWriter, Read, Write},
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, MaybeDone, maybe_done},
};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use treegraft_object::{ContentId, ObjectKind};
use treegraft_repo::ReadError;
use treegraft_wire::{
    Arrival, ObjectsAnswer,
    chunks::{write_recipe, write_reference},
    stream::{self, Batch, Compressor, Encoding},
};

use super::{
    Ends, Transferred,
    board::{Board, Comparable, Older, Way},
    lanes::Seat,
};
use crate::{ClientError, Event, PlannedObject, PushError, Reporter, source::SourceObjects};

/// Batches of a stream that wait for HTTP/2: enough that reading and sending overlap.
const WAITING_BATCHES: usize = 4;

/// Bytes of a recipe that become a chunk of the stream: its steps are some bytes each.
const RECIPE_BUFFER_BYTES: usize = 64 << 10;

/// What a stream sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Objects as they are stored.
    Whole,
    /// The same, until so many bytes of them were sent.
    Probe {
        /// How many.
        bytes: u64,
    },
    /// Recipes, compressed.
    Recipes,
}

/// What became of a stream.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    pub(super) transferred: Transferred,
    /// Recipes of which the server has made something else.
    pub(super) to_be_sent_whole: Vec<PlannedObject>,
}

/// A stream whose end is on its way.
pub(super) struct Departed {
    filled: Filled,
    answer: Pin<Box<MaybeDone<Answer>>>,
}

type Answer = BoxFuture<'static, Result<ObjectsAnswer, ClientError>>;

/// What a stream is filled with.
struct Filled {
    transferred: Transferred,
    recipes: HashMap<ContentId, PlannedObject>,
    /// Where another one is to go on.
    moved_to: Option<Seat>,
}

/// What a stream begins with.
enum First {
    Whole(PlannedObject),
    Recipe(Comparable),
}

/// Sends objects as they are stored until there are no more, in one stream after the other when it moves to another
/// connection.
pub(super) async fn send_whole(ends: Ends) -> Result<(), PushError> {
    let mut seat = Some(ends.lanes.seat());
    while seat.is_some() {
        let Some(mut stream) = send(ends.clone(), Kind::Whole, seat).await? else { break };
        seat = stream.filled.moved_to.take();
        ends.departed(stream);
    }
    Ok(())
}

/// Sends a stream, from the first object that there is to the end of its body; on the connection of its seat, if it has one.
pub(super) async fn send(ends: Ends, kind: Kind, seat: Option<Seat>) -> Result<Option<Departed>, PushError> {
    // A stream that has nothing to send is not opened: most pushes of a few objects need one.
    let board = Arc::clone(&ends.board);
    let first = move || match kind {
        Kind::Whole => board.next_whole().map(First::Whole),
        Kind::Probe { .. } => board.next_of_probe().map(First::Whole),
        Kind::Recipes => board.next_comparable().map(First::Recipe),
    };
    let Some(first) = tokio::task::spawn_blocking(first).await.map_err(|_| PushError::Worker)? else {
        return Ok(None);
    };
    let (batches, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(WAITING_BATCHES);
    let body = futures_util::stream::unfold(receiver, |mut receiver| async {
        let batch = receiver.recv().await?;
        Some((batch.map(Frame::data), receiver))
    });
    let Ends { client, push, source, reporter, board, slots, .. } = ends;
    // Of a stream that has left, the server may still take the rest.
    let slot = slots.acquire_owned().await.expect("it is never closed");
    let client = seat.as_ref().map_or(client, Seat::client);
    let mut filling = tokio::task::spawn_blocking(move || {
        let stream = Filler { objects: &source.objects, reporter: &*reporter, board: &board, batches: &batches };
        let filled = match first {
            First::Whole(first) => stream.fill_whole(first, kind, seat),
            First::Recipe(first) => stream.fill_recipes(first),
        };
        if filled.is_err() {
            // The stream must break off, not end: the server would take what came for whole.
            let _ = batches.blocking_send(Err(io::Error::other("an object could not be read")));
        }
        filled
    });
    let encoding = (kind == Kind::Recipes).then_some(stream::ZSTD);
    let request = async move {
        let answer = client.objects(&push, encoding, Box::pin(body)).await;
        drop(slot);
        answer
    };
    // It ends by itself, since others wait for the slot. Only who drops it cancels it.
    let request = AbortOnDropHandle::new(tokio::spawn(request));
    let answer: Answer = async { request.await.unwrap_or_else(|error| resume_unwind(error.into_panic())) }.boxed();
    let mut answer = Box::pin(maybe_done(answer));
    let filled = tokio::select! {
        () = &mut answer => None,
        filled = &mut filling => Some(filled),
    };
    // What the server says explains why the stream could not be filled further, not the other way round. Nothing waits for
    // the thread then: it ends with the request's body, which a server that has answered may leave unread.
    if let Some(Err(ClientError::Api(_) | ClientError::Answer { .. })) = answer.as_mut().output_mut() {
        return Err(taken(answer).await.expect_err("it was looked at").into());
    }
    let filled = match filled {
        Some(filled) => filled,
        None => filling.await,
    };
    match filled.map_err(|_| PushError::Worker)? {
        Ok(filled) => Ok(Some(Departed { filled, answer })),
        Err(FillError::Read(error)) => Err(error.into()),
        Err(FillError::Closed) => {
            taken(answer).await?;
            let reason = "it came before all objects of its stream were sent".to_owned();
            Err(ClientError::Answer { reason }.into())
        }
    }
}

async fn taken(mut answer: Pin<Box<MaybeDone<Answer>>>) -> Result<ObjectsAnswer, ClientError> {
    answer.as_mut().await;
    answer.as_mut().take_output().expect("it is done, and was not taken before")
}

impl Departed {
    /// Waits for the server's answer, and returns how fast the stream came. After a failure there is nothing more to wait
    /// for.
    pub(super) async fn arrival(&mut self) -> Result<Arrival, ClientError> {
        self.answer.as_mut().await;
        if let Some(Ok(answer)) = self.answer.as_mut().output_mut() {
            return Ok(answer.arrival);
        }
        let answer = self.answer.as_mut().take_output().expect("it is done, and was not taken before");
        Ok(answer?.arrival)
    }

    /// Waits for the server's answer.
    pub(super) async fn arrived(self) -> Result<Arrived, PushError> {
        let Self { mut filled, answer } = self;
        let answer = taken(answer).await?;
        let to_be_sent_whole: Vec<_> =
            answer.to_be_sent_whole.iter().filter_map(|id| filled.recipes.remove(id)).collect();
        // They are counted when they are sent.
        filled.transferred.objects -= to_be_sent_whole.len() as u64;
        filled.transferred.recipes -= to_be_sent_whole.len() as u64;
        let transferred = Transferred { stored_bytes: answer.bytes, ..filled.transferred };
        Ok(Arrived { transferred, to_be_sent_whole })
    }

    /// Makes an empty one that was answered.
    #[cfg(test)]
    pub(super) fn answered(answer: Result<ObjectsAnswer, ClientError>) -> Self {
        let filled = Filled { transferred: Transferred::default(), recipes: HashMap::new(), moved_to: None };
        Self { filled, answer: Box::pin(maybe_done(std::future::ready(answer).boxed())) }
    }
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

/// Fills a stream.
#[derive(Clone, Copy)]
struct Filler<'f> {
    objects: &'f SourceObjects,
    reporter: &'f dyn Reporter,
    board: &'f Board,
    batches: &'f mpsc::Sender<Result<Bytes, io::Error>>,
}

impl Filler<'_> {
    /// Writes objects as they are stored, until there are no more or the probe is large enough.
    ///
    /// With a seat it ends, too, when there is a better one.
    fn fill_whole(self, first: PlannedObject, kind: Kind, mut seat: Option<Seat>) -> Result<Filled, FillError> {
        let mut has_moved = false;
        let mut total = Transferred::default();
        // Reading and writing fail alike; which of both it was decides whether another try helps.
        let is_closed = Cell::new(false);
        let mut writer = stream::Writer::new(|Batch { bytes, object_bytes }| {
            self.send(bytes).inspect_err(|_| is_closed.set(true))?;
            self.board.note_sent(Way::Whole, object_bytes);
            self.reporter.event(Event::Sending { bytes: object_bytes, sent_bytes: object_bytes });
            Ok(())
        });
        let mut current = Some(first);
        while let Some(object) = current {
            total.bytes +=
                writer.object(object.name, Encoding::Archive, |out| self.write_whole(object, out, &is_closed))?;
            total.objects += 1;
            self.reporter.event(Event::Sent { object: object.name, in_parts: false });
            current = match kind {
                Kind::Probe { bytes } if total.bytes >= bytes => None,
                Kind::Probe { .. } => self.board.next_of_probe(),
                _ if seat.as_mut().is_some_and(Seat::move_on) => {
                    has_moved = true;
                    None
                }
                _ => match self.board.try_whole() {
                    None if !self.board.is_over() => {
                        // The server shall not wait for the end of an object that is here already.
                        writer.flush()?;
                        self.board.next_whole()
                    }
                    next => next,
                },
            };
        }
        writer.finish()?;
        Ok(Filled { transferred: total, recipes: HashMap::new(), moved_to: seat.filter(|_| has_moved) })
    }

    fn write_whole(
        self,
        object: PlannedObject,
        out: &mut stream::ObjectWriter<'_, impl FnMut(Batch) -> io::Result<()>>,
        is_closed: &Cell<bool>,
    ) -> Result<(), FillError> {
        let name = object.name;
        if name.kind != ObjectKind::File {
            let data = self.objects.find().metadata(name).map_err(FillError::Read)?;
            let data = data.ok_or(FillError::Read(ReadError::NotFound { name }))?;
            return Ok(out.write_all(&data)?);
        }
        let id = ContentId(name.checksum);
        match self.objects.open_archived(id).map_err(FillError::Read)? {
            Some((mut file, repo)) => out.copy_from(&mut file).map_err(|source| {
                if is_closed.get() {
                    return FillError::Closed;
                }
                FillError::Read(ReadError::Io { path: repo.path_of(id), source })
            }),
            None => self.objects.write_archived(id, out).map_err(|error| match error {
                ReadError::Write { .. } => FillError::Closed,
                error => FillError::Read(error),
            }),
        }
    }

    /// Writes recipes until there are no more.
    fn fill_recipes(self, first: Comparable) -> Result<Filled, FillError> {
        let mut total = Transferred::default();
        let mut recipes = HashMap::new();
        let is_closed = Cell::new(false);
        let compressor = RefCell::new(Compressor::new()?);
        let sent_bytes = Cell::new(0);
        let send = |bytes: Bytes| {
            if bytes.is_empty() {
                return Ok(());
            }
            let count = bytes.len() as u64;
            self.send(bytes).inspect_err(|_| is_closed.set(true))?;
            sent_bytes.set(sent_bytes.get() + count);
            self.reporter.event(Event::Sending { bytes: 0, sent_bytes: count });
            Ok::<_, io::Error>(())
        };
        let mut writer = stream::Writer::new(|Batch { bytes, .. }| send(compressor.borrow_mut().write(&bytes)?));
        let mut current = Some(first);
        while let Some(Comparable { object, older }) = current {
            let id = ContentId(object.name.checksum);
            let (header, content_bytes, content) = self.objects.open_plain(id).map_err(FillError::Read)?;
            let object_bytes = object.bytes.unwrap_or(content_bytes);
            let made = match &older {
                Older::File { basis, id: older } => basis.references.take(id, *older),
                Older::Chunks(_) => None,
            };
            let read_bytes = made.as_ref().map_or(content_bytes, |made| made.len() as u64);
            let mut departure = Departure::new(self, object_bytes, read_bytes);
            let encoding = match older {
                Older::Chunks(_) => Encoding::Recipe,
                Older::File { .. } => Encoding::Reference,
            };
            writer.object(object.name, encoding, |out| {
                let mut out = BufWriter::with_capacity(RECIPE_BUFFER_BYTES, out);
                let written = match (&older, &made) {
                    (Older::File { .. }, Some(made)) => {
                        io::copy(&mut departure.watch(made.as_slice()), &mut out).map(drop)
                    }
                    (Older::File { basis, id: older }, None) => {
                        let file: (u64, Box<dyn Read>) = match basis.open_file(*older) {
                            Ok((bytes, file)) => (bytes, Box::new(file)),
                            // It is only a help, and the stream needs the object.
                            Err(_) => (0, Box::new(io::empty())),
                        };
                        let content = (content_bytes, departure.watch(content));
                        write_reference(*older, file, &header, content, &mut out)
                    }
                    (Older::Chunks(signature), _) => {
                        write_recipe(signature, &header, content_bytes, departure.watch(content), &mut out).map(drop)
                    }
                };
                written.and_then(|()| out.flush()).map_err(|source| {
                    if is_closed.get() {
                        return FillError::Closed;
                    }
                    FillError::Read(self.objects.unreadable(id, source))
                })
            })?;
            recipes.insert(id, object);
            total.objects += 1;
            total.recipes += 1;
            departure.all();
            self.reporter.event(Event::Sent { object: object.name, in_parts: true });
            current = self.board.try_comparable();
            if current.is_none() && !self.board.is_over() {
                // The server shall not wait for the end of an object that is here already.
                writer.flush()?;
                send(compressor.borrow_mut().flush()?)?;
                current = self.board.next_comparable();
            }
        }
        writer.finish()?;
        send(compressor.into_inner().finish()?)?;
        total.bytes = sent_bytes.get();
        Ok(Filled { transferred: total, recipes, moved_to: None })
    }

    /// Tells that a part of an object has left, in bytes of the object as it is stored.
    fn tell_part(self, bytes: u64) {
        self.board.note_sent(Way::Recipes, bytes);
        self.reporter.event(Event::Sending { bytes, sent_bytes: 0 });
    }

    fn send(self, bytes: Bytes) -> io::Result<()> {
        self.batches.blocking_send(Ok(bytes)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// How much of an object has left, as far as what is sent of it was read: a large one takes a while.
struct Departure<'f> {
    filler: Filler<'f>,
    object_bytes: u64,
    all_bytes: u64,
    read_bytes: u64,
    told_bytes: u64,
}

impl<'f> Departure<'f> {
    /// Begins an object of which so many bytes will be read.
    const fn new(filler: Filler<'f>, object_bytes: u64, all_bytes: u64) -> Self {
        Self { filler, object_bytes, all_bytes, read_bytes: 0, told_bytes: 0 }
    }

    fn watch<R>(&mut self, source: R) -> Watched<'_, 'f, R> {
        Watched { source, departure: self }
    }

    fn read(&mut self, bytes: usize) {
        self.read_bytes += bytes as u64;
        let part = u128::from(self.object_bytes) * u128::from(self.read_bytes) / u128::from(self.all_bytes.max(1));
        self.up_to(u64::try_from(part).unwrap_or(u64::MAX));
    }

    fn all(&mut self) {
        self.up_to(self.object_bytes);
    }

    fn up_to(&mut self, bytes: u64) {
        let more = bytes.min(self.object_bytes).saturating_sub(self.told_bytes);
        if more > 0 {
            self.filler.tell_part(more);
            self.told_bytes += more;
        }
    }
}

/// What is read, and told to be.
struct Watched<'t, 'f, R> {
    source: R,
    departure: &'t mut Departure<'f>,
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.departure.read(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use treegraft_wire::{ApiError, ErrorCode};

    use super::*;

    #[tokio::test]
    async fn a_probe_that_is_refused_says_nothing_about_the_link() {
        let refusal = Box::new(ApiError::new(ErrorCode::InvalidObject, "It is not valid"));
        let error = Departed::answered(Err(refusal.into())).arrival().await.expect_err("it did not arrive");
        assert!(matches!(error, ClientError::Api(_)), "it is told what the server said: {error:?}");
    }
}
