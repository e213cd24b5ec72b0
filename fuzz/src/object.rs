//! Checks of values and objects that take more than the three lines of a target.

use treegraft_object::{
    Checksum,
    filez::{self, FilezError},
    gvariant::{ArrayWriter, TupleWriter, Type, check, elements, tuple},
};

/// Checks a value of the type before the first NUL: what passes is split all the way down and put together again.
///
/// # Panics
///
/// When that gives other bytes, which is what fuzzing looks for.
pub fn check_gvariant(data: &[u8]) {
    let Some(end) = data.iter().position(|&byte| byte == 0) else { return };
    let Ok(parsed) = std::str::from_utf8(&data[..end]).map_err(drop).and_then(|text| Type::parse(text).map_err(drop))
    else {
        return;
    };
    let value = &data[end + 1..];
    if check(&parsed, value).is_ok() {
        assert!(rebuild(&parsed, value) == value, "the normal form is unique");
    }
}

fn rebuild(expected: &Type, data: &[u8]) -> Vec<u8> {
    match expected {
        Type::Array(element) => {
            let children = elements(element, data).expect("an array that passed the check can be split");
            let children = children.into_iter().map(|child| rebuild(element, child));
            if element.fixed_size().is_some() {
                return children.flatten().collect();
            }
            let mut array = ArrayWriter::new(element.alignment());
            children.for_each(|child| array.push(&child));
            array.finish()
        }
        Type::Tuple(members) => {
            let children = tuple(members, data).expect("a tuple that passed the check can be split");
            let add = |tuple: TupleWriter, (member, child): (&Type, &[u8])| match member.fixed_size() {
                Some(_) => tuple.fixed(member.alignment(), &rebuild(member, child)),
                None => tuple.variable(member.alignment(), &rebuild(member, child)),
            };
            members.iter().zip(children).fold(TupleWriter::new(), add).finish()
        }
        Type::Maybe(element) => match (data, element.fixed_size()) {
            ([], _) => Vec::new(),
            (data, Some(_)) => rebuild(element, data),
            (data, None) => [&rebuild(element, &data[..data.len() - 1])[..], &[0]].concat(),
        },
        Type::Variant => {
            let separator = data.iter().rposition(|&byte| byte == 0).expect("a variant has a zero before its type");
            let text = std::str::from_utf8(&data[separator + 1..]).expect("a type is ASCII");
            let child = Type::parse(text).expect("a variant that passed the check has a valid type");
            [&rebuild(&child, &data[..separator])[..], &[0], text.as_bytes()].concat()
        }
        _ => data.to_vec(),
    }
}

/// Checks a `.filez`: what passes is copied unchanged, has the promised size and the checksum of its parts.
///
/// # Panics
///
/// When it is not so, which is what fuzzing looks for.
pub fn check_filez(data: &[u8]) {
    let (mut copied, mut plain) = (Vec::new(), Vec::new());
    match filez::copy(&mut &data[..], &mut copied, &mut plain) {
        Ok(info) => {
            assert!(copied == data, "all bytes are copied unchanged");
            assert_eq!(info.content_bytes, plain.len() as u64, "the content has the promised size");
            let hashed = [&info.header.encode_bare()[..], &plain].concat();
            assert_eq!(info.id.0, Checksum::of(&hashed), "the checksum is that of bare header and content");
        }
        Err(FilezError::Invalid(_)) => {}
        Err(error) => panic!("reading from and writing to memory works, got {error:?}"),
    }
}
