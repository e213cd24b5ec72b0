//! Summary and index of a repository with Flatpak's refs: written by the real `flatpak`, seen by clients when they are complete.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use treegraft_object::Checksum;
use treegraft_testkit::{BuildDir, CleanEnv, Flatpak, Gpg, Recorder, RepoMode, Run, StaticServer, Version};

use crate::site::Site;

const INDEX: &str = "summary.idx";

const SUMMARIES: [&str; 4] = ["summary", "summary.sig", INDEX, "summary.idx.sig"];

/// Directories with what else is about summary and index.
const DIRECTORIES: [&str; 2] = ["summaries", "delta-indexes"];

/// A server with a key, and a worker with builds.
struct Builds {
    site: Site,
    flatpak: Flatpak,
    gpg: Gpg,
    runtime: BuildDir,
    app: BuildDir,
}

impl Builds {
    fn new() -> Option<Self> {
        let (site, flatpak, gpg) = (Site::new()?, Flatpak::find()?, Gpg::with_key("CI <ci@example.org>")?);
        site.sign_with(&gpg);
        let runtime = BuildDir::runtime("org.example.Platform").with_files(1, 5);
        let app = BuildDir::app("org.example.App", "org.example.Platform").with_files(2, 3);
        Some(Self { site, flatpak, gpg, runtime, app })
    }

    /// Pushes a build, of a version that no other number has.
    fn push(&self, build: &BuildDir, number: u64) {
        Run::of(&mut self.push_command(build, number)).ok();
    }

    fn push_command(&self, build: &BuildDir, number: u64) -> Command {
        let folder = self.site.env.root().join(format!("{}-{number}", build.id));
        build.write(&folder, Version::numbered(number, 2));
        let shown = folder.display().to_string();
        self.site.push_unstored_command(&["--allow-older", "--build-dir", &shown])
    }

    /// Says what stands in the server's repository when `flatpak` has run in it directly, where `before` says what was there
    /// before the push.
    fn written_directly(&self, before: &Path) -> BTreeMap<String, Vec<u8>> {
        let direct = self.site.env.root().join("direct");
        copy(&self.site.server, &direct);
        for name in SUMMARIES.into_iter().chain(DIRECTORIES) {
            let path = direct.join(name);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            if before.join(name).exists() {
                copy(&before.join(name), &path);
            }
        }
        let [key, home] = self.gpg.sign_args();
        let _ = self.flatpak.build_update_repo(&direct, &[&key, &home]);
        let written = published(&direct);
        fs::remove_dir_all(direct).expect("it is ours");
        written
    }
}

fn copy(from: &Path, to: &Path) {
    Run::of(Command::new("cp").arg("-a").arg(from).arg(to)).ok();
}

/// Returns what is about summary and index, without signatures and the times at which it was written.
fn published(repo: &Path) -> BTreeMap<String, Vec<u8>> {
    let index = fs::read(repo.join(INDEX)).unwrap_or_default();
    let index_digest = Checksum::of(&index).to_string();
    let mut found = BTreeMap::new();
    let mut pending: Vec<_> = SUMMARIES.iter().chain(&DIRECTORIES).map(|name| repo.join(name)).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).expect("it can be read").map(|entry| entry.expect("it is read").path()));
        } else if let Ok(data) = fs::read(&path) {
            let name = path.strip_prefix(repo).expect("it is in there").display().to_string();
            let is_signature = path.extension().is_some_and(|extension| extension == "sig");
            let data = if is_signature { Vec::new() } else { without_time(data) };
            found.insert(name.replace(&index_digest, "INDEX"), data);
        }
    }
    found
}

/// Sets the time in a summary or an index to zero.
fn without_time(mut data: Vec<u8>) -> Vec<u8> {
    const KEY: &[u8] = b"ostree.summary.last-modified\0";
    if let Some(at) = data.windows(KEY.len()).position(|bytes| bytes == KEY) {
        let value = (at + KEY.len()).next_multiple_of(8);
        data[value..value + 8].fill(0);
    }
    data
}

/// What the repository has, apart from builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WithCollectionId,
    /// From the third push on.
    WithStaticDeltas,
}

#[test]
fn a_push_leaves_the_summary_that_flatpak_writes_into_a_repository_directly() {
    for kind in [Kind::WithCollectionId, Kind::WithStaticDeltas] {
        let Some(builds) = Builds::new() else { return };
        let Builds { site, runtime, app, .. } = &builds;
        if kind == Kind::WithCollectionId {
            fs::remove_dir_all(&site.server).expect("it is ours");
            let init = ["init", "--collection-id=org.example.Stable"].map(AsRef::as_ref);
            site.treegraft(init.into_iter().chain([site.server.as_os_str()])).ok();
        }
        let mut removed = 0;
        for (number, build) in (1..).zip([runtime, app, app, app]) {
            let at = format!("{kind:?}, push {number}");
            if kind == Kind::WithStaticDeltas && number == 3 {
                let _ = site.ostree.at(&site.server, "static-delta", ["generate", "--empty", &app.flatpak_ref()]);
                let _ = fs::remove_dir_all(site.server.join("delta-indexes"));
            }
            let before = site.env.root().join(format!("before-{number}"));
            copy(&site.server, &before);
            builds.push(build, number);
            assert!(!site.server.join(".treegraft/draft").exists(), "{at}: no draft is left");

            let (old, new) = (published(&before), published(&site.server));
            assert_eq!(
                new,
                builds.written_directly(&before),
                "{at}: `flatpak` leaves the same in the repository itself"
            );
            removed += old.keys().filter(|name| !new.contains_key(*name)).count();
            let has = |start: &str, end: &str| new.keys().any(|name| name.starts_with(start) && name.ends_with(end));
            assert_eq!(has("summaries/", ".delta"), number > 1, "{at}: there are changes between summaries");
            let has_indexes = kind == Kind::WithStaticDeltas && number >= 3;
            assert_eq!(has("delta-indexes/", ".index"), has_indexes, "{at}: static deltas have indexes");
            for name in SUMMARIES.iter().filter(|_| number > 1) {
                let seconds = |repo: &Path| fs::metadata(repo.join(name)).expect("it is there").mtime();
                assert!(seconds(&before) < seconds(&site.server), "{at}: caches see that `{name}` is another one");
            }
        }
        assert!(removed > 0, "what `flatpak` deletes is deleted");
        site.ostree.fsck(&site.server);
        clients_take_it(&builds);
    }
}

/// Clients that verify the signatures of summary and index.
fn clients_take_it(builds: &Builds) {
    let Builds { site, flatpak, gpg, runtime, app } = builds;
    let refs = [runtime.flatpak_ref(), app.flatpak_ref()];
    let web = StaticServer::start(&site.server);
    let key = site.env.root().join("key.gpg");
    gpg.write_public_key(&key);
    let mirror = site.env.root().join("mirror");
    site.ostree.init(&mirror, RepoMode::Archive, None);
    let import = format!("--gpg-import={}", key.display());
    let _ = site.ostree.at(&mirror, "remote", ["add", "--set=gpg-verify-summary=true", &import, "origin", &web.url()]);
    let _ = site.ostree.at(&mirror, "pull", ["--mirror", "origin"].into_iter().chain(refs.iter().map(String::as_str)));
    site.ostree.fsck(&mirror);
    flatpak.remote_add("origin", &web.url(), Some(&key));
    let listed = flatpak.run_ok(["remote-ls", "--user", "--all", "--columns=ref", "origin"]).text();
    for name in &refs {
        let short = name.split_once('/').expect("it has a kind").1;
        assert!(listed.contains(short), "`{name}` is offered to clients: {listed}");
    }
}

/// Some file systems have no hard links, and some systems do not allow them to files of others.
#[test]
fn files_that_cannot_be_linked_are_copied() {
    let (Some(builds), Some(recorder)) = (Builds::new(), Recorder::find()) else { return };
    let server = &builds.site.server;
    builds.push(&builds.app, 1);
    let old = published(server);
    let later = SystemTime::now() + Duration::from_secs(3_600);
    let mut options = vec!["-einject=linkat:error=EPERM".to_owned()];
    for name in SUMMARIES {
        let file = fs::File::options().write(true).open(server.join(name)).expect("it is there");
        file.set_modified(later).expect("its time can be set");
    }
    let summaries = fs::read_dir(server.join("summaries")).expect("there are summaries");
    let summaries = summaries.map(|entry| entry.expect("it can be read").path());
    options.extend(
        SUMMARIES
            .map(|name| server.join(name))
            .into_iter()
            .chain(summaries)
            .map(|path| format!("-P{}", path.display())),
    );
    recorder.run_with(&options, &builds.push_command(&builds.app, 2)).ok();

    let new = published(server);
    let is_delta = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "delta");
    let has_delta = new.keys().any(is_delta);
    assert!(has_delta && new != old, "there is a change from the old summary: {:?}", new.keys());
    for name in SUMMARIES {
        let modified = fs::metadata(server.join(name)).and_then(|found| found.modified()).expect("it is there");
        assert!(modified > later, "`{name}` is later than before");
    }
}

/// Puts a `flatpak` before the real one that takes a rest after each file that it renames or deletes.
fn slow_flatpak(env: &mut CleanEnv, flatpak: &Flatpak) {
    let folder = env.make_folder("slow");
    let (script, real) = (folder.join("flatpak"), flatpak.command().get_program().display().to_string());
    let text = format!(
        "#!/bin/sh\nexec strace -f -q -o /dev/null -e trace=unlinkat,renameat \
         -e inject=unlinkat,renameat:delay_exit=50000 '{real}' \"$@\"\n"
    );
    fs::write(&script, text).expect("a file can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    env.prepend_path(&folder);
}

#[test]
fn nobody_sees_a_summary_or_an_index_without_its_signature() {
    let (Some(mut builds), Some(_)) = (Builds::new(), Recorder::find()) else { return };
    builds.push(&builds.app, 1);
    slow_flatpak(&mut builds.site.env, &builds.flatpak);
    let is_over = AtomicBool::new(false);
    let server = &builds.site.server;
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut indexes = std::collections::BTreeSet::new();
            while !is_over.load(Ordering::SeqCst) {
                let index = fs::read(server.join(INDEX)).expect("there is an index at any time");
                let digest = Checksum::of(&index).to_string();
                for name in ["summary", "summary.sig", "summary.idx.sig", &format!("summaries/{digest}.idx.sig")] {
                    assert!(server.join(name).exists(), "`{name}` is there at any time");
                }
                indexes.insert(digest);
            }
            indexes.len()
        });
        builds.push(&builds.app, 2);
        builds.push(&builds.app, 3);
        is_over.store(true, Ordering::SeqCst);
        let seen = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(seen > 1, "the index was looked at while it changed");
    });
}
