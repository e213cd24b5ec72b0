//! Small apps: many of them in one push, and an update of a single one.

use std::path::PathBuf;

use treegraft_testkit::{BuildDir, Version};

use super::cases::{Choice, FAR, Way};
use super::push::{Bench, Purpose, Push, Source};
use crate::{TaskError, shell};

/// How many apps there are.
const APPS: u32 = 400;
/// How many files of the machine each app has: with their directories and what every app has, some 35 objects.
const FILES: usize = 3;
const MAX_FILE_BYTES: u64 = 16 << 10;
const BRANCH: &str = "stable";

/// Pushes all apps to an empty server on the same machine, and one of them over a link.
pub(super) fn run(bench: &Bench, choice: Choice<'_>) -> Result<(), TaskError> {
    choice.run("400 small apps, loopback", || {
        let (worker, empty) = (export(bench, APPS, Version::first())?, bench.empty()?);
        let push = Push::new(Source::Repo(worker), &empty, None);
        let alone = Push { updates_metadata: false, ..push.clone() };
        Ok(vec![
            Way::push("treegraft push, `flatpak-update = \"never\"`", bench, alone),
            Way::push("treegraft push", bench, push),
        ])
    })?;
    choice.run("one small app has changed, 100 ms, 100 Mbit/s", || {
        let (old, new, server) =
            (export(bench, 1, Version::first())?, export(bench, 1, Version::next(1))?, bench.empty()?);
        bench.push_into(&server, &Push::new(Source::Repo(old), &server, None), Purpose::Time)?;
        let push = Push { updates_metadata: false, ..Push::new(Source::Repo(new), &server, Some(FAR)) };
        let whole = push.clone().with_options(["--compare", "never"]);
        Ok(vec![
            Way::push("treegraft push, `flatpak-update = \"never\"`", bench, push),
            Way::push("the same with --compare never", bench, whole),
            Way::other("ssh login and `true`", || bench.login(FAR)),
        ])
    })
}

/// Makes the worker's repository: each app is exported from a build directory of its own.
fn export(bench: &Bench, apps: u32, version: Version) -> Result<PathBuf, TaskError> {
    let (builds, repo) = (bench.place(), bench.place());
    for number in 0..apps {
        let id = format!("org.example.App{number:03}");
        let app = BuildDir::app(&id, "org.example.Platform").with_files(number.into(), FILES);
        let build = builds.join(&id);
        BuildDir { max_file_bytes: MAX_FILE_BYTES, ..app }.write(&build, version);
        let mut export = shell::command(&bench.treegraft);
        export.args(["export", "--no-update-summary", "--quiet"]).arg(&build).arg(&repo).arg(BRANCH);
        shell::read(&mut export)?;
    }
    Ok(repo)
}
