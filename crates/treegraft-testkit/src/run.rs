//! Runs a program to its end and keeps all that it said.

use std::io::Write as _;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;

/// A finished program: how it ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Run {
    command_line: String,
    status: ExitStatus,
    /// What the program wrote to standard output.
    pub stdout: Vec<u8>,
    /// What the program wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Run {
    /// Runs the command to its end, with no standard input.
    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing; call `ok` or `failed`"]
    pub fn of(command: &mut Command) -> Self {
        let command_line = format!("{command:?}");
        match command.stdin(Stdio::null()).output() {
            Ok(output) => Self::finished(command_line, output),
            Err(error) => panic!("Could not start `{command_line}`: {error}"),
        }
    }

    /// Runs the command to its end, with these bytes as its standard input.
    ///
    /// A program that stops reading early is no error here; what it says about it is in the result.
    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing; call `ok` or `failed`"]
    pub fn with_input(command: &mut Command, input: &[u8]) -> Self {
        let command_line = format!("{command:?}");
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => panic!("Could not start `{command_line}`: {error}"),
        };
        let mut stdin = child.stdin.take().expect("standard input was asked to be a pipe");
        let output = thread::scope(|scope| {
            // In its own thread, because the program may fill its output pipes before it has read everything.
            scope.spawn(move || stdin.write_all(input).ok());
            child.wait_with_output()
        });
        Self::finished(command_line, output.expect("the output pipes of a child are readable"))
    }

    fn finished(command_line: String, output: Output) -> Self {
        Self { command_line, status: output.status, stdout: output.stdout, stderr: output.stderr }
    }

    /// Returns the exit code, or `None` when a signal ended the program.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Tells whether the program ended with exit code 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Returns the run, and panics with all of its output unless it succeeded.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "the assertion is the point, the output may be of no interest")]
    pub fn ok(self) -> Self {
        assert!(self.success(), "the program must succeed\n{}", self.report());
        self
    }

    /// Returns the run, and panics with all of its output unless it failed.
    ///
    /// That a program failed says little: check its exit code or message too.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "the assertion is the point, the output may be of no interest")]
    pub fn failed(self) -> Self {
        assert!(!self.success(), "the program must fail\n{}", self.report());
        self
    }

    /// Returns standard output as text without the white space at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Returns standard error as text without the white space at its end.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// Returns the lines of standard output.
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    /// Describes the run in full: command line, status, standard output and standard error.
    pub fn report(&self) -> String {
        let (line, status) = (&self.command_line, self.status);
        format!("command: {line}\nstatus: {status}\nstdout:\n{}\nstderr:\n{}", self.text(), self.stderr_text())
    }
}
