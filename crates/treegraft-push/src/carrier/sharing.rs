//! Further sessions over the connection of a running ssh, for the lanes of a push.
//!
//! OpenSSH shares a connection by a socket, its control path. Where the user's configuration names none, ssh gets one of ours.
//! A further session never logs in: without the shared connection it fails, which costs the push nothing but the lane.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::UnixListener, process::Command};
use treegraft_wire::{PushId, lanes::LaneSecret};

use super::ssh::{SshCarrier, SshOptions};
use crate::{Client, ClientError, SilentReporter, SshTarget};

/// The name of OpenSSH's program. What is called otherwise, `--ssh` say, may be anything, and is not asked for more than what
/// every ssh does.
const PROGRAM: &str = "ssh";

/// The control path in a directory of ours.
const SOCKET: &str = "s";

/// What ssh adds to the control path while it makes the socket; what it adds is of this length.
const TEMPORARY_SUFFIX: &str = ".0123456789abcdef";

/// How long ssh may take to tell its configuration, which costs it some milliseconds.
const CONFIGURATION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a lane may take to come up: some round trips, and the start of a program.
const LANE_TIMEOUT: Duration = Duration::from_secs(20);

/// Tells whether a file of ours has the name of the socket, or the one that it has while ssh makes it.
pub fn is_socket_name(name: &OsStr) -> bool {
    let Some(added) = name.to_str().and_then(|name| name.strip_prefix(SOCKET)) else { return false };
    added.is_empty() || added.starts_with('.') && added.len() == TEMPORARY_SUFFIX.len()
}

/// By what sessions of ssh share a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    control_path: String,
    /// Whether ssh is told about it; the user's configuration has its own otherwise.
    is_own: bool,
}

impl Sharing {
    /// Finds out by what sessions to a target can share a connection: by what the user has configured, or else by a socket in
    /// `own_dir`, an empty directory that nobody else may enter.
    ///
    /// Nothing is found where ssh is no OpenSSH, or where there can be no such socket.
    pub async fn find(target: &SshTarget, options: &SshOptions, own_dir: &Path) -> Option<Self> {
        if options.program.file_name()? != PROGRAM {
            return None;
        }
        let mut asking = Command::new(&options.program);
        asking.arg("-G").args(SshCarrier::arguments(target, options));
        asking.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let configuration = tokio::time::timeout(CONFIGURATION_TIMEOUT, asking.output()).await.ok()?.ok()?;
        let configuration = String::from_utf8(configuration.stdout).ok().filter(|_| configuration.status.success())?;
        let sharing = match configured(&configuration)? {
            Configured::Path(path) => Self { control_path: path.to_owned(), is_own: false },
            Configured::Nothing => {
                Self { control_path: can_be_socket(&own_dir.join(SOCKET))?.to_owned(), is_own: true }
            }
        };
        is_plain(&sharing.control_path).then_some(sharing)
    }

    /// Returns the arguments for the ssh that makes the connection.
    pub(super) fn of_first(&self) -> Vec<OsString> {
        if !self.is_own {
            return Vec::new();
        }
        options(["ControlMaster=yes".to_owned(), "ControlPersist=no".to_owned(), self.control_path_option()])
    }

    /// Returns the arguments for one that uses it. Connecting by itself is all that it does otherwise, by a command that
    /// does not.
    fn of_further(&self) -> Vec<OsString> {
        options([
            "ControlMaster=no".to_owned(),
            self.control_path_option(),
            "ProxyCommand=false".to_owned(),
            "BatchMode=yes".to_owned(),
        ])
    }

    fn control_path_option(&self) -> String {
        format!("ControlPath={}", self.control_path.replace('%', "%%"))
    }
}

fn options(options: impl IntoIterator<Item = String>) -> Vec<OsString> {
    options.into_iter().flat_map(|option| ["-o".into(), option.into()]).collect()
}

/// What the user has configured.
#[derive(Debug, PartialEq, Eq)]
enum Configured<'c> {
    Path(&'c str),
    Nothing,
}

/// Reads what `ssh -G` prints. Nothing when it is something else, or when every session has to be confirmed by the user.
fn configured(configuration: &str) -> Option<Configured<'_>> {
    let value = |keyword: &str| configuration.lines().find_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
    match value("controlmaster")? {
        "ask" | "autoask" => return None,
        _ => {}
    }
    Some(value("controlpath").filter(|&path| path != "none").map_or(Configured::Nothing, Configured::Path))
}

/// Tells whether ssh reads a path as it is.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+,:=@%".contains(&byte))
}

/// Returns the path if ssh can make its socket there: where it cannot, it would not go on without.
fn can_be_socket(path: &Path) -> Option<&str> {
    let path = path.to_str()?;
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    UnixListener::bind(&temporary).ok()?;
    std::fs::remove_file(temporary).ok()?;
    Some(path)
}

/// What opens lanes beside a running ssh.
#[derive(Debug, Clone)]
pub struct SshLanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: SshTarget,
    options: SshOptions,
}

impl SshLanes {
    /// Makes it for the ssh that was started with these options, if its connection is shared.
    pub fn of(target: &SshTarget, options: &SshOptions) -> Option<Self> {
        let sharing = options.sharing.as_ref()?;
        let mut options = options.clone();
        // What was said first counts.
        options.arguments.splice(..0, sharing.of_further());
        options.sharing = None;
        Some(Self(Arc::new(Inner { target: target.clone(), options })))
    }

    /// Opens a lane of a push, and waits for its first answer.
    pub(crate) async fn open(&self, secret: &LaneSecret, push: &PushId) -> Result<(SshCarrier, Client), ClientError> {
        let Inner { target, options } = &*self.0;
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| ClientError::Connection(error);
        let opening = async {
            let reporter = Arc::new(SilentReporter) as Arc<_>;
            let (carrier, mut stream) =
                SshCarrier::start(target, options, &reporter).map_err(|error| failed(error.into()))?;
            stream.write_all(secret.line().as_bytes()).await.map_err(|error| failed(error.into()))?;
            let client = Client::connect(stream).await?;
            client.ping(push).await?;
            Ok((carrier, client))
        };
        let timed_out = |_| failed("a further session did not come up".into());
        tokio::time::timeout(LANE_TIMEOUT, opening).await.map_err(timed_out)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_has_configured_is_found() {
        assert_eq!(configured("host x\ncontrolmaster false\ncontrolpersist no\n"), Some(Configured::Nothing));
        assert_eq!(configured("controlmaster auto\ncontrolpath none\n"), Some(Configured::Nothing));
        assert_eq!(configured("controlmaster false\ncontrolpath /run/c\n"), Some(Configured::Path("/run/c")));
        assert_eq!(
            configured("controlmaster autoask\ncontrolpath /run/c\n"),
            None,
            "the user would be asked each time"
        );
        assert_eq!(configured("usage: ssh\n"), None, "it is no OpenSSH");
    }

    #[test]
    fn paths_that_ssh_would_read_otherwise_are_left_alone() {
        let sharing = Sharing { control_path: "/tmp/a%b".to_owned(), is_own: true };
        assert_eq!(sharing.control_path_option(), "ControlPath=/tmp/a%%b");
        assert!(is_plain("/tmp/treegraft-aB1/s"));
        for path in ["/tmp/with blank", "/tmp/${HOME}", "~/x", "/tmp/\"", "/tmp/ä"] {
            assert!(!is_plain(path), "{path}");
        }
    }
}
