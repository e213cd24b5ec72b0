//! Pushing over each kind of carrier.

use std::{path::Path, sync::Arc};

use treegraft_push::{
    Client, ClientError, Destination, Outcome, PushError, PushOptions, Reporter, Source, SshCarrier, SshOptions,
    SshTarget, carrier::ssh::SshError, push,
};
use treegraft_server::{Receiver, rights::Caller, serve_connection};

use crate::{
    clock,
    error::CommandError,
    progress::PushProgress,
    server_side::{Repository, ServerSide},
};

/// Size in bytes of the in-memory pipe to a receiver in this process: some frames of HTTP/2.
const LOCAL_PIPE_BYTES: usize = 1 << 20;

/// Opens a repository of this machine for a push.
pub(crate) fn local_receiver(path: &Path, config: Option<&Path>) -> Result<Arc<Receiver>, CommandError> {
    let server = ServerSide::read(config, None)?;
    let Repository { path, settings, caller } = server.repository(path, Caller::anybody())?;
    Ok(Arc::new(Receiver::open(&path, settings, clock::now_secs)?.for_caller(caller).with_notes(server.notes())))
}

/// Pushes to a receiver in this process.
pub(crate) async fn push_locally(
    receiver: Arc<Receiver>,
    source: Source,
    options: &PushOptions,
    progress: &Arc<PushProgress>,
) -> Result<Outcome, CommandError> {
    let (here, there) = tokio::io::duplex(LOCAL_PIPE_BYTES);
    let server = tokio::spawn(serve_connection(Arc::clone(&receiver), there));
    let client = Client::connect(here).await?;
    let result = push(&client, source, options, reporter(progress)).await;
    // The receiver ends with the connection and gives up its locks; how the connection ends is of no interest any more.
    drop(client);
    let _ = server.await;
    receiver.finish().await;
    Ok(result?)
}

/// Pushes to `treegraft receive` behind ssh.
pub(crate) async fn push_over_ssh(
    target: &SshTarget,
    ssh: &SshOptions,
    source: Source,
    options: &PushOptions,
    progress: &Arc<PushProgress>,
) -> Result<Outcome, CommandError> {
    let (carrier, stream) = SshCarrier::start(target, ssh)?;
    let result = match Client::connect(stream).await {
        Ok(client) => push(&client, source, options, reporter(progress)).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Err(PushError::Client(error @ ClientError::Connection(_))) => {
            // Only when ssh has ended is everything there that it has to say.
            let end = carrier.failure().await;
            Err(if progress.is_opened() { connection_lost(target, error, end) } else { end.into() })
        }
        result => {
            carrier.close();
            Ok(result?)
        }
    }
}

fn reporter(progress: &Arc<PushProgress>) -> Arc<dyn Reporter> {
    Arc::clone(progress) as Arc<dyn Reporter>
}

/// The connection broke in the middle of a push.
#[derive(Debug, thiserror::Error)]
#[error("The connection to `{destination}` broke")]
struct ConnectionLost {
    destination: Destination,
    source: LostReason,
}

/// Why it broke: what ssh has said, or how HTTP/2 noticed.
#[derive(Debug, thiserror::Error)]
enum LostReason {
    #[error("{0}")]
    Told(String),
    #[error("The server's end is gone")]
    Noticed(#[source] ClientError),
}

fn connection_lost(target: &SshTarget, error: ClientError, end: SshError) -> CommandError {
    let (SshError::Connect { messages, .. } | SshError::NoReceiver { messages, .. } | SshError::Ended { messages, .. }) =
        end
    else {
        return end.into();
    };
    let source = if messages.is_empty() { LostReason::Noticed(error) } else { LostReason::Told(messages) };
    CommandError::temporary(ConnectionLost { destination: Destination::Ssh(target.clone()), source })
        .hint("push again: what has arrived is kept and not sent again")
}
