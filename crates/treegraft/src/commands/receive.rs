//! `treegraft receive`: the far side of a push over ssh.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use clap::Args;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, join},
    net::{UnixStream, unix::pipe},
};
use treegraft_server::{Receiver, relay_lane, serve_connection, serve_refusal};
use treegraft_wire::{
    ApiError, ErrorCode, RECEIVE_BANNER,
    lanes::{LINE_BYTES, LaneSecret, may_be_lane},
};

use crate::{
    cli::GlobalArgs,
    clock,
    commands::caller::CallerArgs,
    environment,
    error::{CommandError, ErrorKind},
    exit::Exit,
    runtime,
    server_side::{Repository, ServerSide},
    ui::Ui,
};

const EXAMPLES: &str = "\
To let a key do nothing but push to one repository, write this line into the
server's `~/.ssh/authorized_keys`:

  restrict,command=\"treegraft receive --repo /srv/repo --as ci\" ssh-ed25519 AAAA… ci@example.org

`--as ci` is the name by which the rules of the server's configuration know the key.";

/// Receive one push on standard input and output
///
/// `treegraft push` starts this on the server through ssh; there is no reason to call it by hand.
///
/// The options are for the command of a key in `authorized_keys`. They only ever take away from what the server's
/// configuration allows.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ReceiveArgs {
    /// Repository to receive into; `--repo PATH` says the same
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Configuration of the server [default: /etc/treegraft/server.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Configuration of ostree-push's receiver, instead of one of treegraft's [default: where ostree-push has it, if there is
    /// no /etc/treegraft/server.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    ostree_receive_conf: Option<PathBuf>,
    #[command(flatten)]
    caller: CallerArgs,
}

pub(crate) fn run(_: Ui, global: &GlobalArgs, args: &ReceiveArgs) -> Result<Exit, CommandError> {
    if io::stdin().is_terminal() {
        return Err(CommandError::usage(
            "`treegraft receive` talks to `treegraft push` on standard input, not to a person",
        )
        .hint("on the machine that has the build, call `treegraft push USER@HOST:PATH`"));
    }
    let path = repo_path(global, args)?;
    serve(open(path, args).map_err(|error| refusal(&error)))
}

/// Serves a push on standard input and output, or says there why it cannot be.
pub(crate) fn serve(receiver: Result<Arc<Receiver>, ApiError>) -> Result<Exit, CommandError> {
    let runtime = runtime::start()?;
    runtime.block_on(async {
        let _flags = (KeptFlags::of(io::stdin().as_fd()), KeptFlags::of(io::stdout().as_fd()));
        let mut stream = standard_stream().map_err(|error| CommandError::temporary(StreamError(error)))?;
        let greeting = async {
            stream.write_all(RECEIVE_BANNER.as_bytes()).await?;
            stream.flush().await
        };
        greeting.await.map_err(|error| CommandError::temporary(StreamError(error)))?;
        let lane = stream.read_lane().await.map_err(|error| CommandError::temporary(StreamError(error)))?;
        match (receiver, lane) {
            // It changes nothing by itself: the receiver that it leads to has opened the repository.
            (Ok(_), Some(secret)) => {
                relay_lane(&secret, stream).await.map_err(|error| CommandError::temporary(LaneError(error)))?;
            }
            (Ok(receiver), None) => {
                let served = serve_connection(Arc::clone(&receiver), stream).await;
                receiver.finish().await;
                served?;
            }
            (Err(refusal), _) => serve_refusal(refusal, stream).await?,
        }
        Ok::<_, CommandError>(())
    })?;
    Ok(Exit::Done)
}

/// Returns the repository that was named in one of the two ways.
fn repo_path<'a>(global: &'a GlobalArgs, args: &'a ReceiveArgs) -> Result<&'a Path, CommandError> {
    match (global.named_repo(), args.path.as_deref()) {
        (Some(path), None) | (None, Some(path)) => Ok(path),
        (Some(_), Some(_)) => Err(CommandError::usage("The repository is named twice, with `--repo` and as PATH")),
        (None, None) => Err(CommandError::usage("No repository is named")
            .hint("say `treegraft receive PATH`, or `treegraft receive --repo PATH`")),
    }
}

/// Opens the repository for the caller.
fn open(path: &Path, args: &ReceiveArgs) -> Result<Arc<Receiver>, CommandError> {
    let server = ServerSide::read(args.config.as_deref(), args.ostree_receive_conf.as_deref())?;
    let Repository { path, settings, caller } = server.repository(path, args.caller.clone().into())?;
    let receiver = Receiver::open(&path, settings, clock::now_secs)?.with_account(environment::account());
    Ok(Arc::new(receiver.for_caller(caller).with_notes(server.notes())))
}

/// Says to the other side why the repository cannot be pushed to.
pub(crate) fn refusal(error: &CommandError) -> ApiError {
    let mut detail = error.message();
    for cause in error.causes() {
        let _ = write!(detail, ": {cause}");
    }
    let refusal = ApiError::new(ErrorCode::Repository, detail).temporary(error.kind() == ErrorKind::Temporary);
    match error.hints() {
        [] => refusal,
        hints => refusal.hint(format!("on the server: {}", hints.join("; "))),
    }
}

/// Standard input or output cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("Could not use standard input and output")]
struct StreamError(#[source] io::Error);

/// A lane leads nowhere, or has broken.
#[derive(Debug, thiserror::Error)]
#[error("Could not hand on a lane to the push that it belongs to")]
struct LaneError(#[source] io::Error);

/// Restores the status flags of a descriptor: they belong to the open file, which others share.
struct KeptFlags(Option<(OwnedFd, OFlags)>);

impl KeptFlags {
    fn of(descriptor: BorrowedFd<'_>) -> Self {
        Self(descriptor.try_clone_to_owned().ok().and_then(|owned| {
            let flags = fcntl_getfl(&owned).ok()?;
            Some((owned, flags))
        }))
    }
}

impl Drop for KeptFlags {
    fn drop(&mut self) {
        if let Some((descriptor, flags)) = &self.0 {
            // The process ends anyway; nothing better is left to do.
            let _ = fcntl_setfl(descriptor, *flags);
        }
    }
}

/// A byte stream of any kind.
trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// Standard input and output as one stream.
struct StandardStream {
    stream: Pin<Box<dyn Stream>>,
    /// What was read to see what it is, and is read once more.
    unread: Vec<u8>,
}

impl StandardStream {
    /// Reads the line by which a lane begins. Of anything else, nothing is taken away.
    async fn read_lane(&mut self) -> io::Result<Option<LaneSecret>> {
        let mut begin = Vec::with_capacity(LINE_BYTES);
        while begin.len() < LINE_BYTES && may_be_lane(&begin) {
            let mut rest = (&mut self.stream).take((LINE_BYTES - begin.len()) as u64);
            if rest.read_buf(&mut begin).await? == 0 {
                break;
            }
        }
        let secret = LaneSecret::of_line(&begin).ok();
        if secret.is_none() {
            self.unread = begin;
        }
        Ok(secret)
    }
}

/// Takes standard input and output as one stream: without threads when they are sockets or pipes, as they are from sshd.
fn standard_stream() -> io::Result<StandardStream> {
    let (stdin, stdout) = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let (input, output) = (fstat(&stdin)?, fstat(&stdout)?);
    let is_same = (input.st_dev, input.st_ino) == (output.st_dev, output.st_ino);
    let kinds = (FileType::from_raw_mode(input.st_mode), FileType::from_raw_mode(output.st_mode));
    let stream: Pin<Box<dyn Stream>> = match kinds {
        (FileType::Socket, FileType::Socket) if is_same => Box::pin(socket(stdin)?),
        (FileType::Socket, FileType::Socket) => Box::pin(join(socket(stdin)?, socket(stdout)?)),
        (FileType::Fifo, FileType::Fifo) => {
            Box::pin(join(pipe::Receiver::from_owned_fd(stdin)?, pipe::Sender::from_owned_fd(stdout)?))
        }
        _ => Box::pin(join(tokio::io::stdin(), tokio::io::stdout())),
    };
    Ok(StandardStream { stream, unread: Vec::new() })
}

fn socket(descriptor: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdUnixStream::from(descriptor);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl AsyncRead for StandardStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread[..count]);
            self.unread.drain(..count);
            return Poll::Ready(Ok(()));
        }
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for StandardStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_another_try_may_help() {
        let error = || StreamError(io::ErrorKind::OutOfMemory.into());
        assert!(refusal(&CommandError::temporary(error())).is_temporary(), "the server was busy");
        assert!(!refusal(&CommandError::user(error())).is_temporary(), "somebody has to change something");
    }
}
