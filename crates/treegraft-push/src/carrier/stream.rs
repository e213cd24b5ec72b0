//! The byte stream through ssh, from the first byte that HTTP/2 writes.
//!
//! ```text
//! HTTP/2 ──► Eager ──► greeting ──► ssh       until the banner: written at once, and recorded to be written again
//! HTTP/2 ────────────────────────► ssh        behind it
//! ```

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are recorded before the banner. HTTP/2 allows 64 KiB before the other side has said anything, and some
/// for headers; whoever writes more waits for the banner.
const MAX_EAGER_BYTES: usize = 256 << 10;

/// What was written before the banner.
#[derive(Clone, Default)]
pub(super) struct Eager(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    /// How much of it was handed on.
    sent: usize,
    /// Who waits for more bytes.
    reader: Option<Waker>,
    /// Who waits for the banner because the record is full.
    writer: Option<Waker>,
}

impl Eager {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_record(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<usize> {
        let mut record = self.lock();
        let count = bytes.len().min(MAX_EAGER_BYTES.saturating_sub(record.bytes.len()));
        if count == 0 && !bytes.is_empty() {
            record.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        record.bytes.extend_from_slice(&bytes[..count]);
        if let Some(reader) = record.reader.take() {
            reader.wake();
        }
        Poll::Ready(count)
    }

    /// Hands on what is there and what comes. It ends only when that fails, and can be stopped between any two bytes.
    pub(super) async fn forward(&self, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        std::future::poll_fn(|context| {
            let mut record = self.lock();
            while record.sent < record.bytes.len() {
                let count = ready!(Pin::new(&mut *output).poll_write(context, &record.bytes[record.sent..]))?;
                record.sent += count;
            }
            record.reader = Some(context.waker().clone());
            drop(record);
            ready!(Pin::new(&mut *output).poll_flush(context))?;
            Poll::Pending
        })
        .await
    }

    /// Hands on what is there from the beginning, though it was handed on before.
    pub(super) async fn replay(&self, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        self.lock().sent = 0;
        self.finish(output).await
    }

    /// Hands on the rest of what is there.
    pub(super) async fn finish(&self, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        std::future::poll_fn(|context| {
            let mut record = self.lock();
            while record.sent < record.bytes.len() {
                let count = ready!(Pin::new(&mut *output).poll_write(context, &record.bytes[record.sent..]))?;
                record.sent += count;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Forgets everything: from here on the writer goes on by itself.
    fn close(&self) {
        let mut record = self.lock();
        record.bytes = Vec::new();
        if let Some(writer) = record.writer.take() {
            writer.wake();
        }
    }
}

/// A stream whose banner was seen.
pub(super) struct Opened<R, W> {
    pub(super) input: R,
    pub(super) output: W,
    /// What was read behind the banner.
    pub(super) rest: Vec<u8>,
}

/// What happens before the banner.
pub(super) type Greeting<R, W> = Pin<Box<dyn Future<Output = io::Result<Opened<R, W>>> + Send>>;

enum State<R, W> {
    Greeting(Greeting<R, W>),
    Opened(Opened<R, W>),
    Closed,
}

/// A byte stream that begins behind the banner; what is written earlier does not wait for it.
pub(super) struct GreetedStream<R, W> {
    state: State<R, W>,
    eager: Eager,
}

impl<R, W> GreetedStream<R, W> {
    /// `greeting` hands on what is recorded in `eager`.
    pub(super) fn new(greeting: Greeting<R, W>, eager: Eager) -> Self {
        Self { state: State::Greeting(greeting), eager }
    }

    /// Goes on with the greeting if it is not over. `Pending` means that it waits for the far side.
    fn poll_opened(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut Opened<R, W>>> {
        if let State::Greeting(greeting) = &mut self.state {
            let done = ready!(greeting.as_mut().poll(context));
            self.eager.close();
            self.state = State::Closed;
            self.state = State::Opened(done?);
        }
        match &mut self.state {
            State::Opened(opened) => Poll::Ready(Ok(opened)),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl<R: AsyncRead + Unpin, W: Unpin> AsyncRead for GreetedStream<R, W> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let opened = ready!(self.get_mut().poll_opened(context))?;
        if opened.rest.is_empty() {
            return Pin::new(&mut opened.input).poll_read(context, buffer);
        }
        let count = opened.rest.len().min(buffer.remaining());
        buffer.put_slice(&opened.rest[..count]);
        opened.rest.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<R: Unpin, W: AsyncWrite + Unpin> AsyncWrite for GreetedStream<R, W> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(opened) = this.poll_opened(context) {
            return Pin::new(&mut opened?.output).poll_write(context, bytes);
        }
        let count = ready!(this.eager.poll_record(context, bytes));
        // The bytes go out now, not when the far side has something to say. How that ends is told to the next caller.
        let _ = this.poll_opened(context)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().poll_opened(context) {
            Poll::Ready(opened) => Pin::new(&mut opened?.output).poll_flush(context),
            // The greeting hands on what was recorded as soon as it can: nothing waits here to be flushed.
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let State::Opened(opened) = &mut this.state {
            return Pin::new(&mut opened.output).poll_shutdown(context);
        }
        // Nobody wants to know any more whether a banner comes.
        this.state = State::Closed;
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let State::Opened(opened) = &mut this.state {
            return Pin::new(&mut opened.output).poll_write_vectored(context, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        Pin::new(this).poll_write(context, first)
    }

    fn is_write_vectored(&self) -> bool {
        // It is asked once, before the banner; pipes can do it.
        true
    }
}
