//! Lanes: further connections that one push comes through.
//!
//! ```text
//! ssh channel 1 ──► treegraft receive ────────────────────────► Connection ──► Pushes
//! ssh channel 2 ──► treegraft receive ──► @treegraft-lane-… ──► Connection ──┘
//! ```
//!
//! The receiver that has opened a push listens on a socket as long as the push is open. A receiver that is told the push's
//! secret hands on to it whatever it is sent, and whatever comes back. Rights, limits, budget and staging area are those of
//! the push: a lane is a further connection of its client.
//!
//! The socket is in Linux's abstract namespace: no file has to be made, found again or cleared after a crash, on whatever file
//! system the repository is. Everybody on the machine sees its name. So each side looks who the other one is, who must be
//! the same user, and a lane has to know the key, which only the client was told. Where there is no such socket, as in
//! a network namespace of the login's own, there are no lanes.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    sync::Arc,
    time::Duration,
};

use rustix::process::geteuid;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use treegraft_repo::random;
use treegraft_wire::lanes::LaneSecret;

use crate::{
    connection::{Connection, serve_lane},
    session::MAX_STREAMS,
};

/// Most lanes of a push: with the first connection, one for each stream of objects.
const MAX_LANES: usize = MAX_STREAMS as usize - 1;

/// How long a lane may take to say its key. The receiver on its other end writes it at once.
const KEY_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of a relay's buffers in bytes: a frame of HTTP/2 and its header, in few calls.
const RELAY_BYTES: usize = 512 << 10;

/// How long lanes outlive their push at most: the answers to streams may still be on their way, and a client that does not get
/// them takes the connection for broken. It ends its lanes when it has heard enough.
const GRACE: Duration = Duration::from_secs(5);

/// The lanes of a push. When it is dropped, no more are taken, and those that there are come to their end.
pub(crate) type Lanes = DropGuard;

/// Begins to take lanes for the pushes of a connection.
pub(crate) fn listen(connection: &Arc<Connection>) -> io::Result<(LaneSecret, Lanes)> {
    let secret = LaneSecret::new(random::hex::<32>()?).map_err(io::Error::other)?;
    let listener = StdUnixListener::bind_addr(&address(&secret)?)?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let over = CancellationToken::new();
    tokio::spawn(take(Arc::clone(connection), listener, secret.clone(), over.clone()));
    Ok((secret, over.drop_guard()))
}

/// Takes lanes as they come, until the push is over. They end with this.
async fn take(connection: Arc<Connection>, listener: UnixListener, secret: LaneSecret, over: CancellationToken) {
    let mut lanes = JoinSet::new();
    loop {
        tokio::select! {
            () = over.cancelled() => break,
            accepted = listener.accept() => {
                // Without descriptors there are no more lanes.
                let Ok((lane, _)) = accepted else { break };
                if lanes.len() < MAX_LANES && is_same_user(&lane) {
                    lanes.spawn(serve(Arc::clone(&connection), lane, secret.clone()));
                }
            }
            Some(_) = lanes.join_next(), if !lanes.is_empty() => {}
        }
    }
    drop(listener);
    tokio::select! {
        () = async { while lanes.join_next().await.is_some() {} } => {}
        () = connection.gone.cancelled() => {}
        () = async { over.cancelled().await; tokio::time::sleep(GRACE).await } => {}
    }
}

/// Serves a lane that knows the key.
async fn serve(connection: Arc<Connection>, mut lane: UnixStream, secret: LaneSecret) {
    let mut key = vec![0; secret.key().len()];
    let read = tokio::time::timeout(KEY_TIMEOUT, lane.read_exact(&mut key)).await;
    if matches!(read, Ok(Ok(_))) && key == secret.key().as_bytes() {
        // How it ends is seen by the requests that came through it.
        let _ = serve_lane(&connection, lane).await;
    }
}

/// Hands on what comes from a client to the receiver that its lane leads to, and back, until either side ends.
pub async fn relay_lane<I>(secret: &LaneSecret, client: I) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Send,
{
    let receiver = StdUnixStream::connect_addr(&address(secret)?)?;
    receiver.set_nonblocking(true)?;
    let mut receiver = UnixStream::from_std(receiver)?;
    if !is_same_user(&receiver) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the lane leads to another user"));
    }
    receiver.write_all(secret.key().as_bytes()).await?;
    let (from_client, to_client) = tokio::io::split(client);
    let (from_receiver, to_receiver) = receiver.split();
    tokio::select! {
        ended = copy(from_client, to_receiver) => ended,
        ended = copy(from_receiver, to_client) => ended,
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; RELAY_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

fn is_same_user(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

fn address(secret: &LaneSecret) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("treegraft-lane-{}", secret.address()))
}
