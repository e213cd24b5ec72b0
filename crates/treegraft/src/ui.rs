//! All that the program writes.
//!
//! Results go to standard output, as text or as one JSON document; everything else (progress, notes, errors) goes to
//! standard error. A reader of standard output who goes away ends the program quietly.

use std::{
    fmt,
    io::{self, BufWriter, StdoutLock, Write},
};

use serde::Serialize;

use crate::{
    environment::Environment,
    error::{CommandError, Document, ErrorKind},
};

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors only.
    Quiet,
    /// What people want to know.
    Normal,
    /// Every detail.
    Verbose,
}

/// Where the program writes to, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    format: Format,
    verbosity: Verbosity,
    environment: Environment,
}

impl Ui {
    pub(crate) const fn new(format: Format, verbosity: Verbosity, environment: Environment) -> Self {
        Self { format, verbosity, environment }
    }

    pub(crate) const fn environment(self) -> Environment {
        self.environment
    }

    pub(crate) const fn is_json(self) -> bool {
        matches!(self.format, Format::Json)
    }

    pub(crate) const fn verbosity(self) -> Verbosity {
        self.verbosity
    }

    pub(crate) fn is_verbose(self) -> bool {
        self.verbosity >= Verbosity::Verbose
    }

    /// Tells whether a progress display may be drawn.
    pub(crate) fn has_live_stderr(self) -> bool {
        self.environment.has_live_stderr
    }

    /// Opens standard output for text. Its [`finish`](Out::finish) must be called at the end.
    pub(crate) fn stdout(self) -> Out {
        Out { writer: BufWriter::new(io::stdout().lock()), is_silent: self.verbosity == Verbosity::Quiet }
    }

    /// Writes a result as one JSON document.
    pub(crate) fn json(self, document: &impl Serialize) -> Result<(), CommandError> {
        debug_assert!(self.is_json(), "a document is written only when it is asked for");
        let mut writer = BufWriter::new(io::stdout().lock());
        serde_json::to_writer_pretty(&mut writer, document).map_err(|error| output_error(error.into()))?;
        writer.write_all(b"\n").and_then(|()| writer.flush()).map_err(output_error)
    }

    /// Writes a line about what is going on.
    pub(crate) fn status(self, line: impl fmt::Display) {
        if self.verbosity > Verbosity::Quiet {
            // Nothing depends on whether it is read.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Writes a line that should be read although all went well.
    pub(crate) fn note(self, line: impl fmt::Display) {
        if self.verbosity > Verbosity::Quiet {
            let line = indented(&line.to_string());
            let _ = writeln!(io::stderr(), "{} {line}", self.label("Note:", Color::Yellow));
        }
    }

    /// Writes an error with its causes and hints; with `--json` also as a document on standard output.
    pub(crate) fn error(self, error: &CommandError) {
        if error.kind() == ErrorKind::BrokenPipe {
            return;
        }
        // An error that cannot be written cannot be told to anyone.
        let _ = io::stderr().write_all(self.render(error).as_bytes());
        self.error_document(error);
    }

    /// Writes an error as a document, if results are written so.
    pub(crate) fn error_document(self, error: &CommandError) {
        if self.is_json() {
            let _ = self.json(&Document::of(error));
        }
    }

    fn render(self, error: &CommandError) -> String {
        let mut lines = vec![format!("{} {}", self.label("Error:", Color::Red), indented(&error.message()))];
        let label = self.label("Caused by:", Color::Bold);
        match &error.causes()[..] {
            [] => {}
            [cause] => lines.push(format!("{label} {}", indented(cause))),
            causes => {
                lines.push(label);
                lines.extend(
                    causes.iter().enumerate().map(|(index, cause)| format!("{}: {}", index + 1, indented(cause))),
                );
            }
        }
        lines.extend(
            error.hints().iter().map(|hint| format!("{} {}", self.label("Hint:", Color::Cyan), indented(hint))),
        );
        lines.join("\n") + "\n"
    }

    fn label(self, label: &str, color: Color) -> String {
        if self.environment.has_colored_stderr {
            format!("\x1b[{}m{label}\x1b[0m", color.code())
        } else {
            label.to_owned()
        }
    }
}

/// Lines behind the first are set in, so that they are not taken for labels. What the other side says must not move the
/// cursor or colour the screen.
fn indented(text: &str) -> String {
    let is_shown = |char: &char| !char.is_control() || matches!(char, '\n' | '\t');
    text.trim_end().chars().filter(is_shown).collect::<String>().replace('\n', "\n  ")
}

#[derive(Debug, Clone, Copy)]
enum Color {
    Red,
    Yellow,
    Cyan,
    Bold,
}

impl Color {
    const fn code(self) -> &'static str {
        match self {
            Self::Red => "1;31",
            Self::Yellow => "1;33",
            Self::Cyan => "1;36",
            Self::Bold => "1",
        }
    }
}

/// Standard output, buffered.
pub(crate) struct Out {
    writer: BufWriter<StdoutLock<'static>>,
    is_silent: bool,
}

impl Out {
    /// Writes one line.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Result<(), CommandError> {
        if self.is_silent { Ok(()) } else { writeln!(self.writer, "{line}").map_err(output_error) }
    }

    /// Writes what is left in the buffer.
    pub(crate) fn finish(mut self) -> Result<(), CommandError> {
        self.writer.flush().map_err(output_error)
    }
}

/// Standard output did not take a result.
#[derive(Debug, thiserror::Error)]
#[error("Could not write to standard output")]
struct OutputError(#[source] io::Error);

fn output_error(error: io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CommandError::broken_pipe(OutputError(error))
    } else {
        CommandError::user(OutputError(error))
    }
}

/// Writes to standard error when nothing else can be relied on.
pub(crate) fn emergency(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
