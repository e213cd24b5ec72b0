//! Asking for the chunks of what the server has at a path.
//!
//! ```text
//! place*   ref     4 bytes   big-endian, the number of the ref in the order of the opening
//!          length  2 bytes   big-endian, of the path
//!          path              of a file below the root of the ref's tree, as `usr/bin/env`
//! ```

/// Where a file is in the tree of a pushed ref.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The number of the ref, in the order of the opening.
    pub ref_index: u32,
    /// The path below the root, its names separated by `/`. At most 65,535 bytes are sent of it.
    pub path: String,
}

/// The bytes are no list of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The list ends within a place.
    #[error("The list of places ends within one")]
    Cut,
    /// A path is not UTF-8, as all names in a tree are.
    #[error("A path is not UTF-8")]
    Encoding,
}

const HEAD_BYTES: usize = 6;

/// Encodes a list of places. A path that is too long is sent as an empty one, at which nothing is found.
pub fn encode_places<'p>(places: impl IntoIterator<Item = &'p Place>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for place in places {
        let (length, path) = u16::try_from(place.path.len()).map_or((0, ""), |length| (length, place.path.as_str()));
        bytes.extend_from_slice(&place.ref_index.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(path.as_bytes());
    }
    bytes
}

/// Decodes a list of places.
pub fn decode_places(mut bytes: &[u8]) -> Result<Vec<Place>, PlaceError> {
    let mut places = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(PlaceError::Cut)?;
        let [a, b, c, d, high, low] = *head;
        let (path, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(PlaceError::Cut)?;
        let path = std::str::from_utf8(path).map_err(|_| PlaceError::Encoding)?.to_owned();
        places.push(Place { ref_index: u32::from_be_bytes([a, b, c, d]), path });
        bytes = rest;
    }
    Ok(places)
}
