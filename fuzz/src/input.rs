//! A fuzzer's bytes as numbers, texts and choices.

/// Bytes that are taken from the front. Where they end, everything is zero or empty.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d>(&'d [u8]);

impl<'d> Input<'d> {
    /// Begins with all of `data`.
    pub const fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    /// Tells whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one byte.
    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    /// Takes a number of two bytes.
    pub fn short(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    /// Takes up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Takes bytes behind their length, a byte.
    pub fn bytes(&mut self) -> &'d [u8] {
        let count = self.byte();
        self.take(count.into())
    }

    /// Takes bytes behind their length, two bytes.
    pub fn long_bytes(&mut self) -> &'d [u8] {
        let count = self.short();
        self.take(count)
    }

    /// Takes a text behind its length; what is not UTF-8 in it is replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// Takes a choice out of some.
    pub fn choose<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[usize::from(self.byte()) % choices.len()]
    }
}
