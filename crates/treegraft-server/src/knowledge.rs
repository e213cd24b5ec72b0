//! What is known of the published repository, found out once in a push.
//!
//! Most of a pushed tree is that of the ref's head. Whether it is complete and how large it is takes a look at every file,
//! in a large tree on a cold disk for seconds. So the heads are looked at while objects are still on their way, and neither
//! an answer about missing objects nor the publication has to look again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use treegraft_flatpak::{DownloadSizes, KnownSizes, is_flatpak_ref};
use treegraft_object::{DirTreeId, RefName};
use treegraft_repo::{Closure, Find, KnownObjects, Repo};

use crate::recorded_sizes::RecordedSizes;

/// What a push knows of the published repository. It holds as long as the push holds the repository's lock.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    objects: Mutex<KnownObjects>,
    sizes: Mutex<KnownSizes>,
}

impl Knowledge {
    /// Looks at the trees of the refs' heads, until the client is gone. What fails here fails again where it is needed, and is
    /// reported there.
    pub(crate) fn look_ahead(&self, repo: &Repo, refs: &[RefName], client_gone: &CancellationToken) {
        let heads = refs.iter().filter_map(|name| {
            let head = repo.resolve_ref(name).ok()??;
            Some((name, repo.commit(head).ok()?.root_tree))
        });
        let heads: Vec<_> = heads.collect();
        let roots: Vec<_> = heads.iter().map(|&(_, root_tree)| root_tree).collect();
        {
            let mut known = lock(&self.objects);
            *known = std::mem::take(&mut *known).look_below(repo, &roots, &|| !client_gone.is_cancelled());
        }
        let recorded = RecordedSizes::read(repo);
        let is_unknown = |&(name, root): &(&RefName, DirTreeId)| is_flatpak_ref(name) && recorded.get(root).is_none();
        for (_, root_tree) in heads.into_iter().filter(is_unknown) {
            if client_gone.is_cancelled() {
                return;
            }
            let mut known = lock(&self.sizes);
            let mut sizes = DownloadSizes::with_known(repo, std::mem::take(&mut known));
            let _ = sizes.of(root_tree);
            *known = sizes.into_known();
        }
    }

    /// Looks at the published repository with what is known of it, and keeps what is found.
    pub(crate) fn look<T>(&self, repo: &Repo, look: impl FnOnce(&mut Closure<'_>) -> T) -> T {
        let mut known = lock(&self.objects);
        let mut closure = Closure::with_known(repo, std::mem::take(&mut known));
        let result = look(&mut closure);
        *known = closure.into_known();
        result
    }

    /// Gives away what is known, for the publication. A look that is under way is waited for.
    pub(crate) fn take(&self) -> (KnownObjects, KnownSizes) {
        (std::mem::take(&mut *lock(&self.objects)), std::mem::take(&mut *lock(&self.sizes)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
