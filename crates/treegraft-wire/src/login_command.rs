//! The command that a pushing client hands to ssh, and how its words pass through any login shell.
//!
//! sshd runs `SHELL -c COMMAND`, and what `SHELL` is nobody knows: sh, csh or fish. Between single quotes they agree, but
//! for `'`, `!`, `\` and bytes beyond ASCII. Those are written as `\0ooo`, three octal digits, which every shell hands on
//! as they are and which `printf %b`, in every POSIX shell, turns back into bytes.
//!
//! ```text
//! sh -c 'SCRIPT' treegraft … receive -- 'PATH'      what `treegraft push` sends; PATH is encoded
//! treegraft receive -- 'PATH'                       what people write; PATH is quoted for a POSIX shell
//! ```
//!
//! A login that runs no shell, as under a login program of its own, finds the path with [`requested_path`].

use std::fmt::Write as _;

/// What stands before the path.
const BEFORE_PATH: &str = " receive -- ";

/// How the command begins when its words are encoded.
const ENCODED_START: &str = "sh -c '";

/// The longest command that is looked at, in bytes: a path of 4096 bytes, all of them encoded, and the script.
const MAX_COMMAND_BYTES: usize = 32 << 10;

/// Encodes a text for `printf %b` and quotes it as one word for any login shell.
pub fn encoded_word(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 2);
    word.push('\'');
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-+,:=@%".contains(&byte) {
            word.push(char::from(byte));
        } else {
            write!(word, "\\0{byte:03o}").expect("a string takes any text");
        }
    }
    word.push('\'');
    word
}

/// Quotes a text as one word for a POSIX shell: within single quotes everything is itself but the quote.
pub fn posix_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Puts the command together: `script` gets `words`, then `receive`, `--` and the encoded path as its parameters.
///
/// The script must be one line without `'`, `!` and `\`.
pub fn encoded_command(script: &str, words: &[&str], path: &str) -> String {
    let mut command = format!("{ENCODED_START}{script}' treegraft");
    for word in words {
        command.push(' ');
        command.push_str(&encoded_word(word));
    }
    command + BEFORE_PATH + &encoded_word(path)
}

/// Returns the path of the repository that a command asks for, or nothing when it asks for something else.
///
/// Nothing of the command is run or believed but this path.
pub fn requested_path(command: &str) -> Option<String> {
    if command.len() > MAX_COMMAND_BYTES {
        return None;
    }
    let path = if command.starts_with(ENCODED_START) {
        // The script may have the words that stand before the path, the path itself has no blank.
        let (_, word) = command.rsplit_once(BEFORE_PATH)?;
        decoded(word.strip_prefix('\'')?.strip_suffix('\'')?)?
    } else {
        let (program, word) = command.split_once(BEFORE_PATH)?;
        let name = program.rsplit('/').next().filter(|name| *name == "treegraft");
        name.and_then(|_| unquoted(word))?
    };
    (!path.is_empty() && !path.contains(char::is_control)).then_some(path)
}

fn decoded(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'\\' => {
                let digits = std::str::from_utf8(behind.strip_prefix(b"0")?.get(..3)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 8).ok()?);
                rest = &behind[4..];
            }
            b'\'' => return None,
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Takes the quotes off one word of a POSIX shell; words with anything that a shell would expand are refused.
fn unquoted(word: &str) -> Option<String> {
    let mut text = String::with_capacity(word.len());
    let mut chars = word.trim_end().chars();
    while let Some(first) = chars.next() {
        match first {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    inner => text.push(inner),
                }
            },
            '\\' => text.push(chars.next()?),
            plain if plain.is_alphanumeric() || "/._-+,:=@%".contains(plain) => text.push(plain),
            _ => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 10] = [
        "/srv/repo",
        "a b",
        "it's",
        "$(touch x)`y`!z!!",
        r"back\slash\0041\",
        "ü ✓",
        "-n",
        "\"~*?[x]{a,b}",
        "a;b&c|d",
        "a receive -- b",
    ];

    #[test]
    fn the_path_of_a_command_is_found_again() {
        for path in PATHS {
            let command = encoded_command("echo x receive -- y", &["1.0", ""], path);
            assert_eq!(requested_path(&command).as_deref(), Some(path), "{command}");
            let by_hand = format!("treegraft receive -- {}", posix_word(path));
            assert_eq!(requested_path(&by_hand).as_deref(), Some(path), "{by_hand}");
        }
        assert_eq!(requested_path("/usr/bin/treegraft receive -- /srv/repo").as_deref(), Some("/srv/repo"));
    }

    #[test]
    fn other_commands_ask_for_nothing() {
        for command in [
            "",
            "ls",
            "treegraft receive /srv/repo",
            "treegraft receive -- ",
            "treegraft receive -- '/srv/repo",
            "treegraft receive -- /srv/$HOME",
            "treegraft receive -- /srv/repo; rm x",
            "treegraft receive -- a b",
            "treegraft receive -- 'a\nb'",
            "rm -rf x receive -- /srv/repo",
            "sh -c 'x' treegraft receive -- /srv/repo",
            "sh -c 'x' treegraft receive -- '/srv/\\40'",
            "sh -c 'x' treegraft receive -- '/srv/\\0777'",
            "sh -c 'x' treegraft receive -- '/srv/\\0000'",
            "sh -c 'x' treegraft receive -- '/srv/\\0377'",
            "sh -c 'x' treegraft receive -- 'a' 'b'",
            "sh -c 'x' treegraft receive -- '\\0'",
        ] {
            assert_eq!(requested_path(command), None, "`{command}` names no repository");
        }
        assert_eq!(requested_path(&encoded_command("x", &[], &"a".repeat(40 << 10))), None, "it is too long");
    }

    #[test]
    fn an_encoded_word_is_harmless_to_every_shell() {
        for path in PATHS {
            let word = encoded_word(path);
            let inner = &word[1..word.len() - 1];
            assert!(inner.is_ascii() && !inner.contains(['\'', '!', ' ', '$', '\n']), "{word}");
        }
    }
}
