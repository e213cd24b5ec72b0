//! Type strings.

use crate::limits::{MAX_GVARIANT_DEPTH, MAX_TYPE_STRING_BYTES};

/// A definite GVariant type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `b`
    Bool,
    /// `y`
    Byte,
    /// `n` and `q`: two bytes.
    Int16,
    /// `i`, `u` and `h`: four bytes.
    Int32,
    /// `x`, `t` and `d`: eight bytes.
    Int64,
    /// `s`
    Str,
    /// `o`
    ObjectPath,
    /// `g`
    Signature,
    /// `v`
    Variant,
    /// `mX`
    Maybe(Box<Type>),
    /// `aX`
    Array(Box<Type>),
    /// `(…)`, and `{KV}` with exactly two members.
    Tuple(Vec<Type>),
}

/// The text is not exactly one definite type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Not a single definite GVariant type")]
pub struct InvalidType;

impl Type {
    /// Parses a type string that must hold exactly one definite type of at most [`MAX_TYPE_STRING_BYTES`].
    pub fn parse(text: &str) -> Result<Self, InvalidType> {
        if text.len() > MAX_TYPE_STRING_BYTES {
            return Err(InvalidType);
        }
        let (parsed, rest) = Self::parse_prefix(text.as_bytes(), 0)?;
        if rest.is_empty() { Ok(parsed) } else { Err(InvalidType) }
    }

    /// Tells whether `text` is a D-Bus signature: zero or more definite types, none of them with a maybe.
    pub(super) fn is_signature(text: &str) -> bool {
        if text.len() > MAX_TYPE_STRING_BYTES || text.contains('m') {
            return false;
        }
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match Self::parse_prefix(rest, 0) {
                Ok((_, behind)) => rest = behind,
                Err(InvalidType) => return false,
            }
        }
        true
    }

    fn parse_prefix(text: &[u8], depth: usize) -> Result<(Self, &[u8]), InvalidType> {
        if depth > MAX_GVARIANT_DEPTH {
            return Err(InvalidType);
        }
        let (&first, mut rest) = text.split_first().ok_or(InvalidType)?;
        let simple = match first {
            b'b' => Self::Bool,
            b'y' => Self::Byte,
            b'n' | b'q' => Self::Int16,
            b'i' | b'u' | b'h' => Self::Int32,
            b'x' | b't' | b'd' => Self::Int64,
            b's' => Self::Str,
            b'o' => Self::ObjectPath,
            b'g' => Self::Signature,
            b'v' => Self::Variant,
            b'a' | b'm' => {
                let (element, rest) = Self::parse_prefix(rest, depth + 1)?;
                let element = Box::new(element);
                return Ok((if first == b'a' { Self::Array(element) } else { Self::Maybe(element) }, rest));
            }
            b'(' => {
                let mut members = Vec::new();
                while rest.first() != Some(&b')') {
                    let (member, behind) = Self::parse_prefix(rest, depth + 1)?;
                    members.push(member);
                    rest = behind;
                }
                return Ok((Self::Tuple(members), &rest[1..]));
            }
            b'{' => {
                let (key, behind) = Self::parse_prefix(rest, depth + 1)?;
                if !key.is_basic() {
                    return Err(InvalidType);
                }
                let (value, behind) = Self::parse_prefix(behind, depth + 1)?;
                let behind = behind.strip_prefix(b"}").ok_or(InvalidType)?;
                return Ok((Self::Tuple(vec![key, value]), behind));
            }
            _ => return Err(InvalidType),
        };
        Ok((simple, rest))
    }

    const fn is_basic(&self) -> bool {
        !matches!(self, Self::Variant | Self::Maybe(_) | Self::Array(_) | Self::Tuple(_))
    }

    /// Returns the alignment in bytes: 1, 2, 4 or 8.
    pub fn alignment(&self) -> usize {
        match self {
            Self::Bool | Self::Byte | Self::Str | Self::ObjectPath | Self::Signature => 1,
            Self::Int16 => 2,
            Self::Int32 => 4,
            Self::Int64 | Self::Variant => 8,
            Self::Maybe(element) | Self::Array(element) => element.alignment(),
            Self::Tuple(members) => members.iter().map(Self::alignment).max().unwrap_or(1),
        }
    }

    /// Returns the number of nested types, this one counted.
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::Maybe(element) | Self::Array(element) => 1 + element.depth(),
            Self::Tuple(members) => 1 + members.iter().map(Self::depth).max().unwrap_or(0),
            _ => 1,
        }
    }

    /// Returns the size in bytes of every value of this type, if all have the same.
    pub fn fixed_size(&self) -> Option<usize> {
        match self {
            Self::Bool | Self::Byte => Some(1),
            Self::Int16 => Some(2),
            Self::Int32 => Some(4),
            Self::Int64 => Some(8),
            Self::Str | Self::ObjectPath | Self::Signature | Self::Variant | Self::Maybe(_) | Self::Array(_) => None,
            Self::Tuple(members) if members.is_empty() => Some(1),
            Self::Tuple(members) => {
                let mut end = 0;
                for member in members {
                    end = super::align(end, member.alignment()) + member.fixed_size()?;
                }
                Some(super::align(end, self.alignment()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_alignments_follow_the_specification() {
        for (text, alignment, fixed) in [
            ("y", 1, Some(1)),
            ("()", 1, Some(1)),
            ("(uuua(ayay))", 4, None),
            ("(uy)", 4, Some(8)),
            ("(yt)", 8, Some(16)),
            ("a{sv}", 8, None),
            ("{sv}", 8, None),
            ("(tts)", 8, None),
            ("mi", 4, None),
        ] {
            let parsed = Type::parse(text).expect("a valid type");
            assert_eq!((parsed.alignment(), parsed.fixed_size()), (alignment, fixed), "alignment and size of `{text}`");
        }
    }

    #[test]
    fn only_one_definite_type_is_a_type() {
        for bad in ["", "ss", "a", "(", ")", "(s", "{vs}", "{s}", "{sss}", "r", "*", "?", "a(", "m"] {
            assert_eq!(Type::parse(bad), Err(InvalidType), "`{bad}` is no definite type");
        }
        assert!(Type::parse(&"a".repeat(100_000)).is_err(), "deep nesting is refused, not recursed into");
    }
}
