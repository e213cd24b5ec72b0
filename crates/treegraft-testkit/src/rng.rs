//! Pseudo-random numbers that are the same everywhere for the same seed.

/// The `SplitMix64` generator: small, fast, and good enough to make test data.
#[derive(Debug, Clone)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Starts the sequence that belongs to the seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below the limit, which must not be 0.
    ///
    /// The tiny bias of the remainder does not matter for test data.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("usize has at most 64 bits");
        usize::try_from(self.next_u64() % limit).expect("a number below a usize is one")
    }

    /// Tells yes in one of `n` cases.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Fills the buffer with random bytes, which do not compress.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }

    /// Returns that many random bytes, which do not compress.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut made = vec![0; count];
        self.fill(&mut made);
        made
    }
}

/// Maps a text to a number that depends on the seed and looks random.
pub(crate) fn hash(seed: u64, text: &[u8]) -> u64 {
    let folded = text.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    SplitMix64::new(folded).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_published_sequence() {
        // From the reference implementation of SplitMix64 with seed 1234567.
        let mut rng = SplitMix64::new(1_234_567);
        let drawn = [rng.next_u64(), rng.next_u64(), rng.next_u64()];
        let published = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(drawn, published, "a seed must give the same test data on every machine");
    }

    #[test]
    fn fills_every_byte_of_an_odd_length() {
        let bytes = SplitMix64::new(7).bytes(13);
        assert_eq!(bytes.len(), 13, "exactly the asked number of bytes is made");
        assert_eq!(
            bytes[..8],
            SplitMix64::new(7).next_u64().to_le_bytes(),
            "bytes are the little-endian draws in order"
        );
    }
}
