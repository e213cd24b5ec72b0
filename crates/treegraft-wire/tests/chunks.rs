//! The exchange of chunks: what is made by a recipe is what was there, and nothing that comes panics.

use std::io::{self, Read};

use proptest::prelude::*;
use treegraft_object::{Checksum, ContentId, FileHeader, FileKind, Xattrs};
use treegraft_testkit::SplitMix64;
use treegraft_wire::chunks::{
    Basis, Place, PlaceError, RecipeError, RecipeReader, Signature, WINDOW_BYTES, decode_places, decode_signatures,
    encode_places, encode_signature, write_recipe, write_reference,
};

/// Bytes without a pattern, the same for the same seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    SplitMix64::new(seed).bytes(bytes)
}

fn header() -> FileHeader {
    FileHeader { uid: 0, gid: 0, mode: 0o100_644, kind: FileKind::Regular, xattrs: Xattrs::new() }
}

fn basis_id() -> ContentId {
    ContentId(Checksum::of(b"any object"))
}

/// Returns the recipe that makes `new` of `old`, and how many bytes of it are copied.
fn recipe(old: &[u8], new: &[u8]) -> (Vec<u8>, u64) {
    let signature = Signature::of(basis_id(), old).expect("memory can be read");
    let mut recipe = Vec::new();
    let copied =
        write_recipe(&signature, &header(), new.len() as u64, new, &mut recipe).expect("memory takes everything");
    (recipe, copied)
}

fn follow(recipe: &[u8], old: &[u8]) -> io::Result<Vec<u8>> {
    let reader = RecipeReader::new(recipe).map_err(io::Error::other)?;
    let mut content = Vec::new();
    // A damaged recipe may promise anything; a server stops at the size that the header promises.
    reader.follow(Basis::new(old)).take(65 << 20).read_to_end(&mut content)?;
    Ok(content)
}

/// Returns the rule that a recipe breaks.
fn broken(recipe: &[u8], old: &[u8]) -> RecipeError {
    let error = follow(recipe, old).expect_err("the recipe is refused");
    *error.into_inner().and_then(|error| error.downcast().ok()).expect("it is a rule of recipes")
}

/// A recipe with these steps.
fn steps(steps: &[u8]) -> Vec<u8> {
    let (mut recipe, _) = recipe(b"", b"");
    recipe.extend_from_slice(steps);
    recipe
}

#[test]
fn a_changed_byte_costs_a_chunk() {
    let old = noise(1, 3 << 20);
    let mut new = old.clone();
    new[1 << 20] ^= 1;
    let (recipe, copied) = recipe(&old, &new);
    assert_eq!(follow(&recipe, &old).expect("it can be followed"), new, "the file is made");
    assert!(recipe.len() < 20_000, "{} bytes are sent for one that has changed", recipe.len());
    assert!(copied > 3_000_000, "{copied} bytes are copied");
}

#[test]
fn what_was_inserted_moved_or_removed_costs_little() {
    let old = noise(2, 3 << 20);
    let (head, tail) = old.split_at(1 << 20);
    let (moved, rest) = tail.split_at(300_000);
    let removed = &rest[100_000..];
    for (what, new) in [
        ("inserted", [head, b"some new words", tail].concat()),
        ("moved", [moved, head, rest].concat()),
        ("removed", [head, moved, removed].concat()),
        ("twice", [head, head, tail].concat()),
    ] {
        let (recipe, _) = recipe(&old, &new);
        assert_eq!(follow(&recipe, &old).expect("it can be followed"), new, "{what}: the file is made");
        assert!(recipe.len() < 40_000, "{what}: {} bytes are sent", recipe.len());
    }
}

#[test]
fn one_chunk_that_is_far_ahead_does_not_cost_the_rest() {
    let old = noise(3, 12 << 20);
    let new = [&old[..100_000], &old[11 << 20..(11 << 20) + 20_000], &old[100_000..]].concat();
    let (recipe, _) = recipe(&old, &new);
    assert_eq!(follow(&recipe, &old).expect("it can be followed"), new, "the file is made");
    assert!(recipe.len() < 2 << 20, "{} bytes are sent", recipe.len());
}

#[test]
fn files_of_one_byte_take_no_time() {
    let old = vec![0; 64 << 20];
    let (recipe, copied) = recipe(&old, &old);
    assert_eq!(copied, old.len() as u64, "all of it is copied");
    assert!(recipe.len() < 200, "in a few steps: {} bytes", recipe.len());
}

#[test]
fn broken_recipes_are_refused_by_their_rule() {
    let old = noise(4, 10_000);
    assert!(matches!(broken(&steps(&[0]), &old), RecipeError::EmptyStep), "a step without bytes");
    assert!(matches!(broken(&steps(&[1, 0]), &old), RecipeError::EmptyStep), "a copy of nothing");
    assert!(matches!(broken(&steps(&[4, b'a']), &old), RecipeError::Read(_)), "a step that ends too early");
    assert!(matches!(broken(&steps(&[3]), &old), RecipeError::Read(_)), "a copy from nowhere");
    assert!(matches!(broken(&steps(&[0xff; 11]), &old), RecipeError::Number), "a number without an end");
    assert!(matches!(broken(&steps(&[201, 1, 0]), &old[..5]), RecipeError::Basis(_)), "a copy behind the end");
    assert!(matches!(broken(&steps(&[3, 1]), &old), RecipeError::Number), "a copy from before the beginning");
}

#[test]
fn a_copy_reaches_back_exactly_a_window() {
    let old = noise(5, 10 << 20);
    let copy = |offset: i64, length: u64| {
        let mut bytes = Vec::new();
        for mut number in [length << 1 | 1, (offset << 1 ^ offset >> 63).cast_unsigned()] {
            while number >= 0x80 {
                bytes.push(number.to_le_bytes()[0] | 0x80);
                number >>= 7;
            }
            bytes.push(number.to_le_bytes()[0]);
        }
        bytes
    };
    let eight = 8_i64 << 20;
    let window = WINDOW_BYTES.cast_signed();
    let good = [copy(eight, 1), copy(-1 - window + 1, 1)].concat();
    let at = usize::try_from(eight + 1 - window).expect("it fits in memory");
    let made = follow(&recipe_of_two_bytes(&good), &old).expect("it is within the window");
    assert_eq!(made, [old[8 << 20], old[at]], "the bytes are those at the offsets");
    let bad = [copy(eight, 1), copy(-1 - window, 1)].concat();
    let error = broken(&recipe_of_two_bytes(&bad), &old);
    assert!(matches!(error, RecipeError::TooFarBack { .. }), "one byte further is too far: {error}");
}

/// A recipe of a file of two bytes, with these steps.
fn recipe_of_two_bytes(steps: &[u8]) -> Vec<u8> {
    let (mut recipe, _) = recipe(b"", b"ab");
    // Its own step: a number and both bytes.
    recipe.truncate(recipe.len() - 3);
    recipe.extend_from_slice(steps);
    recipe
}

/// Something that was made of `old` by edits at random.
fn edited(old: &[u8], edits: &[(u32, u32, u8)]) -> Vec<u8> {
    let mut new = old.to_vec();
    for &(at, length, kind) in edits {
        let at = at as usize % (new.len() + 1);
        let length = length as usize;
        let end = (at + length).min(new.len());
        match kind % 4 {
            0 => drop(new.splice(at..at, noise(u64::from(kind) + 7, length))),
            1 => drop(new.drain(at..end)),
            2 => new[at..end].fill(kind),
            _ => {
                let part: Vec<_> = new.drain(at..end).collect();
                let to = at / 2;
                drop(new.splice(to..to, part));
            }
        }
    }
    new
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_made_is_what_was_there(
        seed in any::<u64>(),
        bytes in 0_usize..1_500_000,
        repeats in 1_usize..12,
        edits in prop::collection::vec((any::<u32>(), 0_u32..200_000, any::<u8>()), 0..8),
    ) {
        let old = noise(seed, bytes).repeat(repeats);
        let new = edited(&old, &edits);
        let (recipe, copied) = recipe(&old, &new);
        prop_assert_eq!(follow(&recipe, &old).map_err(|error| error.to_string()), Ok(new), "the file is made");
        prop_assert!(copied <= (bytes * repeats) as u64 * 2 + 2_000_000, "no more is copied than is there");
    }

    #[test]
    fn damaged_recipes_never_panic(
        edits in prop::collection::vec((any::<u32>(), 0_u32..20_000, any::<u8>()), 0..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let old = noise(1, 100_000);
        let (mut recipe, _) = recipe(&old, &edited(&old, &edits));
        for (at, byte) in flips {
            let at = at.index(recipe.len());
            recipe[at] = byte;
        }
        let _ = follow(&recipe, &old);
        let _ = follow(&recipe[..cut.index(recipe.len())], &old);
    }

    #[test]
    fn places_are_read_as_they_were_written(places in prop::collection::vec((any::<u32>(), ".{0,40}"), 0..20)) {
        let places: Vec<_> = places.into_iter().map(|(ref_index, path)| Place { ref_index, path }).collect();
        prop_assert_eq!(decode_places(&encode_places(&places)), Ok(places), "nothing is lost");
    }

    #[test]
    fn signatures_are_read_as_they_were_written(files in prop::collection::vec(prop::option::of(0_usize..40_000), 0..6)) {
        let mut answer = Vec::new();
        let signatures: Vec<_> = files
            .iter()
            .map(|bytes| bytes.map(|bytes| Signature::of(basis_id(), &noise(9, bytes)[..]).expect("memory can be read")))
            .collect();
        for signature in &signatures {
            encode_signature(signature.as_ref(), &mut answer);
        }
        for end in 0..answer.len() {
            prop_assert!(decode_signatures(&answer[..end], files.len()).is_err(), "a part is no answer");
        }
        prop_assert!(decode_signatures(&answer, files.len() + 1).is_err(), "it is not the answer to another question");
        prop_assert_eq!(decode_signatures(&answer, files.len()), Ok(signatures), "nothing is lost");
    }

    #[test]
    fn any_bytes_are_a_question_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(places) = decode_places(&bytes) {
            prop_assert_eq!(&encode_places(&places), &bytes, "each question has one form");
        }
        let _ = decode_signatures(&bytes, 3);
    }
}

#[test]
fn a_question_that_is_cut_or_not_utf_8_is_refused() {
    let bytes = encode_places(&[Place { ref_index: 1, path: "usr/bin/env".to_owned() }]);
    for end in 1..bytes.len() {
        assert_eq!(decode_places(&bytes[..end]), Err(PlaceError::Cut), "{end} bytes are not a place");
    }
    let mut bytes = bytes;
    bytes[8] = 0xff;
    assert_eq!(decode_places(&bytes), Err(PlaceError::Encoding), "names in trees are UTF-8");
    let long = Place { ref_index: 0, path: "a/".repeat(40_000) };
    let sent = decode_places(&encode_places(&[long])).expect("it is a question");
    assert_eq!(sent[0].path, "", "a path that is too long is sent as one at which nothing is");
}

fn reference(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (older, newer) = ((old.len() as u64, old), (new.len() as u64, new));
    write_reference(basis_id(), older, &header(), newer, &mut out).expect("memory takes everything");
    out
}

fn decompress(reference: &[u8], old: &[u8]) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let reader = RecipeReader::new(reference).map_err(io::Error::other)?;
    reader.decompress(old).take(65 << 20).read_to_end(&mut content)?;
    Ok(content)
}

#[test]
fn what_differs_from_a_known_file_is_little() {
    // As in a program that was linked anew: a few bytes differ everywhere.
    let old = noise(6, 9 << 20);
    let mut new = old.clone();
    new.chunks_mut(1000).for_each(|part| part[0] = part[0].wrapping_add(4));
    let by_reference = reference(&old, &new);
    let (by_chunks, _) = recipe(&old, &new);
    assert!(decompress(&by_reference, &old).expect("it can be made") == new, "the file is made");
    assert!(by_reference.len() < new.len() / 20, "{} bytes are sent", by_reference.len());
    assert!(by_chunks.len() > new.len() / 2, "where chunks find nothing: {} bytes", by_chunks.len());
}

#[test]
fn an_older_file_that_cannot_be_read_here_costs_bytes_and_nothing_else() {
    struct Damaged<'d>(&'d [u8]);
    impl Read for Damaged<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::InvalidData.into()),
                count => Ok(count),
            }
        }
    }
    let old = noise(6, 9 << 20);
    let whole = reference(&old, &old).len();
    for readable_bytes in [0, 1 << 20, 5 << 20, (9 << 20) - 1] {
        let (mut out, bytes) = (Vec::new(), old.len() as u64);
        let older = (bytes, Damaged(&old[..readable_bytes]));
        write_reference(basis_id(), older, &header(), (bytes, &old[..]), &mut out).expect("it is only a help");
        assert!(decompress(&out, &old).expect("it can be made") == old, "{readable_bytes}: the file is made");
        let by_itself = out.len() - whole;
        assert!(by_itself < old.len() - readable_bytes + (3 << 20), "{readable_bytes}: what can be read helps");
    }
}

#[test]
fn broken_references_are_refused_by_their_rule() {
    let old = noise(7, 5 << 20);
    let good = reference(&old, &old);
    let broken = |reference: &[u8], old: &[u8]| -> RecipeError {
        let error = decompress(reference, old).expect_err("it is refused");
        *error.into_inner().and_then(|error| error.downcast().ok()).expect("it is a rule of references")
    };
    let (head, _) = recipe(b"", b"");
    let with = |segment: &[u8]| [&head[..], segment].concat();
    for (what, segment) in [
        ("a prefix without an end", &[0, 0xff, 0xff, 0xff, 0x7f, 1, 1, 0][..]),
        ("more bytes than a segment has", &[0, 0, 0xff, 0xff, 0xff, 0x7f, 1, 0]),
        ("a frame without an end", &[0, 0, 1, 0xff, 0xff, 0xff, 0x7f, 0]),
        ("a frame that is none", &[0, 0, 1, 3, 1, 2, 3]),
    ] {
        assert!(matches!(broken(&with(segment), &old), RecipeError::Segment { .. }), "{what}");
    }
    assert!(matches!(broken(&with(&[0, 0, 0, 0]), &old), RecipeError::EmptyStep), "a segment of nothing");
    assert!(matches!(broken(&good[..good.len() - 1], &old), RecipeError::Read(_)), "it ends too early");
    assert!(matches!(broken(&good, &old[..1 << 20]), RecipeError::Basis(_)), "the basis is shorter");
    let mut other = old.clone();
    other[4096] ^= 1;
    let made = decompress(&good, &other);
    assert!(made.is_err() || made.is_ok_and(|made| made != old), "another basis makes another file, or none");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_made_by_reference_is_what_was_there(
        seed in any::<u64>(),
        bytes in 0_usize..1_500_000,
        repeats in 1_usize..8,
        edits in prop::collection::vec((any::<u32>(), 0_u32..400_000, any::<u8>()), 0..8),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let old = noise(seed, bytes).repeat(repeats);
        let new = edited(&old, &edits);
        let mut reference = reference(&old, &new);
        prop_assert!(decompress(&reference, &old).map_err(|error| error.to_string()) == Ok(new), "the file is made");
        for (at, byte) in flips {
            let at = at.index(reference.len());
            reference[at] = byte;
        }
        // It may be anything now, but no panic.
        let _ = decompress(&reference, &old);
    }
}
