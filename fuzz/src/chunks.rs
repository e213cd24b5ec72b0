//! Checks of the exchange of chunks.

use std::io::{self, Read};

use treegraft_object::{Checksum, ContentId, FileHeader, FileKind, Xattrs};
use treegraft_wire::chunks::{
    Basis, RecipeReader, Signature, decode_places, decode_signatures, encode_places, encode_signature, write_recipe,
};

use crate::input::Input;

/// Most bytes that are made by a recipe of an input.
const MAX_MADE_BYTES: u64 = 1 << 20;

/// Checks questions and answers, recipes that come from anywhere, and such as are made here.
///
/// # Panics
///
/// When a recipe makes something else than what it was written for, or something is read as another thing than was written,
/// which is what fuzzing looks for.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => {
            let bytes = input.long_bytes();
            if let Ok(places) = decode_places(bytes) {
                assert!(encode_places(&places) == bytes, "what is not refused is kept byte for byte");
            }
        }
        1 => {
            let places = usize::from(input.byte() % 8);
            let bytes = input.long_bytes();
            if let Ok(signatures) = decode_signatures(bytes, places) {
                let mut again = Vec::new();
                signatures.iter().for_each(|signature| encode_signature(signature.as_ref(), &mut again));
                assert!(again == bytes, "what is not refused is kept byte for byte");
            }
        }
        2 => {
            let basis = input.long_bytes().repeat(1 + usize::from(input.byte() % 64));
            let mut recipe = if input.byte() % 4 == 0 { Vec::new() } else { recipe(&[], &[]) };
            recipe.extend_from_slice(input.long_bytes());
            let _ = follow(&recipe, &basis);
        }
        _ => {
            let old = input.long_bytes().repeat(1 + usize::from(input.byte() % 64));
            let new = input.long_bytes().repeat(1 + usize::from(input.byte() % 64));
            let new = [&new, &old[old.len() / 3..], &new].concat();
            let made = follow(&recipe(&old, &new), &old).expect("it can be followed");
            assert!(made == new, "what is made is what the recipe was written for");
        }
    }
}

/// Writes a recipe that makes `new` of `old`.
fn recipe(old: &[u8], new: &[u8]) -> Vec<u8> {
    let signature = Signature::of(ContentId(Checksum::of(old)), old).expect("memory can be read");
    let header = FileHeader { uid: 0, gid: 0, mode: 0o100_644, kind: FileKind::Regular, xattrs: Xattrs::new() };
    let mut recipe = Vec::new();
    write_recipe(&signature, &header, new.len() as u64, new, &mut recipe).expect("memory takes everything");
    recipe
}

fn follow(recipe: &[u8], basis: &[u8]) -> io::Result<Vec<u8>> {
    let mut made = Vec::new();
    let reader = RecipeReader::new(recipe).map_err(io::Error::other)?;
    reader.follow(Basis::new(basis)).take(64 * MAX_MADE_BYTES).read_to_end(&mut made)?;
    Ok(made)
}
