//! Random values of random GVariant types, made of a list of bytes.

use treegraft_object::gvariant::{ArrayWriter, TupleWriter, Type};

/// Deepest nesting of a random type; the limit of 128 has tests of its own.
const MAX_TYPE_DEPTH: u32 = 4;

/// Lengths of strings at which the width of end offsets changes.
const EDGE_LENGTHS: [usize; 8] = [0, 1, 252, 253, 254, 65_531, 65_532, 65_533];

/// A source of decisions: bytes one after the other, then zeros for ever, so that shorter lists make simpler values.
pub(crate) struct Decisions<'a>(std::slice::Iter<'a, u8>);

impl<'a> Decisions<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.next()) % limit
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next())
    }
}

/// Makes the text of a random definite type.
pub(crate) fn type_string(decisions: &mut Decisions<'_>) -> String {
    type_below(decisions, MAX_TYPE_DEPTH)
}

fn type_below(decisions: &mut Decisions<'_>, depth: u32) -> String {
    const BASIC: [&str; 13] = ["y", "b", "n", "q", "i", "u", "h", "x", "t", "d", "s", "o", "g"];
    let basic = |decisions: &mut Decisions<'_>| BASIC[decisions.below(BASIC.len())].to_owned();
    let kind = if depth == 0 { 0 } else { decisions.below(12) };
    match kind {
        0..=4 => basic(decisions),
        5 => "v".to_owned(),
        6 | 7 => format!("a{}", type_below(decisions, depth - 1)),
        8 => format!("m{}", type_below(decisions, depth - 1)),
        9 => format!("{{{}{}}}", basic(decisions), type_below(decisions, depth - 1)),
        _ => {
            let count = decisions.below(5);
            let members: String = (0..count).map(|_| type_below(decisions, depth - 1)).collect();
            format!("({members})")
        }
    }
}

/// Makes the normal form of a random value of a type.
pub(crate) fn value(expected: &Type, decisions: &mut Decisions<'_>) -> Vec<u8> {
    match expected {
        Type::Byte => decisions.bytes::<1>().to_vec(),
        Type::Bool => vec![decisions.next() & 1],
        Type::Int16 => decisions.bytes::<2>().to_vec(),
        Type::Int32 => decisions.bytes::<4>().to_vec(),
        // Never a NaN or an infinity, whose text form loses bits: the oracle compares through texts.
        Type::Int64 => [&decisions.bytes::<7>()[..], &[0x3f]].concat(),
        Type::Str => text(decisions),
        Type::ObjectPath => [&b"/\0"[..], b"/a\0", b"/a/B_9\0"][decisions.below(3)].to_vec(),
        Type::Signature => [&b"\0"[..], b"a{sv}\0", b"ius(ay)\0"][decisions.below(3)].to_vec(),
        Type::Variant => {
            let child_type = type_below(decisions, 2);
            let parsed = Type::parse(&child_type).expect("the generator writes valid types");
            [&value(&parsed, decisions)[..], &[0], child_type.as_bytes()].concat()
        }
        Type::Maybe(element) => match (decisions.next() & 1, element.fixed_size()) {
            (0, _) => Vec::new(),
            (_, Some(_)) => value(element, decisions),
            (_, None) => [&value(element, decisions)[..], &[0]].concat(),
        },
        Type::Array(element) => {
            let elements = (0..decisions.below(5)).map(|_| value(element, decisions)).collect::<Vec<_>>();
            array_of(element, elements.iter().map(Vec::as_slice))
        }
        Type::Tuple(members) => {
            let children = members.iter().map(|member| value(member, decisions)).collect::<Vec<_>>();
            tuple_of(members, children.iter().map(Vec::as_slice))
        }
    }
}

fn text(decisions: &mut Decisions<'_>) -> Vec<u8> {
    let mut text = match decisions.below(16) {
        0 => "x".repeat(EDGE_LENGTHS[decisions.below(EDGE_LENGTHS.len())]),
        1 => "é\u{301}\u{1f333}\n\"'\\".to_owned(),
        _ => (0..decisions.below(8)).map(|_| char::from(b'a' + decisions.next() % 26)).collect(),
    };
    text.push('\0');
    text.into_bytes()
}

/// Joins elements with the writer for arrays.
pub(crate) fn array_of<'a>(element: &Type, children: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    if element.fixed_size().is_some() {
        return children.collect::<Vec<_>>().concat();
    }
    let mut array = ArrayWriter::new(element.alignment());
    children.for_each(|child| array.push(child));
    array.finish()
}

/// Joins members with the writer for tuples.
pub(crate) fn tuple_of<'a>(members: &[Type], children: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let add = |tuple: TupleWriter, (member, child): (&Type, &'a [u8])| match member.fixed_size() {
        Some(_) => tuple.fixed(member.alignment(), child),
        None => tuple.variable(member.alignment(), child),
    };
    members.iter().zip(children).fold(TupleWriter::new(), add).finish()
}
