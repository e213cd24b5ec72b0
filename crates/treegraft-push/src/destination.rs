//! Where to push to, as users write it.

use std::{fmt, path::PathBuf, str::FromStr};

/// A repository to push to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A repository on this machine: `/path`, `relative/path`, `file:///path`.
    Local(PathBuf),
    /// A repository behind ssh: `[user@]host:path`, `ssh://[user@]host[:port]/path`.
    Ssh(SshTarget),
}

/// A repository behind ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// The user to log in as; ssh decides when it is missing.
    pub user: Option<String>,
    /// The host name, address, or name in ssh's configuration.
    pub host: String,
    /// The port; ssh decides when it is missing.
    pub port: Option<u16>,
    /// The repository's path on the host; relative to the user's home when it does not begin with `/`.
    pub path: String,
}

/// The text names no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// It is empty.
    #[error("The destination is empty")]
    Empty,
    /// The scheme before `://` is not known.
    #[error("The destination `{text}` has the scheme `{scheme}`, known are `ssh://` and `file://`")]
    Scheme {
        /// The text.
        text: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// A part is missing or not valid.
    #[error("The destination `{text}` is not valid: {reason}")]
    Invalid {
        /// The text.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(DestinationError::Empty);
        }
        let parsed = match text.split_once("://") {
            Some(("ssh", rest)) => ssh_url(rest),
            Some(("file", rest)) => file_url(rest),
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                return Err(DestinationError::Scheme { text: text.to_owned(), scheme: scheme.to_owned() });
            }
            _ => plain(text),
        };
        parsed.map_err(|reason| DestinationError::Invalid { text: text.to_owned(), reason })
    }
}

/// `[user@]host:path` when a colon comes before any slash, as `scp` and `git` have it; a path of this machine otherwise.
fn plain(text: &str) -> Result<Destination, &'static str> {
    let (user, rest) = match text.split_once('@') {
        Some((user, rest)) if !user.contains(['/', ':']) => (Some(user), rest),
        _ => (None, text),
    };
    // An IPv6 address has colons of its own and stands in brackets.
    let colon = if rest.starts_with('[') { rest.find("]:").map(|at| at + 1) } else { rest.find(':') };
    match colon {
        Some(colon) if !rest[..colon].contains('/') => {
            ssh_target(user, &rest[..colon], None, rest[colon + 1..].to_owned())
        }
        _ => Ok(Destination::Local(PathBuf::from(text))),
    }
}

fn ssh_url(rest: &str) -> Result<Destination, &'static str> {
    let (authority, path) = rest.split_once('/').ok_or("there is no path behind the host")?;
    let (user, host_port) = match authority.rsplit_once('@') {
        Some((user, host_port)) => (Some(percent_decoded(user)?), host_port),
        None => (None, authority),
    };
    let port_colon = host_port.rfind(':').filter(|&colon| !host_port[colon..].contains(']'));
    let (host, port) = match port_colon {
        Some(colon) => (&host_port[..colon], Some(&host_port[colon + 1..])),
        None => (host_port, None),
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("the port is no number from 1 to 65535"),
    };
    let path = percent_decoded(path)?;
    // `ssh://host/~/repo` is the usual way to write a path below the home directory in a URL.
    let path = if path == "~" || path.starts_with("~/") { path } else { format!("/{path}") };
    ssh_target(user.as_deref(), host, port, path)
}

fn file_url(rest: &str) -> Result<Destination, &'static str> {
    let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("`file://` needs an absolute path behind it: `file:///srv/repo`");
    }
    Ok(Destination::Local(PathBuf::from(percent_decoded(path)?)))
}

fn ssh_target(user: Option<&str>, host: &str, port: Option<u16>, path: String) -> Result<Destination, &'static str> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_clean = |text: &str| !text.chars().any(|c| c.is_control() || c.is_whitespace());
    match host {
        "" => return Err("the host is empty"),
        // ssh would take it for an option, which may run programs.
        _ if host.starts_with('-') => return Err("the host begins with `-`"),
        _ if !is_clean(host) => return Err("the host has blanks or control characters"),
        _ => {}
    }
    match user {
        Some("") => return Err("the user before `@` is empty"),
        Some(user) if user.starts_with('-') => return Err("the user begins with `-`"),
        Some(user) if !is_clean(user) => return Err("the user has blanks or control characters"),
        _ => {}
    }
    let path = match path.strip_prefix("~/") {
        Some("") => ".".to_owned(),
        Some(below_home) => below_home.to_owned(),
        None => path,
    };
    match path.as_str() {
        "" => Err("the path is empty"),
        "~" => Ok(".".to_owned()),
        _ if path.starts_with('~') => Err("only the user's own home can be written as `~`"),
        _ if path.contains(['\0', '\n']) => Err("the path has a line break or a NUL"),
        _ => Ok(path),
    }
    .map(|path| Destination::Ssh(SshTarget { user: user.map(str::to_owned), host: host.to_owned(), port, path }))
}

fn percent_decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        bytes.push(
            value.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or("`%` is not followed by two digits")?,
        );
        rest = &behind[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8")
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Ssh(target) => target.fmt(f),
        }
    }
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}:{}", self.host, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(user: Option<&str>, host: &str, port: Option<u16>, path: &str) -> Destination {
        let (user, host, path) = (user.map(str::to_owned), host.to_owned(), path.to_owned());
        Destination::Ssh(SshTarget { user, host, port, path })
    }

    #[test]
    fn every_form_is_understood() {
        for (text, expected) in [
            ("/srv/repo", Destination::Local("/srv/repo".into())),
            ("repo", Destination::Local("repo".into())),
            ("./a:b", Destination::Local("./a:b".into())),
            ("/srv/a b'c", Destination::Local("/srv/a b'c".into())),
            ("file:///srv/a%20b", Destination::Local("/srv/a b".into())),
            ("host:repo", ssh(None, "host", None, "repo")),
            ("ci@host:/srv/repo", ssh(Some("ci"), "host", None, "/srv/repo")),
            ("ci@host:/srv/a b'c", ssh(Some("ci"), "host", None, "/srv/a b'c")),
            ("ci@[::1]:/srv/repo", ssh(Some("ci"), "::1", None, "/srv/repo")),
            ("host:~/repo", ssh(None, "host", None, "repo")),
            ("host:/srv/user@x:y", ssh(None, "host", None, "/srv/user@x:y")),
            ("ssh://ci@host:2222/srv/repo", ssh(Some("ci"), "host", Some(2222), "/srv/repo")),
            ("ssh://host/~/repo", ssh(None, "host", None, "repo")),
            ("ssh://[::1]:22/r%25", ssh(None, "::1", Some(22), "/r%")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "`{text}`");
        }
    }

    #[test]
    fn what_ssh_could_misunderstand_is_refused() {
        for text in [
            "",
            "-oProxyCommand=x:repo",
            "-l@host:repo",
            "ci@-host:repo",
            "ssh://-host/repo",
            "ssh://host:0/repo",
            "ssh://host:99999/repo",
            "ssh://host",
            "ssh:///repo",
            "host:",
            "@host:repo",
            "ho st:repo",
            "host:~other/repo",
            "host:a\nb",
            "file://server/repo",
            "ssh://host/%zz",
            "https://example.org/repo",
        ] {
            assert!(text.parse::<Destination>().is_err(), "`{text}` is refused");
        }
    }
}
