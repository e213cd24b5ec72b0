//! Extended attributes: `a(ayay)`, each a name with its NUL and a value.

use std::sync::LazyLock;

use crate::{
    DecodeError,
    gvariant::{ArrayWriter, NotNormal, TupleWriter, Type, elements, tuple},
};

/// Extended attributes in ascending byte order of their unique, non-empty names.
///
/// libostree sorts them before it hashes since 2025.2 and refuses unsorted ones in directories since 2024.7; a list in
/// any other order has no checksum that all versions agree on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Xattrs {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

static ENTRY: LazyLock<Type> = LazyLock::new(|| Type::parse("(ayay)").expect("a valid type string"));

impl Xattrs {
    /// Makes an empty list.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Makes the canonical list of names (without NUL) and values, as libostree reads it from a file: sorted, and
    /// without attributes whose value is empty.
    pub fn canonical(entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let mut entries: Vec<_> =
            entries.into_iter().filter(|(name, value)| !name.is_empty() && !value.is_empty()).collect();
        entries.sort();
        entries.dedup_by(|later, earlier| later.0 == earlier.0);
        Self { entries }
    }

    /// Returns names without their NUL, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Decodes the bytes of an `a(ayay)`.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let not_normal = |source: NotNormal| DecodeError::NotNormal { type_string: "a(ayay)", source };
        let Type::Tuple(members) = &*ENTRY else { unreachable!("the type is a tuple") };
        let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (index, entry) in elements(&ENTRY, data).map_err(not_normal)?.into_iter().enumerate() {
            let parts = tuple(members, entry).map_err(not_normal)?;
            let name = match parts[0] {
                [name @ .., 0] if !name.is_empty() && !name.contains(&0) => name.to_vec(),
                _ => return Err(DecodeError::XattrName { index }),
            };
            if entries.last().is_some_and(|(before, _)| *before >= name) {
                return Err(DecodeError::XattrOrder { index });
            }
            entries.push((name, parts[1].to_vec()));
        }
        Ok(Self { entries })
    }

    /// Encodes the `a(ayay)`. An empty list has no bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut array = ArrayWriter::new(1);
        for (name, value) in &self.entries {
            let name = [name, &[0][..]].concat();
            array.push(&TupleWriter::new().variable(1, &name).variable(1, value).finish());
        }
        array.finish()
    }
}
