//! `cargo xtask check`: everything that can be said about the code without running it.

use crate::{TaskError, layers, shell};

/// Checks format, layers, lints and documentation; what takes least time comes first.
pub(crate) fn run() -> Result<(), TaskError> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(shell::cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))?;
    layers::run()?;
    let lints = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    shell::run(shell::cargo().args(lints))?;
    let documentation = ["doc", "--workspace", "--no-deps", "--locked"];
    shell::run(shell::cargo().args(documentation).env("RUSTDOCFLAGS", "-D warnings"))
}
