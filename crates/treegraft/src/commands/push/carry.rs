//! Pushing over each kind of carrier.

use std::{path::Path, sync::Arc};

use treegraft_push::{
    Attempt, Client, ClientError, Destination, MakingAhead, Outcome, PushError, PushOptions, Reporter, RetryPolicy,
    Source, SshCarrier, SshOptions, SshTarget,
    carrier::{
        sharing::{Sharing, SshLanes},
        ssh::SshError,
    },
    retry::{self, Failure, GaveUp},
};
use treegraft_repo::ReadError;
use treegraft_server::{Receiver, rights::Caller, serve_connection};
use treegraft_wire::Purpose;

use super::{awaited::Awaited, socket_dir::SocketDir};
use crate::{
    clock::{self, RealTime},
    environment,
    error::{CommandError, ErrorKind},
    human,
    progress::PushProgress,
    server_side::{Repository, ServerSide},
};

/// Size in bytes of the in-memory pipe to a receiver in this process: some frames of HTTP/2.
const LOCAL_PIPE_BYTES: usize = 1 << 20;

/// Opens a repository of this machine for a push.
pub(crate) fn local_receiver(path: &Path, config: Option<&Path>) -> Result<Arc<Receiver>, CommandError> {
    let server = ServerSide::read(config, None)?;
    let Repository { path, settings, caller } = server.repository(path, Caller::anybody())?;
    let receiver = Receiver::open(&path, settings, clock::now_secs)?.with_account(environment::account());
    Ok(Arc::new(receiver.for_caller(caller).with_notes(server.notes())))
}

/// Pushes to a receiver in this process.
pub(crate) async fn push_locally(
    receiver: &Arc<Receiver>,
    source: &Awaited,
    options: &PushOptions,
    attempt: &Attempt,
) -> Result<Outcome, CommandError> {
    let made = source.get().await?;
    let (here, there) = tokio::io::duplex(LOCAL_PIPE_BYTES);
    let server = tokio::spawn(serve_connection(Arc::clone(receiver), there));
    let client = Client::connect(here).await?;
    let result = push(attempt, &client, source, made, options).await;
    // The receiver ends with the connection and gives up its locks; how the connection ends is of no interest any more.
    drop(client);
    let _ = server.await;
    receiver.finish().await;
    Ok(result?)
}

/// Pushes once. Files that have changed since they were hashed are hashed again for the next try.
async fn push(
    attempt: &Attempt,
    client: &Client,
    source: &Awaited,
    made: Arc<Source>,
    options: &PushOptions,
) -> Result<Outcome, PushError> {
    let result = attempt.push(client, made, options).await;
    if matches!(result, Err(PushError::Read(ReadError::Changed { .. }))) {
        source.forget().await;
    }
    result
}

/// Pushes to `treegraft receive` behind ssh.
pub(crate) async fn push_over_ssh(
    target: &SshTarget,
    ssh: &SshOptions,
    source: &Awaited,
    options: &PushOptions,
    attempt: &Attempt,
) -> Result<Outcome, CommandError> {
    // Where there is no place for it, the push has its one session.
    let socket_dir = SocketDir::make(&environment::temporary_dir());
    let sharing = match &socket_dir {
        Ok(dir) if options.purpose == Purpose::Push => Sharing::find(target, ssh, dir.path()).await,
        _ => None,
    };
    let ssh = &SshOptions { sharing, ..ssh.clone() };
    let (carrier, stream) = SshCarrier::start(target, ssh, attempt.reporter())?;
    // ssh logs in meanwhile.
    let made = source.get().await?;
    let ahead = MakingAhead::start(options, &made);
    let result = match Client::connect(stream).await {
        Ok(client) => {
            let client = client.with_lanes(SshLanes::of(target, ssh));
            push(attempt, &client, source, made, options).await
        }
        Err(error) => Err(error.into()),
    };
    drop(ahead);
    match result {
        Err(PushError::Client(error @ ClientError::Connection(_))) => {
            // Only when ssh has ended is everything there that it has to say.
            let end = carrier.failure().await;
            Err(if attempt.is_opened() { connection_lost(target, error, &end) } else { end.into() })
        }
        result => {
            carrier.close();
            Ok(result?)
        }
    }
}

/// Tries a push as often as `policy` says.
pub(crate) async fn persist(
    policy: &RetryPolicy,
    progress: &Arc<PushProgress>,
    attempt: impl AsyncFnMut(&Attempt) -> Result<Outcome, CommandError>,
) -> Result<Outcome, CommandError> {
    let reporter = Arc::clone(progress) as Arc<dyn Reporter>;
    retry::persist(policy, &RealTime::start(), reporter, attempt).await.map_err(gave_up)
}

fn gave_up(GaveUp { error, attempts, may_be_published }: GaveUp<CommandError>) -> CommandError {
    let is_temporary = error.kind() == ErrorKind::Temporary;
    let tries = (attempts > 1 && is_temporary)
        .then(|| format!("gave up after {attempts} attempts; `--retries` and `--retry-for` allow more"));
    let published = may_be_published.then(|| {
        "the connection broke while the server was publishing, so the refs may be published: the same command tells, and \
         does nothing twice"
            .to_owned()
    });
    error.hints_from(published).hints_from(tries)
}

impl Failure for CommandError {
    fn is_temporary(&self) -> bool {
        self.kind() == ErrorKind::Temporary
    }

    fn reason(&self) -> String {
        let message = if self.is::<ConnectionLost>() { "Connection lost".to_owned() } else { self.message() };
        let reason = match &self.causes()[..] {
            [] => message,
            [cause, ..] => format!("{message} ({cause})"),
        };
        human::one_line(&reason)
    }
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

fn connection_lost(target: &SshTarget, error: ClientError, end: &SshError) -> CommandError {
    let messages = end.messages();
    let source = if messages.is_empty() { LostReason::Noticed(error) } else { LostReason::Told(messages.to_owned()) };
    CommandError::temporary(ConnectionLost { destination: Destination::Ssh(target.clone()), source })
        .hint("push again: what has arrived is kept and not sent again")
}
