//! Content objects of any mode as `.filez`.

use std::io::{self, Write};

use treegraft_object::{
    ContentId, ObjectName,
    filez::{self, FilezError, FilezInfo},
};

use crate::{Mode, ReadError, Repo};

impl Repo {
    /// Streams a content object as `.filez` and verifies it on the way.
    ///
    /// An archive repository's file is copied as it is; from another mode it is compressed with `archive.zlib-level`. What
    /// was written must be thrown away after an error, which includes a checksum that is not `id`.
    pub fn write_archived(&self, id: ContentId, archived: &mut dyn Write) -> Result<FilezInfo, ReadError> {
        let name = ObjectName::from(id);
        for repo in self.with_parents() {
            let info = if repo.mode() == Mode::Archive {
                let Some((mut file, _)) = repo.loose().open(name)? else { continue };
                filez::copy(&mut file, &mut &mut *archived, &mut io::sink())
            } else {
                let Some(mut content) = repo.open_own_content(id)? else { continue };
                let level = self.config().zlib_level;
                filez::write(&content.header, content.content_bytes, &mut content.reader, level, &mut &mut *archived)
            };
            return check(repo, id, info);
        }
        Err(ReadError::NotFound { name })
    }

    /// Reads a content object that is here and not in a parent, and verifies all of it.
    pub(crate) fn verify_own_content(&self, id: ContentId) -> Result<FilezInfo, ReadError> {
        let name = ObjectName::from(id);
        let info = if self.mode() == Mode::Archive {
            let (mut file, _) = self.loose().open(name)?.ok_or(ReadError::NotFound { name })?;
            filez::copy(&mut file, &mut io::sink(), &mut io::sink())
        } else {
            let mut content = self.open_own_content(id)?.ok_or(ReadError::NotFound { name })?;
            // Level 0 stores without compressing: only the checksum is wanted.
            filez::write(&content.header, content.content_bytes, &mut content.reader, 0, &mut io::sink())
        };
        check(self, id, info)
    }
}

fn check(repo: &Repo, id: ContentId, info: Result<FilezInfo, FilezError>) -> Result<FilezInfo, ReadError> {
    let name = ObjectName::from(id);
    match info {
        Ok(info) if info.id == id => Ok(info),
        Ok(info) => Err(ReadError::Checksum { name, actual: info.id.0 }),
        Err(FilezError::Invalid(source)) => Err(ReadError::Invalid { name, source }),
        Err(FilezError::Read(source)) => Err(ReadError::Io { path: repo.loose().path_of(name), source }),
        Err(FilezError::Write(source)) => Err(ReadError::Write { name, source }),
    }
}
