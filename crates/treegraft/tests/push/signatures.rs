//! Signatures that fail: at the first commit, between two refs, at the summary.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use treegraft_testkit::{Gpg, RepoMode, StaticServer};

use crate::{
    judge::refs,
    site::{Site, json},
};

/// What the program that signs does when its time has come.
const FAILURES: [&str; 4] = ["exit 2", "kill -9 $PPID; exit 2", "echo nonsense; exit 0", "kill -9 $$"];

/// Writes a `gpg` that counts its signatures and fails from one of them on: what fails beside others is tried again.
fn failing_gpg(site: &Site, at: usize, failure: &str) -> PathBuf {
    let (script, counts) = (site.env.root().join("failing-gpg"), site.env.root().join("counts"));
    let _ = fs::remove_dir_all(&counts);
    fs::create_dir(&counts).expect("a directory can be made");
    let counts = counts.display();
    // Signatures are made several at a time: each takes a number by making its directory.
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--detach-sign*)\n  n=0; until mkdir {counts}/$n 2>&-; do n=$((n + 1)); done\n  \
         if [ \"$n\" -ge {at} ]; then {failure}; fi;;\nesac\nexec gpg \"$@\"\n"
    );
    fs::write(&script, text).expect("a file can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    script
}

fn configure(site: &Site, gpg: &Gpg, program: &Path) {
    let (home, key, program) = (gpg.home().display(), gpg.fingerprint(), program.display());
    site.configure(&format!(
        "gpg-keys = [\"{key}\"]\ngpg-homedir = \"{home}\"\ngpg-program = \"{program}\"\nflatpak-update = \"never\""
    ));
}

#[test]
fn a_signature_that_fails_publishes_nothing_or_all() {
    let (Some(site), Some(gpg)) = (Site::new(), Gpg::with_key("CI <ci@example.org>")) else { return };
    let key = site.env.root().join("key.gpg");
    gpg.write_public_key(&key);
    let from = StaticServer::start(&site.server);
    for (index, failure) in (0_u64..).zip(FAILURES) {
        let mut at = 0;
        loop {
            let version = 10 * index + at as u64;
            let tree = site.tree("tree", &[("same", "same"), ("version", &version.to_string())]);
            let worker = site.env.root().join("worker");
            for name in ["one", "two"] {
                site.worker("worker", RepoMode::Archive, &tree, name, 1_000 + version);
            }
            let old = refs(&site.server);
            configure(&site, &gpg, &failing_gpg(&site, at, failure));
            let run = site.push_local(&worker, &["--json"]);
            let is_over = run.success();
            let is_killed = failure.contains("$PPID");
            assert!(is_over || run.code() == if is_killed { None } else { Some(1) }, "{}", run.report());
            site.ostree.fsck(&site.server);
            let now = refs(&site.server);
            let moved = ["one", "two"].iter().filter(|&&name| now.get(name) != old.get(name)).count();
            // The signatures are those of two commits, then that of the summary.
            let expected = if at < 2 { 0 } else { 2 };
            assert_eq!(moved, expected, "signature {at}, `{failure}`: all refs or none: {}", run.report());
            if !is_over && !is_killed {
                let code = json(&run)["error"]["code"].clone();
                let told = if at < 2 { "signing" } else { "summary-stale" };
                assert_eq!(code, told, "signature {at}, `{failure}`: {}", run.report());
            }
            configure(&site, &gpg, Path::new("gpg"));
            site.push_local(&worker, &[]).ok();
            site.ostree.fsck(&site.server);
            assert!(!site.server.join(".treegraft/journal").exists(), "no journal is left");

            let client = site.env.root().join(format!("client-{version}"));
            site.ostree.init(&client, RepoMode::Archive, None);
            site.ostree.remote_add(&client, "origin", &from.url(), Some(&key));
            site.ostree.pull(&client, "origin", &["one", "two"]);
            if is_over {
                assert_eq!(at, 3, "there are three signatures");
                break;
            }
            at += 1;
        }
    }
}
