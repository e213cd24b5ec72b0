//! The server's configuration, in whichever of its two forms it is there.

use std::path::{Path, PathBuf};

use treegraft_server::{
    config::{self, ServerConfig, Settings},
    ostree_receive::{OstreeReceiveConf, ReceivedRepository},
    rights::Caller,
};

use crate::{environment, error::CommandError};

/// What the server's administrator has decided.
#[derive(Debug)]
pub(crate) enum ServerSide {
    /// `server.toml`, or nothing.
    Toml(Box<ServerConfig>),
    /// A configuration of ostree-push's receiver.
    OstreeReceive(OstreeReceiveConf),
}

/// A repository with what holds for it.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) path: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) caller: Caller,
}

impl ServerSide {
    /// Reads the file that was named, in either form.
    ///
    /// Without one it is `/etc/treegraft/server.toml`, and where that does not exist what ostree-push would read. No
    /// environment variable names a file: over ssh, a client may have a word in them.
    pub(crate) fn read(toml: Option<&Path>, ostree_receive: Option<&Path>) -> Result<Self, CommandError> {
        let home = environment::home_dir();
        let usual = Path::new(config::DEFAULT_PATH);
        Ok(match (toml, ostree_receive) {
            (Some(file), _) => Self::Toml(ServerConfig::load(file)?.into()),
            (None, Some(file)) => Self::OstreeReceive(OstreeReceiveConf::load(file, home.as_deref())?),
            (None, None) if usual.exists() => Self::Toml(ServerConfig::load(usual)?.into()),
            (None, None) => match OstreeReceiveConf::load_usual(home.as_deref())? {
                Some(conf) => Self::OstreeReceive(conf),
                None => Self::Toml(Box::default()),
            },
        })
    }

    /// Returns what holds for a repository and a caller.
    pub(crate) fn repository(&self, path: &Path, caller: Caller) -> Result<Repository, CommandError> {
        Ok(match self {
            Self::Toml(config) => Repository { path: path.to_owned(), settings: config.settings(path), caller },
            Self::OstreeReceive(conf) => {
                let ReceivedRepository { path, settings, takes_only_dry_runs } = conf.repository(path)?;
                Repository { path, settings, caller: Caller { takes_only_dry_runs, ..caller } }
            }
        })
    }

    /// Finds a repository that the configuration names, by any path that leads to it.
    pub(crate) fn named(&self, path: &Path) -> Option<PathBuf> {
        match self {
            Self::Toml(config) => config.named(path).map(Path::to_owned),
            Self::OstreeReceive(conf) if conf.names(path) => Some(conf.repository(path).ok()?.path),
            Self::OstreeReceive(_) => None,
        }
    }

    /// Returns sentences for whoever pushes about what is not followed.
    pub(crate) fn notes(&self) -> Vec<String> {
        match self {
            Self::Toml(_) => Vec::new(),
            Self::OstreeReceive(conf) => {
                conf.warnings().iter().map(|warning| format!("On the server, {warning}")).collect()
            }
        }
    }
}
