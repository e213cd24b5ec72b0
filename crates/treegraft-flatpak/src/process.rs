//! Running a program that an administrator has configured: within a time, and keeping the end of what it says.

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// What is kept of each output stream, in bytes; the end is kept, since that is where a failure is told.
pub const KEPT_OUTPUT_BYTES: usize = 16 << 10;

/// Asks this often whether the program has ended: unnoticeable beside the seconds that an update takes.
const EXIT_POLL: Duration = Duration::from_millis(10);

/// Waits so long for the last output after the program has ended.
///
/// A process that the program left in the background may hold the pipes open for ever.
const LAST_OUTPUT_WAIT: Duration = Duration::from_millis(500);

/// What a program that ended by itself left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// The end of its standard output.
    pub stdout: String,
    /// The end of its standard error.
    pub stderr: String,
}

/// Why a program did not end by itself.
#[derive(Debug)]
pub enum RunError {
    /// There is no such program.
    NotFound,
    /// It could not be started.
    Start(io::Error),
    /// The system lost track of it.
    Wait(io::Error),
    /// It took too long and was ended, with everything that it had started.
    TimedOut {
        /// The end of its standard error.
        stderr: String,
    },
}

/// Runs `command` to its end, or ends it and all that it started after `timeout`.
///
/// `input` is its standard input; nothing is an empty one. A program that does not read all of it is no error.
pub fn run(mut command: Command, input: Option<Vec<u8>>, timeout: Duration) -> Result<Finished, RunError> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own can be ended with everything that the program has started.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RunError::NotFound,
        _ => RunError::Start(error),
    })?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // It ends with the program; without a thread left for it the program sees an empty input, and says so if it matters.
        let _ = thread::Builder::new().name("program input".to_owned()).spawn(move || stdin.write_all(&input));
    }
    let stdout = Tail::follow(child.stdout.take().expect("standard output was asked for as a pipe"));
    let stderr = Tail::follow(child.stderr.take().expect("standard error was asked for as a pipe"));
    let ended = match (stdout, stderr) {
        (Ok(stdout), Ok(stderr)) => match wait(&mut child, timeout) {
            Ok(Some(status)) => return Ok(Finished { status, stdout: stdout.text(), stderr: stderr.text() }),
            Ok(None) => {
                end(&mut child);
                return Err(RunError::TimedOut { stderr: stderr.text() });
            }
            Err(error) => RunError::Wait(error),
        },
        (Err(error), _) | (_, Err(error)) => RunError::Start(error),
    };
    end(&mut child);
    Err(ended)
}

fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        thread::sleep(EXIT_POLL);
    }
}

/// Kills the program with its group and takes its exit status, so that no zombie stays.
fn end(child: &mut Child) {
    if let Ok(Some(pid)) = i32::try_from(child.id()).map(Pid::from_raw) {
        // It fails only when the whole group has ended already.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}

/// The end of an output stream, filled by a thread that ends with the stream.
struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    at_end: mpsc::Receiver<()>,
}

impl Tail {
    fn follow(mut pipe: impl Read + Send + 'static) -> io::Result<Self> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (sender, at_end) = mpsc::channel();
        let filled = Arc::clone(&kept);
        thread::Builder::new().name("program output".to_owned()).spawn(move || {
            let mut buffer = [0; 8 << 10];
            // A pipe that cannot be read any more is at its end.
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let mut kept = filled.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..count]);
                if let Some(excess @ 1..) = kept.len().checked_sub(KEPT_OUTPUT_BYTES) {
                    kept.drain(..excess);
                }
            }
            drop(sender);
        })?;
        Ok(Self { kept, at_end })
    }

    /// Returns the text, once the stream is at its end or has been quiet about it for long enough.
    fn text(&self) -> String {
        let _ = self.at_end.recv_timeout(LAST_OUTPUT_WAIT);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}
