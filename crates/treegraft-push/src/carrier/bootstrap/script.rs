//! The shell code that runs on the far side before `treegraft receive` does.
//!
//! ```text
//! client                                        login shell -c "sh -c 'FIND' …"
//!   HTTP/2's first bytes ─────────────────────►   in PATH or in the cache? exec treegraft receive
//!                        ◄─────────────────────   else: treegraft-needs 1 NONCE KERNEL MACHINE INSTALLED
//!                                                 reads and drops lines up to
//!   NONCE, INSTALL, the program's bytes ──────►   NONCE; then evaluates INSTALL, which takes the bytes, and
//!                        ◄─────────────────────   treegraft-failed 1 NONCE CODE MESSAGE, or exec treegraft receive
//!   HTTP/2's first bytes again ───────────────►   whose banner comes first
//! ```
//!
//! `FIND` has to pass through a login shell of any kind: it is one line without `'`, `!` and `\`. `INSTALL` goes over
//! standard input to a POSIX shell; it is one line because that is how it is read. Both use only what POSIX demands of a
//! system, and `head -c` where it is there.

use treegraft_wire::login_command::encoded_command;

use super::{Bootstrap, Program};

/// Digits of the program's checksum in the name of its file: two builds of one version have different files.
const KEY_DIGITS: usize = 16;

/// Where programs are that are not in the `PATH` of a login without a terminal.
macro_rules! usual_places {
    () => {
        "PATH=${PATH:+$PATH:}/usr/local/bin:/usr/bin:/bin:$HOME/.local/bin:$HOME/bin:$HOME/.cargo/bin;"
    };
}

/// Starts what is installed, whatever its version. Parameters: NONCE receive -- PATH.
const START: &str =
    concat!("echo treegraft-shell 1 $1;", usual_places!(), r#"exec treegraft receive -- "$(printf %b "$4")""#);

/// Starts a program of the same version, or asks for it. Parameters: VERSION KEY NONCE DIRECTORY receive -- PATH.
///
/// A file counts only if it and its directory belong to the user and nobody else can write them: in the output of
/// `ls -ldn` the sixth and the ninth character are `-`, and the owner's number is the third word. A file that does not
/// start is none: it is taken anew. `touch` keeps what is used from being removed as old.
const FIND: &str = concat!(
    "echo treegraft-shell 1 $3;",
    r#"v=$1;k=$2;n=$3;d=$(printf %b "$4");p=$(printf %b "$7");"#,
    usual_places!(),
    r#"i=$(treegraft --version </dev/null 2>/dev/null);"#,
    r#"[ "$i" = "treegraft $v" ] && exec treegraft receive -- "$p";"#,
    "c=$XDG_CACHE_HOME;case $c in /*) ;; *) c=$HOME/.cache;; esac;",
    "d=${d:-$c/treegraft};case $d in /*) ;; *) d=$HOME/$d;; esac;f=$d/treegraft-$v-$k;",
    r#"o() { set -- "$(id -u)" $(ls -ldn "$1" 2>/dev/null);"#,
    r#"case $2 in ?????-??-*) [ "$1" = "$4" ];; *) false;; esac; };"#,
    r#"if [ -f "$f" ] && o "$d" && o "$f" && [ "$("$f" --version </dev/null 2>/dev/null)" = "treegraft $v" ];"#,
    r#"then touch -c "$f"; exec "$f" receive -- "$p"; fi;"#,
    r#"echo "treegraft-needs 1 $n $(uname -s) $(uname -m) ${i##* }";"#,
    r#"while IFS= read -r l; do [ "$l" = "$n" ] && break; done;"#,
    r#"IFS= read -r l && eval "$l""#,
);

/// Takes the program from standard input. Variables: those of [`FIND`], the size `z` and the checksum `h`.
///
/// It runs in a subshell, so that neither `umask` nor `LC_ALL` reach the receiver. Nothing has the file's name before it
/// is whole, checked, on the disk (`check-program` sees to that) and known to start.
///
/// The directory may be any that the user has named, so what is removed as old is nothing below it, and only what has the
/// whole of a name that is given here: 16 digits of a checksum, or the 32 of a nonce.
const INSTALL: &str = concat!(
    "x() { c=$1; shift; ",
    r#"printf '%s\n' "treegraft-failed 1 $n $c $(printf %s "$*" | tr '\n' ' ')"; exit 1; };"#,
    "i() { umask 077; LC_ALL=C; export LC_ALL; t=$d/.new-$n;",
    r#"case $d in "$HOME"/*) [ -d "$HOME" ] || x directory "the home directory $HOME does not exist";; esac;"#,
    r#"e=$(mkdir -p "$d" 2>&1) || x directory "$e";"#,
    r#"o "$d" || x owner "$d";"#,
    r#"trap 'rm -f "$t"' EXIT; trap 'exit 1' HUP INT PIPE TERM;"#,
    r#"if command -v head >/dev/null; then e=$(head -c "$z" 2>&1 >"$t");"#,
    r#"elif command -v dd >/dev/null; then e=$(dd ibs=1 obs=65536 count="$z" 2>&1 >"$t");"#,
    r#"else x tool; fi || x write "$e";"#,
    r#"[ "$(wc -c <"$t")" -eq "$z" ] || x short;"#,
    "for c in sha256sum 'busybox sha256sum' 'openssl dgst -sha256 -r' 'shasum -a 256';",
    r#"do g=$($c <"$t" 2>/dev/null) && break; g=; done;"#,
    r#"case $g in ''|"$h"*) ;; *) x checksum;; esac;"#,
    r#"e=$(chmod 700 "$t" 2>&1) || x write "$e";"#,
    r#"e=$("$t" --version 2>&1 </dev/null); s=$?;"#,
    r#"case $s:$e in 0:"treegraft $v") ;; 0:*) x version "${e##* }";; *) x start "$s" "$e";; esac;"#,
    r#"e=$("$t" check-program "$t" "$h" 2>&1 </dev/null); s=$?;"#,
    r#"case $s:$e in 0:*) ;; 1:*checksum*) x checksum;; *) x write "$e";; esac;"#,
    r#"e=$(mv -f "$t" "$f" 2>&1) || x write "$e";"#,
    "a='[0-9a-f][0-9a-f][0-9a-f][0-9a-f]'; a=$a$a$a$a;",
    r#"old() { find "$d/." ! -name . -prune -type f -name "$1" -mtime "$2" -exec rm -f {} + 2>/dev/null; };"#,
    r#"old "treegraft-[0-9]*.[0-9]*.[0-9]*-$a" +30; old ".new-$a$a" +0; :; };"#,
    r#"(i) && exec "$f" receive -- "$p""#,
);

/// Starts what is installed although it has another version.
const USE_INSTALLED: &str = r#"exec treegraft receive -- "$p""#;

/// Returns the command for a login that has `treegraft`, of whatever version.
pub(crate) fn start_command(nonce: &str, path: &str) -> String {
    encoded_command(START, &[nonce], path)
}

/// Returns the command for a login that may not have `treegraft`.
pub(crate) fn find_command(bootstrap: &Bootstrap, version: &str, nonce: &str, path: &str) -> String {
    let checksum = bootstrap.program.checksum().to_hex();
    let directory = bootstrap.directory.as_deref().unwrap_or_default();
    encoded_command(FIND, &[version, &checksum[..KEY_DIGITS], nonce, directory], path)
}

/// Returns what is written before the program's bytes.
pub(crate) fn install_lines(program: &Program, nonce: &str) -> String {
    format!("\n{nonce}\nz={} h={};{INSTALL}\n", program.size_bytes(), program.checksum())
}

/// Returns what is written instead of a program that does not fit.
pub(crate) fn use_installed_lines(nonce: &str) -> String {
    format!("\n{nonce}\n{USE_INSTALLED}\n")
}

/// What the far side says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) kernel: String,
    pub(crate) machine: String,
    /// The version of the `treegraft` that is there, another one than ours.
    pub(crate) installed: Option<String>,
}

/// A line that the scripts write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// A POSIX shell runs our code.
    Shell,
    /// The program is missing.
    Needs(Needs),
    /// The program could not be installed: a code, and what a program said.
    Failed(String, String),
}

/// Reads one line without its end; nothing when it is not one of ours.
///
/// A greeting may stand before it on the same line.
pub(crate) fn line(bytes: &[u8], nonce: &str) -> Option<Line> {
    let text = String::from_utf8_lossy(bytes);
    let behind = |word: &str| {
        let start = format!("{word} 1 {nonce}");
        text.find(&start).map(|at| text[at + start.len()..].trim().to_owned())
    };
    if let Some(rest) = behind("treegraft-needs") {
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (kernel, machine) = (words.next()?, words.next()?);
        return Some(Line::Needs(Needs { kernel, machine, installed: words.next() }));
    }
    if let Some(rest) = behind("treegraft-failed") {
        let (code, message) = rest.split_once(' ').unwrap_or((&rest, ""));
        return Some(Line::Failed(code.to_owned(), message.trim().to_owned()));
    }
    behind("treegraft-shell").map(|_| Line::Shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_pass_through_every_login_shell() {
        for script in [START, FIND] {
            assert!(script.is_ascii() && !script.contains(['\'', '!', '\\', '\n']), "{script}");
            assert!(script.len() < 2000, "a word of csh has less than 8 KiB, and paths need room: {}", script.len());
        }
        assert!(INSTALL.is_ascii() && !INSTALL.contains('\n'), "it is read as one line");
    }

    #[test]
    fn only_lines_with_the_nonce_are_ours() {
        let needs = Needs { kernel: "Linux".to_owned(), machine: "x86_64".to_owned(), installed: None };
        assert_eq!(line(b"treegraft-needs 1 abc Linux x86_64 ", "abc"), Some(Line::Needs(needs.clone())));
        assert_eq!(line(b"hello> treegraft-needs 1 abc Linux x86_64 ", "abc"), Some(Line::Needs(needs.clone())));
        let installed = Needs { installed: Some("0.0.1".to_owned()), ..needs };
        assert_eq!(line(b"treegraft-needs 1 abc Linux x86_64 0.0.1\r", "abc"), Some(Line::Needs(installed)));
        assert_eq!(line(b"treegraft-needs 1 other Linux x86_64", "abc"), None, "another program may say this");
        assert_eq!(line(b"treegraft-needs 1 abc Linux", "abc"), None, "it is not whole");
        let failed = Line::Failed("write".to_owned(), "head: no space".to_owned());
        assert_eq!(line(b"treegraft-failed 1 abc write head: no space ", "abc"), Some(failed));
        assert_eq!(
            line(b"treegraft-failed 1 abc short ", "abc"),
            Some(Line::Failed("short".to_owned(), String::new()))
        );
        assert_eq!(line(b"treegraft-shell 1 abc", "abc"), Some(Line::Shell));
        assert_eq!(line(b"\xff\xfeWelcome", "abc"), None);
    }
}
