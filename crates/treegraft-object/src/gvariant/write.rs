//! Putting containers together.

use super::{align, offset_width_for};

/// Writes a tuple (or dictionary entry), member by member.
#[derive(Debug)]
pub struct TupleWriter {
    body: Vec<u8>,
    ends: Vec<usize>,
    alignment: usize,
    last_is_variable: bool,
    is_fixed: bool,
}

impl TupleWriter {
    /// Starts a tuple without members.
    pub const fn new() -> Self {
        Self { body: Vec::new(), ends: Vec::new(), alignment: 1, last_is_variable: false, is_fixed: true }
    }

    /// Adds a member whose type has a fixed size.
    #[must_use]
    pub fn fixed(mut self, alignment: usize, bytes: &[u8]) -> Self {
        self.start(alignment);
        self.body.extend_from_slice(bytes);
        self.last_is_variable = false;
        self
    }

    /// Adds a member whose type has no fixed size.
    #[must_use]
    pub fn variable(mut self, alignment: usize, bytes: &[u8]) -> Self {
        self.start(alignment);
        self.body.extend_from_slice(bytes);
        self.last_is_variable = true;
        self.is_fixed = false;
        self
    }

    /// Adds a string. A NUL cannot stand inside, so that the text ends before it.
    #[must_use]
    pub fn string(self, text: &str) -> Self {
        self.variable(1, &string_bytes(text))
    }

    fn start(&mut self, alignment: usize) {
        if self.last_is_variable {
            self.ends.push(self.body.len());
        }
        self.alignment = self.alignment.max(alignment);
        self.body.resize(align(self.body.len(), alignment), 0);
    }

    /// Ends the tuple and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        if self.is_fixed {
            let size = align(self.body.len(), self.alignment).max(1);
            self.body.resize(size, 0);
            return self.body;
        }
        let width = offset_width_for(self.body.len(), self.ends.len());
        for end in self.ends.iter().rev() {
            self.body.extend_from_slice(&end.to_le_bytes()[..width]);
        }
        self.body
    }
}

impl Default for TupleWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Serialises a string. A NUL cannot stand inside, so that the text ends before it.
pub(super) fn string_bytes(value: &str) -> Vec<u8> {
    let text = value.split('\0').next().unwrap_or(value);
    [text.as_bytes(), &[0]].concat()
}

/// Writes an array whose elements have no fixed size.
#[derive(Debug)]
pub struct ArrayWriter {
    body: Vec<u8>,
    ends: Vec<usize>,
    alignment: usize,
}

impl ArrayWriter {
    /// Starts an empty array of elements with this alignment.
    pub const fn new(element_alignment: usize) -> Self {
        Self { body: Vec::new(), ends: Vec::new(), alignment: element_alignment }
    }

    /// Adds an element.
    pub fn push(&mut self, element: &[u8]) {
        self.body.resize(align(self.body.len(), self.alignment), 0);
        self.body.extend_from_slice(element);
        self.ends.push(self.body.len());
    }

    /// Ends the array and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        let width = offset_width_for(self.body.len(), self.ends.len());
        for end in &self.ends {
            self.body.extend_from_slice(&end.to_le_bytes()[..width]);
        }
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Total sizes of an `as` with one string of the given length, as GLib writes it.
    #[test]
    fn offset_width_changes_where_glib_changes_it() {
        for (length, total) in [(252, 254), (253, 255), (254, 257), (65_532, 65_535), (65_533, 65_538)] {
            let mut array = ArrayWriter::new(1);
            array.push(&[vec![b'x'; length], vec![0]].concat());
            assert_eq!(array.finish().len(), total, "size of an array with a string of {length} characters");
        }
    }

    #[test]
    fn the_unit_tuple_is_one_zero_byte() {
        assert_eq!(TupleWriter::new().finish(), [0]);
    }
}
