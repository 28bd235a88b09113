//! Segments of a core, and the headers that describe them.

use crate::memory::Piece;
use frost_model::BytePath;
use frost_model::PAGE_SIZE;
use frost_model::rm::{Attachment, Protection, Region};

/// Length of an ELF header, of a program header, of a section header.
const EHDR: usize = 64;
const PHDR: usize = 56;
const SHDR: usize = 64;

/// What `e_phnum` says if there are more program headers than it can count; then the first section header does.
const PN_XNUM: usize = 0xffff;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// A segment of a core: addresses of which the first `file_bytes` have content.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) address: u64,
    /// How many bytes of it are in the core.
    pub(super) file_bytes: u64,
    memory_bytes: u64,
    flags: u32,
    /// What those bytes are; the last may reach beyond them.
    pub(super) pieces: Vec<Piece>,
    /// Where the region begins that it is part of.
    pub(super) region_start: u64,
    /// The file that the region shows.
    pub(super) file: Option<BytePath>,
}

/// A piece of a region, and what is to become of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) piece: Piece,
    /// How many bytes from its start on must be in the core.
    pub(super) stored: u64,
    /// Whether what need not be in the core is known all the same, so that it may fill a gap.
    pub(super) fillable: bool,
}

/// Divides a region into segments: each begins with content, and is followed by addresses without any. Only the first may
/// have none at all. Content is joined over known gaps of at most `join` bytes.
pub(super) fn segments(
    region: &Region,
    parts: impl IntoIterator<Item = Part>,
    join: u64,
    out: &mut Vec<Segment>,
) {
    let file = match &region.attachment {
        Attachment::File { file, .. } => Some(file.path.clone()),
        _ => None,
    };
    let begin = |address| Segment {
        address,
        file_bytes: 0,
        memory_bytes: 0,
        flags: flags(&region.protection),
        pieces: Vec::new(),
        region_start: region.range.start(),
        file: file.clone(),
    };
    let mut current = begin(region.range.start());
    // What was passed since the last content, and whether all of it is known.
    let (mut gap, mut gap_is_known): (Vec<Piece>, bool) = (Vec::new(), true);
    for Part { piece, stored, fillable } in parts {
        if stored > 0 {
            let gap_bytes = piece.start - (current.address + current.file_bytes);
            if gap_bytes > 0 && (current.file_bytes == 0 || gap_bytes > join || !gap_is_known) {
                current.memory_bytes = piece.start - current.address;
                out.push(std::mem::replace(&mut current, begin(piece.start)));
                gap.clear();
            }
            current.pieces.append(&mut gap);
            current.pieces.push(piece);
            current.file_bytes = piece.start + stored - current.address;
            gap_is_known = true;
        }
        if stored < piece.len_bytes {
            // Of a piece of which only the start is content the rest is a gap; it needs no second entry in the list,
            // since the first covers its addresses too.
            gap_is_known &= fillable;
            if stored == 0 {
                gap.push(piece);
            }
        }
    }
    current.memory_bytes = region.range.end() - current.address;
    out.push(current);
}

fn flags(protection: &Protection) -> u32 {
    u32::from(protection.execute) | u32::from(protection.write) << 1 | u32::from(protection.read) << 2
}

/// Writes all that precedes the first segment: the ELF header, the program headers, the notes, and padding to a page.
pub(super) fn head(notes: &[u8], segments: &mut [Segment]) -> Vec<u8> {
    let count = segments.len() + 1;
    let many = count >= PN_XNUM;
    let sections = if many { SHDR } else { 0 };
    let notes_at = EHDR + count * PHDR + sections;
    let page = PAGE_SIZE as usize;
    let len = (notes_at + notes.len()).next_multiple_of(page);
    let mut head = Vec::with_capacity(len);
    // 64 bits, little-endian, version 1, System V.
    head.extend_from_slice(b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00");
    let half = |head: &mut Vec<u8>, value: u16| head.extend_from_slice(&value.to_le_bytes());
    let word = |head: &mut Vec<u8>, value: u32| head.extend_from_slice(&value.to_le_bytes());
    let long = |head: &mut Vec<u8>, value: u64| head.extend_from_slice(&value.to_le_bytes());
    half(&mut head, 4); // ET_CORE
    half(&mut head, 62); // EM_X86_64
    word(&mut head, 1);
    long(&mut head, 0); // e_entry
    long(&mut head, EHDR as u64);
    long(&mut head, if many { (EHDR + count * PHDR) as u64 } else { 0 });
    word(&mut head, 0); // e_flags
    half(&mut head, EHDR as u16);
    half(&mut head, PHDR as u16);
    half(&mut head, count.min(PN_XNUM) as u16);
    half(&mut head, if many { SHDR as u16 } else { 0 });
    half(&mut head, u16::from(many));
    half(&mut head, 0); // e_shstrndx
    let mut program =
        |kind: u32, flags: u32, offset: u64, address: u64, file: u64, memory: u64, align: u64| {
            word(&mut head, kind);
            word(&mut head, flags);
            for value in [offset, address, 0, file, memory, align] {
                long(&mut head, value);
            }
        };
    program(PT_NOTE, 0, notes_at as u64, 0, notes.len() as u64, 0, 4);
    let mut offset = len as u64;
    for segment in segments {
        let (file, memory) = (segment.file_bytes, segment.memory_bytes);
        program(PT_LOAD, segment.flags, offset, segment.address, file, memory, PAGE_SIZE);
        offset += file;
    }
    if many {
        // Section 0: no section, but its `sh_info` counts the program headers.
        let mut section = [0; SHDR];
        section[44..48].copy_from_slice(&(count as u32).to_le_bytes());
        head.extend_from_slice(&section);
    }
    head.extend_from_slice(notes);
    head.resize(len, 0);
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Source;
    use frost_model::ram::Pages;
    use frost_model::rm::{PageRange, RegionFlags};

    fn region(pages: u64) -> Region {
        Region {
            range: PageRange::new(0x10000, 0x10000 + pages * PAGE_SIZE).unwrap(),
            protection: Protection { read: true, write: true, execute: false, key: 0 },
            attachment: Attachment::Anonymous,
            flags: RegionFlags::default(),
            private: Pages::default(),
            guards: Vec::new(),
            policy: None,
            huge_shift: None,
        }
    }

    /// Pages of a region: `s` stored, `z` zeros, `?` unknown. Each letter is a piece.
    fn split(pages: &str, join_pages: u64) -> Vec<(u64, u64, u64)> {
        let parts = pages.chars().enumerate().map(|(index, kind)| {
            let source = if kind == 's' { Source::Pack(0) } else { Source::Zeros };
            let piece = Piece { start: 0x10000 + index as u64 * PAGE_SIZE, len_bytes: PAGE_SIZE, source };
            Part { piece, stored: if kind == 's' { PAGE_SIZE } else { 0 }, fillable: kind != '?' }
        });
        let mut segments = Vec::new();
        super::segments(&region(pages.len() as u64), parts, join_pages * PAGE_SIZE, &mut segments);
        for segment in &segments {
            // The pieces are the content, without a gap.
            let mut at = segment.address;
            for piece in &segment.pieces {
                assert!(piece.start == at);
                at += piece.len_bytes;
            }
            assert_eq!(at, segment.address + segment.file_bytes);
        }
        let pages = |bytes: u64| bytes / PAGE_SIZE;
        segments
            .iter()
            .map(|s| (pages(s.address - 0x10000), pages(s.file_bytes), pages(s.memory_bytes)))
            .collect()
    }

    #[test]
    fn content_is_joined_over_small_gaps_and_not_over_large_or_unknown_ones() {
        assert_eq!(split("zzzz", 1), [(0, 0, 4)]);
        assert_eq!(split("sszz", 1), [(0, 2, 4)]);
        assert_eq!(split("zssz", 1), [(0, 0, 1), (1, 2, 3)]);
        assert_eq!(split("szsz", 1), [(0, 3, 4)]);
        assert_eq!(split("szzs", 1), [(0, 1, 3), (3, 1, 1)]);
        assert_eq!(split("s?s", 1), [(0, 1, 2), (2, 1, 1)]);
    }

    #[test]
    fn more_segments_than_the_header_can_count_are_counted_by_a_section() {
        let mut segments = Vec::new();
        let part = |index: u64| Part {
            piece: Piece {
                start: 0x10000 + index * 2 * PAGE_SIZE,
                len_bytes: PAGE_SIZE,
                source: Source::Pack(0),
            },
            stored: PAGE_SIZE,
            fillable: true,
        };
        super::segments(&region(140_000), (0..70_000).map(part), 0, &mut segments);
        let head = head(b"notes", &mut segments);
        let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        assert_eq!((half(56), half(60)), (0xffff, 1));
        let section = u64::from_le_bytes(head[40..48].try_into().unwrap()) as usize;
        let count = u32::from_le_bytes(head[section + 44..section + 48].try_into().unwrap());
        assert_eq!(count as usize, segments.len() + 1);
        assert!(head[section + SHDR..].starts_with(b"notes"));
    }
}
