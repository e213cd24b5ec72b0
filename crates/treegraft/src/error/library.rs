//! The libraries' errors as errors of a command: who has to do something, and what.

use std::path::Path;

use treegraft_flatpak::BuildDirError;
use treegraft_object::InvalidName;
use treegraft_push::{
    ClientError, DestinationError, PushError, SourceError,
    carrier::{bootstrap::InstallFailure, ssh::SshError},
};
use treegraft_repo::{
    InitError, LockError, OpenError, PublishError, ReadError, RefError, StagingError, TransactionError, prune,
    summary::SummaryError,
};
use treegraft_server::{
    PruneError, ReceiverError, ServeError, config::ConfigError, ostree_receive::OstreeReceiveError,
};
use treegraft_tree::{StoreError, TreeError};
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

impl From<TreeError> for CommandError {
    fn from(error: TreeError) -> Self {
        let hint = match &error {
            TreeError::Compressed { program, path } => {
                Some(format!("decompress it on the way: `{program} -dc {} | treegraft … --tree-tar -`", path.display()))
            }
            _ => None,
        };
        Self::user_or_temporary(error.is_temporary(), error).hints_from(hint)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Staging(error) => error.into(),
            StoreError::Read(error) => error.into(),
        }
    }
}

impl From<BuildDirError> for CommandError {
    fn from(error: BuildDirError) -> Self {
        let hint = match &error {
            BuildDirError::NotInitialized { .. } => {
                Some("a build directory is made with `flatpak build-init` or flatpak-builder")
            }
            BuildDirError::NotFinished { .. } => Some("finish it with `flatpak build-finish`"),
            BuildDirError::FlatpakName(_) | BuildDirError::Ref(_) => {
                Some("the id comes from the metadata; `--branch` and `--arch` say the rest")
            }
            _ => None,
        };
        Self::user(error).hints_from(hint.map(str::to_owned))
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

impl From<prune::PruneError> for CommandError {
    fn from(error: prune::PruneError) -> Self {
        let hint = match error {
            prune::PruneError::Refs(error) => return error.into(),
            prune::PruneError::Read(error) => return error.into(),
            prune::PruneError::Summary(error) => return error.into(),
            prune::PruneError::NotArchive { .. } => "use `ostree prune`",
            prune::PruneError::NotWritable { .. } => "prune as the user that the repository belongs to",
            prune::PruneError::NoLocking { .. } => {
                "take `locking=false` out of the repository's `config`, or use `ostree prune` when nobody pushes"
            }
            prune::PruneError::Incomplete { .. } => {
                "see all that is wrong with `treegraft fsck`; nothing more is deleted until the ref is deleted or moved"
            }
            prune::PruneError::Lock(_) => {
                "pushes hold the lock until their refs have moved; try it when fewer are under way"
            }
            _ => return Self::user_or_temporary(error.is_temporary(), error),
        };
        Self::user_or_temporary(error.is_temporary(), error).hint(hint)
    }
}

impl From<PruneError> for CommandError {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Repo(error) => error.into(),
            PruneError::Staging(error) => error.into(),
            PruneError::Api(error) => error.into(),
            error => Self::user(error),
        }
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
        let mut command_error = Self::user_or_temporary(error.is_temporary(), error).hints_from(hint);
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
                "push without `--no-bootstrap` and `--remote-command` to install it there, or name \
                 where it is with `--remote-command /path/to/treegraft`"
                    .to_owned()
            }
            SshError::NoShell { .. } => {
                "the account needs a POSIX shell, or `command=\"treegraft receive /path/to/repo\"` \
                 before the key in its `authorized_keys`"
                    .to_owned()
            }
            SshError::Install { reason, directory, .. } => install_hint(reason, directory.as_deref()),
            SshError::Ended { .. } => "what the server said is above; its own log may say more".to_owned(),
        };
        Self::user_or_temporary(error.is_temporary(), error).hint(hint)
    }
}

/// Says what to do when a server does not take the program.
fn install_hint(reason: &InstallFailure, directory: Option<&str>) -> String {
    let other_directory = match directory {
        None => "name another directory of the server with `--bootstrap-dir /var/tmp/treegraft-USER`",
        Some(_) => "name another directory of the server with `--bootstrap-dir`",
    };
    let by_hand = "or install treegraft there and push with `--no-bootstrap`";
    match reason {
        InstallFailure::Machine { machine, .. } => {
            format!("offer a program for {machine} with `--bootstrap-program FILE`, {by_hand}")
        }
        InstallFailure::Libraries(_) => {
            format!("offer the static build (`cargo xtask dist`) with `--bootstrap-program FILE`, {by_hand}")
        }
        InstallFailure::NoSpace(_) | InstallFailure::Directory(_) | InstallFailure::Write(_) => {
            format!("{other_directory}, {by_hand}")
        }
        InstallFailure::NoExec(_) => format!("{other_directory}, in a file system without `noexec`, {by_hand}"),
        InstallFailure::NotPrivate => {
            let shown = directory.unwrap_or("~/.cache/treegraft");
            format!("make it your own with `chmod go-w {shown}` on the server, or {other_directory}")
        }
        InstallFailure::Checksum => {
            "push again; if it stays, something on the way or on the server changes bytes".to_owned()
        }
        InstallFailure::Version(version) => {
            format!("offer a program of the same version as this one, or push with treegraft {version}")
        }
        _ => format!("see what is wrong with `ssh HOST` by itself, {by_hand}"),
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

/// What to do about a configuration that is there and cannot be read, or is named and not there.
const UNREADABLE_CONFIGURATION: &str = "nothing is allowed while it is not known what is: let the user that receives pushes \
                                        read it, and search the directories above it";

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        let hint = match error {
            ConfigError::Read { .. } => UNREADABLE_CONFIGURATION,
            ConfigError::Parse { .. } => "every key is documented in docs/reference/server.toml",
        };
        Self::user(error).hint(hint)
    }
}

impl From<OstreeReceiveError> for CommandError {
    fn from(error: OstreeReceiveError) -> Self {
        let hint = match &error {
            OstreeReceiveError::OutsideRoot { .. } => "`root` in `ostree-receive.conf` says where repositories are",
            OstreeReceiveError::Read { .. } => UNREADABLE_CONFIGURATION,
            _ => "docs/rights.md has what becomes of each key of `ostree-receive.conf`",
        };
        Self::user(error).hint(hint)
    }
}
