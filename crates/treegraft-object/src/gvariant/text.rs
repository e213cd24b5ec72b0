//! GVariant's text format, as `g_variant_parse` reads it and `ostree commit --add-metadata` takes it.
//!
//! ```text
//! 'text' "text" b'bytes'  true false  1 -1 0x1f 1.5e3  just X nothing
//! [X, …]  (X, …) (X,)  {K: V, …} {K, V}  <X>
//! @TYPE X   boolean|byte|int16|uint16|int32|uint32|handle|int64|uint64|double|string|objectpath|signature X
//! ```
//!
//! A number without a type is an `int32`, or a `double` when it has a point or an exponent, unless the other elements of its
//! array, or the type in front of it, say otherwise.

use super::{ArrayWriter, TupleWriter, Type, Variant};
use crate::limits::{MAX_GVARIANT_DEPTH, MAX_TYPE_STRING_BYTES};

/// Longest text that is read, in bytes: what is more than a command line can hold.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// The text is no GVariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Not a GVariant in text format at byte {at}: {reason}")]
pub struct TextError {
    /// Where, in bytes from 0.
    pub at: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Reads a value with a definite type.
pub fn parse_text(text: &str) -> Result<Variant, TextError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(TextError { at: 0, reason: format!("it is longer than {MAX_TEXT_BYTES} bytes") });
    }
    let mut parser = Parser { text, at: 0 };
    let node = parser.value(0)?;
    parser.blanks();
    if parser.at < text.len() {
        return Err(parser.error("the value is over here"));
    }
    let type_string = node.type_string()?;
    let data = node.encode(&type_string)?;
    Variant::from_parts(&type_string, data).map_err(|error| parser.error(&error.to_string()))
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

/// A value whose type may not be known yet.
struct Node {
    at: usize,
    kind: Kind,
}

enum Kind {
    Bool(bool),
    /// Its text, for one that turns out to be a double.
    Integer(String),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Node>),
    Tuple(Vec<Node>),
    /// `{K, V}`
    Entry(Box<(Node, Node)>),
    /// `{K: V, …}`
    Dict(Vec<(Node, Node)>),
    Variant(Box<Node>),
    Maybe(Option<Box<Node>>),
    /// A type in front of a value.
    Typed(String, Box<Node>),
}

/// What is known of a type.
#[derive(Clone, PartialEq, Eq)]
enum Pattern {
    /// Nothing.
    Any,
    /// Some number; an integer when nobody says more.
    Number,
    /// A number with a fraction.
    Fraction,
    /// A text, an object path or a signature; a text when nobody says more.
    Text,
    Exact(String),
    Array(Box<Self>),
    Maybe(Box<Self>),
    Tuple(Vec<Self>),
    Entry(Box<(Self, Self)>),
}

impl Pattern {
    /// Returns the type that a value gets when nobody says more, if that is known.
    fn definite(&self) -> Option<String> {
        Some(match self {
            Self::Any => return None,
            Self::Number => "i".to_owned(),
            Self::Fraction => "d".to_owned(),
            Self::Text => "s".to_owned(),
            Self::Exact(text) => text.clone(),
            Self::Array(element) => format!("a{}", element.definite()?),
            Self::Maybe(inner) => format!("m{}", inner.definite()?),
            Self::Tuple(members) => {
                format!("({})", members.iter().map(Self::definite).collect::<Option<String>>()?)
            }
            Self::Entry(entry) => format!("{{{}{}}}", entry.0.definite()?, entry.1.definite()?),
        })
    }

    /// Returns what both say together, if they agree.
    fn and(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Any, known) | (known, Self::Any) => known.clone(),
            (one, another) if one == another => one.clone(),
            (Self::Number, Self::Fraction) | (Self::Fraction, Self::Number) => Self::Fraction,
            (Self::Number, Self::Exact(text)) | (Self::Exact(text), Self::Number)
                if text.len() == 1 && "ynqiuhxtd".contains(text.as_str()) =>
            {
                Self::Exact(text.clone())
            }
            (Self::Fraction, Self::Exact(text)) | (Self::Exact(text), Self::Fraction) if text == "d" => {
                Self::Exact(text.clone())
            }
            (Self::Text, Self::Exact(text)) | (Self::Exact(text), Self::Text)
                if text.len() == 1 && "sog".contains(text.as_str()) =>
            {
                Self::Exact(text.clone())
            }
            (Self::Array(one), Self::Array(another)) => Self::Array(Box::new(one.and(another)?)),
            (Self::Maybe(one), Self::Maybe(another)) => Self::Maybe(Box::new(one.and(another)?)),
            // What is not nothing need not say so.
            (Self::Maybe(inner), plain) | (plain, Self::Maybe(inner)) if !matches!(plain, Self::Exact(_)) => {
                Self::Maybe(Box::new(inner.and(plain)?))
            }
            (Self::Tuple(one), Self::Tuple(another)) if one.len() == another.len() => {
                Self::Tuple(one.iter().zip(another).map(|(one, another)| one.and(another)).collect::<Option<_>>()?)
            }
            (Self::Entry(one), Self::Entry(another)) => {
                Self::Entry(Box::new((one.0.and(&another.0)?, one.1.and(&another.1)?)))
            }
            // A type that was said, beside a value of which less is known.
            (Self::Exact(text), pattern) | (pattern, Self::Exact(text)) => pattern.and(&Self::of(text)?)?,
            _ => return None,
        })
    }

    /// Takes a container's type apart.
    fn of(text: &str) -> Option<Self> {
        let inside = |text: &str| Self::Exact(text.to_owned());
        Some(match text.as_bytes().first()? {
            b'a' => Self::Array(Box::new(inside(&text[1..]))),
            b'm' => Self::Maybe(Box::new(inside(&text[1..]))),
            b'(' => Self::Tuple(members(&text[1..text.len() - 1])?.into_iter().map(inside).collect()),
            b'{' => match members(&text[1..text.len() - 1])?[..] {
                [key, value] => Self::Entry(Box::new((inside(key), inside(value)))),
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// Splits the types of a tuple.
fn members(mut text: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let length = (1..=text.len()).find(|&length| text.get(..length).is_some_and(is_type))?;
        found.push(&text[..length]);
        text = &text[length..];
    }
    Some(found)
}

/// Tells whether a text is a type, that of a dict entry included.
fn is_type(text: &str) -> bool {
    if text.starts_with('{') { Type::parse(&format!("a{text}")).is_ok() } else { Type::parse(text).is_ok() }
}

impl Kind {
    fn pattern(&self) -> Pattern {
        let exact = |text: &str| Pattern::Exact(text.to_owned());
        match self {
            Self::Bool(_) => exact("b"),
            Self::Integer(_) => Pattern::Number,
            Self::Double(_) => Pattern::Fraction,
            Self::Text(_) => Pattern::Text,
            Self::Bytes(_) => exact("ay"),
            Self::Variant(_) => exact("v"),
            Self::Typed(text, _) => exact(text),
            Self::Maybe(inner) => {
                Pattern::Maybe(Box::new(inner.as_ref().map_or(Pattern::Any, |inner| inner.kind.pattern())))
            }
            Self::Tuple(members) => Pattern::Tuple(members.iter().map(|member| member.kind.pattern()).collect()),
            Self::Entry(entry) => Pattern::Entry(Box::new((entry.0.kind.pattern(), entry.1.kind.pattern()))),
            // That all agree was seen when they were read.
            Self::Array(elements) => Pattern::Array(Box::new(common(elements.iter()).unwrap_or(Pattern::Any))),
            Self::Dict(entries) => {
                let keys = common(entries.iter().map(|(key, _)| key)).unwrap_or(Pattern::Any);
                let values = common(entries.iter().map(|(_, value)| value)).unwrap_or(Pattern::Any);
                Pattern::Array(Box::new(Pattern::Entry(Box::new((keys, values)))))
            }
        }
    }
}

/// Returns the type that all values can have.
fn common<'n>(nodes: impl Iterator<Item = &'n Node>) -> Option<Pattern> {
    nodes.map(|node| node.kind.pattern()).try_fold(Pattern::Any, |known, next| known.and(&next))
}

impl Node {
    fn error(&self, reason: impl Into<String>) -> TextError {
        TextError { at: self.at, reason: reason.into() }
    }

    /// Returns the type that the value has when nobody says more.
    fn type_string(&self) -> Result<String, TextError> {
        let known = self.kind.pattern().definite();
        let type_string = known.ok_or_else(|| self.error("nothing says the type of an empty value"))?;
        if type_string.len() > MAX_TYPE_STRING_BYTES {
            return Err(self.error(format!("its type is longer than {MAX_TYPE_STRING_BYTES} characters")));
        }
        Ok(type_string)
    }

    /// Serialises the value as one that is there and might not be.
    fn just(&self, inside: &str) -> Result<Vec<u8>, TextError> {
        let mut data = self.encode(inside)?;
        // What has no size of its own is told from nothing by one more byte.
        if parsed(inside).is_some_and(|inner| inner.fixed_size().is_none()) {
            data.push(0);
        }
        Ok(data)
    }

    /// Serialises the value as a certain type.
    fn encode(&self, wanted: &str) -> Result<Vec<u8>, TextError> {
        let mismatch = || self.error(format!("it is no `{wanted}`"));
        let first = *wanted.as_bytes().first().ok_or_else(mismatch)?;
        let inside = &wanted[1..];
        Ok(match (&self.kind, first) {
            (Kind::Typed(text, node), _) if text == wanted => node.encode(wanted)?,
            (Kind::Bool(value), b'b') => vec![u8::from(*value)],
            (Kind::Integer(text), b'y' | b'n' | b'q' | b'i' | b'u' | b'h' | b'x' | b't' | b'd') => number(text, first)
                .ok_or_else(|| self.error(format!("{text} does not fit into the type `{wanted}`")))?,
            (Kind::Double(value), b'd') => value.to_le_bytes().to_vec(),
            (Kind::Text(text), b's' | b'o' | b'g') => [text.as_bytes(), &[0]].concat(),
            (Kind::Bytes(bytes), _) if wanted == "ay" => [bytes, &[0][..]].concat(),
            (Kind::Variant(node), b'v') => {
                let type_string = node.type_string()?;
                let data = node.encode(&type_string)?;
                [&data, &[0][..], type_string.as_bytes()].concat()
            }
            (Kind::Maybe(None), b'm') => Vec::new(),
            (Kind::Maybe(Some(node)), b'm') => node.just(inside)?,
            (_, b'm') => self.just(inside)?,
            (Kind::Array(elements), b'a') => array(inside, elements.iter().map(|element| element.encode(inside)))?,
            (Kind::Dict(entries), b'a') => {
                let types = wanted.strip_prefix("a{").and_then(|rest| members(rest.strip_suffix('}')?));
                let Some([key, value]) = types.as_deref() else { return Err(mismatch()) };
                let entries = entries.iter().map(|(k, v)| tuple(&[key, value], &[k, v]));
                array(inside, entries)?
            }
            (Kind::Tuple(nodes), b'(') => {
                let types = members(&wanted[1..wanted.len() - 1]).ok_or_else(mismatch)?;
                if types.len() != nodes.len() {
                    return Err(mismatch());
                }
                if nodes.is_empty() { vec![0] } else { tuple(&types, &nodes.iter().collect::<Vec<_>>())? }
            }
            (Kind::Entry(entry), b'{') => {
                let types = members(&wanted[1..wanted.len() - 1]).ok_or_else(mismatch)?;
                tuple(&types, &[&entry.0, &entry.1])?
            }
            _ => return Err(mismatch()),
        })
    }
}

/// Serialises a number. As in C, a leading zero means octal for all but a double.
fn number(text: &str, wanted: u8) -> Option<Vec<u8>> {
    if wanted == b'd' {
        return double(text).map(|value| value.to_le_bytes().to_vec());
    }
    let unsigned = text.trim_start_matches(['+', '-']);
    let (digits, radix) = match unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if unsigned.len() > 1 && unsigned.starts_with('0') => (unsigned, 8),
        None => (unsigned, 10),
    };
    let value =
        i128::from_str_radix(digits, radix).ok().filter(|_| digits.chars().all(|digit| digit.is_digit(radix)))?;
    let value = if text.starts_with('-') { -value } else { value };
    Some(match wanted {
        b'y' => u8::try_from(value).ok()?.to_le_bytes().to_vec(),
        b'n' => i16::try_from(value).ok()?.to_le_bytes().to_vec(),
        b'q' => u16::try_from(value).ok()?.to_le_bytes().to_vec(),
        b'i' | b'h' => i32::try_from(value).ok()?.to_le_bytes().to_vec(),
        b'u' => u32::try_from(value).ok()?.to_le_bytes().to_vec(),
        b'x' => i64::try_from(value).ok()?.to_le_bytes().to_vec(),
        b't' => u64::try_from(value).ok()?.to_le_bytes().to_vec(),
        _ => return None,
    })
}

/// Reads a decimal number that a double can hold.
fn double(text: &str) -> Option<f64> {
    let is_decimal = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    text.parse::<f64>().ok().filter(|value| is_decimal && value.is_finite())
}

/// Parses a type that may be a dict entry's.
fn parsed(text: &str) -> Option<Type> {
    let as_tuple = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).map(|inside| format!("({inside})"));
    Type::parse(as_tuple.as_deref().unwrap_or(text)).ok()
}

fn array(element: &str, encoded: impl Iterator<Item = Result<Vec<u8>, TextError>>) -> Result<Vec<u8>, TextError> {
    let element = parsed(element).expect("the type was put together of types");
    if element.fixed_size().is_some() {
        // Elements of one size follow each other: the size is a multiple of the alignment.
        return Ok(encoded.collect::<Result<Vec<_>, _>>()?.concat());
    }
    let mut writer = ArrayWriter::new(element.alignment());
    for element in encoded {
        writer.push(&element?);
    }
    Ok(writer.finish())
}

fn tuple(types: &[&str], nodes: &[&Node]) -> Result<Vec<u8>, TextError> {
    let mut writer = TupleWriter::new();
    for (&text, node) in types.iter().zip(nodes) {
        let data = node.encode(text)?;
        let member = parsed(text).expect("the type was put together of types");
        writer = match member.fixed_size() {
            Some(_) => writer.fixed(member.alignment(), &data),
            None => writer.variable(member.alignment(), &data),
        };
    }
    Ok(writer.finish())
}

impl Parser<'_> {
    fn error(&self, reason: &str) -> TextError {
        TextError { at: self.at, reason: reason.to_owned() }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_ascii_start().len();
    }

    /// Takes a character behind blanks, if it is there.
    fn takes(&mut self, wanted: &str) -> bool {
        self.blanks();
        let is_there = self.rest().starts_with(wanted);
        self.at += if is_there { wanted.len() } else { 0 };
        is_there
    }

    fn expect(&mut self, wanted: &str) -> Result<(), TextError> {
        if self.takes(wanted) { Ok(()) } else { Err(self.error(&format!("expected `{wanted}`"))) }
    }

    fn value(&mut self, depth: usize) -> Result<Node, TextError> {
        if depth > MAX_GVARIANT_DEPTH {
            return Err(self.error("it is nested too deeply"));
        }
        self.blanks();
        let at = self.at;
        let kind = match self.rest().bytes().next() {
            None => return Err(self.error("expected a value")),
            Some(b'[') => self.array(depth)?,
            Some(b'(') => self.tuple(depth)?,
            Some(b'{') => self.dict(depth)?,
            Some(b'<') => {
                self.expect("<")?;
                let inner = self.value(depth + 1)?;
                self.expect(">")?;
                Kind::Variant(Box::new(inner))
            }
            Some(b'@') => {
                self.at += 1;
                let length = self.rest().find(|c: char| c.is_ascii_whitespace()).unwrap_or(self.rest().len());
                let type_string = self.rest()[..length].to_owned();
                if Type::parse(&type_string).is_err() {
                    return Err(self.error("expected a type"));
                }
                self.at += length;
                self.typed(type_string, depth)?
            }
            Some(b'\'' | b'"') => Kind::Text(self.quoted()?),
            Some(b'b') if matches!(self.rest().as_bytes().get(1), Some(b'\'' | b'"')) => {
                self.at += 1;
                Kind::Bytes(self.quoted_bytes()?)
            }
            Some(first) if first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.') => self.number()?,
            Some(_) => self.word(depth)?,
        };
        Ok(Node { at, kind })
    }

    fn word(&mut self, depth: usize) -> Result<Kind, TextError> {
        let length = self.rest().find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest().len());
        let word = self.rest()[..length].to_owned();
        let type_string = match word.as_str() {
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "handle" => "h",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            "true" | "false" | "nothing" | "just" | "inf" | "nan" => "",
            _ => return Err(self.error("expected a value")),
        };
        self.at += length;
        Ok(match word.as_str() {
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            "nothing" => Kind::Maybe(None),
            "just" => Kind::Maybe(Some(Box::new(self.value(depth + 1)?))),
            "inf" => Kind::Double(f64::INFINITY),
            "nan" => Kind::Double(f64::NAN),
            _ => self.typed(type_string.to_owned(), depth)?,
        })
    }

    fn typed(&mut self, type_string: String, depth: usize) -> Result<Kind, TextError> {
        let inner = self.value(depth + 1)?;
        let pattern = Pattern::Exact(type_string.clone());
        if inner.kind.pattern().and(&pattern).is_none() {
            return Err(inner.error(format!("it is no `{type_string}`")));
        }
        Ok(Kind::Typed(type_string, Box::new(inner)))
    }

    fn array(&mut self, depth: usize) -> Result<Kind, TextError> {
        self.expect("[")?;
        let mut elements = Vec::new();
        while !self.takes("]") {
            if !elements.is_empty() {
                self.expect(",")?;
            }
            elements.push(self.value(depth + 1)?);
        }
        if common(elements.iter()).is_none() {
            return Err(self.error("the elements of the array have no common type"));
        }
        Ok(Kind::Array(elements))
    }

    fn tuple(&mut self, depth: usize) -> Result<Kind, TextError> {
        self.expect("(")?;
        let mut members = Vec::new();
        // A tuple of one has a comma behind it, as in Python.
        while !self.takes(")") {
            members.push(self.value(depth + 1)?);
            if !self.takes(",") {
                if members.len() == 1 {
                    return Err(self.error("expected `,`"));
                }
                self.expect(")")?;
                break;
            }
        }
        Ok(Kind::Tuple(members))
    }

    fn dict(&mut self, depth: usize) -> Result<Kind, TextError> {
        self.expect("{")?;
        let mut entries = Vec::new();
        while !self.takes("}") {
            if !entries.is_empty() {
                self.expect(",")?;
            }
            let key = self.value(depth + 1)?;
            if entries.is_empty() && self.takes(",") {
                let value = self.value(depth + 1)?;
                self.expect("}")?;
                return Ok(Kind::Entry(Box::new((key, value))));
            }
            self.expect(":")?;
            entries.push((key, self.value(depth + 1)?));
        }
        let has_types = common(entries.iter().map(|(key, _)| key)).is_some()
            && common(entries.iter().map(|(_, value)| value)).is_some();
        if has_types {
            Ok(Kind::Dict(entries))
        } else {
            Err(self.error("the entries of the dictionary have no common type"))
        }
    }

    fn number(&mut self) -> Result<Kind, TextError> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let length = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        let token = self.rest()[..length].to_owned();
        let unsigned = token.trim_start_matches(['+', '-']);
        let is_hex = unsigned.starts_with("0x") || unsigned.starts_with("0X");
        let kind = match unsigned {
            _ if token.len() - unsigned.len() > 1 => None,
            "inf" | "infinity" => token.parse().ok().map(Kind::Double),
            "nan" => Some(Kind::Double(if token.starts_with('-') { -f64::NAN } else { f64::NAN })),
            _ if !is_hex && unsigned.contains(['.', 'e', 'E']) => double(&token).map(Kind::Double),
            _ if unsigned.starts_with(|c: char| c.is_ascii_digit()) => Some(Kind::Integer(token.clone())),
            _ => None,
        };
        let kind = kind.ok_or_else(|| self.error("it is no number"))?;
        self.at += length;
        Ok(kind)
    }

    fn quoted(&mut self) -> Result<String, TextError> {
        let mut text = String::new();
        let mut characters = self.rest().char_indices();
        let quote = characters.next().map(|(_, quote)| quote);
        while let Some((at, next)) = characters.next() {
            if Some(next) == quote {
                self.at += at + 1;
                return Ok(text);
            }
            if next != '\\' {
                if next == '\0' {
                    break;
                }
                text.push(next);
                continue;
            }
            let Some((_, escaped)) = characters.next() else { break };
            let digits = match escaped {
                'u' => 4,
                'U' => 8,
                '\n' => continue,
                escaped => {
                    text.push(control(escaped).unwrap_or(escaped));
                    continue;
                }
            };
            let code: String = characters.by_ref().take(digits).map(|(_, digit)| digit).collect();
            let is_whole = code.len() == digits && code.bytes().all(|digit| digit.is_ascii_hexdigit());
            let code = u32::from_str_radix(&code, 16).ok().filter(|&number| number != 0 && is_whole);
            text.push(code.and_then(char::from_u32).ok_or_else(|| self.error("an escape is no character"))?);
        }
        Err(self.error("the text does not end"))
    }

    fn quoted_bytes(&mut self) -> Result<Vec<u8>, TextError> {
        let mut bytes = Vec::new();
        let source = self.rest().as_bytes();
        let quote = source.first().copied();
        let mut at = 1;
        while let Some(&next) = source.get(at) {
            at += 1;
            if Some(next) == quote {
                self.at += at;
                return Ok(bytes);
            }
            if next != b'\\' {
                bytes.push(next);
                continue;
            }
            let Some(&escaped) = source.get(at) else { break };
            at += 1;
            match escaped {
                b'0'..=b'7' => {
                    let more = source[at..].iter().take(2).take_while(|digit| matches!(digit, b'0'..=b'7'));
                    let digits: Vec<u8> = [escaped].into_iter().chain(more.copied()).collect();
                    at += digits.len() - 1;
                    let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                    bytes.push(u8::try_from(value & 0xff).expect("one byte"));
                }
                b'\n' => {}
                escaped => {
                    bytes.push(control(escaped.into()).and_then(|c| u8::try_from(c).ok()).unwrap_or(escaped));
                }
            }
        }
        Err(self.error("the bytes do not end"))
    }
}

/// Returns the control character that a letter behind `\` stands for.
const fn control(letter: char) -> Option<char> {
    Some(match letter {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        _ => return None,
    })
}
