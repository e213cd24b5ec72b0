//! Headers and directory metadata, which most entries of a tree share with others.

use std::{collections::HashMap, path::Path, sync::Arc};

use treegraft_object::{DirMeta, FileHeader, FileKind, Xattrs};

use crate::{Attributes, Header, TreeError};

/// What was made so far, by what it was made of.
#[derive(Default)]
pub(crate) struct Shared {
    /// Of regular files: a symlink's target is its own.
    headers: HashMap<(Attributes, Xattrs), Arc<Header>>,
    metas: HashMap<(Attributes, Xattrs), Arc<DirMeta>>,
}

impl Shared {
    /// Returns the header of the file at `path`, which must be valid.
    pub(crate) fn header(
        &mut self,
        attributes: Attributes,
        kind: FileKind,
        xattrs: Xattrs,
        path: &Path,
    ) -> Result<Arc<Header>, TreeError> {
        let is_shared = kind == FileKind::Regular;
        let key = (attributes, xattrs);
        if let Some(known) = self.headers.get(&key).filter(|_| is_shared) {
            return Ok(Arc::clone(known));
        }
        let Attributes { uid, gid, mode } = attributes;
        let header = FileHeader { uid, gid, mode, kind, xattrs: key.1.clone() };
        header.validate().map_err(|source| TreeError::Invalid { path: path.to_owned(), source })?;
        let header = Header::new(header);
        if is_shared {
            self.headers.insert(key, Arc::clone(&header));
        }
        Ok(header)
    }

    /// Returns the metadata of a directory.
    pub(crate) fn meta(&mut self, attributes: Attributes, xattrs: Xattrs) -> Arc<DirMeta> {
        let Attributes { uid, gid, mode } = attributes;
        let make = |(_, xattrs): &(Attributes, Xattrs)| Arc::new(DirMeta { uid, gid, mode, xattrs: xattrs.clone() });
        Arc::clone(self.metas.entry((attributes, xattrs)).or_insert_with_key(make))
    }
}
