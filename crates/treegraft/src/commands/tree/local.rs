//! Commits into a repository on this machine, as `ostree commit` and `flatpak build-export` make them.

use std::path::Path;

use serde::Serialize;
use treegraft_flatpak::{DOWNLOAD_SIZE, DownloadSizes, is_flatpak_ref};
use treegraft_object::{CollectionId, Commit, CommitId, ObjectName, RefName, gvariant::Variant};
use treegraft_repo::{
    LockKind, Mode, PublishLock, RefEdit, RefTarget, Repo, RepoLock, Staging, Transaction, TransactionError,
};
use treegraft_tree::{HashOptions, Stored};

use super::{HashArgs, Made};
use crate::{clock, error::CommandError, exit::Exit, human, progress::HashProgress, ui::Ui};

/// How often refs may be moved by `ostree` in the middle of a commit.
const MAX_TRIES: u32 = 10;

/// What was committed.
#[derive(Debug, Serialize)]
pub(crate) struct Committed {
    refs: Vec<MovedRef>,
    new_objects: u64,
    new_bytes: u64,
    objects: u64,
}

#[derive(Debug, Serialize)]
struct MovedRef {
    name: RefName,
    old: Option<CommitId>,
    new: CommitId,
}

/// A publish in the repository was cut off and has to be finished first.
#[derive(Debug, thiserror::Error)]
#[error("A push to the repository was cut off while its summary was written")]
struct CutOff;

/// Makes commits and puts them into the repository, and shows how far that is.
pub(crate) fn make_and_commit(
    ui: Ui,
    repo: &Repo,
    hash: &HashArgs,
    make: impl FnOnce(HashOptions<'_>) -> Result<Made, CommandError>,
) -> Result<Committed, CommandError> {
    let progress = HashProgress::start(ui);
    let cache = hash.open()?;
    let advance = |bytes| progress.advance(bytes);
    let options = HashOptions { progress: &advance, cache: cache.as_ref(), ..HashOptions::default() };
    let commits = make(options)?;
    hash.save(cache.as_ref())?;
    progress.storing();
    commit(repo, &commits, options)
}

/// Stores what was made, and puts each commit on top of its ref.
pub(crate) fn commit(repo: &Repo, made: &Made, options: HashOptions<'_>) -> Result<Committed, CommandError> {
    // From the first look at what is there to the last ref, so that no prune comes between.
    let _lock = RepoLock::acquire(repo, LockKind::Shared, &mut |_| ())?;
    let (staging, _) = Staging::open(repo)?;
    let stored = made.objects.store(repo, &staging, options)?;
    let sizes = download_sizes(repo, &staging, made)?;
    let mut tries = 0;
    let refs = loop {
        tries += 1;
        match move_refs(repo, &staging, made, &sizes, &stored) {
            Err(error) if tries < MAX_TRIES && error.is::<RefMoved>() => {}
            result => break result?,
        }
    };
    staging.retire(repo, &[], clock::now_secs())?;
    let Stored { objects, new_objects, new_bytes } = stored;
    let commits = refs.len() as u64;
    Ok(Committed { refs, new_objects: new_objects + commits, new_bytes, objects: objects.len() as u64 + commits })
}

/// A ref was moved by somebody else in the middle of a commit.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct RefMoved(TransactionError);

fn move_refs(
    repo: &Repo,
    staging: &Staging,
    made: &Made,
    sizes: &[Option<u64>],
    stored: &Stored,
) -> Result<Vec<MovedRef>, CommandError> {
    let lock = PublishLock::acquire(repo, &mut |_| ())?;
    if lock.recovered().is_some_and(treegraft_repo::Recovered::needs_summary) {
        let repo = repo.path().display();
        return Err(
            CommandError::user(CutOff).hint(format!("finish it with `treegraft summary --update --repo {repo}`"))
        );
    }
    let mut transaction = Transaction::new(repo, &lock, staging);
    transaction.link(stored.objects.iter().copied());
    let mut refs = Vec::new();
    for ((name, commit), &size) in made.commits.iter().zip(sizes) {
        let old = repo.resolve_ref(name)?;
        let mut commit = Commit { parent: old, ..commit.clone() };
        if let Some(bytes) = size {
            commit.metadata.set(DOWNLOAD_SIZE, Variant::uint64_be(bytes));
        }
        let new = commit.id();
        staging.stage_metadata(new, &commit.encode())?;
        transaction.link([ObjectName::from(new)]);
        transaction.set_ref(RefEdit { target: RefTarget::Head(name.clone()), expected: old, new });
        refs.push(MovedRef { name: name.clone(), old, new });
    }
    let committed = transaction.prepare().and_then(treegraft_repo::Prepared::commit).map_err(|error| match error {
        error @ TransactionError::RefMoved { .. } => CommandError::temporary(RefMoved(error)),
        error => error.into(),
    })?;
    committed.finish()?;
    Ok(refs)
}

/// Returns what a client downloads of each commit's tree, as the repository stores it; for refs of Flatpak's alone.
fn download_sizes(repo: &Repo, staging: &Staging, made: &Made) -> Result<Vec<Option<u64>>, CommandError> {
    let view = staging.view(repo);
    let mut archived = DownloadSizes::new(&view);
    let size = |(name, commit): &(RefName, Commit)| {
        if !is_flatpak_ref(name) {
            return Ok(None);
        }
        if repo.mode() == Mode::Archive {
            return archived.of(commit.root_tree).map(Some).map_err(CommandError::internal);
        }
        // Nothing is compressed in any other mode, and that is what Flatpak counts.
        Ok(Some(made.objects.plain_size(commit.root_tree)))
    };
    made.commits.iter().map(size).collect()
}

/// Opens the repository, or makes an archive repository where there is none.
pub(crate) fn open_or_init(path: &Path, collection_id: Option<&CollectionId>) -> Result<Repo, CommandError> {
    let is_empty = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if is_empty { Ok(Repo::init(path, collection_id)?) } else { Ok(Repo::open(path)?) }
}

impl Committed {
    /// Writes what was committed.
    pub(crate) fn write(&self, ui: Ui) -> Result<Exit, CommandError> {
        if ui.is_json() {
            ui.json(self)?;
            return Ok(Exit::Done);
        }
        let short = |id: CommitId| if ui.is_verbose() { id.to_string() } else { human::short(id.0) };
        let width = self.refs.iter().map(|moved| moved.name.as_str().chars().count()).max().unwrap_or(0);
        let mut out = ui.stdout();
        for MovedRef { name, old, new } in &self.refs {
            let old = old.map_or_else(|| "new".to_owned(), short);
            out.line(format_args!("{:width$}  {old} → {}", name.as_str(), short(*new)))?;
        }
        let (new, all) = (human::count(self.new_objects), human::things(self.objects, "object"));
        out.line(format_args!("Stored {new} of {all}, {}", human::bytes(self.new_bytes)))?;
        out.finish()?;
        Ok(Exit::Done)
    }
}
