//! `cargo xtask dist`: the program as it is given away, one file that needs nothing of the system.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use crate::{TaskError, shell};

/// The largest release in bytes: it goes over the line to every server that lacks it.
const MAX_RELEASE_BYTES: usize = 15_000_000;

/// The longest that a release may take to start: every push starts it on the server, where it is waited for.
const MAX_START: Duration = Duration::from_millis(10);

/// How often the program is started in a round to see how long that takes.
const STARTS: usize = 50;

/// How many rounds there are. The best one counts: what else the machine does is no fault of the program's.
const ROUNDS: usize = 5;

/// The type of a program header that names a loader, which only a program with shared libraries has.
const PT_INTERP: u32 = 3;

/// The file that the C library reads to learn which libraries resolve names; the code that does it has the path.
const NAME_SERVICE: &[u8] = b"/etc/nsswitch.conf";

/// Build the program as one static file, and check that it is one.
#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// How it is compiled.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

/// How the program is compiled.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// For users.
    #[default]
    Release,
    /// For tests: compiled in less time, and without what a debugger needs, because tests send it to servers.
    Static,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Static => "static",
        }
    }
}

pub(crate) fn run(args: &DistArgs) -> Result<(), TaskError> {
    let program = build(args.profile)?;
    let bytes = fs::read(&program).map_err(|source| file("read", &program, source))?;
    let fail = |what| Err(TaskError::Dist { path: show(&program), what });
    if args.profile == Profile::Release && bytes.len() > MAX_RELEASE_BYTES {
        return fail("has more than 15 MB");
    }
    // Only here: without optimisation, the linker keeps code that nobody calls.
    if args.profile == Profile::Release && contains(&bytes, NAME_SERVICE) {
        return fail("resolves names or looks up users, for which the C library loads others at run time");
    }
    let version = shell::read(shell::command(&program).arg("--version"))?;
    println!("{}", String::from_utf8_lossy(&version).trim_end());
    println!("{}: {}.{} MB, static", show(&program), bytes.len() / 1_000_000, bytes.len() / 100_000 % 10);
    let (median, worst) = best_start_times(&program)?;
    println!("Starts in {:.1} ms (median of {STARTS}), {:.1} ms at worst", millis(median), millis(worst));
    if args.profile == Profile::Release && median > MAX_START {
        return fail("takes more than 10 ms to start");
    }
    Ok(())
}

/// Builds the program, checks that no loader is named in it, and returns where it is.
pub(crate) fn build(profile: Profile) -> Result<PathBuf, TaskError> {
    let target = host_target()?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--package", "treegraft", "--profile", profile.name()]);
    // With a target, flags are for the program alone: a macro of the compiler cannot be static.
    cargo.args(["--target", &target]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    shell::run(&mut cargo)?;
    let built = shell::target().join(&target).join(profile.name()).join("treegraft");
    let bytes = fs::read(&built).map_err(|source| file("read", &built, source))?;
    match names_loader(&bytes) {
        Some(false) => {}
        Some(true) => return Err(TaskError::Dist { path: show(&built), what: "needs shared libraries" }),
        None => return Err(TaskError::Dist { path: show(&built), what: "is no program of 64 bits, little-endian" }),
    }
    let folder = shell::target().join(if profile == Profile::Release { "dist" } else { "dist-static" });
    fs::create_dir_all(&folder).map_err(|source| file("make", &folder, source))?;
    let program = folder.join("treegraft");
    // The old one may be running: a new file takes its name.
    let fresh = folder.join("treegraft.new");
    fs::copy(&built, &fresh).map_err(|source| file("write", &fresh, source))?;
    fs::rename(&fresh, &program).map_err(|source| file("write", &program, source))?;
    Ok(program)
}

fn host_target() -> Result<String, TaskError> {
    let about = shell::read(shell::command("rustc").arg("-vV"))?;
    let about = String::from_utf8_lossy(&about).into_owned();
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or(TaskError::Dist { path: "rustc".to_owned(), what: "does not say its host" })
}

/// Tells whether a program of 64 bits (ELF, little-endian) names a loader; nothing when it is something else.
fn names_loader(bytes: &[u8]) -> Option<bool> {
    let number = |at: usize, length: usize| {
        let digits = bytes.get(at..at.checked_add(length)?)?;
        Some(digits.iter().rev().fold(0_u64, |value, &digit| value << 8 | u64::from(digit)))
    };
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(number(32, 8)?).ok()?;
    let (entry_bytes, entries) = (usize::try_from(number(54, 2)?).ok()?, usize::try_from(number(56, 2)?).ok()?);
    let mut is_found = false;
    for index in 0..entries {
        is_found |= number(table.checked_add(index * entry_bytes)?, 4)? == u64::from(PT_INTERP);
    }
    Some(is_found)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Returns median and maximum of the round with the lowest median.
fn best_start_times(program: &Path) -> Result<(Duration, Duration), TaskError> {
    let mut best = start_times(program)?;
    for _ in 1..ROUNDS {
        best = best.min(start_times(program)?);
    }
    Ok(best)
}

fn start_times(program: &Path) -> Result<(Duration, Duration), TaskError> {
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let start = Instant::now();
        shell::read(shell::command(program).arg("--version"))?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok((times[STARTS / 2], times[STARTS - 1]))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn show(path: &Path) -> String {
    path.strip_prefix(shell::root()).unwrap_or(path).display().to_string()
}

fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TaskError {
    TaskError::File { verb, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(types: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::try_from(types.len()).expect("a few");
        for kind in types {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn a_loader_is_found_in_the_program_headers() {
        assert_eq!(names_loader(&program(&[6, PT_INTERP, 1])), Some(true), "it has shared libraries");
        assert_eq!(names_loader(&program(&[6, 1, 1])), Some(false), "it is static");
        assert_eq!(names_loader(&program(&[6, 1])[..100]), None, "it is cut off");
        assert_eq!(names_loader(b"#!/bin/sh"), None, "it is a script");
        let own = fs::read("/proc/self/exe").expect("a process can read its own program");
        assert_eq!(names_loader(&own), Some(true), "tests are built with the system's libraries");
    }
}
