//! `treegraft push`: sends commits to a server's repository and publishes them.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use treegraft_flatpak::{AppId, GraftOptions};
use treegraft_object::{CollectionId, RefName};
use treegraft_push::{BasisRepo, Compare, Destination, PushOptions, RetryPolicy, SshOptions};
use treegraft_wire::{GraftMode, Purpose};

use crate::{
    cli::GlobalArgs, clock, environment, error::CommandError, exit::Exit, progress::PushProgress, runtime, ui::Ui,
};

pub(crate) mod awaited;
pub(crate) mod carry;
pub(crate) mod report;
mod socket_dir;
mod source;
mod ssh;

const EXAMPLES: &str = "\
Examples:

  treegraft push ci@example.org:/srv/repo
  treegraft push --repo build/repo ssh://ci@example.org:2222/srv/repo os/stable
  treegraft push --dry-run -v /srv/repo main:os/testing";

/// Send commits to a server's repository and publish them there
///
/// DEST is the server's repository: a path on this machine, `USER@HOST:PATH`, or `ssh://USER@HOST:PORT/PATH`. Over ssh,
/// `treegraft receive` is started on the host; keys, agents and jump hosts are those of the system's ssh. A host that has
/// no treegraft, or another version, gets this one in `~/.cache/treegraft`; it needs nothing but sshd and a shell.
///
/// Without REF, all refs of the repository are pushed, or none: they become visible at once. `REF:TARGET` gives a ref
/// another name on the server; REF may be a commit's checksum then.
///
/// Only objects that the server lacks are sent. The server makes, for each ref, a new commit with the pushed tree on top
/// of the ref's head (a graft), and signs it. With `--exact` the pushed commit itself is published, with its checksum.
///
/// When the connection breaks, or the server is locked or busy, the push is tried again after a pause (`--retries`): what
/// had arrived is not sent again, and nothing is published twice. A refusal is final. A push that was given up is started
/// again by the same command.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is given or not")]
pub(crate) struct PushArgs {
    /// Repository to push to: `PATH`, `USER@HOST:PATH` or `ssh://USER@HOST:PORT/PATH`
    #[arg(value_name = "DEST")]
    destination: String,
    #[command(flatten)]
    source: source::SourceArgs,

    /// Publish the commit as it is; the ref's head must be among its ancestors
    #[arg(long)]
    exact: bool,
    /// With `--exact`: drop commits from the ref that are not ancestors
    #[arg(long, requires = "exact")]
    force: bool,
    /// Publish a commit even if it is older than the ref's head
    #[arg(long)]
    allow_older: bool,
    /// Only find out what would be sent; with `-v`, list every object
    #[arg(long)]
    dry_run: bool,
    /// Tries after the first one when the connection breaks, or the server is locked or busy; 0 for none
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().max_retries, overrides_with = "retries")]
    retries: u32,
    /// Begin no other try when this time has passed since the first failure, in seconds
    #[arg(long, value_name = "SECS", default_value_t = RetryPolicy::default().max_time.as_secs())]
    retry_for: u64,
    /// Streams of objects as they are, at a time; with more than six, none of the server's is left for what `--compare` saves
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    streams: Option<u32>,
    /// Send only the parts of a file that its older version on the server does not have: `auto` while the link is slow
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = CompareArg::Auto)]
    compare: CompareArg,
    /// Repository of an earlier build: of files that the server has as well, only what differs is sent
    #[arg(long, value_name = "REPO")]
    basis: Option<PathBuf>,
    /// For a DEST on this machine: the server's configuration [default: /etc/treegraft/server.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    graft: GraftArgs,
    #[command(flatten)]
    ssh: ssh::SshArgs,
}

/// When files are compared with older ones on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompareArg {
    Auto,
    Always,
    Never,
}

impl CompareArg {
    /// Says it for a destination. On the same machine there is no link to be saved.
    fn over(self, destination: &Destination) -> Compare {
        match (self, destination) {
            (Self::Auto, Destination::Ssh(_)) => Compare::Auto,
            (Self::Always, _) => Compare::Always,
            (Self::Auto, Destination::Local(_)) | (Self::Never, _) => Compare::Never,
        }
    }
}

/// What the new commits say differently from the pushed ones.
#[derive(Debug, Args)]
#[command(next_help_heading = "New commits on the server")]
struct GraftArgs {
    /// Subject, instead of the pushed commit's
    #[arg(long, short, value_name = "TEXT", conflicts_with = "exact")]
    subject: Option<String>,
    /// Body, instead of the pushed commit's
    #[arg(long, value_name = "TEXT", conflicts_with = "exact")]
    body: Option<String>,
    /// Time, instead of the pushed commit's: `now`, `@SECONDS` since 1970, or a date like `2026-01-31T12:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = timestamp_secs, conflicts_with = "exact")]
    timestamp: Option<u64>,
    /// Reason why the refs get no more updates; an empty one takes it back
    #[arg(long, value_name = "REASON", conflicts_with = "exact")]
    end_of_life: Option<String>,
    /// Id that clients move to when they have the old one
    #[arg(long, value_name = "OLD=NEW", value_parser = rebase, conflicts_with = "exact")]
    end_of_life_rebase: Vec<(AppId, AppId)>,
    /// Type of token that clients need for downloading, 0 for none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "exact")]
    token_type: Option<i32>,
    /// Further collection id that the commits are bound to
    #[arg(long, value_name = "ID", conflicts_with = "exact")]
    extra_collection_id: Vec<CollectionId>,
    /// Subset of the repository that the commits belong to
    #[arg(long, value_name = "SUBSET", conflicts_with = "exact")]
    subset: Vec<String>,
    /// Further ref that the commits may be published as
    #[arg(long, value_name = "REF", conflicts_with = "exact")]
    bind_ref: Vec<RefName>,
}

impl From<GraftArgs> for GraftOptions {
    fn from(args: GraftArgs) -> Self {
        Self {
            subject: args.subject,
            body: args.body,
            timestamp_secs: args.timestamp,
            end_of_life: args.end_of_life,
            end_of_life_rebase: args.end_of_life_rebase,
            token_type: args.token_type,
            extra_collection_ids: args.extra_collection_id,
            subsets: args.subset,
            bind_refs: args.bind_ref,
        }
    }
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: PushArgs) -> Result<Exit, CommandError> {
    let mut destination: Destination = args.destination.parse()?;
    let ssh = match &mut destination {
        Destination::Ssh(_) if args.config.is_some() => {
            return Err(CommandError::usage("The option `--config` is for destinations on this machine only")
                .hint("over ssh, the configuration file of the server is read there"));
        }
        Destination::Ssh(target) => args.ssh.apply(target)?,
        Destination::Local(_) if args.ssh.is_any_given() => {
            return Err(CommandError::usage(format!(
                "The destination `{destination}` is on this machine, so there is no ssh"
            ))
            .hint("a destination over ssh is `USER@HOST:PATH` or `ssh://USER@HOST:PORT/PATH`"));
        }
        Destination::Local(_) => SshOptions::default(),
    };
    let mut options = PushOptions {
        mode: if args.exact { GraftMode::Exact } else { GraftMode::Rebase },
        force: args.force,
        allow_older: args.allow_older,
        graft: args.graft.into(),
        purpose: if args.dry_run { Purpose::DryRun } else { Purpose::Push },
        who: Some(environment::who()),
        compare: args.compare.over(&destination),
        basis: args.basis.as_deref().map(BasisRepo::open).transpose()?.map(Arc::new),
        ..PushOptions::default()
    };
    options.streams = args.streams.unwrap_or(options.streams);

    let policy = RetryPolicy {
        max_retries: args.retries,
        max_time: Duration::from_secs(args.retry_for),
        ..RetryPolicy::default()
    };
    let started = Instant::now();
    let progress = PushProgress::start(ui, destination.to_string());
    if matches!(destination, Destination::Local(_)) {
        progress.needs_no_login();
    }
    let runtime = runtime::start()?;
    let context = runtime.enter();
    let source = args.source.find(ui, global, &options, &progress)?;
    drop(context);
    let outcome = match &destination {
        Destination::Local(path) => {
            let receiver = carry::local_receiver(path, args.config.as_deref())?;
            runtime.block_on(carry::persist(&policy, &progress, async |attempt| {
                carry::push_locally(&receiver, &source, &options, attempt).await
            }))?
        }
        Destination::Ssh(target) => runtime.block_on(carry::persist(&policy, &progress, async |attempt| {
            carry::push_over_ssh(target, &ssh, &source, &options, attempt).await
        }))?,
    };
    // Its display must be gone before the result is written.
    drop(progress);
    drop(runtime);
    report::Finished { destination: &destination, options: &options, outcome: &outcome, took: started.elapsed() }
        .write(ui)?;
    Ok(Exit::Done)
}

/// Reads `now`, seconds since 1970, or a date.
pub(super) fn timestamp_secs(text: &str) -> Result<u64, String> {
    if text.eq_ignore_ascii_case("now") {
        return Ok(clock::now_secs());
    }
    let digits = text.strip_prefix('@').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits.parse().map_err(|_| "the number of seconds is too large".to_owned());
    }
    let timestamp = text.parse::<Timestamp>().ok();
    // A date without a zone is in UTC, so that it means the same on every worker.
    let in_utc = || Some(text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let timestamp = timestamp
        .or_else(in_utc)
        .ok_or("it is neither `now`, nor seconds since 1970, nor a date like `2026-01-31T12:00:00Z`")?;
    u64::try_from(timestamp.as_second()).map_err(|_| "it is before 1970".to_owned())
}

/// Reads `OLD=NEW`.
fn rebase(text: &str) -> Result<(AppId, AppId), String> {
    let (old, new) = text.split_once('=').ok_or("it has no `=` between the old and the new id")?;
    let id = |text: &str| AppId::new(text).map_err(|error| error.to_string());
    Ok((id(old)?, id(new)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form() {
        for (text, secs) in [
            ("0", 0),
            ("@1700000000", 1_700_000_000),
            ("1700000000", 1_700_000_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000),
            ("2023-11-14 22:13:20", 1_700_000_000),
            ("2023-11-14", 1_699_920_000),
        ] {
            assert_eq!(timestamp_secs(text), Ok(secs), "`{text}`");
        }
        for text in ["", "@", "yesterday", "1969-12-31", "99999999999999999999", "2023-13-01"] {
            assert!(timestamp_secs(text).is_err(), "`{text}` is no time");
        }
    }

    #[test]
    fn rebases_are_pairs_of_ids() {
        assert!(rebase("org.example.Old=org.example.New").is_ok(), "two ids");
        for text in ["org.example.Old", "=org.example.New", "org.example.Old=", "Old=New"] {
            assert!(rebase(text).is_err(), "`{text}` is no pair of ids");
        }
    }
}
