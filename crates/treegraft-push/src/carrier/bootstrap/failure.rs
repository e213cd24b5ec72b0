//! Why a server does not take the program.

/// Why a server does not take the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstallFailure {
    /// The server is of another kind than the program.
    #[error("it is for Linux on {program_machine}, and the server has {kernel} on {machine}")]
    Machine {
        /// The kind of machine that the program is for.
        program_machine: &'static str,
        /// The server's kernel.
        kernel: String,
        /// The server's kind of machine.
        machine: String,
    },
    /// The directory is missing and cannot be made.
    #[error("its directory cannot be made there: {0}")]
    Directory(String),
    /// Somebody else could exchange the program.
    #[error("its directory there belongs to somebody else, can be written by others, or is no directory")]
    NotPrivate,
    /// The disk is full, or the user's quota used up.
    #[error("there is no space for it: {0}")]
    NoSpace(String),
    /// A file cannot be written.
    #[error("it cannot be written there: {0}")]
    Write(String),
    /// Nothing there can copy a number of bytes.
    #[error("the server has neither `head` nor `dd`")]
    NoTool,
    /// Other bytes arrived than were sent.
    #[error("what arrived has another checksum")]
    Checksum,
    /// Programs in the directory cannot be executed.
    #[error("programs in its directory there may not be executed: {0}")]
    NoExec(String),
    /// The program needs libraries that the server does not have.
    #[error("it needs libraries that the server does not have: {0}")]
    Libraries(String),
    /// The program does not start.
    #[error("it does not start there, with exit code {code}: {message}")]
    DoesNotStart {
        /// Its exit code, as the shell told it.
        code: String,
        /// What was printed.
        message: String,
    },
    /// The offered program has another version than this one.
    #[error("it has the version {0}, and this is another")]
    Version(String),
    /// The far side says something that is not known here.
    #[error("the server says `{0}`")]
    Unknown(String),
}

impl InstallFailure {
    /// Understands what the script on the far side says.
    pub(crate) fn from_line(code: &str, message: String) -> Self {
        let is_told = |words: &[&str]| words.iter().any(|word| message.contains(word));
        match code {
            "directory" | "write" if is_told(&["No space left", "uota exceeded"]) => Self::NoSpace(message),
            "directory" => Self::Directory(message),
            "owner" => Self::NotPrivate,
            "write" => Self::Write(message),
            "tool" => Self::NoTool,
            "checksum" | "short" => Self::Checksum,
            "version" => Self::Version(message),
            "start" => {
                let (status, message) = message.split_once(' ').unwrap_or((&message, ""));
                let (code, message) = (status.to_owned(), message.to_owned());
                match status {
                    "126" => Self::NoExec(message),
                    // What is not found is the loader that is named in the program.
                    "127" => Self::Libraries(message),
                    _ if message.contains("GLIBC_") || message.contains("shared libraries") => Self::Libraries(message),
                    _ => Self::DoesNotStart { code, message },
                }
            }
            _ => Self::Unknown(format!("{code} {message}")),
        }
    }

    /// Tells whether another try may succeed.
    ///
    /// A full disk is none of the moment: the program would go over the line with each try.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_says_is_understood() {
        let failure = |code: &str, message: &str| InstallFailure::from_line(code, message.to_owned());
        let full = "head: error writing 'standard output': No space left on device";
        assert_eq!(failure("write", full), InstallFailure::NoSpace(full.to_owned()));
        let quota = "mkdir: cannot create directory: Disk quota exceeded";
        assert_eq!(failure("directory", quota), InstallFailure::NoSpace(quota.to_owned()));
        assert!(!failure("write", full).is_temporary(), "the program is not sent again and again to a full disk");
        assert!(failure("short", "").is_temporary(), "the connection may have broken");
        let denied = "sh: 1: /tmp/x: Permission denied";
        assert_eq!(failure("start", &format!("126 {denied}")), InstallFailure::NoExec(denied.to_owned()));
        let missing = "sh: 1: /tmp/x: not found";
        assert_eq!(failure("start", &format!("127 {missing}")), InstallFailure::Libraries(missing.to_owned()));
        let old = "/tmp/x: /lib/libc.so.6: version `GLIBC_2.39' not found (required by /tmp/x)";
        assert_eq!(failure("start", &format!("1 {old}")), InstallFailure::Libraries(old.to_owned()));
        let (code, message) = ("132".to_owned(), "Illegal instruction".to_owned());
        assert_eq!(failure("start", "132 Illegal instruction"), InstallFailure::DoesNotStart { code, message });
        assert_eq!(failure("news", "x"), InstallFailure::Unknown("news x".to_owned()), "a later version may say more");
    }
}
