//! Files to compare pushed ones with: what is at the same path in a tree that is published.
//!
//! That is the head of the pushed ref. A ref that is new is compared with those of the same app or runtime for another
//! machine or branch, and a Sdk with its Platform, as far as the caller may push to them as well: what a file consists of
//! is told only to those who may put it there.

use std::{cell::OnceCell, collections::HashMap, io::Read};

use treegraft_flatpak::{AppId, FlatpakRef};
use treegraft_object::{CommitId, ContentId, DirTreeId, RefName};
use treegraft_repo::{ByPath, Find, Repo};
use treegraft_wire::chunks::Place;

use crate::{Receiver, rights::Action};

/// Largest plain content that is compared, in bytes: inflating it takes a second or two.
pub(crate) const MAX_BASIS_BYTES: u64 = 1 << 30;

/// Most trees that a new ref is compared with.
const MAX_RELATIVES: usize = 4;

/// How the ids of a SDK and of its Platform end.
const SDK: &str = ".Sdk";
const PLATFORM: &str = ".Platform";

/// Opens the plain content of a published object that files can be compared with, if there is one that is not too large.
///
/// One that cannot be read is as good as none: comparing is only a help, and if it is damaged, the new object may heal it.
pub(crate) fn open(repo: &Repo, basis: ContentId) -> Option<impl Read + use<>> {
    let content = repo.open_content(basis).ok()?;
    (content.content_bytes <= MAX_BASIS_BYTES).then_some(content.reader)
}

/// Finds what new refs are compared with. The repository's refs are listed once, when one of them is new.
pub(crate) struct Relatives<'r> {
    receiver: &'r Receiver,
    refs: OnceCell<HashMap<String, Vec<Relative>>>,
}

/// A published ref that a new one may be related to.
struct Relative {
    name: RefName,
    flatpak_ref: FlatpakRef,
    commit: CommitId,
}

impl<'r> Relatives<'r> {
    pub(crate) const fn new(receiver: &'r Receiver) -> Self {
        Self { receiver, refs: OnceCell::new() }
    }

    /// Returns the commits whose trees a pushed ref is compared with, the best one first.
    pub(crate) fn commits(&self, name: &RefName, head: Option<CommitId>) -> Vec<CommitId> {
        if let Some(head) = head {
            return vec![head];
        }
        let Ok(pushed) = FlatpakRef::parse(name) else { return Vec::new() };
        let refs = self.refs.get_or_init(|| self.by_stem());
        let relatives = refs.get(stem(pushed.id())).map_or(&[][..], |relatives| relatives);
        let mut found: Vec<_> = relatives
            .iter()
            .filter_map(|relative| Some((distance(&pushed, &relative.flatpak_ref)?, relative)))
            .filter(|(_, relative)| self.receiver.rights().demand(&relative.name, Action::Rebase).is_ok())
            .collect();
        found.sort_by_key(|&(distance, _)| distance);
        found.into_iter().map(|(_, relative)| relative.commit).take(MAX_RELATIVES).collect()
    }

    fn by_stem(&self) -> HashMap<String, Vec<Relative>> {
        // Without them objects are sent as a whole; what is wrong with the refs is told at the publication.
        let refs = self.receiver.repo.refs().unwrap_or_default();
        let mut by_stem: HashMap<_, Vec<_>> = HashMap::new();
        for (name, commit) in refs {
            let Ok(flatpak_ref) = FlatpakRef::parse(&name) else { continue };
            by_stem.entry(stem(flatpak_ref.id()).to_owned()).or_default().push(Relative { name, flatpak_ref, commit });
        }
        by_stem
    }
}

/// Returns what the ids of related refs have in common.
fn stem(id: &AppId) -> &str {
    let id = id.as_str();
    id.strip_suffix(SDK).or_else(|| id.strip_suffix(PLATFORM)).unwrap_or(id)
}

/// Tells how far apart two refs are, if they are related.
fn distance(pushed: &FlatpakRef, other: &FlatpakRef) -> Option<u32> {
    if pushed.kind() != other.kind() {
        return None;
    }
    let id = if pushed.id() == other.id() {
        0
    } else if is_sdk_and_platform(pushed, other) || is_sdk_and_platform(other, pushed) {
        1
    } else {
        return None;
    };
    Some(id + 2 * u32::from(pushed.branch() != other.branch()) + 4 * u32::from(pushed.arch() != other.arch()))
}

fn is_sdk_and_platform(sdk: &FlatpakRef, platform: &FlatpakRef) -> bool {
    let (sdk, platform) = (sdk.id().as_str(), platform.id().as_str());
    sdk.strip_suffix(SDK).is_some_and(|stem| platform.strip_suffix(PLATFORM) == Some(stem))
}

/// Finds files by their places.
pub(crate) struct Finder<'r> {
    repo: &'r Repo,
    /// The commits for each ref.
    commits: &'r [Vec<CommitId>],
    /// The trees of those that were looked at, as far as they can be read.
    roots: HashMap<CommitId, Option<DirTreeId>>,
    by_path: ByPath<'r>,
}

impl<'r> Finder<'r> {
    pub(crate) fn new(repo: &'r Repo, commits: &'r [Vec<CommitId>]) -> Self {
        Self { repo, commits, roots: HashMap::new(), by_path: ByPath::new(repo) }
    }

    /// Returns the content object at a place, if there is one. Where a tree has a hole, there is none.
    pub(crate) fn find(&mut self, place: &Place) -> Option<ContentId> {
        let commits = self.commits.get(place.ref_index as usize).map_or(&[][..], |commits| commits);
        commits.iter().find_map(|&commit| {
            let read_root = || self.repo.commit(commit).ok().map(|commit| commit.root_tree);
            let root = (*self.roots.entry(commit).or_insert_with(read_root))?;
            self.by_path.file(root, &place.path).ok().flatten()
        })
    }
}
