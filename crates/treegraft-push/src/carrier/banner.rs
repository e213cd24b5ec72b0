//! Finding the beginning of the protocol in what a login prints.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use treegraft_wire::RECEIVE_BANNER;

/// Most bytes before the banner: greetings, not a program that talks without end.
const MAX_NOISE_BYTES: usize = 64 << 10;

/// Bytes that come before the banner, for error messages.
pub(super) type Noise = Arc<Mutex<Vec<u8>>>;

/// A reader that throws away everything up to and including [`RECEIVE_BANNER`].
pub(super) struct SkipToBanner<R> {
    inner: R,
    noise: Noise,
    /// Bytes behind the banner that were read with it; nothing as long as the banner was not seen.
    rest: Option<Vec<u8>>,
}

impl<R> SkipToBanner<R> {
    pub(super) fn new(inner: R) -> (Self, Noise) {
        let noise = Noise::default();
        (Self { inner, noise: Arc::clone(&noise), rest: None }, noise)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for SkipToBanner<R> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Some(rest) = &mut this.rest {
                if rest.is_empty() {
                    return Pin::new(&mut this.inner).poll_read(context, buffer);
                }
                let count = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..count]);
                rest.drain(..count);
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; 4096];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut chunk))?;
            let mut noise = this.noise.lock().unwrap_or_else(PoisonError::into_inner);
            if chunk.filled().is_empty() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the far side did not answer")));
            }
            noise.extend_from_slice(chunk.filled());
            let banner = RECEIVE_BANNER.as_bytes();
            if let Some(at) = noise.windows(banner.len()).position(|window| window == banner) {
                this.rest = Some(noise.split_off(at + banner.len()));
                noise.truncate(at);
            } else if noise.len() > MAX_NOISE_BYTES {
                let reason = "the far side prints a lot, but is no `treegraft receive`";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
            }
        }
    }
}
