//! The command line as users see it: exit code, standard output and standard error of every command, in good cases and
//! after mistakes.

mod demo;
mod look;
mod mistakes;
mod place;
mod prune;
mod push;
mod ssh;
