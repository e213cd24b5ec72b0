//! A repository for one input, and what must hold of it afterwards.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, LazyLock, Mutex},
};

use tempfile::TempDir;
use treegraft_object::{
    Checksum, Commit, CommitId, DirMetaId, DirTree, DirTreeId, ObjectKind, ObjectName, RefName, detached, filez,
    summary::Summary, verify,
};
use treegraft_repo::{FileLock, LockKind, Repo};
use treegraft_server::{Receiver, config::Settings};
use treegraft_sign::ED25519_SIGNATURES;
use treegraft_wire::{GraftMode, OpenRequest, Purpose, RefOffer};

use crate::pool::{Pool, signing_key};

/// Refs that are there before an input, and the numbers of their commits.
const HEADS: [(&str, usize); 2] = [("main", 0), ("other", 1)];

/// Of so many repositories that have changed, one is shown to `ostree fsck`, beginning with the first.
const OSTREE_INTERVAL: u64 = 512;

fn clock() -> u64 {
    1_767_225_600
}

/// A repository in a directory of its own, to which everything that an input needs is linked.
pub struct Template {
    dir: TempDir,
    pool: Pool,
    changed: u64,
}

/// The repository of one input.
pub struct Place {
    dir: TempDir,
}

/// What a client was told to have asked for: more than that must not happen.
#[derive(Debug, Default)]
pub struct Asked {
    /// Offers of pushes that may have been opened, by the paths of their refs.
    offers: BTreeMap<String, Vec<RefOffer>>,
    /// The trees of commits that were sent or could have been.
    trees: HashMap<CommitId, (DirTreeId, DirMetaId)>,
    /// Commits that may have been sent with a good signature.
    pub signed: BTreeSet<CommitId>,
    /// Whether a publication may have begun.
    pub publishes: bool,
    /// What the server lets happen.
    settings: Option<Settings>,
    /// Whether all of this is unknown.
    is_anything: bool,
}

impl Asked {
    /// Begins with what the server lets happen.
    pub fn with(settings: &Settings) -> Self {
        Self { settings: Some(settings.clone()), ..Self::default() }
    }

    /// Knows nothing of what was asked for.
    pub fn anything() -> Self {
        Self { is_anything: true, ..Self::default() }
    }

    /// Notes an object that may be a commit.
    pub fn knows(&mut self, name: ObjectName, data: &[u8]) {
        if let (ObjectKind::Commit, Ok(commit)) = (name.kind, Commit::decode(data)) {
            self.trees.insert(commit.id(), (commit.root_tree, commit.root_meta));
        }
    }

    /// Notes the body of a request that may open a push.
    pub fn open(&mut self, body: &[u8]) {
        let Ok(request) = serde_json::from_slice::<OpenRequest>(body) else { return };
        if request.purpose == Purpose::DryRun {
            return;
        }
        for offer in request.refs {
            let mirrors = offer.graft.extra_collection_ids.iter().map(|id| format!("mirrors/{id}/{}", offer.name));
            for path in mirrors.chain([format!("heads/{}", offer.name)]) {
                self.offers.entry(path).or_default().push(offer.clone());
            }
        }
    }
}

/// Lends the process's template.
///
/// # Panics
///
/// When an input before has panicked.
pub fn with_template<T>(work: impl FnOnce(&mut Template) -> T) -> T {
    static TEMPLATE: LazyLock<Mutex<Template>> = LazyLock::new(|| Mutex::new(Template::new()));
    work(&mut TEMPLATE.lock().expect("no input has panicked"))
}

impl Template {
    /// Makes the repository.
    ///
    /// # Panics
    ///
    /// When the temporary directory cannot be written.
    fn new() -> Self {
        let dir = TempDir::with_prefix("treegraft-fuzz-").expect("a directory can be made");
        let path = dir.path().join("repo");
        Repo::init(&path, None).expect("a repository can be made");
        let config = "[core]\nrepo_version=1\nmode=archive-z2\nfsync=false\nmin-free-space-percent=0\n";
        fs::write(path.join("config"), config).expect("it can be written");
        let pool = Pool::sound();
        let wanted = closure(&pool);
        for (name, data) in pool.objects.iter().filter(|(name, _)| wanted.contains(name)) {
            let path = path.join(name.loose_path("filez"));
            fs::create_dir_all(path.parent().expect("it is below the repository")).expect("it can be made");
            fs::write(path, data).expect("it can be written");
        }
        for (name, commit) in HEADS {
            fs::write(path.join("refs/heads").join(name), format!("{}\n", pool.commits[commit].id())).expect("a ref");
        }
        let made = Self { dir, pool, changed: 0 };
        let key = signing_key();
        fs::write(made.secret_key_file(), key.secret_base64().as_bytes()).expect("it can be written");
        fs::write(made.public_key_file(), key.public_base64()).expect("it can be written");
        made
    }

    /// Returns the objects that an input begins with.
    pub fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Returns the file of the server's own key.
    pub fn secret_key_file(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    /// Returns the file of the keys that the server trusts.
    pub fn public_key_file(&self) -> PathBuf {
        self.dir.path().join("public")
    }

    /// Returns the repository, which is never changed.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    /// Makes a place for one input.
    pub fn place(&self) -> Place {
        let dir = TempDir::with_prefix_in("input-", self.dir.path()).expect("a directory can be made");
        link_tree(&self.path(), &dir.path().join("repo"));
        Place { dir }
    }

    /// Makes a place without refs and objects.
    ///
    /// # Panics
    ///
    /// When the temporary directory cannot be written.
    pub fn empty_place(&self) -> Place {
        let place = self.place();
        for directory in ["refs/heads", "objects"] {
            let path = place.path().join(directory);
            fs::remove_dir_all(&path).and_then(|()| fs::create_dir(&path)).expect("it can be made anew");
        }
        place
    }

    /// Checks what an input has left, when everything that it began is over.
    ///
    /// # Panics
    ///
    /// When it is not as it has to be, which is what fuzzing looks for.
    pub fn check(&mut self, place: &Place, asked: &Asked) {
        let repo = place.path();
        let names = check_objects(&repo);
        let old: BTreeMap<String, CommitId> =
            HEADS.iter().map(|(name, number)| (format!("heads/{name}"), self.pool.commits[*number].id())).collect();
        let new = refs(&repo);
        for (path, id) in &new {
            check_ref(&repo, path, *id, old.get(path).copied(), asked);
            check_tree(*id, &names);
        }
        assert!(old.keys().all(|path| new.contains_key(path)), "no ref goes away");
        check_rest(&repo, new != old);
        if new != old {
            if self.changed.is_multiple_of(OSTREE_INTERVAL) {
                ostree_fsck(&repo);
            }
            self.changed += 1;
        }
    }
}

impl Place {
    /// Returns the repository.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    /// Opens the repository for pushes.
    ///
    /// # Panics
    ///
    /// When that does not work, which would be a mistake of the target's.
    pub fn receiver(&self, settings: Settings) -> Arc<Receiver> {
        self.try_receiver(settings).expect("it can be pushed to")
    }

    /// Opens the repository for pushes, if that is possible.
    pub fn try_receiver(&self, settings: Settings) -> Option<Arc<Receiver>> {
        Receiver::open(&self.path(), settings, clock).map(Arc::new).ok()
    }
}

/// Lists the objects that the refs need.
fn closure(pool: &Pool) -> BTreeSet<ObjectName> {
    let mut wanted = BTreeSet::new();
    let find = |name: ObjectName| pool.objects.iter().find(|(known, _)| *known == name).expect("the pool is complete");
    let mut open: Vec<ObjectName> = HEADS.iter().map(|(_, number)| pool.commits[*number].id().into()).collect();
    while let Some(name) = open.pop() {
        wanted.insert(name);
        let (_, data) = find(name);
        open.extend(children(name, data));
    }
    wanted
}

/// Lists what an object needs besides a commit's parent.
fn children(name: ObjectName, data: &[u8]) -> Vec<ObjectName> {
    match name.kind {
        ObjectKind::Commit => {
            let commit = Commit::decode(data).expect("a stored commit is valid");
            vec![commit.root_tree.into(), commit.root_meta.into()]
        }
        ObjectKind::DirTree => {
            let tree = DirTree::decode(data).expect("a stored dirtree is valid");
            let below = |(_, tree, meta): &(String, DirTreeId, DirMetaId)| [(*tree).into(), (*meta).into()];
            tree.files.iter().map(|(_, file)| (*file).into()).chain(tree.dirs.iter().flat_map(below)).collect()
        }
        _ => Vec::new(),
    }
}

fn link_tree(from: &Path, to: &Path) {
    fs::DirBuilder::new().mode(0o755).create(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().expect("it has a kind") {
            kind if kind.is_dir() => link_tree(&from, &to),
            _ => fs::hard_link(from, to).expect("it can be linked"),
        }
    }
}

fn files(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let name = format!("{prefix}{}", entry.file_name().to_str().expect("names are texts"));
        match entry.file_type().expect("it has a kind") {
            kind if kind.is_dir() => files(&entry.path(), &format!("{name}/"), found),
            _ => drop(found.insert(name, fs::read(entry.path()).expect("it can be read"))),
        }
    }
}

fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    if dir.exists() {
        files(dir, "", &mut found);
    }
    found
}

/// Lists all refs by their paths.
fn refs(repo: &Path) -> BTreeMap<String, CommitId> {
    let read = |data: Vec<u8>| String::from_utf8(data).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
    let refs = files_of(&repo.join("refs")).into_iter();
    refs.map(|(path, data)| (path, read(data).expect("a ref is a checksum and a newline"))).collect()
}

/// Every object, published or staged, must be what its name says. Lists the published ones.
fn check_objects(repo: &Path) -> HashMap<ObjectName, Vec<u8>> {
    let mut names = HashMap::new();
    for (path, data) in files_of(&repo.join("objects")) {
        let name = check_object(&path, &data);
        names.insert(name, data);
    }
    for (path, data) in files_of(&repo.join(".treegraft/staging")) {
        let (_, path) = path.split_once('/').expect("a staging area is a directory");
        if path.contains('/') {
            check_object(path, &data);
        }
    }
    names
}

fn check_object(path: &str, data: &[u8]) -> ObjectName {
    let (digits, extension) = path.split_once('.').expect("an object has an extension");
    let checksum: Checksum = digits.replace('/', "").parse().expect("an object is named by its checksum");
    let kinds = (0..8).filter_map(ObjectKind::from_number);
    let kind = kinds.into_iter().find(|kind| extension.strip_suffix('z').unwrap_or(extension) == kind.extension());
    let name = ObjectName::new(kind.expect("the extension is that of a kind"), checksum);
    if name.kind == ObjectKind::File {
        let (mut content, source) = (Vec::new(), &mut { data });
        let info = filez::copy(source, &mut std::io::sink(), &mut content).expect("an object is valid");
        let hashed = [info.header.encode_bare(), content].concat();
        assert_eq!(Checksum::of(&hashed), checksum, "an object is what its name says");
    } else {
        verify::metadata(name, data).expect("an object is valid");
        let is_named = name.kind == ObjectKind::CommitMeta || Checksum::of(data) == checksum;
        assert!(is_named, "an object is what its name says");
    }
    name
}

/// A ref has moved only as it was asked for, and has lost nothing unless that was asked for.
fn check_ref(repo: &Path, path: &str, id: CommitId, old: Option<CommitId>, asked: &Asked) {
    if Some(id) == old || asked.is_anything {
        return;
    }
    assert!(asked.publishes, "{path} moves by a publication");
    let offers = asked.offers.get(path).unwrap_or_else(|| panic!("{path} was offered nothing"));
    let read = |id: CommitId| {
        let data = fs::read(repo.join(ObjectName::from(id).loose_path("filez"))).expect("a ref's commit is there");
        Commit::decode(&data).expect("it is valid")
    };
    let commit = read(id);
    let settings = asked.settings.clone().unwrap_or_default();
    if !settings.rule.is_empty() {
        let name: RefName =
            path.strip_prefix("heads/").and_then(|name| name.parse().ok()).expect("no mirror is allowed");
        assert!(settings.rule.iter().any(|rule| rule.refs.iter().any(|refs| refs.covers(&name))), "{path} is allowed");
    }
    let is_offered = |offer: &RefOffer| {
        (settings.verify_ed25519_files.is_empty() || asked.signed.contains(&offer.commit))
            && match offer.mode {
                // What is not known may have been there before.
                GraftMode::Rebase => {
                    asked.trees.get(&offer.commit).is_none_or(|tree| *tree == (commit.root_tree, commit.root_meta))
                }
                GraftMode::Exact => offer.commit == id,
            }
    };
    assert!(offers.iter().any(is_offered), "{path} has a commit that it was offered");
    if !settings.ed25519_key_files.is_empty() {
        let metadata = fs::read(repo.join(ObjectName::commit_meta(id).loose_path("filez"))).expect("it is signed");
        let metadata = detached::decode(&metadata).expect("it is valid");
        assert!(metadata.get(ED25519_SIGNATURES).is_some(), "{path} has a signed commit");
    }
    if let Some(old) = old.filter(|_| !offers.iter().any(|offer| offer.allow_older)) {
        assert!(
            commit.timestamp_secs >= read(old).timestamp_secs,
            "{path} goes back in time only where that was asked for"
        );
    }
    let may_force = settings.rule.is_empty() && settings.allow_force == Some(true);
    if may_force && offers.iter().any(|offer| offer.force) {
        return;
    }
    // What the old head had is still among the ancestors.
    let mut ancestor = Some(commit);
    while let (Some(commit), Some(old)) = (&ancestor, old) {
        let parent = commit.parent.unwrap_or_else(|| panic!("{path} has lost its history"));
        ancestor = (parent != old).then(|| read(parent));
    }
}

fn check_tree(id: CommitId, names: &HashMap<ObjectName, Vec<u8>>) {
    let mut open = vec![ObjectName::from(id)];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if seen.insert(name) {
            let data = names.get(&name).unwrap_or_else(|| panic!("{name} is missing, and {id} needs it"));
            open.extend(children(name, data));
        }
    }
}

/// Nothing is left where nothing has to be, no lock is held, and the summary tells the refs.
fn check_rest(repo: &Path, has_changed: bool) {
    for empty in ["tmp", "state", "extensions", ".treegraft/queue", ".treegraft/pending", ".treegraft/preview"] {
        assert_eq!(files_of(&repo.join(empty)).into_keys().next(), None, "`{empty}` is empty");
    }
    assert!(!repo.join(".treegraft/journal").exists(), "the journal is gone after a publication");
    let mut locks = vec![repo.join(".lock"), repo.join(".treegraft/publish.lock")];
    if let Ok(areas) = fs::read_dir(repo.join(".treegraft/staging")) {
        locks.extend(areas.map(|area| area.expect("it can be listed").path().join("lock")));
    }
    for path in locks.iter().filter(|path| path.exists()) {
        let lock = FileLock::try_acquire(path, LockKind::Exclusive).expect("it can be locked");
        assert!(lock.is_some(), "`{}` is free", path.display());
    }
    if has_changed {
        let summary = fs::read(repo.join("summary")).expect("a publication writes the summary");
        let summary = Summary::decode(&summary).expect("it is valid");
        let told = summary.refs.iter().map(|entry| (format!("heads/{}", entry.name), entry.commit));
        let heads = refs(repo).into_iter().filter(|(path, _)| path.starts_with("heads/"));
        assert_eq!(told.collect::<BTreeMap<_, _>>(), heads.collect(), "the summary tells the refs");
    }
}

/// Asks the judge of all repositories, where it is installed.
fn ostree_fsck(repo: &Path) {
    let mut command = Command::new("ostree");
    command.arg("fsck").arg("--quiet").arg(format!("--repo={}", repo.display())).stdout(Stdio::null());
    if let Ok(status) = command.status() {
        assert!(status.success(), "`ostree fsck` finds nothing");
    }
}
