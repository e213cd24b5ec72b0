//! Exit codes, which scripts may rely on.

use std::{
    panic::{self, PanicHookInfo},
    process::ExitCode,
};

use crate::ui;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It failed, for the input, the rights or the state of things.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Nobody reads the output any more.
    BrokenPipe = 3,
    /// It failed, but another try may succeed.
    Temporary = 4,
    /// The program itself is wrong.
    Internal = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the program. A panic is told as an internal error.
pub(crate) fn guarded(run: impl FnOnce() -> Exit + panic::UnwindSafe) -> ExitCode {
    panic::set_hook(Box::new(report_panic));
    panic::catch_unwind(run).unwrap_or(Exit::Internal).into()
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let what = text.unwrap_or("it gave no reason");
    let place = info.location().map(|location| format!(" at {location}")).unwrap_or_default();
    ui::emergency(&format!(
        "Error: Treegraft panicked{place}: {what}\nHint: this is a mistake in treegraft; please report it with the command \
         and this message\n"
    ));
}
