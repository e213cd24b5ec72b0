//! A publication that ends at any of the server's own points, by an error or by death.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use treegraft_object::{CommitId, detached, gvariant::Variant, summary::Summary};
use treegraft_repo::{
    Repo,
    fault::{Stop, Watch},
};
use treegraft_server::{Receiver, config::Settings};
use treegraft_sign::{Ed25519Key, SigningKey, ed25519};
use treegraft_testkit::{Flatpak, Ostree, fault_points, indexed_summaries, memory_folder};
use treegraft_wire::{ApiError, ErrorCode};

use support::{Wire, objects::Pushed, open_request};

const KIND: &str = "TREEGRAFT_TEST_KIND";
const ROOT: &str = "TREEGRAFT_TEST_ROOT";
const POINT: &str = "TREEGRAFT_TEST_POINT";
const NUMBER: &str = "TREEGRAFT_TEST_NUMBER";

const APP: &str = "app/org.example.App/x86_64/master";

/// Where the points of another crate begin at which nobody but the server stops.
const FOREIGN: [&str; 2] = ["draft:", "pending-"];

/// What the hook after a publish was told, below the root.
const TOLD: &str = "told";

/// What is pushed, and to which repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Two refs, one of them new.
    Push,
    /// The same with a hook after the publish.
    Hook,
    /// The same, after a push has died when its refs had moved.
    Recovery,
    /// The same, where a program writes the summary and does not sign it.
    ForeignSummary,
    /// The same with an app, so that `flatpak` writes the summary.
    Flatpak,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Push, Self::Hook, Self::Recovery, Self::ForeignSummary, Self::Flatpak];

    fn has_hook(self) -> bool {
        matches!(self, Self::Hook | Self::Recovery)
    }

    /// Returns what is pushed first and what is pushed then, with a file's content.
    fn refs(self) -> [[(&'static str, &'static str); 2]; 2] {
        let main = if self == Self::Flatpak { APP } else { "main" };
        [[(main, "one"), ("other", "two")], [(main, "three"), ("new/b", "four")]]
    }
}

type Refs = BTreeMap<String, CommitId>;

/// A repository in `<root>/repo` with a signing key in `<root>/key`.
struct Scene {
    kind: Kind,
    ostree: Ostree,
    root: tempfile::TempDir,
    old: Refs,
    new: Refs,
}

impl Scene {
    fn new(kind: Kind) -> Option<Self> {
        let ostree = Ostree::find()?;
        if kind == Kind::Flatpak {
            let _ = Flatpak::find()?;
        }
        let root = memory_folder();
        let key = root.path().join("key");
        fs::write(&key, &*Ed25519Key::generate([7; 32]).secret_base64()).expect("it is ours");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it is ours");
        Repo::init(&root.path().join("repo"), None).expect("it can be made");
        let [first, _] = kind.refs();
        if kind == Kind::Flatpak {
            // The push after the next one then has a change between summaries to delete.
            run(push(root.path(), kind, &[(APP, "zero")])).expect("a sound push is published");
        }
        run(push(root.path(), kind, &first)).expect("a sound push is published");
        let old = refs(root.path());
        if kind == Kind::Recovery {
            assert!(die(root.path(), Kind::Push, "publish:refs-moved", 0), "the push dies");
        }
        let undisturbed = root.path().join("undisturbed");
        copy(root.path(), &undisturbed);
        run(work(&undisturbed, kind)).expect("the push is published");
        let new = refs(&undisturbed);
        assert_eq!((new.len(), new["other"]), (3, old["other"]), "the push moves one ref and makes one");
        Some(Self { kind, ostree, root, old, new })
    }

    fn key(&self) -> Ed25519Key {
        Ed25519Key::load_file(&self.root.path().join("key")).expect("it was written").remove(0)
    }

    fn copy(&self) -> PathBuf {
        let copied = self.root.path().join("copy");
        if copied.exists() {
            fs::remove_dir_all(&copied).expect("it is ours");
        }
        copy(self.root.path(), &copied);
        copied
    }

    /// Returns the server's own points that are passed, with how often.
    fn points(&self) -> BTreeMap<&'static str, usize> {
        let root = self.copy();
        let watch = Watch::begin();
        run(work(&root, self.kind)).expect("the push is published");
        let own = own_points();
        let mut points = BTreeMap::new();
        for name in watch.passed().into_iter().filter(|&name| own.contains(name)) {
            *points.entry(name).or_default() += 1;
        }
        points
    }

    fn fail_at(&self, name: &'static str, number: usize) {
        let at = format!("{:?} at {name} {number}", self.kind);
        let root = self.copy();
        let watch = Watch::stop_at(name, number, Stop::Fail);
        let error = run(work(&root, self.kind)).expect_err("the push fails at the point");
        drop(watch);
        assert!(error.detail.contains(name), "{at}: the error says why: {error:?}");
        let now = refs(&root);
        if matches!(error.code, ErrorCode::SummaryStale | ErrorCode::Unfinished) {
            assert_eq!(now, self.new, "{at}: {:?} means here that the refs have moved", error.code);
        } else {
            assert_eq!(error.code, ErrorCode::Repository, "{at}: it is the server's disk that fails: {error:?}");
            let is_old = now == self.old || self.kind == Kind::Recovery && now == self.new;
            assert!(is_old, "{at}: a push that fails has moved nothing");
        }
        self.check(&root, &at);
    }

    fn die_at(&self, name: &'static str, number: usize) {
        let at = format!("{:?} at {name} {number}", self.kind);
        let root = self.copy();
        assert!(die(&root, self.kind, name, number), "{at}: the push dies");
        let now = refs(&root);
        assert!(now == self.old || now == self.new, "{at}: no point of the server's own lies between two refs");
        self.check(&root, &at);
    }

    /// What is left is sound, and the push goes through the next time.
    fn check(&self, root: &Path, at: &str) {
        let repo = root.join("repo");
        self.ostree.fsck(&repo);
        run(work(root, self.kind)).unwrap_or_else(|error| panic!("{at}: the next push is published: {error:?}"));
        assert_eq!(refs(root), self.new, "{at}: the next push moves all refs");
        self.ostree.fsck(&repo);
        let data = fs::read(repo.join("summary")).expect("there is a summary");
        let summary = Summary::decode(&data).expect("it is whole");
        let listed: Refs = summary.refs.iter().map(|row| (row.name.to_string(), row.commit)).collect();
        assert_eq!(listed, all_refs(root), "{at}: the summary has the refs as they are");
        if self.kind == Kind::Flatpak {
            let is_indexed = indexed_summaries(&repo).iter().any(|data| contains(data, self.new[APP].0.as_bytes()));
            assert!(is_indexed, "{at}: the index leads to a summary with the new commit");
        }
        let signatures =
            detached::decode(&fs::read(repo.join("summary.sig")).expect("it is signed")).expect("it is whole");
        let signatures = signatures.get(self.key().metadata_key()).and_then(Variant::as_byte_arrays);
        let signature = signatures.expect("the key has signed").remove(0);
        ed25519::verify(&self.key().public_key(), &data, signature)
            .unwrap_or_else(|error| panic!("{at}: the signature fits the summary: {error}"));
        assert!(!repo.join(".treegraft/journal").exists(), "{at}: no journal is left");
        let left = fs::read_dir(repo.join(".treegraft/staging")).expect("it is there").count();
        assert_eq!(left, 0, "{at}: no staging area is left");
        assert!(!repo.join(".treegraft/draft").exists(), "{at}: no draft is left");
        if self.kind.has_hook() {
            let told = fs::read_to_string(root.join(TOLD)).unwrap_or_default();
            assert!(told.contains(&self.new["main"].to_string()), "{at}: the hook has run for the publish: {told}");
            let records = fs::read_dir(repo.join(".treegraft/pending")).expect("there was one").flatten();
            let left = records.filter(|record| !record.file_name().to_string_lossy().starts_with('.')).count();
            assert_eq!(left, 0, "{at}: no record of it is left");
        }
    }
}

/// Returns the points of the server, and those that only the server passes.
fn own_points() -> BTreeSet<String> {
    let source = |path| fault_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let is_foreign = |name: &String| FOREIGN.iter().any(|begin| name.starts_with(begin));
    let foreign = source("../treegraft-repo/src").into_iter().filter(is_foreign);
    source("src").into_iter().chain(foreign).collect()
}

fn contains(data: &[u8], part: &[u8]) -> bool {
    data.windows(part.len()).any(|found| found == part)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be made").block_on(work)
}

async fn work(root: &Path, kind: Kind) -> Result<(), ApiError> {
    let [_, second] = kind.refs();
    push(root, kind, &second).await
}

/// Pushes commits with one file each. That they are there already is no error.
async fn push(root: &Path, kind: Kind, refs: &[(&str, &str)]) -> Result<(), ApiError> {
    let mut settings = Settings { ed25519_key_files: vec![root.join("key")], ..Settings::default() };
    if kind == Kind::ForeignSummary {
        settings.update_command = ["ostree", "summary", "--update", "--repo"].map(str::to_owned).into();
    }
    if kind.has_hook() {
        let told = root.join(TOLD).display().to_string();
        settings.post_publish_hook = ["sh", "-c", "cat >>\"$0\"", &told].map(str::to_owned).into();
    }
    let receiver = Receiver::open(&root.join("repo"), settings, || 1_767_225_600).expect("it can be pushed to");
    let wire = Wire::connect(receiver.into()).await;
    let pushed: Vec<_> = refs.iter().map(|(name, content)| Pushed::new(name, content)).collect();
    let offers: Vec<_> = pushed.iter().map(|pushed| &pushed.offer).collect();
    let opened = wire.open(&open_request(&offers)).await;
    let result = match opened.status {
        201 => publish(&wire, opened.json(), &pushed).await,
        _ => Err(opened.error()),
    };
    wire.close().await;
    result
}

async fn publish(wire: &Wire, opened: treegraft_wire::OpenAnswer, pushed: &[Pushed]) -> Result<(), ApiError> {
    if opened.refs.iter().all(|state| state.verdict == treegraft_wire::Verdict::Unchanged) {
        return Ok(());
    }
    for pushed in pushed {
        let reply = wire.objects(&opened.push.0, &pushed.objects).await;
        assert_eq!(reply.status, 200, "sound objects are taken: {reply:?}");
    }
    wire.publish(&opened.push.0).await.published().map(drop)
}

/// Returns the refs that are pushed to.
fn refs(root: &Path) -> Refs {
    let mut refs = all_refs(root);
    refs.retain(|name, _| !name.starts_with("appstream"));
    refs
}

fn all_refs(root: &Path) -> Refs {
    let repo = Repo::open(&root.join("repo")).expect("it is a repository");
    repo.refs().expect("they can be read").into_iter().map(|(name, id)| (name.to_string(), id)).collect()
}

fn copy(root: &Path, to: &Path) {
    fs::create_dir(to).expect("it is not there");
    let status = Command::new("cp").arg("-a").args([root.join("repo"), root.join("key")]).arg(to).status();
    assert!(status.expect("`cp` is there").success(), "the copy is complete");
}

/// Pushes in another process, which dies at the point. Tells whether it did.
fn die(root: &Path, kind: Kind, name: &str, number: usize) -> bool {
    let status = Command::new(std::env::current_exe().expect("it is running"))
        .args(["--ignored", "--exact", "dies_as_told"])
        .env(KIND, format!("{kind:?}"))
        .env(ROOT, root)
        .env(POINT, name)
        .env(NUMBER, number.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("it can be started");
    std::os::unix::process::ExitStatusExt::signal(&status).is_some()
}

/// One test for all, since all threads of the process are watched.
#[test]
fn a_publication_may_be_stopped_at_each_of_the_servers_points() {
    let mut passed = BTreeSet::new();
    for kind in Kind::ALL {
        let Some(scene) = Scene::new(kind) else { return };
        for (name, times) in scene.points() {
            for number in 0..times {
                scene.fail_at(name, number);
                scene.die_at(name, number);
            }
            passed.insert(name.to_owned());
        }
    }
    assert_eq!(own_points(), passed, "each point in the source is one at which the test stops");
}

#[test]
#[ignore = "started by another test in a process of its own, which dies"]
fn dies_as_told() {
    let variable = |key| std::env::var(key).expect("it is set by the other test");
    let kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == variable(KIND)).expect("a kind");
    let number = variable(NUMBER).parse().expect("a number");
    let _watch = Watch::stop_at(&variable(POINT), number, Stop::Abort);
    run(work(Path::new(&variable(ROOT)), kind)).expect("the push is published unless it dies");
}
