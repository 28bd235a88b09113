//! Which addresses of a process have a copy in the pack, and where.

use std::collections::BTreeMap;

/// Addresses and their places in the pack.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Length and place by address; pages that are neighbours in both are one entry.
    runs: BTreeMap<u64, (u64, u64)>,
    /// End by start of what has a place. Where an address has a place and which one changes page by page, after some
    /// versions; that it has one does not.
    covered: BTreeMap<u64, u64>,
}

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
        let first = self.runs.range(..start).next_back().map_or(start, |(address, _)| *address);
        for (&address, &(len_bytes, pack_offset)) in self.runs.range(first..end) {
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

    /// Lists what of `start..end` has no place.
    pub(crate) fn missing(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut at = start;
        let first = self.covered.range(..=start).next_back().map_or(start, |(from, _)| *from);
        for (&from, &to) in self.covered.range(first..end) {
            if at < from {
                missing.push((at, from));
            }
            at = at.max(to);
        }
        if at < end {
            missing.push((at, end));
        }
        missing
    }

    fn cover(&mut self, start: u64, end: u64) {
        let (mut from, mut to) = (start, end);
        if let Some((&before, &before_end)) = self.covered.range(..start).next_back()
            && before_end == start
        {
            from = before;
        }
        if let Some(after) = self.covered.remove(&end) {
            to = after;
        }
        self.covered.insert(from, to);
    }

    fn uncover(&mut self, start: u64, end: u64) {
        if start == end {
            return;
        }
        let first = self.covered.range(..=start).next_back().map_or(start, |(from, _)| *from);
        while let Some((&from, &to)) = self.covered.range(first..end).find(|(_, to)| **to > start) {
            self.covered.remove(&from);
            if from < start {
                self.covered.insert(from, start);
            }
            if end < to {
                self.covered.insert(end, to);
            }
        }
    }

    /// Gives addresses that have none a place.
    pub(crate) fn insert(&mut self, address: u64, len_bytes: u64, pack_offset: u64) {
        self.cover(address, address + len_bytes);
        if let Some((&before, (len, offset))) = self.runs.range_mut(..address).next_back()
            && before + *len == address
            && *offset + *len == pack_offset
        {
            *len += len_bytes;
        } else {
            self.runs.insert(address, (len_bytes, pack_offset));
        }
    }

    /// Lists what has a place, as ranges of addresses.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().map(|(address, (len_bytes, _))| (*address, address + len_bytes))
    }

    /// Takes the places of `start..end` away.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        self.uncover(start, end);
        let first = self.runs.range(..start).next_back().map_or(start, |(address, _)| *address);
        let touched: Vec<(u64, (u64, u64))> =
            self.runs.range(first..end).map(|(at, entry)| (*at, *entry)).collect();
        for (address, (len_bytes, pack_offset)) in touched {
            let entry_end = address + len_bytes;
            if entry_end <= start {
                continue;
            }
            self.runs.remove(&address);
            if address < start {
                self.runs.insert(address, (start - address, pack_offset));
            }
            if end < entry_end {
                self.runs.insert(end, (entry_end - end, pack_offset + (end - address)));
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
            let missing: Vec<u64> =
                places.missing(0, 200).iter().flat_map(|(start, end)| *start..*end).collect();
            assert_eq!(missing, (0..200).filter(|at| !naive.contains_key(at)).collect::<Vec<_>>());
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
