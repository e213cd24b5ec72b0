//! Running a program with data on its standard input, within a time and a size.
//!
//! Three threads serve the three pipes, so that neither side can wait for the other for ever. They are not joined: when the
//! program is ended because of the time limit, a process that it left behind may still hold a pipe open, and the caller must not wait
//! for that. Each such thread ends with its pipe.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::status::Messages;

/// Limits what is kept of standard error; the end is kept, since that is where the failure is told.
const MAX_MESSAGES_BYTES: usize = 16 * 1024;

/// Asks this often whether a program that closed its pipes has ended; it nearly always has at the first time.
const EXIT_POLL: Duration = Duration::from_millis(2);

/// Holds what a program that ended by itself left behind.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) output: Vec<u8>,
    pub(super) messages: Messages,
    /// Set when the program closed its standard input before it had read all of it.
    pub(super) input_error: Option<io::Error>,
}

/// Says why a program did not end by itself.
pub(super) enum RunError {
    NotFound,
    Start(io::Error),
    Pipe(io::Error),
    TimedOut,
    OutputTooLarge,
}

enum Event {
    Input(io::Result<()>),
    Output(io::Result<Option<Vec<u8>>>),
    Messages(io::Result<Vec<u8>>),
}

/// Runs `command` to its end, or ends it after `timeout` or once it wrote more than `output_limit_bytes`.
pub(super) fn run(
    mut command: Command,
    input: Option<&[u8]>,
    output_limit_bytes: usize,
    timeout: Duration,
) -> Result<Finished, RunError> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RunError::NotFound,
        _ => RunError::Start(error),
    })?;
    let mut running = Running { child, deadline: Instant::now().checked_add(timeout) };
    let result = running.serve(input, output_limit_bytes);
    if result.is_err() {
        running.end();
    }
    result
}

/// A started program, and the moment by which it must have ended (none when the time limit is beyond the clock's range).
struct Running {
    child: Child,
    deadline: Option<Instant>,
}

impl Running {
    fn serve(&mut self, input: Option<&[u8]>, output_limit_bytes: usize) -> Result<Finished, RunError> {
        let (sender, events) = mpsc::channel();
        let mut open_pipes = 2;
        if let (Some(data), Some(mut pipe)) = (input, self.child.stdin.take()) {
            open_pipes += 1;
            // The thread may outlive this call (see above), so it owns its copy.
            let data = data.to_vec();
            spawn(sender.clone(), move || Event::Input(pipe.write_all(&data)))?;
        }
        let stdout = self.child.stdout.take().expect("standard output was asked for as a pipe");
        let stderr = self.child.stderr.take().expect("standard error was asked for as a pipe");
        spawn(sender.clone(), move || Event::Output(read_bounded(stdout, output_limit_bytes)))?;
        spawn(sender, move || Event::Messages(read_tail(stderr, MAX_MESSAGES_BYTES)))?;

        let (mut output, mut messages, mut input_error) = (Vec::new(), Vec::new(), None);
        for _ in 0..open_pipes {
            let event = match self.time_left()? {
                Some(left) => events.recv_timeout(left),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event.map_err(|error| match error {
                RecvTimeoutError::Timeout => RunError::TimedOut,
                RecvTimeoutError::Disconnected => RunError::Pipe(io::ErrorKind::BrokenPipe.into()),
            })? {
                Event::Input(result) => input_error = result.err(),
                Event::Output(result) => {
                    output = result.map_err(RunError::Pipe)?.ok_or(RunError::OutputTooLarge)?;
                }
                Event::Messages(result) => messages = result.map_err(RunError::Pipe)?,
            }
        }
        let status = self.wait()?;
        Ok(Finished { status, output, messages: Messages::parse(&messages), input_error })
    }

    fn wait(&mut self) -> Result<ExitStatus, RunError> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(RunError::Pipe)? {
                return Ok(status);
            }
            self.time_left()?;
            thread::sleep(EXIT_POLL);
        }
    }

    /// Returns the time until the deadline, `None` when there is no deadline.
    fn time_left(&self) -> Result<Option<Duration>, RunError> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        match deadline.checked_duration_since(Instant::now()) {
            Some(left) => Ok(Some(left)),
            None => Err(RunError::TimedOut),
        }
    }

    /// Kills the program and takes its exit status, so that no zombie stays.
    fn end(&mut self) {
        // Both fail only when the program has ended and was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(sender: Sender<Event>, work: impl FnOnce() -> Event + Send + 'static) -> Result<(), RunError> {
    let thread = thread::Builder::new().name("gpg pipe".to_owned());
    // The receiver is gone when the run was given up; nobody wants the event then.
    thread.spawn(move || drop(sender.send(work()))).map(drop).map_err(RunError::Start)
}

/// Reads to the end, or returns `None` as soon as there is more than `limit_bytes`.
fn read_bounded(pipe: impl Read, limit_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    pipe.take(limit_bytes as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit_bytes).then_some(bytes))
}

/// Reads to the end and keeps the last `keep_bytes`, cut at the beginning of a line where there is one.
fn read_tail(mut pipe: impl Read, keep_bytes: usize) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    let mut cut = false;
    loop {
        let count = pipe.by_ref().take(keep_bytes as u64).read_to_end(&mut tail)?;
        if let Some(excess @ 1..) = tail.len().checked_sub(keep_bytes) {
            tail.drain(..excess);
            cut = true;
        }
        if count == 0 {
            break;
        }
    }
    if cut && let Some(end) = tail.iter().position(|&byte| byte == b'\n') {
        tail.drain(..=end);
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_the_messages_is_kept_and_begins_with_a_whole_line() {
        let text = "line\n".repeat(100) + "before last\nlast\n";
        let tail = read_tail(text.as_bytes(), 19).expect("memory can be read");
        assert_eq!(tail, b"before last\nlast\n", "19 bytes hold two whole lines and the end of a third");
        let all = read_tail(text.as_bytes(), 10_000).expect("memory can be read");
        assert_eq!(all, text.as_bytes(), "what fits is kept whole");
    }

    #[test]
    fn output_at_the_limit_is_taken_and_one_byte_more_is_not() {
        let bytes = [7; 10];
        let at_limit = read_bounded(&bytes[..], 10).expect("memory can be read");
        assert_eq!(at_limit.as_deref(), Some(&bytes[..]), "the limit itself is allowed");
        let above = read_bounded(&bytes[..], 9).expect("memory can be read");
        assert_eq!(above, None, "one byte above the limit is refused");
    }
}
