//! Finding the last block of a deflate stream (RFC 1951) without inflating it.
//!
//! The blocks before it must be stepped over. What a symbol stands for does not matter for that, only how many bits it
//! takes: so one look into a table steps over several literals, or over the first half of a match with its extra bits, and
//! nothing is copied. It takes about a sixth of the time that compressing took.
//!
//! The last one itself ends with a symbol whose code stands in front of it, and behind that are zeros only: so the last
//! bit that is set says where.

/// Places in a deflate stream, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastBlock {
    /// The mark that makes the block the last one.
    pub(super) start: usize,
    /// The first bit behind the block.
    pub(super) end: usize,
}

/// Bytes behind the stream that must be there to be read, whatever they are.
pub(super) const PADDING_BYTES: usize = 8;

/// Bits that a [`Bits::peek`] gives at least: eight bytes without the bits of the first one that were taken.
const PEEKED_BITS: usize = 57;

/// Bits of a code that a table of literals and lengths looks at. Longer ones are too rare to matter.
const LITERAL_TABLE_BITS: usize = 12;
const DISTANCE_TABLE_BITS: usize = 10;

/// The longest code, and its extra bits: 15 and 5 for a length, 15 and 13 for a distance.
const LONGEST_CODE: usize = 15;
const LONGEST_DISTANCE_BITS: usize = LONGEST_CODE + 13;

const END_OF_BLOCK: usize = 256;
const LITERALS_AND_LENGTHS: usize = 288;
const DISTANCES: usize = 30;

/// An entry of a table: how many bits to step over, and what comes then.
type Step = u8;
const BITS: Step = 0x3f;
const KIND: Step = 0xc0;
/// Literals only.
const LITERALS: Step = 0x00;
/// Perhaps literals, and a length; a distance follows.
const MATCH: Step = 0x40;
/// Perhaps literals, and the end of the block.
const END: Step = 0x80;
/// A code that is longer than the table's, or none.
const LONG: Step = 0xc0;

/// Extra bits of the symbols from 257 on.
const LENGTH_EXTRA: [u8; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_EXTRA: [u8; DISTANCES] =
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];

/// Finds the last block of a stream that has [`PADDING_BYTES`] behind it, and ends in the byte that the block ends in, of
/// which the other bits are zero. Returns nothing when it is none.
pub(super) fn find(padded: &[u8]) -> Option<LastBlock> {
    let stream = padded.get(..padded.len().checked_sub(PADDING_BYTES)?)?;
    let mut bits = Bits { padded, at: 0 };
    loop {
        let start = bits.at;
        let is_last = bits.take(1)? == 1;
        let lengths = match bits.take(2)? {
            0 => {
                skip_stored(&mut bits)?;
                None
            }
            1 => Some(Lengths::fixed()),
            2 => Some(Lengths::read(&mut bits)?),
            _ => return None,
        };
        if let Some(lengths) = lengths {
            let literals = Code::new(lengths.literals())?;
            match is_last.then(|| end_of_last(stream, &literals)).flatten() {
                Some(end) => bits.at = end,
                None => skip_symbols(&mut bits, &Codes::new(literals, lengths.distances())?)?,
            }
        }
        if bits.at > stream.len() * 8 {
            return None;
        }
        if is_last {
            return Some(LastBlock { start, end: bits.at });
        }
    }
}

/// Returns where a stream ends whose last block has this code. Returns nothing when the code cannot tell.
fn end_of_last(stream: &[u8], literals: &Code) -> Option<usize> {
    // Codes are written from their highest bit on: what follows the last bit that is set are the zeros at a code's end.
    let code = literals.code_of(END_OF_BLOCK).filter(|&code| code != 0)?;
    let last = stream.last().filter(|&&last| last != 0 || code.trailing_zeros() > 0)?;
    let (zero_bytes, last) = if *last == 0 { (1, *stream.get(stream.len().checked_sub(2)?)?) } else { (0, *last) };
    let set = ((stream.len() - zero_bytes) * 8).checked_sub(last.leading_zeros() as usize)?;
    (last != 0).then_some(set + code.trailing_zeros() as usize)
}

struct Bits<'s> {
    padded: &'s [u8],
    at: usize,
}

impl Bits<'_> {
    /// Returns the next bits, the first one lowest: at least [`PEEKED_BITS`].
    fn peek(&self) -> Option<u64> {
        let bytes = self.padded.get(self.at / 8..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes) >> (self.at % 8))
    }

    fn take(&mut self, count: usize) -> Option<usize> {
        let bits = self.peek()? & ((1 << count) - 1);
        self.at += count;
        usize::try_from(bits).ok()
    }

    /// Reads a symbol bit by bit.
    fn symbol(&mut self, code: &Code) -> Option<usize> {
        let (symbol, length) = code.decode(self.peek()?)?;
        self.at += length;
        Some(symbol)
    }
}

/// A canonical Huffman code.
struct Code {
    /// How many symbols have a code of each length.
    counts: [u16; LONGEST_CODE + 1],
    /// The symbols in the order of their codes.
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut code = Self { counts: [0; LONGEST_CODE + 1], symbols: Vec::with_capacity(lengths.len()) };
        for length in 1..=LONGEST_CODE {
            let symbols = (0..).zip(lengths).filter(|&(_, &of)| usize::from(of) == length).map(|(symbol, _)| symbol);
            let before = code.symbols.len();
            code.symbols.extend(symbols);
            code.counts[length] = u16::try_from(code.symbols.len() - before).ok()?;
        }
        Some(code)
    }

    /// Returns the symbol that begins here and the length of its code.
    fn decode(&self, mut bits: u64) -> Option<(usize, usize)> {
        let (mut code, mut first, mut index) = (0_usize, 0_usize, 0_usize);
        for length in 1..=LONGEST_CODE {
            code |= usize::from(bits & 1 == 1);
            bits >>= 1;
            let count = usize::from(self.counts[length]);
            if code < first + count {
                return Some((usize::from(*self.symbols.get(index + code.checked_sub(first)?)?), length));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }

    /// Returns the code of a symbol, its first bit highest.
    fn code_of(&self, wanted: usize) -> Option<usize> {
        let (mut code, mut symbols) = (0_usize, self.symbols.iter());
        for &count in &self.counts[1..] {
            code <<= 1;
            if let Some(place) = symbols.by_ref().take(count.into()).position(|&symbol| usize::from(symbol) == wanted) {
                return Some(code + place);
            }
            code += usize::from(count);
        }
        None
    }

    /// Fills a table: each entry with the symbol whose code is in the lowest bits of the entry's number.
    fn fill(&self, table: &mut [Step], step: impl Fn(usize, usize) -> Step) {
        let (mut code, mut symbols) = (0_usize, self.symbols.iter());
        for (length, &count) in self.counts.iter().enumerate().skip(1) {
            code <<= 1;
            for &symbol in symbols.by_ref().take(count.into()) {
                // Codes are written from their highest bit on, and numbers are read from their lowest.
                let reversed = code.reverse_bits() >> (usize::BITS as usize - length);
                if 1 << length <= table.len() {
                    let filled = step(symbol.into(), length);
                    table.iter_mut().skip(reversed).step_by(1 << length).for_each(|entry| *entry = filled);
                }
                code += 1;
            }
        }
    }
}

/// The two codes of a block, and their tables.
struct Codes {
    literals: Code,
    literal_table: [Step; 1 << LITERAL_TABLE_BITS],
    distances: Code,
    distance_table: [Step; 1 << DISTANCE_TABLE_BITS],
}

impl Codes {
    fn new(literals: Code, distance_lengths: &[u8]) -> Option<Self> {
        let distances = Code::new(distance_lengths)?;
        let mut single = [LONG; 1 << LITERAL_TABLE_BITS];
        // Without their extra bits, which need not be within the bits that the table looks at.
        literals.fill(&mut single, |symbol, length| narrow(length) | kind(symbol));
        let mut extra = [0; 1 << LITERAL_TABLE_BITS];
        literals.fill(&mut extra, |symbol, _| length_extra(symbol).unwrap_or(LONG));
        let mut literal_table = [LONG; 1 << LITERAL_TABLE_BITS];
        for (index, entry) in literal_table.iter_mut().enumerate() {
            let mut used = 0;
            loop {
                let (next, known_bits) = (single[index >> used], LITERAL_TABLE_BITS - used);
                let length = usize::from(next & BITS);
                if next & KIND == LONG || length > known_bits || extra[index >> used] == LONG {
                    // What comes then is looked up by itself.
                    *entry = if used == 0 { LONG } else { narrow(used) | LITERALS };
                    break;
                }
                used += length;
                if next & KIND != LITERALS {
                    *entry = (narrow(used) + extra[index >> (used - length)]) | next & KIND;
                    break;
                }
                if used == LITERAL_TABLE_BITS {
                    *entry = narrow(used) | LITERALS;
                    break;
                }
            }
        }
        let mut distance_table = [LONG; 1 << DISTANCE_TABLE_BITS];
        distances.fill(&mut distance_table, |symbol, length| {
            DISTANCE_EXTRA.get(symbol).map_or(LONG, |extra| narrow(length) + extra)
        });
        Some(Self { literals, literal_table, distances, distance_table })
    }
}

/// Returns a number of bits as an entry has it: all are below 64.
fn narrow(bits: usize) -> Step {
    u8::try_from(bits).expect("it is a code of 15 bits at most, or fits a table")
}

fn kind(symbol: usize) -> Step {
    match symbol {
        ..END_OF_BLOCK => LITERALS,
        END_OF_BLOCK => END,
        _ => MATCH,
    }
}

/// Returns the extra bits of a literal (none), the end of a block (none), or a length.
fn length_extra(symbol: usize) -> Option<Step> {
    symbol.checked_sub(END_OF_BLOCK + 1).map_or(Some(0), |length| LENGTH_EXTRA.get(length).copied())
}

/// How long the codes of a block are, those of literals and lengths before those of distances.
struct Lengths {
    lengths: Vec<u8>,
    literals: usize,
}

impl Lengths {
    fn fixed() -> Self {
        let mut lengths = [8; LITERALS_AND_LENGTHS];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        Self { lengths: [&lengths[..], &[5; DISTANCES]].concat(), literals: LITERALS_AND_LENGTHS }
    }

    /// Reads them at the start of a block that has codes of its own.
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        /// In which order the lengths of the code's own code are.
        const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let literals = 257 + bits.take(5)?;
        let all = literals + 1 + bits.take(5)?;
        let orders = 4 + bits.take(4)?;
        let mut code_lengths = [0; ORDER.len()];
        for &place in ORDER.get(..orders)? {
            code_lengths[place] = u8::try_from(bits.take(3)?).ok()?;
        }
        let code = Code::new(&code_lengths)?;
        let mut lengths = Vec::with_capacity(all);
        while lengths.len() < all {
            let (length, times) = match bits.symbol(&code)? {
                16 => (*lengths.last()?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (u8::try_from(length).ok()?, 1),
            };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        (lengths.len() == all).then_some(Self { lengths, literals })
    }

    fn literals(&self) -> &[u8] {
        &self.lengths[..self.literals]
    }

    fn distances(&self) -> &[u8] {
        &self.lengths[self.literals..]
    }
}

fn skip_stored(bits: &mut Bits<'_>) -> Option<()> {
    bits.at = bits.at.next_multiple_of(8);
    let (length, complement) = (bits.take(16)?, bits.take(16)?);
    bits.at += length * 8;
    (length ^ complement == 0xffff).then_some(())
}

/// Steps over the symbols of a block up to and with its end.
fn skip_symbols(bits: &mut Bits<'_>, codes: &Codes) -> Option<()> {
    const LITERAL_MASK: u64 = (1 << LITERAL_TABLE_BITS) - 1;
    /// What may have been taken of the peeked bits when they still have a whole match.
    const MATCH_USED: usize = PEEKED_BITS - LONGEST_DISTANCE_BITS - LITERAL_TABLE_BITS - 5;
    /// The same for one more look at the table.
    const LOOK_USED: usize = PEEKED_BITS - LITERAL_TABLE_BITS;
    loop {
        let mut peeked = bits.peek()?;
        let mut used = 0;
        while used <= LOOK_USED {
            let step = codes.literal_table[low_bits(peeked, LITERAL_MASK)];
            let count = usize::from(step & BITS);
            if step & KIND == LITERALS {
                peeked >>= count;
                used += count;
                continue;
            }
            if step & KIND == END {
                bits.at += used + count;
                return Some(());
            }
            if step & KIND == MATCH && used <= MATCH_USED {
                bits.at += used + count;
                skip_distance(bits, peeked >> count, codes)?;
                used = 0;
                break;
            }
            if used == 0 {
                // A code that is too long for the table.
                match bits.symbol(&codes.literals)? {
                    ..END_OF_BLOCK => {}
                    END_OF_BLOCK => return Some(()),
                    symbol => {
                        bits.at += usize::from(length_extra(symbol)?);
                        skip_distance(bits, bits.peek()?, codes)?;
                    }
                }
            }
            break;
        }
        bits.at += used;
    }
}

/// Steps over a distance, of which `peeked` has all bits.
fn skip_distance(bits: &mut Bits<'_>, peeked: u64, codes: &Codes) -> Option<()> {
    const DISTANCE_MASK: u64 = (1 << DISTANCE_TABLE_BITS) - 1;
    let step = codes.distance_table[low_bits(peeked, DISTANCE_MASK)];
    if step == LONG {
        let symbol = bits.symbol(&codes.distances)?;
        bits.at += usize::from(*DISTANCE_EXTRA.get(symbol)?);
    } else {
        bits.at += usize::from(step);
    }
    Some(())
}

/// Returns some of the lowest bits as an index.
fn low_bits(bits: u64, mask: u64) -> usize {
    usize::try_from(bits & mask).expect("a mask of a table's size")
}
