//! The check for normal form.

use super::{Type, elements, tuple};
use crate::limits::MAX_GVARIANT_DEPTH;

/// Why bytes are not the normal form of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotNormal {
    /// A container or value has a size that its type cannot have.
    #[error("a value has a size that its type cannot have")]
    Size,
    /// An end offset points outside of its container or before the one before it.
    #[error("an end offset is out of order or out of bounds")]
    Offset,
    /// End offsets are wider than they need to be.
    #[error("end offsets are not of the least possible width")]
    OffsetWidth,
    /// A padding byte is not zero.
    #[error("a padding byte is not zero")]
    Padding,
    /// A boolean is neither 0 nor 1.
    #[error("a boolean is neither 0 nor 1")]
    Bool,
    /// A string is not UTF-8, does not end with NUL, or has a NUL inside.
    #[error("a string is not UTF-8 with a NUL at its end and none inside")]
    Str,
    /// An object path or signature breaks its grammar.
    #[error("an object path or a signature breaks its grammar")]
    Grammar,
    /// A variant has no definite type.
    #[error("a variant has no definite type")]
    VariantType,
    /// Values are nested deeper than GLib reads.
    #[error("values are nested more than 128 deep")]
    Depth,
}

/// Checks that `data` is the normal form of a value of type `expected`.
///
/// What passes is normal to GLib, too. In return GLib takes a tuple without bytes where all members are empty, and types
/// of 129 levels; its own writer makes neither. Everything that passes can be split with [`tuple()`] and [`elements`] all the way down. Time and memory are in proportion
/// to the data, however the type is nested.
pub fn check(expected: &Type, data: &[u8]) -> Result<(), NotNormal> {
    check_at(expected, data, 0)
}

fn check_at(mut expected: &Type, data: &[u8], mut depth: usize) -> Result<(), NotNormal> {
    // A tuple of one member has just that member's bytes. A hundred of them in each other would cost a hundred steps a byte.
    while let Type::Tuple(members) = expected
        && let [only] = members.as_slice()
    {
        expected = only;
        depth += 1;
    }
    if depth >= MAX_GVARIANT_DEPTH {
        return Err(NotNormal::Depth);
    }
    if let Some(size) = expected.fixed_size()
        && data.len() != size
    {
        return Err(NotNormal::Size);
    }
    match expected {
        Type::Byte | Type::Int16 | Type::Int32 | Type::Int64 => Ok(()),
        Type::Bool if data[0] <= 1 => Ok(()),
        Type::Bool => Err(NotNormal::Bool),
        Type::Str => text(data).map(drop),
        Type::ObjectPath => grammar(is_object_path(text(data)?)),
        Type::Signature => grammar(Type::is_signature(text(data)?)),
        Type::Variant => {
            let (type_string, child) = split_variant(data)?;
            let child_type = Type::parse(type_string).map_err(|_| NotNormal::VariantType)?;
            // As in GLib, the whole type counts, even where an empty array leaves no value at its bottom.
            if depth + child_type.depth() >= MAX_GVARIANT_DEPTH {
                return Err(NotNormal::Depth);
            }
            check_at(&child_type, child, depth + 1)
        }
        Type::Maybe(_) | Type::Array(_) if data.is_empty() => Ok(()),
        Type::Maybe(element) => match (data, element.fixed_size()) {
            (_, Some(_)) => check_at(element, data, depth + 1),
            ([child @ .., 0], None) => check_at(element, child, depth + 1),
            _ => Err(NotNormal::Padding),
        },
        Type::Array(element) => check_elements(element, data, depth + 1),
        Type::Tuple(members) => tuple(members, data)?
            .into_iter()
            .zip(members)
            .try_for_each(|(child, member)| check_at(member, child, depth + 1)),
    }
}

/// Checks an array that is not empty, without a list of its elements where they can be told apart without one.
fn check_elements(element: &Type, data: &[u8], depth: usize) -> Result<(), NotNormal> {
    let Some(size) = element.fixed_size() else {
        return elements(element, data)?.into_iter().try_for_each(|child| check_at(element, child, depth));
    };
    if !data.len().is_multiple_of(size) {
        return Err(NotNormal::Size);
    }
    if depth >= MAX_GVARIANT_DEPTH {
        return Err(NotNormal::Depth);
    }
    match element {
        // Any bytes are a number.
        Type::Byte | Type::Int16 | Type::Int32 | Type::Int64 => Ok(()),
        Type::Bool if data.iter().all(|&byte| byte <= 1) => Ok(()),
        Type::Bool => Err(NotNormal::Bool),
        _ => data.chunks(size).try_for_each(|child| check_at(element, child, depth)),
    }
}

/// Returns a string value's text without its NUL.
pub(super) fn text(data: &[u8]) -> Result<&str, NotNormal> {
    match data {
        [text @ .., 0] if !text.contains(&0) => std::str::from_utf8(text).map_err(|_| NotNormal::Str),
        _ => Err(NotNormal::Str),
    }
}

/// Splits a variant into its type string and the bytes of its child.
pub(super) fn split_variant(data: &[u8]) -> Result<(&str, &[u8]), NotNormal> {
    let separator = data.iter().rposition(|&byte| byte == 0).ok_or(NotNormal::VariantType)?;
    let type_string = std::str::from_utf8(&data[separator + 1..]).map_err(|_| NotNormal::VariantType)?;
    Ok((type_string, &data[..separator]))
}

const fn grammar(holds: bool) -> Result<(), NotNormal> {
    if holds { Ok(()) } else { Err(NotNormal::Grammar) }
}

fn is_object_path(path: &str) -> bool {
    path == "/"
        || path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        })
}
