//! The outer form of OpenPGP data: which packets there are.

/// The tag of a signature packet (RFC 9580, 5).
const SIGNATURE_TAG: u8 = 2;

/// Tells whether the bytes are signature packets and nothing else, at least one.
///
/// Packets without a length at their beginning are not signatures (RFC 9580, 4.2.1.4).
pub(super) fn has_only_signatures(mut bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return false;
    }
    while !bytes.is_empty() {
        match packet(bytes) {
            Some((SIGNATURE_TAG, rest)) => bytes = rest,
            _ => return false,
        }
    }
    true
}

/// Returns the tag of the first packet and what is behind it; nothing for what is no packet with a length.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (&header, rest) = bytes.split_first()?;
    if header & 0x80 == 0 {
        return None;
    }
    let (tag, length, rest) = if header & 0x40 == 0 {
        let (length, rest) = number(
            rest,
            match header & 3 {
                0 => 1,
                1 => 2,
                2 => 4,
                _ => return None,
            },
        )?;
        (header >> 2 & 0x0f, length, rest)
    } else {
        let (&first, behind) = rest.split_first()?;
        let (length, rest) = match first {
            0..192 => (usize::from(first), behind),
            192..224 => {
                let (&second, behind) = behind.split_first()?;
                ((usize::from(first) - 192) * 256 + usize::from(second) + 192, behind)
            }
            255 => number(behind, 4)?,
            _ => return None,
        };
        (header & 0x3f, length, rest)
    };
    Some((tag, rest.get(length..)?))
}

/// Reads a number in big-endian order.
fn number(bytes: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(count)?;
    Some((digits.iter().fold(0, |value, &byte| value << 8 | usize::from(byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_packets_and_nothing_else() {
        let old = [0x88, 3, 1, 2, 3];
        let two_bytes = [0x89, 0, 2, 1, 2];
        let new = [0xc2, 2, 1, 2];
        for good in [&old[..], &two_bytes, &new, &[old, [0x88, 3, 4, 5, 6]].concat(), &[&new[..], &old].concat()] {
            assert!(has_only_signatures(good), "{good:?}");
        }
        let mut long = vec![0xc2, 192, 8];
        long.resize(3 + 200, 0);
        assert!(has_only_signatures(&long), "a length of two bytes");
        for bad in [
            &[][..],
            &[0x88],
            &[0x88, 4, 1, 2, 3],       // cut short
            &[0x8b, 1, 2, 3],          // without a length
            &[0xc2, 224, 1, 2],        // in parts
            &[0x90, 1, 0],             // a one-pass signature
            &[0xcb, 1, 0],             // literal data
            &[0x88, 1, 0, 0xcb, 1, 0], // literal data behind a signature
            &[0x08, 1, 0],             // no packet
            b"-----BEGIN PGP SIGNATURE-----",
            &[0xc2, 255, 255, 255, 255, 255],
        ] {
            assert!(!has_only_signatures(bad), "{bad:?}");
        }
    }
}
