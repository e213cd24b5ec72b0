//! The commits of a push: whether they are complete, and what becomes of them on their refs.

use std::collections::HashSet;

use treegraft_flatpak::{DownloadSizes, GraftTarget, SizeError, is_flatpak_ref};
use treegraft_object::{Commit, CommitId, DirTreeId, ObjectName, detached, gvariant::Dict};
use treegraft_repo::{Closure, Find, PublishLock, StagedView, Staging, fault};
use treegraft_sign::SignedData;
use treegraft_wire::{ApiError, ErrorCode, RefOffer};

use crate::{
    Receiver,
    config::DetachedMetadata,
    error::{chain, from_check, from_io, from_read, from_sign, from_staging},
    policy,
    recorded_sizes::RecordedSizes,
    session::Session,
    signing,
};

/// Names of missing objects that an error lists: enough to look for a pattern, short enough to read.
const MAX_LISTED_MISSING: usize = 5;

/// Bytes of commits, with their detached metadata, that wait to be signed together. Most pushes have less; an endless history
/// must not be in memory at once.
const MAX_UNSIGNED_BYTES: usize = 8 << 20;

/// A commit, and its detached metadata without the server's signatures.
struct Unsigned {
    id: CommitId,
    data: Vec<u8>,
    metadata: Dict,
}

/// Checks and makes commits over what is staged and what is published.
pub(crate) struct Commits<'p> {
    receiver: &'p Receiver,
    session: &'p Session,
    staging: &'p Staging,
    view: &'p StagedView<'p>,
    closure: Closure<'p>,
    sizes: DownloadSizes<'p>,
    recorded: RecordedSizes,
    /// The trees that were grafted, with the tree of the head before and with their download size in bytes.
    sized_trees: Vec<(Option<DirTreeId>, DirTreeId, u64)>,
    /// Commits that are published as they are: two refs may get the same one.
    kept: HashSet<CommitId>,
    /// Commits whose signatures were looked at.
    verified: HashSet<CommitId>,
    /// Commits that are neither signed nor staged yet.
    unsigned: Vec<Unsigned>,
    unsigned_bytes: usize,
    /// Staged objects that the commits need, each once, children before their dirtree.
    objects: Vec<ObjectName>,
    /// Those of them that belong to the pushed trees: how many, and their size in bytes.
    of_trees: (u64, u64),
}

impl<'p> Commits<'p> {
    /// Starts with what the session knows, which is of no use to it any more.
    pub(crate) fn new(
        receiver: &'p Receiver,
        session: &'p Session,
        staging: &'p Staging,
        view: &'p StagedView<'p>,
    ) -> Self {
        let (known, sizes) = session.knowledge.take();
        let (closure, sizes) = (Closure::with_known(view, known), DownloadSizes::with_known(view, sizes));
        let recorded = RecordedSizes::read(&receiver.repo);
        let (sized_trees, kept, verified) = (Vec::new(), HashSet::new(), HashSet::new());
        let (unsigned, unsigned_bytes, objects, of_trees) = (Vec::new(), 0, Vec::new(), (0, 0));
        Self {
            receiver,
            session,
            staging,
            view,
            closure,
            sizes,
            recorded,
            sized_trees,
            kept,
            verified,
            unsigned,
            unsigned_bytes,
            objects,
            of_trees,
        }
    }

    /// Returns the staged objects that have to be published.
    pub(crate) fn objects(&self) -> impl Iterator<Item = ObjectName> {
        self.objects.iter().copied()
    }

    /// Returns how many of them belong to the pushed trees, and their size in bytes.
    pub(crate) const fn of_trees(&self) -> (u64, u64) {
        self.of_trees
    }

    /// Puts the sizes of the trees on record, after they were published.
    pub(crate) fn record_sizes(&self, lock: &PublishLock) {
        if !self.sized_trees.is_empty() {
            RecordedSizes::replace(lock, &self.receiver.repo, &self.sized_trees);
        }
    }

    /// Reads a commit.
    pub(crate) fn read(&self, offer: &RefOffer, id: CommitId) -> Result<Commit, ApiError> {
        let Some(data) = self.view.metadata(id.into()).map_err(from_read)? else {
            return Err(incomplete(offer, &[id.into()], 1));
        };
        Commit::decode(&data).map_err(|error| ApiError::new(ErrorCode::InvalidObject, chain(&error)).of_object(&id))
    }

    /// Reads a commit and checks that its whole tree is there.
    pub(crate) fn complete(&mut self, offer: &RefOffer, id: CommitId) -> Result<Commit, ApiError> {
        let commit = self.read(offer, id)?;
        let (staging, objects, of_trees) = (self.staging, &mut self.objects, &mut self.of_trees);
        let mut visit = |name: ObjectName| {
            if let Some(bytes) = staging.size(name) {
                objects.push(name);
                of_trees.0 += 1;
                of_trees.1 += bytes;
            }
        };
        if self.closure.visit_tree(commit.root_tree, commit.root_meta, &mut visit).map_err(from_check)? {
            Ok(commit)
        } else {
            Err(incomplete(offer, self.closure.missing(), self.closure.missing_count()))
        }
    }

    /// Demands the signatures that the settings want, in the detached metadata that came with the push.
    pub(crate) fn verify(&mut self, offer: &RefOffer) -> Result<(), ApiError> {
        let trusted = &self.receiver.trusted;
        if trusted.is_empty() || !self.verified.insert(offer.commit) {
            return Ok(());
        }
        let Some(data) = self.view.metadata(offer.commit.into()).map_err(from_read)? else {
            return Err(incomplete(offer, &[offer.commit.into()], 1));
        };
        // A commit that the repository has already is none of the push; here it is in a file that stays as it is.
        self.staging.stage_metadata(offer.commit, &data).map_err(from_staging)?;
        let file = self.staging.object_path(offer.commit);
        let metadata = self.staged_metadata(offer.commit)?.unwrap_or_default();
        signing::verify(trusted, offer, SignedData { data: &data, file: &file }, &metadata)
    }

    /// Makes the commit that puts the pushed tree on top of the head.
    pub(crate) fn graft(
        &mut self,
        offer: &RefOffer,
        source: &Commit,
        head: Option<CommitId>,
    ) -> Result<CommitId, ApiError> {
        let download_bytes =
            if is_flatpak_ref(&offer.name) { Some(self.download_size(offer, source.root_tree, head)?) } else { None };
        let target = GraftTarget {
            ref_name: offer.name.clone(),
            collection_id: self.receiver.repo.config().collection_id.clone(),
            parent: head,
            download_bytes,
        };
        let grafted = treegraft_flatpak::graft(source, offer.commit, &target, &offer.graft)
            .map_err(|error| ApiError::new(ErrorCode::GraftOption, chain(&error)).of_ref(&offer.name))?;
        let mut metadata = match self.receiver.settings.detached_metadata {
            DetachedMetadata::Always => self.staged_metadata(offer.commit)?.unwrap_or_default(),
            DetachedMetadata::Never | DetachedMetadata::Exact => Dict::new(),
        };
        detached::remove_signatures(&mut metadata);
        let id = grafted.id();
        self.add(id, grafted.encode(), metadata)?;
        Ok(id)
    }

    /// Computes the download size of a tree, from that of the head's where it is on record.
    fn download_size(&mut self, offer: &RefOffer, root: DirTreeId, head: Option<CommitId>) -> Result<u64, ApiError> {
        let old_root = head.map(|head| self.view.commit(head)).transpose().map_err(from_read)?.map(|old| old.root_tree);
        let recorded = old_root.and_then(|old| Some((old, self.recorded.get(old)?)));
        let bytes = match recorded {
            Some((old, old_bytes)) => self.sizes.of_changed(root, old, old_bytes),
            None => self.sizes.of(root),
        };
        let failed = |error: SizeError| {
            ApiError::new(ErrorCode::Repository, chain(&error)).of_ref(&offer.name).temporary(error.is_temporary())
        };
        let bytes = bytes.map_err(failed)?;
        self.sized_trees.push((old_root, root, bytes));
        Ok(bytes)
    }

    /// Takes what belongs to a commit that is published as it is, with all commits between it and the head.
    ///
    /// Signatures of the push stay beside the server's own where the settings say so.
    pub(crate) fn keep(&mut self, offer: &RefOffer, head: Option<CommitId>) -> Result<CommitId, ApiError> {
        for id in policy::added_commits(self.view, offer, head)? {
            if !self.kept.insert(id) {
                continue;
            }
            let commit = self.complete(offer, id)?;
            policy::check_kept_bindings(self.receiver, offer, id, &commit)?;
            let published = self.receiver.repo.detached_metadata(id).map_err(from_read)?.unwrap_or_default();
            let metadata = match self.receiver.settings.detached_metadata {
                DetachedMetadata::Never => published,
                DetachedMetadata::Exact | DetachedMetadata::Always => {
                    merged(published, self.staged_metadata(id)?.as_ref())
                }
            };
            // What was decoded strictly is encoded to the same bytes.
            self.add(id, commit.encode(), metadata)?;
        }
        Ok(offer.commit)
    }

    fn add(&mut self, id: CommitId, data: Vec<u8>, metadata: Dict) -> Result<(), ApiError> {
        self.unsigned_bytes += data.len() + metadata.encode().len();
        self.unsigned.push(Unsigned { id, data, metadata });
        if self.unsigned_bytes > MAX_UNSIGNED_BYTES { self.sign() } else { Ok(()) }
    }

    /// Signs the commits that were made or taken, and stages them with their detached metadata.
    pub(crate) fn sign(&mut self) -> Result<(), ApiError> {
        let unsigned = std::mem::take(&mut self.unsigned);
        self.unsigned_bytes = 0;
        let messages: Vec<_> = unsigned.iter().map(|commit| &commit.data).collect();
        let signatures = self.receiver.keys.sign_each(&messages).map_err(from_sign)?;
        for (mut commit, signatures) in unsigned.into_iter().zip(signatures) {
            signing::append(&mut commit.metadata, &signatures);
            fault::point("commit:signed").map_err(from_io)?;
            self.stage(&commit)?;
        }
        Ok(())
    }

    fn stage(&mut self, Unsigned { id, data, metadata }: &Unsigned) -> Result<(), ApiError> {
        let id = *id;
        self.staging.stage_metadata(id, data).map_err(from_staging)?;
        self.objects.push(id.into());
        if !metadata.is_empty() {
            let name = ObjectName::commit_meta(id);
            self.staging.stage_metadata(name, &metadata.encode()).map_err(from_staging)?;
            self.objects.push(name);
        }
        fault::point("commit:staged").map_err(from_io)
    }

    /// Returns the detached metadata that came with a commit of this push. What another push has left is none of its.
    fn staged_metadata(&self, commit: CommitId) -> Result<Option<Dict>, ApiError> {
        if !self.session.offers_commit(commit.0) {
            return Ok(None);
        }
        let name = ObjectName::commit_meta(commit);
        let Some(data) = self.staging.metadata(name).map_err(from_read)? else {
            return Ok(None);
        };
        detached::decode(&data)
            .map(Some)
            .map_err(|error| ApiError::new(ErrorCode::InvalidObject, chain(&error)).of_object(&name))
    }
}

/// Adds what was pushed to what is there: signatures are joined, other keys of the push win.
fn merged(mut published: Dict, pushed: Option<&Dict>) -> Dict {
    for (key, value) in pushed.into_iter().flat_map(Dict::iter) {
        match value.as_byte_arrays().filter(|_| detached::SIGNATURE_KEYS.contains(&key)) {
            Some(signatures) => detached::append_signatures(&mut published, key, signatures),
            None => published.set(key, value.clone()),
        }
    }
    published
}

fn incomplete(offer: &RefOffer, missing: &[ObjectName], count: usize) -> ApiError {
    let listed: Vec<String> = missing.iter().take(MAX_LISTED_MISSING).map(|name| format!("`{name}`")).collect();
    let rest = if count > listed.len() { ", …" } else { "" };
    let (name, listed) = (&offer.name, listed.join(", "));
    let detail = format!("The commit for `{name}` is not complete, objects are missing ({count}): {listed}{rest}");
    ApiError::new(ErrorCode::Incomplete, detail)
        .of_ref(name)
        .hint("run `ostree fsck` on the repository that you push from")
}
