//! Exported icons: PNG, JPEG or SVG, square, and not larger than 512 pixels (4096 for SVG), as `flatpak-validate-icon`
//! demands it.
//!
//! Only what says the size is read. Flatpak loads the whole picture in a sandbox, so it finds damage behind its header, too.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::BuildDirError;

/// Longest side of a PNG or JPEG, in pixels.
const MAX_PIXELS: u32 = 512;

/// Longest side of an SVG, in pixels.
const MAX_VECTOR_PIXELS: u32 = 4096;

/// What is read of an icon: in all three formats the size is near the beginning, in a JPEG behind what a camera adds.
const MAX_READ_BYTES: u64 = 1 << 20;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// Checks one exported icon.
pub(super) fn check(path: &Path) -> Result<(), BuildDirError> {
    let data = read_beginning(path).map_err(|source| BuildDirError::Io { path: path.to_owned(), source })?;
    let refuse = |reason: String| Err(BuildDirError::Export { path: path.to_owned(), reason });
    let (size, limit) = if data.starts_with(PNG_SIGNATURE) {
        (png_size(&data), MAX_PIXELS)
    } else if data.starts_with(JPEG_SIGNATURE) {
        (jpeg_size(&data), MAX_PIXELS)
    } else if let Some(root) = svg_root(&data) {
        // Without a size of its own, an SVG has that of its contents, which is not looked at.
        match svg_size(root) {
            Some(size) => (Some(size), MAX_VECTOR_PIXELS),
            None => return Ok(()),
        }
    } else {
        return refuse("it is neither PNG nor JPEG nor SVG".to_owned());
    };
    let Some((width, height)) = size else { return refuse("it is damaged: it does not say its size".to_owned()) };
    if width > limit || height > limit {
        return refuse(format!("it has {width}x{height} pixels, and {limit}x{limit} are allowed"));
    }
    if width != height {
        return refuse(format!("it has {width}x{height} pixels, and an icon is square"));
    }
    Ok(())
}

fn read_beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    File::open(path)?.take(MAX_READ_BYTES).read_to_end(&mut data)?;
    Ok(data)
}

/// The header chunk comes first: length, `IHDR`, width, height.
fn png_size(data: &[u8]) -> Option<(u32, u32)> {
    let header = data.get(8..24)?;
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    if &header[4..8] != b"IHDR" {
        return None;
    }
    let (width, height) = (number(8)?, number(12)?);
    (width > 0 && height > 0).then_some((width, height))
}

/// Segments follow each other up to a start of frame, which has the size.
fn jpeg_size(data: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let segment = data.get(at..)?;
        let (&[0xff, marker], rest) = segment.split_first_chunk::<2>()? else { return None };
        match marker {
            // Filling, and markers without a segment.
            0xff => at += 1,
            0x01 | 0xd0..=0xd8 => at += 2,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let number = |at: usize| Some(u32::from(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?)));
                let (height, width) = (number(3)?, number(5)?);
                return (width > 0 && height > 0).then_some((width, height));
            }
            _ => at += 2 + usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?)),
        }
    }
}

/// Returns the inside of the root element's tag.
fn svg_root(data: &[u8]) -> Option<&str> {
    // A character that is cut in two at the end of what was read is behind the root element.
    let text = match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&data[..error.valid_up_to()]).ok()?,
    };
    let tags = text.match_indices("<svg").chain(text.match_indices("<svg:svg"));
    let start = tags.map(|(at, tag)| at + tag.len()).min()?;
    let rest = &text[start..];
    rest.starts_with(|next: char| next.is_whitespace() || matches!(next, '>' | '/')).then_some(())?;
    Some(&rest[..rest.find('>')?])
}

/// Returns the size that the attributes say, in whole pixels, if they say it in pixels.
fn svg_size(root: &str) -> Option<(u32, u32)> {
    let length = |name: &str| pixels(attribute(root, name)?);
    let view_box = || {
        let numbers = attribute(root, "viewBox")?;
        let mut numbers = numbers.split([' ', ',', '\n', '\t']).filter(|part| !part.is_empty()).skip(2).map(pixels);
        Some((numbers.next()??, numbers.next()??))
    };
    length("width").zip(length("height")).or_else(view_box)
}

fn attribute<'t>(tag: &'t str, name: &str) -> Option<&'t str> {
    tag.match_indices(name).find_map(|(at, _)| {
        let is_whole = tag[..at].ends_with(char::is_whitespace);
        let value = tag[at + name.len()..].trim_start().strip_prefix('=').filter(|_| is_whole)?.trim_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        value[1..].split(quote).next()
    })
}

fn pixels(length: &str) -> Option<u32> {
    let number = length.trim().trim_end_matches("px").trim().parse::<f64>().ok()?;
    // A size beyond all limits is as good as the number above them.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 1 and 10,000")]
    (number > 0.0).then(|| number.round().clamp(1.0, 10_000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_found() {
        let png = [PNG_SIGNATURE, &[0, 0, 0, 13], b"IHDR", &[0, 0, 0, 64, 0, 0, 0, 32]].concat();
        assert_eq!(png_size(&png), Some((64, 32)), "behind the name of the first chunk");
        let jpeg = [JPEG_SIGNATURE, &[0xe0, 0, 4, 1, 2, 0xff, 0xc0, 0, 17, 8, 0, 16, 0, 24]].concat();
        assert_eq!(jpeg_size(&jpeg), Some((24, 16)), "height comes first");
        for (svg, size) in [
            (r#"<svg width="64" height="64">"#, Some((64, 64))),
            (r#"<?xml version="1.0"?><svg xmlns="x" height='32px' width = "16.2px">"#, Some((16, 32))),
            (r#"<svg viewBox="0 0 128 100">"#, Some((128, 100))),
            (r#"<svg width="100%" height="100%" viewBox="0,0,8,8">"#, Some((8, 8))),
            ("<svg stroke-width=\"3\" >", None),
        ] {
            assert_eq!(svg_size(svg_root(svg.as_bytes()).expect("it has a root")), size, "`{svg}`");
        }
        for not_svg in ["", "<svgx>", "<html>", "<svg width=\"1\""] {
            assert_eq!(svg_root(not_svg.as_bytes()), None, "`{not_svg}`");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_picture() {
        let png = [PNG_SIGNATURE, &[0, 0, 0, 13], b"IHDR", &[0, 0, 0, 64, 0, 0, 0]].concat();
        assert_eq!(png_size(&png), None);
        let jpeg = [JPEG_SIGNATURE, &[0xe0, 0, 4, 1, 2, 0xff, 0xc0, 0, 17, 8, 0, 16, 0]].concat();
        for length in 3..jpeg.len() {
            assert_eq!(jpeg_size(&jpeg[..length]), None, "{length} bytes");
        }
    }
}
