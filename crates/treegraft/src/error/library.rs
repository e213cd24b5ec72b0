//! The libraries' errors as errors of a command: who has to do something, and what.

use std::path::Path;

use treegraft_object::InvalidName;
use treegraft_push::{ClientError, DestinationError, PushError, SourceError, carrier::ssh::SshError};
use treegraft_repo::{
    InitError, LockError, OpenError, PublishError, ReadError, RefError, StagingError, TransactionError,
    summary::SummaryError,
};
use treegraft_server::{ReceiverError, ServeError, config::ConfigError, ostree_receive::OstreeReceiveError};
use treegraft_wire::ApiError;

use super::CommandError;
use crate::revision::nearest_refs_hint;

impl From<OpenError> for CommandError {
    fn from(error: OpenError) -> Self {
        let hints = match &error {
            OpenError::NotFound { path } | OpenError::NotARepository { path, .. } => no_repository_hints(path),
            _ => Vec::new(),
        };
        Self::user_or_temporary(error.is_temporary(), error).hints_from(hints)
    }
}

fn no_repository_hints(path: &Path) -> Vec<String> {
    if path == Path::new(".") {
        return vec!["name a repository with `--repo PATH`, or create one with `treegraft init PATH`".to_owned()];
    }
    vec![format!("create one with `treegraft init {}`", path.display())]
}

impl From<InitError> for CommandError {
    fn from(error: InitError) -> Self {
        match error {
            InitError::Open(error) => error.into(),
            error => {
                let hint = match &error {
                    InitError::NotEmpty { .. } => {
                        Some("name an empty directory, or one that does not exist".to_owned())
                    }
                    InitError::AlreadyExists { .. } => Some("push to it as it is, or name another PATH".to_owned()),
                    _ => None,
                };
                Self::user_or_temporary(error.is_temporary(), error).hints_from(hint)
            }
        }
    }
}

impl From<ReadError> for CommandError {
    fn from(error: ReadError) -> Self {
        let hint = match &error {
            ReadError::NotFound { .. } | ReadError::Invalid { .. } | ReadError::Checksum { .. } => {
                Some("see all that is wrong with `treegraft fsck`".to_owned())
            }
            _ => None,
        };
        Self::user_or_temporary(error.is_temporary(), error).hints_from(hint)
    }
}

impl From<RefError> for CommandError {
    fn from(error: RefError) -> Self {
        Self::user_or_temporary(error.is_temporary(), error)
    }
}

impl From<LockError> for CommandError {
    fn from(error: LockError) -> Self {
        Self::user_or_temporary(error.is_temporary(), error)
    }
}

impl From<StagingError> for CommandError {
    fn from(error: StagingError) -> Self {
        Self::user_or_temporary(error.is_temporary(), error)
    }
}

impl From<PublishError> for CommandError {
    fn from(error: PublishError) -> Self {
        Self::user_or_temporary(error.is_temporary(), error)
    }
}

impl From<TransactionError> for CommandError {
    fn from(error: TransactionError) -> Self {
        Self::user_or_temporary(error.is_temporary(), error)
    }
}

impl From<SummaryError> for CommandError {
    fn from(error: SummaryError) -> Self {
        Self::user_or_temporary(error.is_temporary(), error)
    }
}

impl From<InvalidName> for CommandError {
    fn from(error: InvalidName) -> Self {
        Self::usage(error)
    }
}

impl From<SourceError> for CommandError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Open(error) => error.into(),
            SourceError::Refs(error) => error.into(),
            SourceError::Commit { ref source, .. } => {
                let hint = matches!(source, ReadError::NotFound { .. })
                    .then(|| "the ref or checksum leads to a commit that is not in this repository".to_owned());
                Self::user_or_temporary(source.is_temporary(), error).hints_from(hint)
            }
            SourceError::NoSuchRef { ref name, ref existing, .. } => {
                let hint = nearest_refs_hint(name, existing.iter().map(treegraft_object::RefName::as_str));
                Self::user(error).hint(hint)
            }
            SourceError::NoRefs { .. } => Self::user(error).hint(
                "commit a build first, with `ostree commit` or `flatpak build-export`; is `--repo` the worker's repository?",
            ),
            error => Self::user(error),
        }
    }
}

impl From<DestinationError> for CommandError {
    fn from(error: DestinationError) -> Self {
        let hint = match &error {
            DestinationError::Scheme { .. } => "push over ssh: `ssh://USER@HOST/PATH`, or `USER@HOST:PATH`",
            _ => "a destination is a path, `USER@HOST:PATH`, or `ssh://USER@HOST:PORT/PATH`",
        };
        Self::usage(error).hint(hint)
    }
}

impl From<ApiError> for CommandError {
    fn from(error: ApiError) -> Self {
        let (code, hint) = (error.code, error.hint.clone());
        let mut command_error = Self::user_or_temporary(code.is_temporary(), error).hints_from(hint);
        command_error.code = Some(code);
        command_error
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(error) => (*error).into(),
            ClientError::Answer { .. } => Self::user(error)
                .hint("the server may have another version: compare `treegraft --version` on both sides"),
            error => Self::user_or_temporary(error.is_temporary(), error),
        }
    }
}

impl From<PushError> for CommandError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Source(error) => error.into(),
            PushError::Client(error) => error.into(),
            PushError::Worker => Self::internal(error),
            PushError::MissingHere { .. } => {
                Self::user(error).hint("see what is missing with `treegraft fsck`; was the commit pulled only in part?")
            }
            error => Self::user_or_temporary(error.is_temporary(), error),
        }
    }
}

impl From<SshError> for CommandError {
    fn from(error: SshError) -> Self {
        let hint = match &error {
            SshError::Start { .. } => "install OpenSSH's client, or name the program with `--ssh PROGRAM`".to_owned(),
            SshError::Connect { target, .. } => {
                let user = target.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                format!("try `ssh {user}{}` by itself: are host, user and key (`-i FILE`) right?", target.host)
            }
            SshError::NoReceiver { .. } => {
                "install treegraft on the server, or name where it is with `--remote-command \
                                            /path/to/treegraft`"
                    .to_owned()
            }
            SshError::Ended { .. } => "what the server said is above; its own log may say more".to_owned(),
        };
        Self::user_or_temporary(error.is_temporary(), error).hint(hint)
    }
}

impl From<ReceiverError> for CommandError {
    fn from(error: ReceiverError) -> Self {
        let hint = match error {
            ReceiverError::Open(error) => return error.into(),
            ReceiverError::NotArchive { .. } => {
                "make the server's repository with `treegraft init PATH`; only archive mode can be served over HTTP"
            }
            ReceiverError::NotWritable { .. } => "push as the user that the repository belongs to",
            ReceiverError::Keys(_) => "the keys are named in the server's configuration (`--config`)",
        };
        Self::user(error).hint(hint)
    }
}

impl From<ServeError> for CommandError {
    fn from(error: ServeError) -> Self {
        Self::temporary(error)
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        let hint = matches!(error, ConfigError::Parse { .. })
            .then(|| "every key is documented in docs/reference/server.toml".to_owned());
        Self::user(error).hints_from(hint)
    }
}

impl From<OstreeReceiveError> for CommandError {
    fn from(error: OstreeReceiveError) -> Self {
        let hint = match &error {
            OstreeReceiveError::OutsideRoot { .. } => {
                Some("`root` in `ostree-receive.conf` says where repositories are")
            }
            OstreeReceiveError::Read { .. } => None,
            _ => Some("docs/rights.md has what becomes of each key of `ostree-receive.conf`"),
        };
        Self::user(error).hints_from(hint.map(str::to_owned))
    }
}
