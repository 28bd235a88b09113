//! Build-ids of ELF files, by which a binary is the same wherever it lies.

use rustix::fd::BorrowedFd;

/// Reads the GNU build-id of an ELF file: the note of type 3 with owner `GNU` in a PT_NOTE segment.
///
/// Source: elf(5).
pub fn build_id(file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    build_id_by(|bytes, offset| rustix::io::pread(file, bytes, offset).ok())
}

/// Reads it through `read`, which gives the bytes of the file from an offset, and says how many.
pub fn build_id_by(read: impl Fn(&mut [u8], u64) -> Option<usize>) -> Option<Vec<u8>> {
    let mut head = [0u8; 4096];
    let got = read(&mut head, 0)?;
    let head = &head[..got];
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let word = |at: usize| Some(u64::from_le_bytes(head.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let (table, size, count) = (usize::try_from(word(32)?).ok()?, usize::from(half(54)?), half(56)?);
    for index in 0..usize::from(count.min(64)) {
        let at = table.checked_add(index * size)?;
        if head.get(at..at.checked_add(4)?)? != 4u32.to_le_bytes() {
            continue;
        }
        let len = word(at.checked_add(32)?)?.min(4096) as usize;
        let mut notes = vec![0u8; len];
        let got = read(&mut notes, word(at.checked_add(8)?)?)?;
        if let Some(id) = find_note(&notes[..got]) {
            return Some(id);
        }
    }
    None
}

fn find_note(mut notes: &[u8]) -> Option<Vec<u8>> {
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (name_len, desc_len, kind) = (number(0), number(4), number(8));
        let desc_at = name_len.checked_next_multiple_of(4)?;
        let end = desc_at.checked_add(desc_len.checked_next_multiple_of(4)?)?;
        if kind == 3 && rest.get(..name_len)? == b"GNU\0" {
            return rest.get(desc_at..desc_at.checked_add(desc_len)?).map(<[u8]>::to_vec);
        }
        notes = rest.get(end..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_behind_another() {
        let mut notes = Vec::new();
        for (kind, name, desc) in [(1u32, b"GNU\0", &[9u8; 16][..]), (3, b"GNU\0", &[7; 20])] {
            notes.extend(4u32.to_le_bytes());
            notes.extend((desc.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(name);
            notes.extend(desc);
        }
        assert_eq!(find_note(&notes), Some(vec![7; 20]));
        assert_eq!(find_note(&[0xff; 40]), None);
    }
}
