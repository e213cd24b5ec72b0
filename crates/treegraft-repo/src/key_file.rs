//! `GLib` key files, read as `GKeyFile` does.
//!
//! ```text
//! # a comment
//! [group]
//! key=value with \s\n\t\r\\ as escapes
//! list=one;two\;still two;
//! ```
//!
//! A key that is there twice has its last value, a group that is there twice is one group. Blanks before a line and
//! around `=` do not count, blanks behind a value do. Source: `gkeyfile.c` of `GLib`.

use std::collections::HashMap;

/// A parsed key file.
#[derive(Debug, Clone, Default)]
pub struct KeyFile {
    /// Groups in the order of their first appearance.
    groups: Vec<Group>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug, Clone, Default)]
struct Group {
    name: String,
    keys: Vec<String>,
    values: HashMap<String, Value>,
}

#[derive(Debug, Clone)]
struct Value {
    raw: String,
    /// Nothing when an escape sequence is not known.
    text: Option<String>,
}

/// A line that cannot be part of a key file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Line {line} is not valid: {reason}")]
pub struct KeyFileError {
    /// The line, from 1.
    pub line: usize,
    /// The rule that it breaks.
    pub reason: &'static str,
}

impl KeyFile {
    /// Parses the bytes of a key file.
    pub fn parse(data: &[u8]) -> Result<Self, KeyFileError> {
        let mut file = Self::default();
        let mut current = None;
        for (index, line) in data.split(|&byte| byte == b'\n').enumerate() {
            let fail = |reason| KeyFileError { line: index + 1, reason };
            let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let line = std::str::from_utf8(line).map_err(|_| fail("it is not UTF-8"))?;
            if line.starts_with('[') && !line.contains('=') || is_group_line(line) {
                current = Some(file.group_index(group_name(line).ok_or_else(|| fail("it is no `[group]`"))?));
                continue;
            }
            let (key, raw) = line.split_once('=').ok_or_else(|| fail("it is no group, `key=value` or comment"))?;
            let key = key.trim_ascii_end();
            if !is_key(key) {
                return Err(fail("the key is empty or has a character that keys cannot have"));
            }
            let group = current.ok_or_else(|| fail("there is no `[group]` before the first key"))?;
            file.groups[group].set(key, raw.trim_ascii_start());
        }
        Ok(file)
    }

    fn group_index(&mut self, name: &str) -> usize {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        let index = self.groups.len();
        self.groups.push(Group { name: name.to_owned(), ..Group::default() });
        self.by_name.insert(name.to_owned(), index);
        index
    }

    fn value(&self, group: &str, key: &str) -> Option<&Value> {
        self.groups[*self.by_name.get(group)?].values.get(key)
    }

    /// Returns a value with its escapes resolved; nothing when it is not there or has an unknown escape.
    pub fn get(&self, group: &str, key: &str) -> Option<&str> {
        self.value(group, key)?.text.as_deref()
    }

    /// Returns a value as it is written.
    pub fn get_raw(&self, group: &str, key: &str) -> Option<&str> {
        Some(&self.value(group, key)?.raw)
    }

    /// Returns a list: its elements end with `;`, the last one may go without.
    pub fn get_list(&self, group: &str, key: &str) -> Option<Vec<String>> {
        split_list(&self.value(group, key)?.raw)
    }

    /// Returns the names of the groups in their order.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| group.name.as_str())
    }

    /// Returns the keys of a group in their order.
    pub fn keys<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a str> {
        self.by_name.get(group).into_iter().flat_map(|&index| self.groups[index].keys.iter().map(String::as_str))
    }
}

impl Group {
    fn set(&mut self, key: &str, raw: &str) {
        let value = Value { raw: raw.to_owned(), text: unescape(raw) };
        if self.values.insert(key.to_owned(), value).is_none() {
            self.keys.push(key.to_owned());
        }
    }
}

/// Tells whether a line is a group although it has a `=`, like `[remote "a=b"]`.
fn is_group_line(line: &str) -> bool {
    line.starts_with('[') && line.trim_ascii_end().ends_with(']') && group_name(line).is_some()
}

fn group_name(line: &str) -> Option<&str> {
    let name = line.trim_ascii_end().strip_prefix('[')?.strip_suffix(']')?;
    let is_valid = !name.is_empty() && !name.contains(['[', ']']) && !name.contains(|c: char| c.is_control());
    is_valid.then_some(name)
}

/// Tells whether a key is one: not empty, without `[`, `]` but for a locale at its end.
fn is_key(key: &str) -> bool {
    let base = match key.split_once('[') {
        None => key,
        Some((base, locale)) => match locale.strip_suffix(']') {
            Some(locale) if !locale.contains(['[', ']']) => base,
            _ => return false,
        },
    };
    !base.is_empty() && !base.starts_with(' ') && !base.ends_with(' ') && !base.contains([']', '='])
}

fn unescaped(escape: char) -> Option<char> {
    Some(match escape {
        's' => ' ',
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        '\\' => '\\',
        _ => return None,
    })
}

fn unescape(raw: &str) -> Option<String> {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        text.push(if c == '\\' { unescaped(chars.next()?)? } else { c });
    }
    Some(text)
}

fn split_list(raw: &str) -> Option<Vec<String>> {
    let mut list = Vec::new();
    let mut element = String::new();
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            ';' => list.push(std::mem::take(&mut element)),
            '\\' => match chars.next()? {
                ';' => element.push(';'),
                escape => element.push(unescaped(escape)?),
            },
            c => element.push(c),
        }
    }
    if !element.is_empty() {
        list.push(element);
    }
    Some(list)
}
