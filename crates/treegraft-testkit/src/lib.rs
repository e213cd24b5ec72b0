//! Tools for tests: the real programs as oracles, random trees, and links that misbehave.
//!
//! Nothing in here knows another crate of the project, so that all of them can have it as a dev-dependency. A helper that
//! cannot do its work panics with everything it knows (command line, standard output, standard error): a broken
//! test bench must fail the test loudly.
//!
//! The oracle programs (`ostree`, `flatpak`, `gpg`, `sshd`, …) may be absent on a developer's machine. Their wrappers
//! are made by functions that return `None` after a line `SKIPPED: …` on standard error; with
//! `TREEGRAFT_REQUIRE_ORACLES=1` in the environment they panic instead, so that no check is skipped in CI:
//!
//! ```no_run
//! let Some(ostree) = treegraft_testkit::Ostree::find() else { return };
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "every helper panics when its work fails; that is how a test ends")]

pub mod build_dir;
pub mod crash;
pub mod env;
pub mod fault_points;
pub mod flatpak;
pub mod gpg;
pub mod http;
pub mod oracle;
pub mod ostree;
pub mod rng;
pub mod run;
pub mod slow_link;
pub mod sshd;
pub mod tree;

pub use build_dir::{BuildDir, Version};
pub use crash::{Crash, Disk, Image, ImageEntry, Recorder, Recording};
pub use env::{CleanEnv, memory_folder};
pub use fault_points::fault_points;
pub use flatpak::{Flatpak, indexed_summaries};
pub use gpg::Gpg;
pub use http::StaticServer;
pub use oracle::Oracle;
pub use ostree::{Ostree, RepoMode};
pub use rng::SplitMix64;
pub use run::Run;
pub use slow_link::{Direction, LinkOptions, SlowLink};
pub use sshd::{Sshd, SshdOptions};
pub use tree::TreeEntry;
