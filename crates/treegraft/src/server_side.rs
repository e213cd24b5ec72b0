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
        Ok(match (toml, ostree_receive) {
            (Some(file), _) => Self::Toml(ServerConfig::load(file)?.into()),
            (None, Some(file)) => Self::OstreeReceive(OstreeReceiveConf::load(file, home.as_deref())?),
            (None, None) => Self::usual(Path::new(config::DEFAULT_PATH), home.as_deref())?,
        })
    }

    /// Reads what is there where no file was named. Without any, everything is allowed.
    fn usual(toml: &Path, home: Option<&Path>) -> Result<Self, CommandError> {
        if let Some(config) = ServerConfig::load_if_exists(toml)? {
            return Ok(Self::Toml(config.into()));
        }
        Ok(match OstreeReceiveConf::load_usual(home)? {
            Some(conf) => Self::OstreeReceive(conf),
            None => Self::Toml(Box::default()),
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use treegraft_server::ostree_receive;

    use super::*;

    #[test]
    fn a_configuration_that_cannot_be_reached_allows_nothing() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let (home, toml) = (dir.path().join("home"), dir.path().join("etc/server.toml"));
        let usual = || ServerSide::usual(&toml, Some(&home));
        assert!(matches!(usual(), Ok(ServerSide::Toml(_))), "no file is no error");
        fs::write(dir.path().join("etc"), "").expect("a file can be written");
        let error = usual().expect_err("`etc` is no directory");
        assert!(error.message().contains("server.toml"), "the file is named: {error:?}");
        fs::remove_file(dir.path().join("etc")).expect("it can be removed");
        let conf = home.join(ostree_receive::HOME_PATH);
        fs::create_dir_all(conf.parent().expect("it is in a directory")).expect("a directory can be made");
        symlink("nowhere", &conf).expect("a symlink can be made");
        let error = usual().expect_err("the link leads nowhere");
        assert!(error.message().contains("ostree-receive.conf"), "the file is named: {error:?}");
        assert!(!error.hints().is_empty(), "and what to do");
    }
}
