//! Pages that were copied last and are not in the pack yet.
//!
//! A write to a file may wait for the device, and costs several times as much as the copy itself. So when little is left
//! to be copied, it goes to memory that was touched before, and from there to the pack when the program runs again. A
//! page has one slot, however often it is copied.
//!
//! All of it is touched before: a page that the kernel has to find first takes as long as several copies, and a huge one of a
//! virtual machine milliseconds.

use frost_model::PAGE_SIZE;
use frost_sys::own::Anonymous;
use rustix::io::Errno;
use std::collections::HashMap;

const PAGE: usize = PAGE_SIZE as usize;

/// Copies of pages, by process and address.
#[derive(Debug, Default)]
pub(crate) struct Stash {
    /// `None` if it has no slot.
    bytes: Option<Anonymous>,
    /// How many slots were given away.
    used: usize,
    slots: HashMap<(i32, u64), usize>,
}

/// How much of it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    All,
    /// A quarter is left to who comes later.
    Spared,
}

/// Consecutive pages of a process in the stash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) pid: i32,
    pub(crate) address: u64,
    first: usize,
    count: usize,
}

impl Stash {
    /// Has room for `len_bytes`, all of it touched; in huge pages, where the kernel has some.
    ///
    /// # Errors
    /// If there is no room for so much in our address space.
    pub(crate) fn with_room(len_bytes: usize) -> Result<Self, Errno> {
        let mut bytes = Anonymous::map(len_bytes.next_multiple_of(PAGE))?;
        // Without them it takes longer, no more.
        let _ = bytes.prefer_huge_pages();
        bytes.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        Ok(Self { bytes: Some(bytes), used: 0, slots: HashMap::with_capacity(len_bytes / PAGE) })
    }

    /// Copies pages by `read` until `end`, or until there is no `room`; returns how far it came.
    ///
    /// # Errors
    /// That of `read`; what could not be read has no copy here.
    pub(crate) fn copy<E>(
        &mut self,
        pid: i32,
        (start, end): (u64, u64),
        room: Room,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let Some(bytes) = &mut self.bytes else { return Ok(start) };
        let slots = bytes.len() / PAGE;
        let room = if room == Room::All { slots } else { slots / 4 * 3 };
        let mut at = start;
        while at < end {
            let most = ((end - at) / PAGE_SIZE) as usize;
            let page = |index: usize| (pid, at + index as u64 * PAGE_SIZE);
            let (first, count) = match self.slots.get(&page(0)) {
                Some(&first) => {
                    let follows = |index: &usize| self.slots.get(&page(*index)) != Some(&(first + index));
                    (first, (1..most).find(follows).unwrap_or(most))
                }
                None => {
                    let most = most.min(room.saturating_sub(self.used));
                    let count =
                        (0..most).find(|index| self.slots.contains_key(&page(*index))).unwrap_or(most);
                    (self.used, count)
                }
            };
            if count == 0 {
                break;
            }
            let until = at + count as u64 * PAGE_SIZE;
            if let Err(error) = read(at, &mut bytes[first * PAGE..(first + count) * PAGE]) {
                self.forget(pid, at, until);
                return Err(error);
            }
            if first == self.used {
                self.slots.extend((0..count).map(|index| (page(index), first + index)));
                self.used += count;
            }
            at = until;
        }
        Ok(at)
    }

    /// Returns whether there is a copy of a page.
    pub(crate) fn has(&self, pid: i32, address: u64) -> bool {
        self.slots.contains_key(&(pid, address))
    }

    /// Forgets the copies of a range. Their slots are lost until it is [emptied](Self::empty).
    pub(crate) fn forget(&mut self, pid: i32, start: u64, end: u64) {
        if (end - start) / PAGE_SIZE < self.slots.len() as u64 {
            (start..end).step_by(PAGE).for_each(|address| _ = self.slots.remove(&(pid, address)));
        } else {
            self.slots.retain(|(of, address), _| *of != pid || !(start..end).contains(address));
        }
    }

    /// Gives up all copies, and lists them by process and address.
    pub(crate) fn empty(&mut self) -> Vec<Kept> {
        let mut pages: Vec<_> = self.slots.drain().collect();
        pages.sort_unstable();
        self.used = 0;
        let mut kept: Vec<Kept> = Vec::new();
        for ((pid, address), slot) in pages {
            match kept.last_mut() {
                Some(last)
                    if last.pid == pid
                        && last.address + last.count as u64 * PAGE_SIZE == address
                        && last.first + last.count == slot =>
                {
                    last.count += 1;
                }
                _ => kept.push(Kept { pid, address, first: slot, count: 1 }),
            }
        }
        kept
    }

    /// Returns what was kept, until the next page is copied.
    pub(crate) fn bytes(&self, kept: Kept) -> &[u8] {
        let range = kept.first * PAGE..(kept.first + kept.count) * PAGE;
        self.bytes.as_ref().map_or(&[], |bytes| &bytes[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Reads memory whose every page has the same byte.
    fn all(byte: u8) -> impl FnMut(u64, &mut [u8]) -> Result<(), ()> {
        move |_, out| {
            out.fill(byte);
            Ok(())
        }
    }

    #[test]
    fn each_page_is_there_once_as_it_was_last() {
        let mut stash = Stash::with_room(64 * PAGE).unwrap();
        let mut naive: BTreeMap<(i32, u64), u8> = BTreeMap::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..2000_u64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (pid, byte) = ((state >> 60) as i32 & 1, round as u8);
            let start = (state >> 8) % 40 * PAGE_SIZE;
            let end = start + (1 + (state >> 20) % 12) * PAGE_SIZE;
            if state.is_multiple_of(5) {
                stash.forget(pid, start, end);
                naive.retain(|(of, at), _| *of != pid || !(start..end).contains(at));
                continue;
            }
            let until = stash.copy(pid, (start, end), Room::All, all(byte)).unwrap();
            naive.extend((start..until).step_by(PAGE).map(|at| ((pid, at), byte)));
            assert!(naive.keys().all(|(pid, at)| stash.has(*pid, *at)));
            if until < end {
                let mut found = BTreeMap::new();
                for kept in stash.empty() {
                    for (index, page) in stash.bytes(kept).chunks(PAGE).enumerate() {
                        assert!(page.iter().all(|byte| *byte == page[0]));
                        found.insert((kept.pid, kept.address + index as u64 * PAGE_SIZE), page[0]);
                    }
                }
                assert_eq!(found, naive);
                naive.clear();
            }
        }
    }

    #[test]
    fn what_could_not_be_read_has_no_copy() {
        let mut stash = Stash::with_room(8 * PAGE).unwrap();
        stash.copy(1, (0, 4 * PAGE_SIZE), Room::All, all(1)).unwrap();
        assert_eq!(stash.copy(1, (PAGE_SIZE, 2 * PAGE_SIZE), Room::All, |_, _| Err(())), Err(()));
        assert_eq!([0, 1, 2, 3].map(|page| stash.has(1, page * PAGE_SIZE)), [true, false, true, true]);
        // Some room is kept for whoever needs it more.
        assert_eq!(stash.copy(2, (0, 9 * PAGE_SIZE), Room::Spared, all(2)), Ok(2 * PAGE_SIZE));
        assert_eq!(stash.copy(2, (2 * PAGE_SIZE, 9 * PAGE_SIZE), Room::All, all(2)), Ok(4 * PAGE_SIZE));
    }
}
