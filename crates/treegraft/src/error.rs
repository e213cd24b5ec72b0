//! What goes wrong in a command, and what the user can do about it.

use std::error::Error;

use serde::Serialize;
use treegraft_wire::ErrorCode;

use crate::exit::Exit;

mod library;

/// Who has to do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The user: the input, the rights or the state of things do not allow it.
    User,
    /// The user: the command line is wrong.
    Usage,
    /// Nobody: the same again may succeed.
    Temporary,
    /// Nobody: the reader of the output is gone.
    BrokenPipe,
    /// The developers.
    Internal,
}

impl ErrorKind {
    /// Returns how the program ends with such an error.
    pub(crate) const fn exit(self) -> Exit {
        match self {
            Self::User => Exit::Failed,
            Self::Usage => Exit::Usage,
            Self::Temporary => Exit::Temporary,
            Self::BrokenPipe => Exit::BrokenPipe,
            Self::Internal => Exit::Internal,
        }
    }
}

/// A command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: ErrorKind,
    error: Box<dyn Error + Send + Sync>,
    hints: Vec<String>,
    /// The code of an error that the server has given.
    code: Option<ErrorCode>,
}

/// Constructors
impl CommandError {
    fn new(kind: ErrorKind, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, error: error.into(), hints: Vec::new(), code: None }
    }

    pub(crate) fn user(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::User, error)
    }

    pub(crate) fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Usage, error)
    }

    pub(crate) fn temporary(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Temporary, error)
    }

    pub(crate) fn broken_pipe(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::BrokenPipe, error)
    }

    pub(crate) fn internal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Internal, error)
    }

    /// Makes an error of the user, or a temporary one.
    fn user_or_temporary(is_temporary: bool, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(if is_temporary { ErrorKind::Temporary } else { ErrorKind::User }, error)
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
        self
    }

    /// Adds hints where there are any.
    #[must_use]
    pub(crate) fn hints_from(self, hints: impl IntoIterator<Item = String>) -> Self {
        hints.into_iter().fold(self, Self::hint)
    }
}

/// Access
impl CommandError {
    pub(crate) const fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn message(&self) -> String {
        self.error.to_string()
    }

    /// Tells whether this is an error of a certain type.
    pub(crate) fn is<E: Error + 'static>(&self) -> bool {
        self.error.is::<E>()
    }

    pub(crate) fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Returns the texts of the sources, the nearest one first.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut source = self.error.source();
        while let Some(error) = source {
            causes.push(error.to_string());
            source = error.source();
        }
        causes
    }
}

/// An error as a JSON document.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    error: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    is_temporary: bool,
}

impl Document {
    pub(crate) fn of(error: &CommandError) -> Self {
        Self {
            error: Body {
                code: error.code,
                message: error.message(),
                causes: error.causes(),
                hints: error.hints.clone(),
                is_temporary: error.kind == ErrorKind::Temporary,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        for (kind, code) in [
            (ErrorKind::User, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::BrokenPipe, 3),
            (ErrorKind::Temporary, 4),
            (ErrorKind::Internal, 70),
        ] {
            assert_eq!(kind.exit() as u8, code, "scripts rely on the exit code of {kind:?}");
        }
    }

    #[test]
    fn a_hint_is_given_once() {
        let error = CommandError::user("x").hint("try this").hint("try this");
        assert_eq!(error.hints(), ["try this"], "the same hint twice helps nobody");
    }
}
