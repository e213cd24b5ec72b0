//! What an object from outside must pass before it gets its name.

use std::io::{self, Read, Write};

use crate::{
    Checksum, CommitRef, DecodeError, DirMeta, DirTreeRef, ObjectKind, ObjectName, detached,
    filez::{self, FilezError, FilezInfo},
    limits, tombstone,
};

/// Why an object is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The object breaks a rule of its format.
    #[error("The object `{name}` is not valid")]
    Invalid {
        /// The object.
        name: ObjectName,
        /// The broken rule.
        #[source]
        source: DecodeError,
    },
    /// The object's bytes, or the commit that a tombstone holds, have another checksum than its name.
    #[error("The object `{name}` has the checksum {actual}")]
    Checksum {
        /// The object.
        name: ObjectName,
        /// The checksum of what came.
        actual: Checksum,
    },
    /// Reading failed.
    #[error("Could not read the object `{name}`")]
    Read {
        /// The object.
        name: ObjectName,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("Could not write the object `{name}`")]
    Write {
        /// The object.
        name: ObjectName,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl VerifyError {
    /// Returns the stable code: that of the broken rule, `checksum-mismatch`, or `io`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid { source, .. } => source.code(),
            Self::Checksum { .. } => "checksum-mismatch",
            Self::Read { .. } | Self::Write { .. } => "io",
        }
    }
}

/// Checks a metadata object: its size, its checksum, its format.
///
/// Detached metadata has no checksum of its own; only its size and format are checked.
pub fn metadata(name: ObjectName, data: &[u8]) -> Result<(), VerifyError> {
    let invalid = |source| VerifyError::Invalid { name, source };
    let bytes = data.len() as u64;
    if bytes > limits::MAX_METADATA_BYTES {
        let limit_bytes = limits::MAX_METADATA_BYTES;
        return Err(invalid(DecodeError::TooLarge { what: "metadata object", bytes, limit_bytes }));
    }
    if matches!(name.kind, ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta) {
        let actual = Checksum::of(data);
        if actual != name.checksum {
            return Err(VerifyError::Checksum { name, actual });
        }
    }
    match name.kind {
        ObjectKind::Commit => CommitRef::decode(data).map(drop),
        ObjectKind::DirTree => DirTreeRef::decode(data).map(drop),
        ObjectKind::DirMeta => DirMeta::decode(data).map(drop),
        ObjectKind::CommitMeta => detached::decode(data).map(drop),
        ObjectKind::TombstoneCommit => {
            let actual = tombstone::decode(data).map_err(invalid)?.0;
            return if actual == name.checksum { Ok(()) } else { Err(VerifyError::Checksum { name, actual }) };
        }
        ObjectKind::File => Err(DecodeError::ValueType { key: name.to_string(), expected: "metadata" }),
    }
    .map_err(invalid)
}

/// Copies an archive content object into `archived` and checks its format, its size and its checksum on the way.
///
/// What was written must be thrown away after an error.
pub fn content(name: ObjectName, source: &mut impl Read, archived: &mut impl Write) -> Result<FilezInfo, VerifyError> {
    let info = filez::copy(source, archived, &mut io::sink()).map_err(|error| match error {
        FilezError::Invalid(source) => VerifyError::Invalid { name, source },
        FilezError::Read(source) => VerifyError::Read { name, source },
        FilezError::Write(source) => VerifyError::Write { name, source },
    })?;
    if info.id.0 == name.checksum { Ok(info) } else { Err(VerifyError::Checksum { name, actual: info.id.0 }) }
}
