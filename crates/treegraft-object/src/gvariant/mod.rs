//! The GVariant serialisation, as far as OSTree and Flatpak use it: any type is checked, kept and written again.
//!
//! * [`Type`] is a parsed type string with its alignment and fixed size.
//! * [`check`] accepts bytes only in *normal form*: the one serialisation of a value that GLib writes.
//! * [`tuple()`] and [`elements`] split a container into the bytes of its children.
//! * [`TupleWriter`] and [`ArrayWriter`] put containers together.
//! * [`Variant`] is a value with its type, [`Dict`] an `a{sv}` in its order; both keep bytes that they do not understand.
//!
//! # The rules
//!
//! Integers are little-endian; values are aligned relative to the start of their outermost container, and since every
//! container starts at a multiple of its own alignment, relative to their own container as well. A container with
//! children of variable size ends with their end offsets, of 1, 2, 4 or 8 bytes each, whichever is the least with which
//! the whole container's size can still be written. An array lists them in order, a tuple in reverse and without its last
//! member. An empty array has no bytes.
//!
//! Source: the GVariant specification, and `gvariant-serialiser.c` of GLib for what normal form means.

mod check;
mod dict;
mod frame;
mod text;
mod types;
mod variant;
mod write;

pub use check::{NotNormal, check};
pub use dict::Dict;
pub use frame::{elements, tuple};
pub use text::{TextError, parse_text};
pub use types::{InvalidType, Type};
pub use variant::Variant;
pub use write::{ArrayWriter, TupleWriter};

/// Rounds `offset` up to a multiple of `alignment`, which is a power of two.
pub(crate) const fn align(offset: usize, alignment: usize) -> usize {
    (offset + alignment - 1) & !(alignment - 1)
}

/// Returns the width of the end offsets in a container of `size_bytes` bytes in all.
const fn offset_width(size_bytes: usize) -> usize {
    match size_bytes {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

/// Returns the width of `count` end offsets behind a body of `body_bytes` bytes: the least that suffices.
const fn offset_width_for(body_bytes: usize, count: usize) -> usize {
    let mut width = 1;
    while width < 8 && offset_width(body_bytes + count * width) > width {
        width *= 2;
    }
    width
}
