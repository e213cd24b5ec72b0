//! A value with its type.

use super::{
    ArrayWriter, Dict, NotNormal, TupleWriter, Type,
    check::{self, split_variant, text},
    elements, tuple,
    write::string_bytes,
};

/// A value of any definite type in normal form, kept as its bytes.
///
/// Integers are little-endian in the bytes; where OSTree stores a number swapped to big-endian, the constructors and
/// getters with `_be` are to be used.
#[derive(Clone, PartialEq, Eq)]
pub struct Variant {
    type_string: String,
    data: Vec<u8>,
}

impl Variant {
    /// Checks bytes of a given type.
    pub fn from_parts(type_string: &str, data: Vec<u8>) -> Result<Self, NotNormal> {
        let parsed = Type::parse(type_string).map_err(|_| NotNormal::VariantType)?;
        check::check(&parsed, &data)?;
        Ok(Self { type_string: type_string.to_owned(), data })
    }

    /// Takes a serialised `v` apart that was checked before.
    pub(super) fn from_checked_variant(data: &[u8]) -> Result<Self, NotNormal> {
        let (type_string, child) = split_variant(data)?;
        Ok(Self { type_string: type_string.to_owned(), data: child.to_vec() })
    }

    fn made(type_string: &str, data: Vec<u8>) -> Self {
        debug_assert!(
            Type::parse(type_string).is_ok_and(|t| check::check(&t, &data).is_ok()),
            "constructors write normal form"
        );
        Self { type_string: type_string.to_owned(), data }
    }

    /// Returns the type string of the value.
    pub fn type_string(&self) -> &str {
        &self.type_string
    }

    /// Returns the serialised value.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Serialises the value as a `v`: its bytes, a zero byte, its type.
    pub fn encode(&self) -> Vec<u8> {
        [&self.data[..], &[0], self.type_string.as_bytes()].concat()
    }
}

/// Constructors
impl Variant {
    /// Makes an `s`. Text behind an inner NUL cannot be represented and is cut off.
    pub fn string(value: &str) -> Self {
        Self::made("s", string_bytes(value))
    }

    /// Makes a `b`.
    pub fn bool(value: bool) -> Self {
        Self::made("b", vec![u8::from(value)])
    }

    /// Makes an `i`.
    pub fn int32(value: i32) -> Self {
        Self::made("i", value.to_le_bytes().to_vec())
    }

    /// Makes a `u`.
    pub fn uint32(value: u32) -> Self {
        Self::made("u", value.to_le_bytes().to_vec())
    }

    /// Makes a `t` whose bytes are swapped to big-endian, as OSTree and Flatpak store times and sizes.
    pub fn uint64_be(value: u64) -> Self {
        Self::made("t", value.to_be_bytes().to_vec())
    }

    /// Makes an `ay`.
    pub fn bytes(value: &[u8]) -> Self {
        Self::made("ay", value.to_vec())
    }

    /// Makes an `as`.
    pub fn strings<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let mut array = ArrayWriter::new(1);
        for value in values {
            array.push(&string_bytes(value.as_ref()));
        }
        Self::made("as", array.finish())
    }

    /// Makes an `a(ss)`.
    pub fn string_pairs<S: AsRef<str>, T: AsRef<str>>(values: impl IntoIterator<Item = (S, T)>) -> Self {
        let mut array = ArrayWriter::new(1);
        for (first, second) in values {
            let pair = TupleWriter::new()
                .variable(1, &string_bytes(first.as_ref()))
                .variable(1, &string_bytes(second.as_ref()));
            array.push(&pair.finish());
        }
        Self::made("a(ss)", array.finish())
    }

    /// Makes an `aay`.
    pub fn byte_arrays<B: AsRef<[u8]>>(values: impl IntoIterator<Item = B>) -> Self {
        let mut array = ArrayWriter::new(1);
        for value in values {
            array.push(value.as_ref());
        }
        Self::made("aay", array.finish())
    }

    /// Makes an `a{sv}`.
    pub fn dict(value: &Dict) -> Self {
        Self::made("a{sv}", value.encode())
    }
}

/// Access; each getter returns nothing when the value is of another type.
impl Variant {
    /// Returns an `s`.
    pub fn as_str(&self) -> Option<&str> {
        self.typed("s").and_then(|data| text(data).ok())
    }

    /// Returns a `b`.
    pub fn as_bool(&self) -> Option<bool> {
        self.typed("b").map(|data| data == [1])
    }

    /// Returns an `i`.
    pub fn as_int32(&self) -> Option<i32> {
        self.typed("i")?.try_into().ok().map(i32::from_le_bytes)
    }

    /// Returns a `t` whose bytes are big-endian.
    pub fn as_uint64_be(&self) -> Option<u64> {
        self.typed("t")?.try_into().ok().map(u64::from_be_bytes)
    }

    /// Returns an `ay`.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        self.typed("ay")
    }

    /// Returns an `as`.
    pub fn as_strings(&self) -> Option<Vec<&str>> {
        elements(&Type::Str, self.typed("as")?).ok()?.into_iter().map(|element| text(element).ok()).collect()
    }

    /// Returns an `a(ss)`.
    pub fn as_string_pairs(&self) -> Option<Vec<(&str, &str)>> {
        let members = [Type::Str, Type::Str];
        let pair = |element| match tuple(&members, element).ok()?[..] {
            [first, second] => Some((text(first).ok()?, text(second).ok()?)),
            _ => None,
        };
        elements(&Type::Tuple(members.to_vec()), self.typed("a(ss)")?).ok()?.into_iter().map(pair).collect()
    }

    /// Returns an `aay`.
    pub fn as_byte_arrays(&self) -> Option<Vec<&[u8]>> {
        elements(&Type::Array(Box::new(Type::Byte)), self.typed("aay")?).ok()
    }

    /// Returns an `a{sv}`.
    pub fn as_dict(&self) -> Option<Dict> {
        Dict::decode(self.typed("a{sv}")?).ok()
    }

    fn typed(&self, expected: &str) -> Option<&[u8]> {
        (self.type_string == expected).then_some(&self.data)
    }
}

/// Shows scalars and texts as they are, everything else as its type and size.
impl std::fmt::Debug for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.type_string.as_str() {
            "s" => write!(f, "{:?}", self.as_str().unwrap_or_default()),
            "as" => write!(f, "{:?}", self.as_strings().unwrap_or_default()),
            "b" => write!(f, "{}", self.as_bool().unwrap_or_default()),
            other => write!(f, "<{other}, {} bytes>", self.data.len()),
        }
    }
}
