//! The ssh carrier: `treegraft receive` on the far side of the system's `ssh`.
//!
//! Keys, agents, jump hosts and everything else are ssh's own business. Of what a user gives, only the destination and
//! the path reach ssh; the path is quoted for a POSIX shell, which also csh and fish understand.

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

use super::banner::{Noise, SkipToBanner};
use crate::SshTarget;

/// The program on the far side when no other is named.
const DEFAULT_REMOTE_COMMAND: &str = "treegraft";

/// Size of the pipes to ssh in bytes: the default of 64 KiB costs a switch between processes for each quarter frame.
const PIPE_BYTES: usize = 1 << 20;

/// What is kept of ssh's messages: its last words say why it failed.
const MAX_STDERR_BYTES: usize = 16 << 10;

/// What ssh says when it will not get through the next time either.
const REFUSALS: [&str; 4] = [
    "Permission denied",
    "Host key verification failed",
    "Too many authentication failures",
    "Bad configuration option",
];

/// How long ssh may take to end after its pipes are closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How ssh is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshOptions {
    /// The ssh program.
    pub program: PathBuf,
    /// Arguments before the destination: `-i`, `-o`, `-F`, …
    pub arguments: Vec<OsString>,
    /// What is called on the far side instead of `treegraft`. It is shell code, given by the user as such.
    pub remote_command: Option<String>,
}

impl Default for SshOptions {
    fn default() -> Self {
        Self { program: PathBuf::from("ssh"), arguments: Vec::new(), remote_command: None }
    }
}

/// ssh could not be started, or ended without a connection to `treegraft receive`.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The program could not be started.
    #[error("Could not start `{program}`", program = program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// ssh itself failed: no connection, no permission, or a connection that broke.
    #[error("`ssh` has no connection to `{target}`{}", told(messages))]
    Connect {
        /// The destination.
        target: Box<SshTarget>,
        /// What it printed.
        messages: String,
    },
    /// The far side has no such program.
    #[error("`{command}` was not found on `{target}`{}", told(messages))]
    NoReceiver {
        /// The destination.
        target: Box<SshTarget>,
        /// The program that was called.
        command: String,
        /// What was printed.
        messages: String,
    },
    /// The program on the far side ended early or is something else.
    #[error("`treegraft receive` on `{target}` ended ({status}){}", told(messages))]
    Ended {
        /// The destination.
        target: Box<SshTarget>,
        /// How it ended.
        status: String,
        /// What was printed.
        messages: String,
    },
}

fn told(messages: &str) -> String {
    if messages.is_empty() { String::new() } else { format!(": {messages}") }
}

impl SshError {
    /// Tells whether another try may succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { messages, .. } => !REFUSALS.iter().any(|refusal| messages.contains(refusal)),
            Self::Ended { .. } => true,
            Self::Start { .. } | Self::NoReceiver { .. } => false,
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
    command: String,
    process: Process,
    stderr: JoinHandle<()>,
    messages: Arc<Mutex<Vec<u8>>>,
    noise: Noise,
}

impl SshCarrier {
    /// Starts ssh, which connects while the caller goes on. Returns the carrier and its byte stream.
    pub fn start(target: &SshTarget, options: &SshOptions) -> Result<(Self, SshStream), SshError> {
        let command = options.remote_command.clone().unwrap_or_else(|| DEFAULT_REMOTE_COMMAND.to_owned());
        let mut ssh = Command::new(&options.program);
        ssh.arg("-T").args(&options.arguments);
        if let Some(port) = target.port {
            ssh.arg("-p").arg(port.to_string());
        }
        let host = match &target.user {
            Some(user) => format!("{user}@{}", target.host),
            None => target.host.clone(),
        };
        ssh.arg("--").arg(host).arg(format!("{command} receive -- {}", shell_quoted(&target.path)));
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
        let (stdout, noise) = SkipToBanner::new(stdout);
        let process = Process { child, is_let_go: false };
        let carrier = Self { target: target.clone(), command, process, stderr, messages, noise };
        Ok((carrier, SshStream { stdin, stdout }))
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
        let text = |bytes: &Mutex<Vec<u8>>| {
            String::from_utf8_lossy(&bytes.lock().unwrap_or_else(PoisonError::into_inner)).trim().to_owned()
        };
        let mut messages = text(&self.messages);
        let noise = text(&self.noise);
        if !noise.is_empty() {
            messages = if messages.is_empty() { noise } else { format!("{messages}\n{noise}") };
        }
        let (target, command) = (Box::new(self.target), self.command);
        match status.and_then(|status| status.code()) {
            Some(255) => SshError::Connect { target, messages },
            Some(126 | 127) => SshError::NoReceiver { target, command, messages },
            _ => SshError::Ended { target, status: describe(status), messages },
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

/// Quotes a text as one word for a shell: within single quotes everything is itself but the quote.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The byte stream through ssh.
pub struct SshStream {
    stdin: ChildStdin,
    stdout: SkipToBanner<ChildStdout>,
}

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(context, buffer)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stdin.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_survive_a_shell() {
        for word in ["/srv/repo", "a b", "it's", "$(touch x)", "`x`", "a;b", "\\", "*", "", "-n", "\"", "ü"] {
            let script = format!("printf '%s' {}", shell_quoted(word));
            let output = std::process::Command::new("sh").arg("-c").arg(script).output().expect("sh runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word, "`{word}` stays one word");
        }
    }
}
