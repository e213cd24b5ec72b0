//! What must hold after a push that was broken in whatever way, and after the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use treegraft_object::{CommitId, detached, gvariant::Variant, summary::Summary};
use treegraft_sign::{Ed25519Key, SigningKey, ed25519};
use treegraft_testkit::{Image, RepoMode, Run, SplitMix64, indexed_summaries, memory_folder};

use crate::site::{Site, TREEGRAFT, json, objects};

/// What a private directory may hold when no push is under way.
///
/// The last six may have kept that name when the power failed; the next publish writes over them.
const AT_REST: [&str; 10] = [
    "download-sizes",
    "pending/",
    "publish.lock",
    "staging/",
    "draft/",
    ".treegraft-new",
    "summary.new",
    "summary.sig.new",
    "publish.holder",
    "publish.holder.new",
];

/// Where the hook after a publish writes in the repository what it was told.
const HEARD: &str = "heard";

/// Makes a tree one of an app.
const METADATA: &str = "[Application]\nname=org.example.App\nruntime=org.example.Platform/x86_64/stable\n";

/// The names and commits of a repository's refs.
pub(crate) type Refs = BTreeMap<String, String>;

/// A push that is to be broken, from a worker to a repository that signs.
pub(crate) struct Case {
    pub(crate) site: Site,
    pub(crate) worker: PathBuf,
    /// The refs of the push; the repository has others.
    pub(crate) names: &'static [&'static str],
    /// All refs before the push, and after it.
    pub(crate) old: Refs,
    pub(crate) new: Refs,
    /// Nothing for a repository that does not sign.
    key: Option<Ed25519Key>,
    /// Whether the server has both hooks.
    has_hooks: bool,
}

impl Case {
    /// Takes the site and the worker as they are. All refs that the worker has are pushed.
    pub(crate) fn new(site: Site, worker: PathBuf, names: &'static [&'static str], key: Option<Ed25519Key>) -> Self {
        let old = refs(&site.server);
        Self { site, worker, names, new: old.clone(), old, key, has_hooks: false }
    }

    /// Notes what the repository has after an undisturbed push.
    pub(crate) fn expect(&mut self, server: &Path) {
        self.new = refs(server);
        assert!(
            self.names.iter().all(|&name| self.new.get(name) != self.old.get(name)),
            "the push moves all of its refs"
        );
        let known: BTreeSet<_> = self.names.iter().copied().chain(self.old.keys().map(String::as_str)).collect();
        assert!(self.new.keys().map(String::as_str).eq(known), "and makes no other");
    }

    /// Returns the command of the push to another copy of the repository.
    pub(crate) fn push(&self, server: &Path, options: &[&str]) -> Command {
        let mut command = self.site.env.command(TREEGRAFT);
        command.arg("push").arg("--json").arg("--config").arg(self.site.config());
        command.arg("--repo").arg(&self.worker).args(options).arg(server).args(self.names);
        command
    }

    /// Looks at a repository in which a push was broken, then pushes again. Tells which rule does not hold.
    pub(crate) fn check(&self, server: &Path) -> Result<(), String> {
        self.check_untouched(server)?;
        self.check_opened(server)?;
        self.check_rerun(server)
    }

    /// Before anybody has opened it: every ref can be read and is whole, and only a journal explains refs of both kinds.
    pub(crate) fn check_untouched(&self, server: &Path) -> Result<(), String> {
        self.fsck(server, "before it was opened again")?;
        let now = refs(server);
        let is_settled = now == self.old || now == self.new;
        let has_journal = server.join(".treegraft/journal").exists();
        let is_known =
            now.iter().all(|(name, commit)| [self.old.get(name), self.new.get(name)].contains(&Some(commit)));
        let is_there = self.old.keys().all(|name| now.contains_key(name));
        hold(is_known && is_there, || {
            format!("each ref is old or new, and those of others are as they were: {now:?}")
        })?;
        hold(is_settled || has_journal, || format!("refs of both kinds come with a journal: {now:?}"))
    }

    /// A dry run opens the repository, and thereby finishes what was interrupted.
    pub(crate) fn check_opened(&self, server: &Path) -> Result<(), String> {
        let run = Run::of(&mut self.push(server, &["--dry-run"]));
        hold(run.success(), || format!("the repository can be opened: {}", run.report()))?;
        let now = refs(server);
        hold(now == self.old || now == self.new, || format!("all refs are old or all are new: {now:?}"))?;
        self.fsck(server, "after it was opened again")?;
        self.check_summary(server)
    }

    fn check_rerun(&self, server: &Path) -> Result<(), String> {
        let lacking = self.lacking(server);
        let is_done = refs(server) == self.new;
        let run = Run::of(&mut self.push(server, &[]));
        hold(run.success(), || format!("the push goes through the second time: {}", run.report()))?;
        // Nobody asks for the commits that were pushed once the refs have moved.
        let expected = if is_done { 0 } else { lacking.len() as u64 };
        let sent = json(&run)["sent_objects"].as_u64();
        hold(sent == Some(expected), || format!("exactly what is missing is sent, not {lacking:?}: {}", run.report()))?;
        self.check_done(server)
    }

    /// Looks at a repository after the push has gone through.
    pub(crate) fn check_done(&self, server: &Path) -> Result<(), String> {
        let now = refs(server);
        hold(now == self.new, || format!("all refs are new: {now:?}"))?;
        self.fsck(server, "after the push")?;
        self.check_summary(server)?;
        let left = list(&server.join(".treegraft"));
        hold(left.iter().all(|name| AT_REST.contains(&&**name)), || format!("nothing is left over: {left:?}"))?;
        let left = list(&server.join(".treegraft/staging"));
        hold(left.is_empty(), || format!("no staging area is left over: {left:?}"))?;
        let left = list(&server.join(".treegraft/pending"));
        hold(left.iter().all(|name| name == ".treegraft-new"), || format!("no hook has to run any more: {left:?}"))?;
        self.check_heard(server)
    }

    /// The hook after the publish has run for it, at least once.
    fn check_heard(&self, server: &Path) -> Result<(), String> {
        if !self.has_hooks {
            return Ok(());
        }
        let heard = fs::read_to_string(server.join(HEARD)).unwrap_or_default();
        let has_all = self.names.iter().all(|&name| self.new.get(name).is_some_and(|commit| heard.contains(commit)));
        hold(has_all, || format!("the hook has heard of all commits: {heard:?}"))
    }

    /// The summary lists the refs as they are, and its signature fits.
    fn check_summary(&self, server: &Path) -> Result<(), String> {
        if self.old.is_empty() && refs(server).is_empty() {
            // A repository that was just made has no summary.
            return Ok(());
        }
        let data = fs::read(server.join("summary")).map_err(|error| format!("there is a summary: {error}"))?;
        let summary = Summary::decode(&data).map_err(|error| format!("the summary is whole: {error}"))?;
        let listed: Refs = summary.refs.iter().map(|row| (row.name.to_string(), row.commit.to_string())).collect();
        let now = all_refs(server);
        hold(listed == now, || format!("the summary lists the refs as they are: {listed:?}, not {now:?}"))?;
        if server.join("summary.idx").exists() {
            let app = CommitId::from_str(&now[self.names[0]]).expect("a ref has a commit").0;
            let is_told = |data: &Vec<u8>| data.windows(32).any(|bytes| bytes == app.as_bytes());
            let is_indexed = indexed_summaries(server).iter().any(is_told);
            hold(is_indexed, || "the index leads to a summary with the new commit".to_owned())?;
        }
        let Some(key) = &self.key else { return Ok(()) };
        let signatures = fs::read(server.join("summary.sig")).map_err(|error| format!("it is signed: {error}"))?;
        let signatures = detached::decode(&signatures).map_err(|error| format!("the signatures are whole: {error}"))?;
        let signatures = signatures.get(key.metadata_key()).and_then(Variant::as_byte_arrays);
        let signature = signatures.as_ref().and_then(|signatures| signatures.first()).ok_or("the summary is signed")?;
        ed25519::verify(&key.public_key(), &data, signature)
            .map_err(|error| format!("the signature fits the summary: {error}"))
    }

    fn fsck(&self, server: &Path, when: &str) -> Result<(), String> {
        let mut repo = std::ffi::OsString::from("--repo=");
        repo.push(server);
        let run = self.site.ostree.run_raw(["fsck".as_ref(), "--quiet".as_ref(), repo.as_os_str()]);
        let is_clean = run.success() && !run.text().contains("partial commits");
        hold(is_clean, || format!("`ostree fsck` finds nothing {when}: {}", run.report()))
    }

    /// Returns the worker's objects that the server has in no form.
    pub(crate) fn lacking(&self, server: &Path) -> BTreeSet<String> {
        let (published, staged) = (objects(server), staged(server));
        // Archive repositories have another name for files.
        let archived =
            |name: &String| name.strip_suffix(".file").map_or_else(|| name.clone(), |name| format!("{name}.filez"));
        let is_there = |name: &String| published.contains(&archived(name)) || staged.contains(&archived(name));
        objects(&self.worker).into_iter().filter(|name| !is_there(name)).collect()
    }
}

fn hold(rule: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if rule { Ok(()) } else { Err(text()) }
}

/// Who writes the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SummaryBy {
    /// Treegraft itself.
    Treegraft,
    /// `flatpak build-update-repo`, which makes the appstream branches as well; Treegraft signs.
    Flatpak,
    /// A program of the configuration. Nobody signs.
    Command(&'static str),
}

/// What a case is like; usually a push of an old ref and of a new one, beside a ref of somebody else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// The mode of the worker's repository.
    pub(crate) mode: RepoMode,
    /// The size of the largest file.
    pub(crate) large_bytes: usize,
    /// Whether the server's repository asks for durability.
    pub(crate) fsync: bool,
    pub(crate) summary_by: SummaryBy,
    /// Whether a hook looks at each push before it is published, and one hears of it afterwards.
    pub(crate) has_hooks: bool,
    /// The refs of the push.
    pub(crate) names: &'static [&'static str],
    /// Whether nothing was ever pushed to the repository.
    pub(crate) is_first: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: RepoMode::Archive,
            large_bytes: 90_000,
            fsync: true,
            summary_by: SummaryBy::Treegraft,
            has_hooks: false,
            names: &["main", "team/new"],
            is_first: false,
        }
    }
}

/// Makes a push that can be broken.
///
/// The repository is in the folder, in memory, where syncs cost nothing; what is recorded is the same.
pub(crate) fn case(options: Options) -> Option<(Case, tempfile::TempDir)> {
    let Options { mode, large_bytes, fsync, summary_by, has_hooks, names, is_first } = options;
    let mut site = Site::new()?;
    let mut settings = Vec::new();
    let key = match summary_by {
        SummaryBy::Command(command) => {
            settings.push(format!("update-command = [{command}]"));
            None
        }
        SummaryBy::Treegraft | SummaryBy::Flatpak => {
            let (key, file) = new_key(&site);
            settings.push(format!("ed25519-key-files = [\"{}\"]", file.display()));
            let update = if summary_by == SummaryBy::Flatpak { "auto" } else { "never" };
            settings.push(format!("flatpak-update = \"{update}\""));
            Some(key)
        }
    };
    if has_hooks {
        settings.extend(hooks(&site));
    }
    site.configure(&settings.join("\n"));
    let tree = site.tree("tree", &[("metadata", METADATA), ("same/a", "a"), ("same/b", "b"), ("c", "c")]);
    let folder = memory_folder();
    let server = folder.path().join("repo");
    Image::read(&site.server).write(&server);
    site.server = server;
    if !is_first {
        let other = site.worker("other", RepoMode::Archive, &site.tree("o", &[("o", "o")]), "other", 1_000);
        let worker = site.worker("worker", RepoMode::Archive, &tree, names[0], 1_000);
        site.push_local(&other, &["other"]).ok();
        site.push_local(&worker, &[names[0]]).ok();
    }
    if !fsync {
        site.ostree.at(&site.server, "config", ["set", "core.fsync", "false"]).ok();
    }
    let mut random = SplitMix64::new(1);
    fs::write(tree.join("c"), "changed").expect("a file can be written");
    fs::write(tree.join("large"), random.bytes(large_bytes)).expect("a file can be written");
    let worker = site.env.root().join("pushed");
    for (index, name) in names.iter().enumerate() {
        if index >= 2 {
            fs::write(tree.join("c"), name).expect("a file can be written");
        }
        site.worker("pushed", mode, &tree, name, 2_000);
    }
    Some((Case { has_hooks, ..Case::new(site, worker, names, key) }, folder))
}

/// Makes both hooks, and returns the lines of the configuration that name them.
///
/// What the one after a publish has heard is durable when it ends.
fn hooks(site: &Site) -> [String; 2] {
    let look =
        "ostree --repo=\"$TREEGRAFT_STAGED_REPO\" refs | xargs -n 1 ostree --repo=\"$TREEGRAFT_STAGED_REPO\" ls -R";
    let hear = format!("cd \"$TREEGRAFT_REPO\" && cat >{HEARD} && sync {HEARD} .");
    [("pre-publish-hook", look), ("post-publish-hook", &*hear)].map(|(name, text)| {
        let file = site.env.root().join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("a file can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        format!("{name} = [\"{}\"]", file.display())
    })
}

/// Makes a key, and returns it with its file.
fn new_key(site: &Site) -> (Ed25519Key, PathBuf) {
    let key = Ed25519Key::generate([7; 32]);
    let file = site.env.root().join("ed25519.key");
    fs::write(&file, format!("{}\n", *key.secret_base64())).expect("a file can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    (key, file)
}

/// Reads the refs below `refs/heads` that somebody pushes to, whatever they say.
pub(crate) fn refs(repo: &Path) -> Refs {
    let mut refs = all_refs(repo);
    refs.retain(|name, _| !name.starts_with("appstream"));
    refs
}

fn all_refs(repo: &Path) -> Refs {
    let root = repo.join("refs/heads");
    let mut found = Refs::new();
    let mut pending = vec![root.clone()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("a repository has refs").flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                let name = path.strip_prefix(&root).expect("it is below").display().to_string();
                let text = fs::read(&path).expect("a ref can be read");
                found.insert(name, String::from_utf8_lossy(&text).trim().to_owned());
            }
        }
    }
    found
}

/// Lists the objects in all staging areas of a repository like [`objects`] does.
pub(crate) fn staged(repo: &Path) -> BTreeSet<String> {
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let mut found = BTreeSet::new();
    for area in list(&repo.join(".treegraft/staging")) {
        for folder in list(&area.path()).filter(|entry| entry.file_name().len() == 2) {
            for file in list(&folder.path()) {
                found.insert(format!("{}/{}", folder.file_name().display(), file.file_name().display()));
            }
        }
    }
    found
}

/// Lists a directory, sorted, directories with a `/` behind them.
fn list(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| format!("{}{}", entry.file_name().display(), if entry.path().is_dir() { "/" } else { "" }))
        .collect();
    names.sort();
    names
}
