//! As much of YAML as a configuration file of ostree-push can have: texts, lists and mappings.
//!
//! Scalars stay as they are written, since ostree-push reads YAML 1.1, in which `yes` and `off` are truth values, and since
//! a key id may look like a number.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

/// Deepest nesting: a mapping of repositories with a mapping of keys with a list.
const MAX_DEPTH: usize = 8;

/// A value of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A text, and whether it stands without quotes.
    Scalar {
        text: String,
        is_plain: bool,
    },
    List(Vec<Self>),
    Mapping(Vec<(String, Self)>),
}

/// The file is no YAML, or has what no configuration has.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The parser does not understand it.
    #[error(transparent)]
    Syntax(ScanError),
    /// It has something that no configuration of ostree-push needs.
    #[error("line {line}: {what}")]
    Unexpected {
        /// The line, counted from 1.
        line: usize,
        /// What there is.
        what: &'static str,
    },
}

/// Reads the first document; nothing when the file is empty.
pub(super) fn parse(text: &str) -> Result<Option<Node>, YamlError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(YamlError::Syntax)?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        builder.take(event).map_err(|what| YamlError::Unexpected { line: span.start.line(), what })?;
    }
    Ok(builder.done.filter(|node| !node.is_null()))
}

/// What is open, outermost first, with the key that a mapping waits for the value of.
#[derive(Default)]
struct Builder {
    open: Vec<(Node, Option<String>)>,
    done: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), &'static str> {
        match event {
            Event::Scalar(text, style, ..) => {
                self.put(Node::Scalar { text: text.into_owned(), is_plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(..) => self.begin(Node::List(Vec::new())),
            Event::MappingStart(..) => self.begin(Node::Mapping(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => {
                let (node, _) = self.open.pop().expect("the parser ends what it has begun");
                self.put(node)
            }
            Event::Alias(_) => Err("an alias (`*name`) is not read"),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, node: Node) -> Result<(), &'static str> {
        if self.open.len() >= MAX_DEPTH {
            return Err("it is nested too deep");
        }
        self.open.push((node, None));
        Ok(())
    }

    fn put(&mut self, value: Node) -> Result<(), &'static str> {
        match self.open.last_mut() {
            None => self.done = Some(value),
            Some((Node::List(values), _)) => values.push(value),
            Some((Node::Mapping(entries), key)) => match (key.take(), value) {
                (Some(name), value) if entries.iter().any(|(known, _)| *known == name) => {
                    let _ = value;
                    return Err("a key is there twice");
                }
                (Some(name), value) => entries.push((name, value)),
                (None, Node::Scalar { text, .. }) => *key = Some(text),
                (None, _) => return Err("a key is no text"),
            },
            Some((Node::Scalar { .. }, _)) => unreachable!("a text is never open"),
        }
        Ok(())
    }
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Scalar { text, is_plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Reads a truth value as YAML 1.1 has them.
    pub(super) fn as_bool(&self) -> Option<bool> {
        let Self::Scalar { text, is_plain: true } = self else { return None };
        match text.as_str() {
            "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
            "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Scalar { text, .. } => Some(text),
            Self::List(_) | Self::Mapping(_) => None,
        }
    }

    pub(super) fn as_texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(values) => values.iter().map(Self::as_text).collect(),
            Self::Scalar { .. } | Self::Mapping(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Node {
        match parse(&format!("key: {text}\n")).expect("valid YAML") {
            Some(Node::Mapping(mut entries)) => entries.remove(0).1,
            other => panic!("a mapping is expected: {other:?}"),
        }
    }

    #[test]
    fn truth_is_that_of_yaml_1_1() {
        for text in ["yes", "Yes", "YES", "true", "on"] {
            assert_eq!(value(text).as_bool(), Some(true), "`{text}`");
        }
        for text in ["no", "No", "False", "off"] {
            assert_eq!(value(text).as_bool(), Some(false), "`{text}`");
        }
        for text in ["\"yes\"", "'no'", "y", "1", "yEs", "[yes]"] {
            assert_eq!(value(text).as_bool(), None, "`{text}` is no truth value");
        }
    }

    #[test]
    fn texts_stay_as_they_are_written() {
        for (text, expected) in
            [("01234567", "01234567"), ("1e10", "1e10"), ("'a b'", "a b"), ("\"x\\ty\"", "x\ty"), ("0x10", "0x10")]
        {
            assert_eq!(value(text).as_text(), Some(expected), "`{text}`");
        }
        assert!(value("~").is_null() && value("").is_null() && value("null").is_null(), "nothing is nothing");
        assert!(!value("'null'").is_null(), "a quoted word is a text");
        assert_eq!(value("[a, 'b']").as_texts(), Some(vec!["a", "b"]), "a list in one line");
        assert_eq!(value("\n  - a\n  - b").as_texts(), Some(vec!["a", "b"]), "a list in several lines");
    }

    #[test]
    fn what_no_configuration_has_is_refused() {
        assert!(matches!(parse("# nothing\n"), Ok(None)), "an empty file is none");
        for text in ["a: &x 1\nb: *x\n", "a: 1\na: 2\n", "? [a]\n: b\n", &format!("a: {}", "[".repeat(100_000)), "a: ["]
        {
            assert!(parse(text).is_err(), "`{}`", text.chars().take(20).collect::<String>());
        }
    }
}
