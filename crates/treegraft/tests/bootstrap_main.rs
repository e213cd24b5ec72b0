//! Pushes to servers that have nothing but sshd and a shell.

#[path = "bootstrap/login.rs"]
mod login;

#[path = "bootstrap/cache.rs"]
mod cache;
#[path = "bootstrap/refusals.rs"]
mod refusals;
#[path = "bootstrap/shells.rs"]
mod shells;
#[path = "bootstrap/static_program.rs"]
mod static_program;
