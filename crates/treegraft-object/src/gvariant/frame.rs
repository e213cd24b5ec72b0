//! Splitting containers into the bytes of their children.

use super::{NotNormal, Type, align, offset_width, offset_width_for};

/// Splits the bytes of a tuple (or dictionary entry) with these members into the bytes of each member.
///
/// The frame is checked: offsets, their width, padding, nothing left over. The members themselves are not.
pub fn tuple<'a>(members: &[Type], data: &'a [u8]) -> Result<Vec<&'a [u8]>, NotNormal> {
    if members.is_empty() {
        return if data == [0] { Ok(Vec::new()) } else { Err(NotNormal::Size) };
    }
    let sizes: Vec<Option<usize>> = members.iter().map(Type::fixed_size).collect();
    let alignment = members.iter().map(Type::alignment).max().unwrap_or(1);
    let offsets = sizes[..sizes.len() - 1].iter().filter(|size| size.is_none()).count();
    let is_fixed = sizes.iter().all(Option::is_some);
    let width = offset_width(data.len());
    let body_end = data.len().checked_sub(offsets * width).ok_or(NotNormal::Size)?;
    let (body, table) = data.split_at(body_end);
    if offsets > 0 && offset_width_for(body_end, offsets) != width {
        return Err(NotNormal::OffsetWidth);
    }

    let mut children = Vec::with_capacity(members.len());
    let mut position = 0;
    let mut next_offset = table.len();
    for (index, (member, size)) in members.iter().zip(sizes).enumerate() {
        let start = padded(body, position, member.alignment())?;
        let end = match size {
            Some(size) => start.checked_add(size).ok_or(NotNormal::Offset)?,
            None if index + 1 == members.len() => body_end,
            None => {
                next_offset -= width;
                read_offset(&table[next_offset..next_offset + width])?
            }
        };
        children.push(body.get(start..end).ok_or(NotNormal::Offset)?);
        position = end;
    }
    if is_fixed {
        position = padded(body, position, alignment)?;
    }
    if position == body_end { Ok(children) } else { Err(NotNormal::Size) }
}

/// Splits the bytes of an array into the bytes of its elements.
///
/// The frame is checked as in [`tuple()`]. The elements themselves are not.
pub fn elements<'a>(element: &Type, data: &'a [u8]) -> Result<Vec<&'a [u8]>, NotNormal> {
    if data.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(size) = element.fixed_size() {
        // A fixed size is a multiple of the alignment, so that elements stand back to back.
        return if data.len().is_multiple_of(size) { Ok(data.chunks(size).collect()) } else { Err(NotNormal::Size) };
    }
    let width = offset_width(data.len());
    let last = data.len().checked_sub(width).ok_or(NotNormal::Size)?;
    let body_end = read_offset(&data[last..])?;
    let (body, table) = data.split_at_checked(body_end).ok_or(NotNormal::Offset)?;
    let count = table.len() / width;
    if !table.len().is_multiple_of(width) || count == 0 {
        return Err(NotNormal::Size);
    }
    if offset_width_for(body_end, count) != width {
        return Err(NotNormal::OffsetWidth);
    }
    let alignment = element.alignment();
    let mut children = Vec::with_capacity(count);
    let mut position = 0;
    for offset in table.chunks(width) {
        let start = padded(body, position, alignment)?;
        position = read_offset(offset)?;
        children.push(body.get(start..position).ok_or(NotNormal::Offset)?);
    }
    Ok(children)
}

/// Returns the aligned position behind `position`, after a look at the padding between.
fn padded(body: &[u8], position: usize, alignment: usize) -> Result<usize, NotNormal> {
    let start = align(position, alignment);
    match body.get(position..start) {
        Some(padding) if padding.iter().all(|&byte| byte == 0) => Ok(start),
        Some(_) => Err(NotNormal::Padding),
        None => Err(NotNormal::Offset),
    }
}

fn read_offset(bytes: &[u8]) -> Result<usize, NotNormal> {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(wide)).map_err(|_| NotNormal::Offset)
}
