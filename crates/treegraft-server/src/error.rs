//! Errors of the layers below as errors of the API.
//!
//! What a person on the other side can act on keeps its words. What concerns the server's own disk and files is told in
//! full as well: whoever may push to a repository may know its path.

#![expect(clippy::needless_pass_by_value, reason = "these functions are given to `map_err`")]

use std::{error::Error, fmt::Write as _, io};

use treegraft_object::{ObjectName, verify::VerifyError};
use treegraft_repo::{
    LockError, PublishError, ReadError, RefEditError, RefError, StagingError, TransactionError, deltas::DeltaError,
    summary::SummaryError,
};
use treegraft_sign::SignError;
use treegraft_wire::{ApiError, ErrorCode};

/// Joins an error and its sources into one sentence.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// An error of the server's own files: the disk is full, or it is something that pushers can do nothing about.
fn from_disk(error: &(dyn Error + 'static)) -> ApiError {
    let mut cause = Some(error);
    while let Some(current) = cause {
        let kind = current.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return no_space(chain(error));
        }
        cause = current.source();
    }
    ApiError::new(ErrorCode::Repository, chain(error))
}

fn no_space(detail: String) -> ApiError {
    ApiError::new(ErrorCode::NoSpace, detail)
        .hint("make room on the server, or lower `core.min-free-space-percent` or `core.min-free-space-size`")
}

/// An error of a fault point, and of whatever else is the disk's.
pub(crate) fn from_io(error: io::Error) -> ApiError {
    from_disk(&error)
}

pub(crate) fn from_read(error: ReadError) -> ApiError {
    let answer = ApiError::new(ErrorCode::Repository, chain(&error));
    if error.is_temporary() { answer.temporary(true) } else { answer.hint("run `treegraft fsck` on the server") }
}

/// An error of looking whether a pushed commit is complete: what is wrong with its tree is not the server's fault.
pub(crate) fn from_check(error: ReadError) -> ApiError {
    match &error {
        ReadError::TooDeep { dirtree, .. } => ApiError {
            rule: Some(error.code().to_owned()),
            ..ApiError::new(ErrorCode::InvalidObject, chain(&error)).of_object(&ObjectName::from(*dirtree))
        },
        _ => from_read(error),
    }
}

pub(crate) fn from_ref(error: RefError) -> ApiError {
    ApiError::new(ErrorCode::Repository, chain(&error)).temporary(error.is_temporary())
}

pub(crate) fn from_lock(error: LockError) -> ApiError {
    if error.is_temporary() { ApiError::new(ErrorCode::Locked, chain(&error)) } else { from_disk(&error) }
}

pub(crate) fn from_staging(error: StagingError) -> ApiError {
    let (detail, is_temporary) = (chain(&error), error.is_temporary());
    match error {
        StagingError::Verify(error) => {
            let name = match &error {
                VerifyError::Invalid { name, .. }
                | VerifyError::Checksum { name, .. }
                | VerifyError::Read { name, .. }
                | VerifyError::Write { name, .. } => *name,
                _ => return ApiError::new(ErrorCode::InvalidObject, detail),
            };
            let code = match &error {
                VerifyError::Read { .. } => ErrorCode::BadRequest,
                VerifyError::Write { .. } => ErrorCode::Repository,
                _ => ErrorCode::InvalidObject,
            };
            let mut answer = ApiError::new(code, detail).of_object(&name).temporary(is_temporary);
            if code == ErrorCode::InvalidObject {
                answer.rule = Some(error.code().to_owned());
                answer = answer.hint("run `ostree fsck` on the repository that you push from");
            }
            answer
        }
        StagingError::NoSpace { .. } => no_space(detail),
        StagingError::TooLarge { name, .. } => ApiError::new(ErrorCode::TooLarge, detail)
            .of_object(&name)
            .hint("the server's administrator can raise `max-object-bytes` for this repository"),
        error => from_disk(&error).temporary(is_temporary),
    }
}

pub(crate) fn from_publish(error: PublishError) -> ApiError {
    if error.is_temporary() { ApiError::new(ErrorCode::Locked, chain(&error)) } else { from_disk(&error) }
}

pub(crate) fn from_transaction(error: TransactionError) -> ApiError {
    let (detail, is_temporary) = (chain(&error), error.is_temporary());
    match error {
        TransactionError::RefMoved { target, .. } => ApiError::new(ErrorCode::RefMoved, detail)
            .of_ref(&target)
            .hint("somebody else published to it meanwhile; push again"),
        TransactionError::Unfinished { .. } => ApiError::new(ErrorCode::Unfinished, detail).temporary(is_temporary),
        TransactionError::Ref(RefEditError::BelowRef { target, .. } | RefEditError::AboveRefs { target, .. }) => {
            ApiError::new(ErrorCode::RefName, detail).of_ref(&target)
        }
        TransactionError::TooManyRefs { .. } => {
            ApiError::new(ErrorCode::TooLarge, detail).hint("refs under extra collection ids count as well")
        }
        error => from_disk(&error).temporary(is_temporary),
    }
}

pub(crate) fn from_sign(error: SignError) -> ApiError {
    ApiError::new(ErrorCode::Signing, chain(&error))
        .hint("the keys are named in the server's configuration")
        .temporary(error.is_temporary())
}

pub(crate) fn from_summary(error: SummaryError) -> ApiError {
    ApiError::new(ErrorCode::SummaryStale, chain(&error)).temporary(error.is_temporary())
}

pub(crate) fn from_deltas(error: DeltaError) -> ApiError {
    ApiError::new(ErrorCode::SummaryStale, chain(&error)).temporary(error.is_temporary())
}

#[cfg(test)]
mod tests {
    use treegraft_object::{Checksum, CommitId};

    use super::*;

    #[test]
    fn what_passes_by_itself_is_told_as_such() {
        let name = ObjectName::from(CommitId(Checksum::of(b"commit")));
        for (kind, is_temporary) in [(io::ErrorKind::ResourceBusy, true), (io::ErrorKind::PermissionDenied, false)] {
            let source = || io::Error::from(kind);
            let path = || "repo".into();
            let errors = [
                from_staging(VerifyError::Read { name, source: source() }.into()),
                from_staging(VerifyError::Write { name, source: source() }.into()),
                from_staging(StagingError::Io { path: path(), source: source() }),
                from_transaction(TransactionError::Io { path: path(), source: source() }),
                from_transaction(TransactionError::Unfinished {
                    source: TransactionError::Io { path: path(), source: source() }.into(),
                }),
                from_summary(SummaryError::Io { path: path(), source: source() }),
                from_deltas(DeltaError::Io { path: path(), source: source() }),
            ];
            for error in errors {
                assert_eq!(error.is_temporary(), is_temporary, "{error:?}");
            }
        }
    }
}
