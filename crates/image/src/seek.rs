//! Where the frames of a cold pack lie.
//!
//! A cold pack is a file in the seekable format of zstd (`contrib/seekable_format` there): frames that each hold
//! 1 MiB of the pack, 16 blocks, the last maybe less; then a skippable frame with the length of each. `zstd -d`
//! restores the pack from it. The table is read from the end of the file; its length is compared with that of the file,
//! and what it says of frames with that of the pack, which may be longer than an image needs that is an earlier version:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `5e 2a 4d 18`, a skippable frame |
//! | 4 | length of what follows: 8 n + 9 |
//! | 8 n | for each frame: its length, and its length decompressed, 4 bytes each |
//! | 4 | n, the number of frames |
//! | 1 | zero: there are no checksums, the blocks have digests |
//! | 4 | `b1 ea 92 8f` |

use crate::blocks::BLOCK_BYTES;
use crate::error::Error;
use std::ops::Range;

/// Bytes of a pack in one frame; the last frame may hold less.
pub const FRAME_BYTES: u64 = 16 * BLOCK_BYTES;

/// The longest a compressed frame can be: what zstd makes of 1 MiB of noise (`ZSTD_compressBound`), and some.
pub const COMPRESSED_LIMIT_BYTES: u64 = FRAME_BYTES + FRAME_BYTES / 256 + 64;

const SKIPPABLE: u32 = 0x184d_2a5e;
const SEEKABLE: u32 = 0x8f92_eab1;
const WHAT: &str = "seek table";

/// The places of the frames of a cold pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekTable {
    /// Where each frame ends.
    ends: Vec<u64>,
    /// The length of the pack, decompressed; 0 while the table is made.
    pack_bytes: u64,
}

impl SeekTable {
    /// Length of the end of a table, from which the length of the table is told.
    pub const FOOTER_BYTES: u64 = 9;

    /// Begins a table of no frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of frames of a pack of `pack_bytes`.
    pub const fn count_for(pack_bytes: u64) -> u64 {
        pack_bytes.div_ceil(FRAME_BYTES)
    }

    /// Returns the length of the table of a pack of `pack_bytes`, which lies at the end of the file.
    pub const fn len_for(pack_bytes: u64) -> u64 {
        8 + 8 * Self::count_for(pack_bytes) + 9
    }

    /// Returns which bytes of a pack of `pack_bytes` frame `index` holds.
    pub fn held(index: u64, pack_bytes: u64) -> Range<u64> {
        let start = index.saturating_mul(FRAME_BYTES).min(pack_bytes);
        start..start.saturating_add(FRAME_BYTES).min(pack_bytes)
    }

    /// Returns the length of the pack of a table that was read.
    pub fn pack_bytes(&self) -> u64 {
        self.pack_bytes
    }

    /// Adds a frame that is `len_bytes` long, compressed.
    pub fn push(&mut self, len_bytes: u64) {
        let start = self.ends.last().copied().unwrap_or(0);
        self.ends.push(start + len_bytes);
    }

    /// Returns where frame `index` lies in the file, `None` if there is no such frame.
    pub fn range(&self, index: u64) -> Option<Range<u64>> {
        let index = usize::try_from(index).ok()?;
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(start..end)
    }

    /// Writes the table of a pack of `pack_bytes`.
    pub fn encode(&self, pack_bytes: u64) -> Vec<u8> {
        let count = self.ends.len() as u32;
        let mut bytes = SKIPPABLE.to_le_bytes().to_vec();
        bytes.extend((8 * count + 9).to_le_bytes());
        let mut start = 0;
        for (index, end) in self.ends.iter().enumerate() {
            let held = Self::held(index as u64, pack_bytes);
            bytes.extend(((end - start) as u32).to_le_bytes());
            bytes.extend(((held.end - held.start) as u32).to_le_bytes());
            start = *end;
        }
        bytes.extend(count.to_le_bytes());
        bytes.push(0);
        bytes.extend(SEEKABLE.to_le_bytes());
        bytes
    }

    /// Returns the length of the table whose last [`FOOTER_BYTES`](Self::FOOTER_BYTES) are `footer`, in a file of
    /// `file_bytes`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a table of such a length cannot be there.
    pub fn len_in(footer: &[u8], file_bytes: u64) -> Result<u64, Error> {
        let count = footer.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
        let len = 8 + 8 * count + Self::FOOTER_BYTES;
        // A frame has a byte at the least.
        if footer.len() as u64 != Self::FOOTER_BYTES || len + count > file_bytes {
            return Err(Error::damaged(WHAT, "it is longer than the file"));
        }
        Ok(len)
    }

    /// Reads the table of a pack of at least `pack_bytes`, `tail`, which is the end of a file of `file_bytes`.
    ///
    /// # Errors
    /// [`Error::CutShort`] if there is no room for the table; [`Error::Damaged`] if it is not one, or not that of
    /// these lengths.
    pub fn decode(tail: &[u8], file_bytes: u64, pack_bytes: u64) -> Result<Self, Error> {
        let damaged = |why: &str| Error::damaged(WHAT, why);
        let (entries, rest) = tail.as_chunks::<4>();
        let least = Self::len_for(pack_bytes);
        if (tail.len() as u64) < least || file_bytes < tail.len() as u64 {
            return Err(Error::CutShort {
                what: WHAT,
                expected_bytes: least,
                found_bytes: tail.len() as u64,
            });
        }
        let count = (tail.len() as u64 - least) / 8 + Self::count_for(pack_bytes);
        let len = 8 + 8 * count + Self::FOOTER_BYTES;
        let word = |index: usize| entries.get(index).map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
        // Eight bytes before the entries and nine behind: the last byte is alone, the footer lies unaligned.
        let Some(footer) = tail.last_chunk::<9>() else { return Err(damaged("it is too short")) };
        let begins = word(0) == Some(SKIPPABLE.into()) && word(1) == Some(8 * count + 9);
        let mut ends_with = (count as u32).to_le_bytes().to_vec();
        ends_with.push(0);
        ends_with.extend(SEEKABLE.to_le_bytes());
        if tail.len() as u64 != len || rest.len() != 1 || !begins || *footer != *ends_with {
            return Err(damaged("it is not the one of a pack of this length"));
        }
        let mut table = Self::new();
        for index in 0..count {
            let at = 2 + 2 * index as usize;
            match (word(at), word(at + 1)) {
                // All but the last hold as much as fits.
                (Some(len @ 1..=COMPRESSED_LIMIT_BYTES), Some(raw @ 1..=FRAME_BYTES))
                    if raw == FRAME_BYTES || index + 1 == count =>
                {
                    table.push(len);
                    table.pack_bytes += raw;
                }
                _ => return Err(damaged("the length of a frame cannot be")),
            }
        }
        if table.pack_bytes < pack_bytes {
            return Err(damaged("it is the one of a shorter pack"));
        }
        if table.ends.last().copied().unwrap_or(0) != file_bytes - len {
            return Err(damaged("its frames do not fill the file"));
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(lengths: &[u64]) -> SeekTable {
        let mut table = SeekTable::new();
        lengths.iter().for_each(|len| table.push(*len));
        table
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lengths in prop::collection::vec(1..=COMPRESSED_LIMIT_BYTES, 0..20), last in 1..=FRAME_BYTES) {
            let table = table(&lengths);
            let pack = (lengths.len() as u64).saturating_sub(1) * FRAME_BYTES + if lengths.is_empty() { 0 } else { last };
            let bytes = table.encode(pack);
            prop_assert_eq!(bytes.len() as u64, SeekTable::len_for(pack));
            let file = lengths.iter().sum::<u64>() + bytes.len() as u64;
            let read = SeekTable::decode(&bytes, file, pack).unwrap();
            prop_assert_eq!(SeekTable::len_in(&bytes[bytes.len() - 9..], file).unwrap(), bytes.len() as u64);
            prop_assert_eq!((read.ends, read.pack_bytes), (table.ends, pack));
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                // That the last frame holds more is no contradiction, until it is decompressed.
                let read = SeekTable::decode(&changed, file, pack);
                prop_assert!(read.is_err() || read.unwrap().pack_bytes > pack, "byte {}", at);
            }
            if pack > 0 {
                let (shorter, longer) = (pack - 1, pack + FRAME_BYTES);
                prop_assert_eq!(SeekTable::decode(&bytes, file, shorter).unwrap().pack_bytes, pack);
                prop_assert!(SeekTable::decode(&bytes, file, longer).is_err());
            }
            prop_assert!(SeekTable::decode(&bytes[1..], file, pack).is_err());
            prop_assert!(SeekTable::decode(&bytes, file + 1, pack).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, file: u64, pack in 0u64..1 << 44) {
            let _ = SeekTable::decode(&bytes, file, pack);
            let _ = SeekTable::len_in(&bytes, file);
        }
    }

    #[test]
    fn frames_follow_each_other() {
        let table = table(&[10, 20, 5]);
        assert_eq!(table.range(0), Some(0..10));
        assert_eq!(table.range(2), Some(30..35));
        assert_eq!(table.range(3), None);
        assert_eq!(SeekTable::held(1, FRAME_BYTES + 7), FRAME_BYTES..FRAME_BYTES + 7);
    }
}
