//! Publishes OSTree and Flatpak builds from short-lived CI workers to a permanent repository server.
//!
//! One file per command is in `commands`, with its arguments beside it. All output goes through `ui`, every error of a
//! library becomes a `CommandError` in `error`, and nothing but `environment` reads environment variables.
#![forbid(unsafe_code)]

mod cli;
mod clock;
mod commands;
mod environment;
mod error;
mod exit;
mod human;
mod ostree_push;
mod progress;
mod revision;
mod runtime;
mod server_side;
mod ui;
mod variant_text;

fn main() -> std::process::ExitCode {
    exit::guarded(cli::main)
}
