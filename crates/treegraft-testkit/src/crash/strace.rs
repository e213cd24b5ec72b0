//! Reads the lines of `strace -f -y -xx`: a system call each, all strings as `\x` escapes.

use std::collections::HashMap;

/// A system call that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) args: Vec<Arg>,
    pub(super) result: Arg,
    /// How many calls had ended when this one began.
    pub(super) ended_before: usize,
}

/// An argument or the result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arg {
    /// A file descriptor with the path of its file at the time of the call.
    Fd { number: String, path: Vec<u8>, is_deleted: bool },
    /// A string.
    Text(Vec<u8>),
    /// Several strings, as `writev` takes them.
    Texts(Vec<Vec<u8>>),
    /// Numbers, flags, `NULL` and whatever else.
    Raw(String),
}

impl Arg {
    /// Reads a number in decimal, octal or hexadecimal notation, as `strace` writes it.
    pub(super) fn number(&self) -> Option<u64> {
        let Self::Raw(text) = self else { return None };
        if let Some(digits) = text.strip_prefix("0x") {
            return u64::from_str_radix(digits, 16).ok();
        }
        match text.strip_prefix('0') {
            Some(digits) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
            _ => text.parse().ok(),
        }
    }

    /// Tells whether a flag is among those of an argument like `O_RDONLY|O_CREAT`.
    pub(super) fn has_flag(&self, flag: &str) -> bool {
        matches!(self, Self::Raw(text) if text.split('|').any(|word| word == flag))
    }
}

/// Reads one line after the other.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// What threads have begun that had not ended when something else was written.
    unfinished: HashMap<String, (String, usize)>,
    /// How many calls were returned.
    ended: usize,
}

impl Parser {
    /// Parses a line; nothing for one that tells of no call that succeeded.
    ///
    /// A call that the end of the process has cut off is never resumed, and passed over.
    pub(super) fn parse(&mut self, line: &str) -> Result<Option<Call>, String> {
        let (thread, rest) = line.trim_start().split_once(' ').ok_or_else(|| bad("no thread", line))?;
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            return Ok(None);
        }
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            self.unfinished.insert(thread.to_owned(), (begin.trim_end().to_owned(), self.ended));
            return Ok(None);
        }
        let Some(end) = rest.strip_prefix("<... ") else { return self.end(rest, self.ended) };
        let (begin, ended_before) =
            self.unfinished.remove(thread).ok_or_else(|| bad("an end without a beginning", line))?;
        let (_, end) = end.split_once(" resumed>").ok_or_else(|| bad("an odd end", line))?;
        self.end(&format!("{begin}{end}"), ended_before)
    }

    fn end(&mut self, text: &str, ended_before: usize) -> Result<Option<Call>, String> {
        let call = parse(text, ended_before)?;
        self.ended += usize::from(call.is_some());
        Ok(call)
    }
}

fn bad(what: &str, line: &str) -> String {
    format!("{what} in the line of strace: {}", line.chars().take(300).collect::<String>())
}

fn parse(line: &str, ended_before: usize) -> Result<Option<Call>, String> {
    let bad = |what: &str| bad(what, line);
    let (name, rest) = line.split_once('(').ok_or_else(|| bad("no call"))?;
    let (args, rest) = split_args(rest).ok_or_else(|| bad("unbalanced arguments"))?;
    let result = rest.trim_start().strip_prefix("= ").ok_or_else(|| bad("no result"))?;
    let result = result.split(' ').next().unwrap_or_default();
    if result == "-1" || result == "?" {
        return Ok(None);
    }
    let args: Option<Vec<_>> = args.iter().map(|text| argument(text)).collect();
    Ok(Some(Call {
        name: name.to_owned(),
        args: args.ok_or_else(|| bad("a string that is cut off"))?,
        result: argument(result).ok_or_else(|| bad("an odd result"))?,
        ended_before,
    }))
}

/// Splits at the commas outside of all brackets, up to the closing parenthesis. No string holds a bracket, but as an escape.
fn split_args(text: &str) -> Option<(Vec<&str>, &str)> {
    let (mut depth, mut begin, mut args) = (0_u32, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' if depth == 0 => {
                if at > begin {
                    args.push(text[begin..at].trim());
                }
                return Some((args, &text[at + 1..]));
            }
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                args.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    None
}

fn argument(text: &str) -> Option<Arg> {
    if let Some(quoted) = text.strip_prefix('"') {
        return unescape(quoted.strip_suffix('"')?).map(Arg::Text);
    }
    if text.starts_with("[{iov_base=") {
        let strings = text.split('"').skip(1).step_by(2).map(unescape).collect::<Option<_>>()?;
        return if text.contains("...") { None } else { Some(Arg::Texts(strings)) };
    }
    if let Some((number, path)) = text.split_once('<').filter(|(number, _)| is_descriptor(number)) {
        let (path, rest) = path.split_once('>')?;
        let is_deleted = rest.contains("(deleted)");
        return Some(Arg::Fd { number: number.to_owned(), path: unescape(path)?, is_deleted });
    }
    Some(Arg::Raw(text.to_owned()))
}

fn is_descriptor(text: &str) -> bool {
    text == "AT_FDCWD" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Turns `\x61\x62` into bytes.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.strip_prefix("\\x")?.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[4..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        Parser::default().parse(line).expect("the line is well formed").expect("the line tells of a call")
    }

    #[test]
    fn calls_are_read_with_their_paths_and_bytes() {
        let write = call(r#"71 pwrite64(4<\x2f\x72\x2f\x78>, "\x61\x29\x00", 3, 10) = 3"#);
        assert_eq!(write.name, "pwrite64");
        assert_eq!(write.args[0], Arg::Fd { number: "4".to_owned(), path: b"/r/x".to_vec(), is_deleted: false });
        assert_eq!(write.args[1], Arg::Text(b"a)\0".to_vec()), "a bracket in a string is an escape");
        assert_eq!((write.args[3].number(), write.result.number()), (Some(10), Some(3)));

        let open = call(r#"71 openat(AT_FDCWD<\x2f>, "\x72", O_WRONLY|O_CREAT|O_EXCL, 0644) = 5<\x2f\x72>"#);
        assert!(open.args[2].has_flag("O_CREAT") && !open.args[2].has_flag("O_TRUNC"), "flags are words");
        assert_eq!(open.args[3].number(), Some(0o644), "modes are octal");

        let vector =
            call(r#"71 writev(4<\x2f\x72>(deleted), [{iov_base="\x61", iov_len=1}, {iov_base="", iov_len=0}], 2) = 1"#);
        assert_eq!(vector.args[0], Arg::Fd { number: "4".to_owned(), path: b"/r".to_vec(), is_deleted: true });
        assert_eq!(vector.args[1], Arg::Texts(vec![b"a".to_vec(), Vec::new()]));
        assert_eq!(call("71 sync()                            = 0").args, Vec::new(), "a call may have no arguments");
    }

    #[test]
    fn a_call_in_two_parts_is_put_together() {
        let mut parser = Parser::default();
        assert_eq!(parser.parse(r#"71 write(1<\x2f>, "\x61", 1 <unfinished ...>"#), Ok(None));
        assert_eq!(parser.parse(r"72 fsync(3<\x2f> <unfinished ...>"), Ok(None), "another thread");
        let other = parser.parse("73 sync() = 0").expect("it is well formed").expect("it has ended");
        assert_eq!(other.ended_before, 0, "it began after no other had ended");
        let call = parser.parse("71 <... write resumed>)                   = 1").expect("it is well formed");
        let call = call.expect("it has ended");
        assert_eq!(call.args.len(), 3, "the arguments are in the first part");
        assert_eq!(call.ended_before, 0, "it began before the other one ended");
        let late = parser.parse("73 sync() = 0").expect("it is well formed").expect("it has ended");
        assert_eq!(late.ended_before, 2, "two had ended when it began");
    }

    #[test]
    fn what_is_no_call_is_passed_over_and_what_is_cut_off_is_an_error() {
        let mut parser = Parser::default();
        for line in
            ["71 +++ exited with 0 +++", "71 fsync(3) = -1 EIO (Input/output error)", "71 write(1) = ? ERESTARTSYS"]
        {
            assert_eq!(parser.parse(line), Ok(None), "`{line}` has changed nothing");
        }
        for line in [r#"71 write(1<\x2f>, "\x61"..., 9) = 9"#, "71 write(1, ", "71 read(0) 5", "71"] {
            assert!(parser.parse(line).is_err(), "`{line}` cannot be relied on");
        }
    }
}
