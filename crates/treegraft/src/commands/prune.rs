//! `treegraft prune`: deletes what no ref leads to.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use serde::Serialize;
use treegraft_object::{CommitId, InvalidName};
use treegraft_repo::{
    Cleared, LockTimeout, Staging,
    prune::{self, Depth, Pace, Report, Rules, Selector},
};
use treegraft_server::Pruned;

use super::push::{carry::local_receiver, timestamp_secs};
use crate::{cli::GlobalArgs, clock, error::CommandError, exit::Exit, human, progress::PruneProgress, ui::Ui};

const EXAMPLES: &str = "\
Examples:

  treegraft prune --repo /srv/repo --dry-run --depth 3
  treegraft prune --repo /srv/repo --keep-younger-than 30d --depth-for 'appstream*=0'";

/// Delete what no ref leads to, and old history
///
/// Objects, detached metadata and static deltas that belong to no commit which is kept are deleted, and what pushes have left
/// that died more than a day ago. A ref's own commit is always kept, and so is what the summary names. Without options all
/// history is kept.
///
/// Pushes may go on meanwhile. Only for deleting the repository's lock is taken, for about a second at a time. A push that
/// is under way then is waited for; what it relies on is not deleted.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct PruneArgs {
    /// Keep the N commits before each ref's own, or `all` [default: all, with `--keep-younger-than` 0]
    #[arg(long, value_name = "N")]
    depth: Option<Depth>,
    /// Keep other numbers of commits for some refs; the first pattern that covers a ref counts
    ///
    /// PATTERN is the beginning of a ref in whole parts, `*` standing for any characters but `/`: `app/*/x86_64`. Refs of
    /// remotes are `REMOTE:PATTERN`, mirrored ones `COLLECTION:PATTERN`. For these refs `--keep-younger-than` does not count.
    #[arg(long, value_name = "PATTERN=N", value_parser = depth_for)]
    depth_for: Vec<(Selector, Depth)>,
    /// Keep commits, too, that are younger: an age like `12h`, `30d` or `8w`, or a date like `2026-01-31`
    #[arg(long, value_name = "WHEN", value_parser = younger_than_secs)]
    keep_younger_than: Option<u64>,
    /// Wait so many seconds for the repository's lock [default: `core.lock-timeout-secs` of the repository]
    #[arg(long, value_name = "SECS")]
    wait: Option<u32>,
    /// Only tell what would be deleted
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Configuration of the server, for the summary [default: /etc/treegraft/server.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    is_dry_run: bool,
    objects: u64,
    kept_commits: u64,
    deleted: Deleted,
    bytes: u64,
    commits: &'a [CommitId],
    detached_metadata: u64,
    tombstones: u64,
    partial_marks: u64,
    flatpak_caches: u64,
    temporary_files: u64,
    deltas: Vec<String>,
    staging: Leftovers,
    lock: Lock,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct Deleted {
    commits: u64,
    dirtrees: u64,
    dirmetas: u64,
    files: u64,
}

#[derive(Debug, Serialize)]
struct Leftovers {
    areas: u64,
    objects: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Lock {
    turns: u64,
    longest_secs: f64,
}

pub(crate) fn run(ui: Ui, global: &GlobalArgs, args: &PruneArgs) -> Result<Exit, CommandError> {
    let started = Instant::now();
    let mut progress = PruneProgress::start(ui);
    let result = prune(global, args, &mut progress);
    let deleted = progress.deleted();
    drop(progress);
    let pruned = result.map_err(|error| match deleted {
        0 => error,
        count => error.hint(format!(
            "{} were deleted before; the repository is sound, prune again for the rest",
            human::things(count, "object")
        )),
    })?;
    if ui.is_json() {
        ui.json(&document(args, &pruned))?;
        return Ok(Exit::Done);
    }
    write(ui, args, &pruned, started)?;
    for note in &pruned.notes {
        ui.note(note);
    }
    Ok(Exit::Done)
}

fn prune(global: &GlobalArgs, args: &PruneArgs, progress: &mut PruneProgress) -> Result<Pruned, CommandError> {
    let usual = if args.keep_younger_than.is_some() { Depth::Parents(0) } else { Depth::All };
    let rules = Rules {
        depth: args.depth.unwrap_or(usual),
        younger_than_secs: args.keep_younger_than,
        others: args.depth_for.clone(),
    };
    if args.dry_run {
        let repo = global.open_repo()?;
        let report = prune::preview(&repo, &rules, &mut |event| progress.event(event))?;
        // Others may neither see them nor lock them.
        let cleared =
            if repo.is_writable() { Staging::old_leftovers(&repo, clock::now_secs())? } else { Cleared::default() };
        return Ok(Pruned { report, cleared, notes: Vec::new() });
    }
    let receiver = local_receiver(global.repo_path(), args.config.as_deref())?;
    let started = Instant::now();
    let elapsed = || started.elapsed();
    let wait = args.wait.map_or(receiver.repo().config().lock_timeout, LockTimeout::Secs);
    let pace = Pace { wait, turn: prune::USUAL_TURN, rest: prune::USUAL_REST, elapsed: &elapsed };
    Ok(receiver.prune(&rules, pace, &mut |event| progress.event(event))?)
}

fn document<'a>(args: &PruneArgs, pruned: &'a Pruned) -> Document<'a> {
    let Pruned { report, cleared, notes } = pruned;
    Document {
        is_dry_run: args.dry_run,
        objects: report.objects,
        kept_commits: report.kept_commits,
        deleted: Deleted {
            commits: report.deleted.commits,
            dirtrees: report.deleted.dirtrees,
            dirmetas: report.deleted.dirmetas,
            files: report.deleted.files,
        },
        bytes: report.bytes,
        commits: &report.commits,
        detached_metadata: report.detached_metadata,
        tombstones: report.tombstones,
        partial_marks: report.partial_marks,
        flatpak_caches: report.flatpak_caches,
        temporary_files: report.temporaries,
        deltas: report.deltas.iter().map(ToString::to_string).collect(),
        staging: Leftovers { areas: cleared.areas, objects: cleared.objects, bytes: cleared.bytes },
        lock: Lock { turns: report.lock_turns, longest_secs: report.longest_turn.as_secs_f64() },
        notes,
    }
}

fn write(ui: Ui, args: &PruneArgs, pruned: &Pruned, started: Instant) -> Result<(), CommandError> {
    let Pruned { report, cleared, .. } = pruned;
    let mut out = ui.stdout();
    if ui.is_verbose() {
        for commit in &report.commits {
            out.line(format_args!("commit {commit}"))?;
        }
        for delta in &report.deltas {
            out.line(format_args!("delta {delta}"))?;
        }
    }
    let verb = if args.dry_run { "Would delete" } else { "Deleted" };
    out.line(format_args!("{verb} {}, in {}", summary(report), human::duration(started.elapsed())))?;
    let leftovers = [
        (report.detached_metadata, "file with detached metadata", "files with detached metadata"),
        (report.deltas.len() as u64, "static delta", "static deltas"),
        (report.partial_marks, "mark of a partial commit", "marks of partial commits"),
        (report.flatpak_caches, "cache of Flatpak's prune", "caches of Flatpak's prune"),
        (report.temporaries, "temporary file", "temporary files"),
    ];
    for (count, one, many) in leftovers.into_iter().filter(|(count, ..)| *count > 0) {
        out.line(format_args!("{verb} {} {}", human::count(count), if count == 1 { one } else { many }))?;
    }
    if cleared.areas + cleared.objects > 0 {
        let (objects, bytes) = (human::things(cleared.objects, "object"), human::bytes(cleared.bytes));
        out.line(format_args!("{verb} {objects}, {bytes}, of pushes that were interrupted long ago"))?;
    }
    if report.lock_turns > 0 && ui.is_verbose() {
        let (turns, longest) = (human::things(report.lock_turns, "time"), human::duration(report.longest_turn));
        out.line(format_args!("Held the repository's lock {turns}, at most {longest}"))?;
    }
    out.finish()
}

/// Writes `3 of 17 commits, 921 of 29,182 objects, 92.6 MB`.
fn summary(report: &Report) -> String {
    let (objects, commits) = (report.deleted.all(), report.deleted.commits);
    format!(
        "{} of {}, {}, {}",
        human::count(objects),
        human::things(report.objects, "object"),
        human::things(commits, "commit"),
        human::bytes(report.bytes),
    )
}

/// Reads `PATTERN=N`.
fn depth_for(text: &str) -> Result<(Selector, Depth), String> {
    let (pattern, depth) = text.split_once('=').ok_or("it has no `=` between the pattern and the number")?;
    let selector = pattern.parse().map_err(|error: InvalidName| error.to_string())?;
    Ok((selector, depth.parse().map_err(|error: prune::ParseDepthError| error.to_string())?))
}

/// Reads an age or a date, and returns it in seconds since 1970.
fn younger_than_secs(text: &str) -> Result<u64, String> {
    let now_secs = clock::now_secs();
    let secs = match age_secs(text) {
        Some(age_secs) => now_secs.checked_sub(age_secs).ok_or("it is before 1970")?,
        None => date_secs(text)?,
    };
    // Everything would be older, and only the refs' own commits kept.
    if secs > now_secs { Err("it is in the future".to_owned()) } else { Ok(secs) }
}

/// Reads a date, with or without a time.
fn date_secs(text: &str) -> Result<u64, String> {
    timestamp_secs(text)
        .map_err(|_| "it is neither an age like `12h`, `30d` or `8w` nor a date like `2026-01-31`".to_owned())
}

/// Reads a number with a unit: `30d`, `30 days`, `30 days ago`.
fn age_secs(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().strip_suffix("ago").unwrap_or(unit).trim();
    let unit_secs = match unit {
        "s" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 60 * 60,
        "d" | "day" | "days" => 24 * 60 * 60,
        "w" | "week" | "weeks" => 7 * 24 * 60 * 60,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_units() {
        for (text, secs) in [
            ("45s", 45),
            ("90m", 90 * 60),
            ("12h", 12 * 3600),
            ("30d", 30 * 86_400),
            ("8w", 56 * 86_400),
            ("30 days", 30 * 86_400),
            ("1 day ago", 86_400),
            ("2 weeks ago", 14 * 86_400),
        ] {
            assert_eq!(age_secs(text), Some(secs), "`{text}`");
        }
        for text in ["", "30", "d", "-3d", "3 months", "3d4h", "99999999999999999999d", "99999999999999999d"] {
            assert_eq!(age_secs(text), None, "`{text}` is no age");
        }
    }

    #[test]
    fn dates_are_in_utc_and_past() {
        assert_eq!(younger_than_secs("2026-01-31"), Ok(1_769_817_600), "a date is its first second");
        assert_eq!(younger_than_secs("@1700000000"), Ok(1_700_000_000), "seconds since 1970");
        for text in ["9000-01-01", "yesterday", "", "99999999d"] {
            assert!(younger_than_secs(text).is_err(), "`{text}` is no time in the past");
        }
    }

    #[test]
    fn depths_are_for_patterns() {
        let (selector, depth) = depth_for("origin:app/*=3").expect("it is valid");
        assert_eq!((selector, depth), ("origin:app/*".parse().expect("it is valid"), Depth::Parents(3)));
        for text in ["", "x", "=3", "x=", "x=y", "app/**=3", "a=b=3"] {
            assert!(depth_for(text).is_err(), "`{text}` says no depth");
        }
    }
}
