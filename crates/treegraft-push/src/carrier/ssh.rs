//! The ssh carrier: `treegraft receive` on the far side of the system's `ssh`.
//!
//! Keys, agents, jump hosts and everything else are ssh's own business. Of what a user gives, only the destination, the
//! path and the bootstrap's directory reach ssh; they are encoded so that every login shell hands them on unchanged.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    pin::Pin,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
};
use treegraft_wire::login_command::posix_word;

pub use super::ssh_error::SshError;
use super::{
    bootstrap::{Bootstrap, script},
    greeting::{Greeter, Seen},
    sharing::Sharing,
    stream::{Eager, GreetedStream},
};
use crate::{Reporter, SshTarget};

/// The version that the program on the far side must have to be taken as the same.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The program on the far side when no other is named.
const DEFAULT_REMOTE_COMMAND: &str = "treegraft";

/// Size of the pipes to ssh in bytes: the default of 64 KiB costs a switch between processes for each quarter frame.
const PIPE_BYTES: usize = 1 << 20;

/// What is kept of ssh's messages: its last words say why it failed.
const MAX_STDERR_BYTES: usize = 16 << 10;

/// What is told of what a login prints: its last words, too.
const MAX_TOLD_BYTES: usize = 2 << 10;

/// How a program ends that says that another try may help: `treegraft`, and those that follow `sysexits.h`.
const EXITS_TEMPORARY: [i32; 2] = [4, 75];

/// How long ssh may take to end after its pipes are closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How ssh is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshOptions {
    /// The ssh program.
    pub program: PathBuf,
    /// Arguments before the destination: `-i`, `-o`, `-F`, …
    pub arguments: Vec<OsString>,
    /// What is called on the far side instead of `treegraft`. It is shell code, given by the user as such, and nothing is
    /// installed then.
    pub remote_command: Option<String>,
    /// What to do where the program is missing or has another version; without it, whatever is there is called.
    pub bootstrap: Option<Arc<Bootstrap>>,
    /// By what further sessions may share the connection.
    pub sharing: Option<Sharing>,
    /// A word that tells the lines of the far side's script from everything else: 32 hexadecimal digits at random.
    pub nonce: String,
}

impl Default for SshOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::from("ssh"),
            arguments: Vec::new(),
            remote_command: None,
            bootstrap: None,
            sharing: None,
            nonce: "0".to_owned(),
        }
    }
}

impl SshOptions {
    /// Returns what the login on the far side is to run.
    fn command(&self, path: &str) -> String {
        match (&self.remote_command, &self.bootstrap) {
            (Some(command), _) => format!("{command} receive -- {}", posix_word(path)),
            (None, Some(bootstrap)) => script::find_command(bootstrap, VERSION, &self.nonce, path),
            (None, None) => script::start_command(&self.nonce, path),
        }
    }
}

/// The process of ssh. It is killed when nobody waits for its end any more, unless it was let go.
#[derive(Debug)]
struct Process {
    child: Child,
    is_let_go: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_let_go {
            // It may have ended already.
            let _ = self.child.start_kill();
        }
    }
}

/// A running ssh.
#[derive(Debug)]
pub struct SshCarrier {
    target: SshTarget,
    /// What was called instead of `treegraft`.
    command: Option<String>,
    process: Process,
    stderr: JoinHandle<()>,
    messages: Arc<Mutex<Vec<u8>>>,
    seen: Seen,
    /// What is offered to a server without the program.
    offered: Option<Arc<Bootstrap>>,
}

impl SshCarrier {
    /// Starts ssh, which connects while the caller goes on. Returns the carrier and its byte stream.
    ///
    /// The stream can be written to at once; what is written goes out although nobody knows yet who will read it.
    pub fn start(
        target: &SshTarget,
        options: &SshOptions,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<(Self, SshStream), SshError> {
        let mut ssh = Command::new(&options.program);
        ssh.args(Self::arguments(target, options)).arg(options.command(&target.path));
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = |source| SshError::Start { program: options.program.clone(), source };
        let mut child = ssh.spawn().map_err(start)?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(start(io::Error::other("its pipes are gone")));
        };
        // Smaller pipes only cost speed; an unprivileged user may be over the system's limit.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdin, PIPE_BYTES);
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
        let messages = Arc::default();
        let stderr = tokio::spawn(collect(stderr, Arc::clone(&messages)));
        let (seen, eager) = (Seen::default(), Eager::default());
        let offered = options.bootstrap.clone().filter(|_| options.remote_command.is_none());
        let greeter = Greeter {
            host: target.host.clone(),
            nonce: options.nonce.clone(),
            bootstrap: offered.clone(),
            reporter: Arc::clone(reporter),
            seen: seen.clone(),
            eager: eager.clone(),
        };
        let stream = SshStream(GreetedStream::new(Box::pin(greeter.greet(stdout, stdin)), eager));
        let command = options.remote_command.clone();
        let process = Process { child, is_let_go: false };
        Ok((Self { target: target.clone(), command, process, stderr, messages, seen, offered }, stream))
    }

    /// Returns the arguments that lead to a target, without what is run there.
    pub(super) fn arguments(target: &SshTarget, options: &SshOptions) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["-T".into()];
        arguments.extend(options.arguments.iter().cloned());
        arguments.extend(options.sharing.iter().flat_map(Sharing::of_first));
        if let Some(port) = target.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        let host = match &target.user {
            Some(user) => format!("{user}@{}", target.host),
            None => target.host.clone(),
        };
        arguments.extend(["--".into(), host.into()]);
        arguments
    }

    /// Lets ssh end by itself after all went well. What it says then is of no interest.
    ///
    /// It is not waited for, since the far side needs a round trip to say goodbye, and not killed, since other sessions
    /// may share its connection.
    pub fn close(mut self) {
        self.process.is_let_go = true;
        self.stderr.abort();
    }

    async fn exit_status(&mut self) -> Option<ExitStatus> {
        match tokio::time::timeout(EXIT_TIMEOUT, self.process.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => None,
        }
    }

    /// Waits for ssh to end after its stream was dropped, and says why it failed.
    pub async fn failure(mut self) -> SshError {
        let status = self.exit_status().await;
        // What is still in the pipe belongs to the message; a background process of the far side may keep it open.
        let _ = tokio::time::timeout(EXIT_TIMEOUT, &mut self.stderr).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let mut messages = text(&self.messages.lock().unwrap_or_else(PoisonError::into_inner));
        let seen = self.seen.lock();
        let noise = text(&seen.noise[seen.noise.len().saturating_sub(MAX_TOLD_BYTES)..]);
        if !noise.is_empty() {
            messages = if messages.is_empty() { noise } else { format!("{messages}\n{noise}") };
        }
        let target = Box::new(self.target.clone());
        if let (Some(reason), Some(offered)) = (&seen.failure, &self.offered) {
            let directory = offered.directory.clone();
            let program = offered.program.path().to_owned();
            return SshError::Install { target, program, directory, reason: Box::new(reason.clone()), messages };
        }
        if seen.is_endless {
            return SshError::NoShell { target, status: "it prints without end".to_owned(), messages };
        }
        match status.and_then(|status| status.code()) {
            Some(255) => SshError::Connect { target, messages },
            Some(126 | 127) => {
                let command = self.command.clone().unwrap_or_else(|| DEFAULT_REMOTE_COMMAND.to_owned());
                SshError::NoReceiver { target, command, messages }
            }
            Some(_) if self.command.is_none() && !seen.has_shell && !seen.has_banner => {
                SshError::NoShell { target, status: describe(status), messages }
            }
            code => {
                // A number above 128 is how a shell tells that a signal has ended its program. Of our own script, what fails in
                // it for want of memory looks like anything else.
                let is_final = |code| code <= 128 && !EXITS_TEMPORARY.contains(&code);
                let is_refusal = self.command.is_some() && !seen.has_banner && code.is_some_and(is_final);
                SshError::Ended { target, status: describe(status), messages, is_refusal }
            }
        }
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "still running".to_owned(), |status| status.to_string())
}

async fn collect(mut stderr: ChildStderr, messages: Arc<Mutex<Vec<u8>>>) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        let mut messages = messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.extend_from_slice(&chunk[..count]);
        let excess = messages.len().saturating_sub(MAX_STDERR_BYTES);
        messages.drain(..excess);
    }
}

/// The byte stream through ssh.
pub struct SshStream(GreetedStream<ChildStdout, ChildStdin>);

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
