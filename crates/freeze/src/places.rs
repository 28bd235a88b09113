//! Which addresses of a process have a copy in the pack, and where.

use std::collections::BTreeMap;

/// Addresses and their places in the pack; pages that are neighbours in both are one entry.
#[derive(Debug, Default)]
pub(crate) struct Places(BTreeMap<u64, (u64, u64)>);

/// Consecutive addresses, and where they lie in the pack; `None` if they have no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) len_bytes: u64,
    pub(crate) pack_offset: Option<u64>,
}

impl Places {
    /// Splits `start..end` into what has a place and what has none, in ascending order.
    pub(crate) fn find(&self, start: u64, end: u64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = start;
        let first = self.0.range(..start).next_back().map_or(start, |(address, _)| *address);
        for (&address, &(len_bytes, pack_offset)) in self.0.range(first..end) {
            let entry_end = address + len_bytes;
            if entry_end <= at {
                continue;
            }
            if at < address {
                pieces.push(Piece { address: at, len_bytes: address - at, pack_offset: None });
                at = address;
            }
            let piece_end = entry_end.min(end);
            let pack_offset = Some(pack_offset + (at - address));
            pieces.push(Piece { address: at, len_bytes: piece_end - at, pack_offset });
            at = piece_end;
        }
        if at < end {
            pieces.push(Piece { address: at, len_bytes: end - at, pack_offset: None });
        }
        pieces
    }

    /// Gives addresses that have none a place.
    pub(crate) fn insert(&mut self, address: u64, len_bytes: u64, pack_offset: u64) {
        if let Some((&before, (len, offset))) = self.0.range_mut(..address).next_back()
            && before + *len == address
            && *offset + *len == pack_offset
        {
            *len += len_bytes;
        } else {
            self.0.insert(address, (len_bytes, pack_offset));
        }
    }

    /// Lists what has a place, as ranges of addresses.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(address, (len_bytes, _))| (*address, address + len_bytes))
    }

    /// Takes the places of `start..end` away.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        let first = self.0.range(..start).next_back().map_or(start, |(address, _)| *address);
        let touched: Vec<(u64, (u64, u64))> =
            self.0.range(first..end).map(|(at, entry)| (*at, *entry)).collect();
        for (address, (len_bytes, pack_offset)) in touched {
            let entry_end = address + len_bytes;
            if entry_end <= start {
                continue;
            }
            self.0.remove(&address);
            if address < start {
                self.0.insert(address, (start - address, pack_offset));
            }
            if end < entry_end {
                self.0.insert(end, (entry_end - end, pack_offset + (end - address)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by a table of pages.
    fn check(operations: impl Iterator<Item = (bool, u64, u64)>) {
        let mut places = Places::default();
        let mut naive: BTreeMap<u64, u64> = BTreeMap::new();
        let mut next = 1000;
        for (insert, start, len) in operations {
            let end = start + len;
            if insert {
                for piece in places.find(start, end) {
                    if piece.pack_offset.is_none() {
                        places.insert(piece.address, piece.len_bytes, next);
                        (0..piece.len_bytes).for_each(|at| _ = naive.insert(piece.address + at, next + at));
                        next += piece.len_bytes;
                    }
                }
            } else {
                places.remove(start, end);
                (start..end).for_each(|at| _ = naive.remove(&at));
            }
            let mut at = 0;
            for piece in places.find(0, 200) {
                assert_eq!(piece.address, at);
                for page in 0..piece.len_bytes {
                    let offset = piece.pack_offset.map(|offset| offset + page);
                    assert_eq!(offset, naive.get(&(at + page)).copied());
                }
                at += piece.len_bytes;
            }
            assert_eq!(at, 200);
        }
    }

    #[test]
    fn places_are_those_of_a_table_of_pages() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        check(
            std::iter::from_fn(move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                Some((!state.is_multiple_of(3), (state >> 8) % 150, 1 + (state >> 20) % 40))
            })
            .take(2000),
        );
    }
}
