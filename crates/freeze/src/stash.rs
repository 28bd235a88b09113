//! Pages that were copied last and are not in the pack yet.
//!
//! A write to a file may wait for the device, and costs several times as much as the copy itself. So when little is left
//! to be copied, it goes to memory that was touched before, and from there to the pack when the program runs again. A
//! page has one slot, however often it is copied.
//!
//! All of it is touched before: a page that the kernel has to find first takes as long as several copies, and a huge one of a
//! virtual machine milliseconds.

use frost_model::PAGE_SIZE;
use frost_sys::memory::Part;
use frost_sys::own::Anonymous;
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const PAGE: usize = PAGE_SIZE as usize;
/// Most bytes of a part that is read, so that two threads have about as much to do.
const PART_BYTES: usize = 64 << 10;
/// So many bytes, or a part more, a thread reads before it asks for more of them.
const JOB_BYTES: usize = 512 << 10;
/// So much takes twice as long as it takes to begin a thread.
const MUCH_BYTES: usize = 1 << 20;

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

/// Consecutive pages with consecutive slots.
#[derive(Clone, Copy, Debug)]
struct Place {
    address: u64,
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

    /// Copies all pages of `ranges` for which there is `room`, and returns the ranges for which there is none. If they are many,
    /// a thread may help, which calls `help` first. `read` gets some of them at a time.
    ///
    /// # Errors
    /// One of `read`; none of the pages has a copy here then.
    pub(crate) fn copy<E: Send>(
        &mut self,
        pid: i32,
        ranges: &[(u64, u64)],
        room: Room,
        help: Option<impl FnOnce() + Send>,
        read: impl Fn(&mut [Part<'_>]) -> Result<(), E> + Sync,
    ) -> Result<Vec<(u64, u64)>, E> {
        let room = self.room(room);
        let (mut places, mut left) = (Vec::new(), Vec::new());
        for (start, end) in ranges {
            let mut at = *start;
            while let Some(place) = self.place(pid, at, *end, room) {
                at += place.count as u64 * PAGE_SIZE;
                places.push(place);
            }
            if at < *end {
                left.push((at, *end));
            }
        }
        // No slot is given away twice, so that they can be parted.
        places.sort_unstable_by_key(|place| place.first);
        let all_bytes = places.iter().map(|place| place.count * PAGE).sum::<usize>();
        let mut jobs: Vec<Vec<Part<'_>>> = Vec::new();
        let (mut job, mut job_bytes) = (Vec::new(), 0);
        let mut rest = self.bytes.as_mut().map_or(&mut [][..], |bytes| &mut bytes[..]);
        let mut at = 0;
        for place in places {
            let (_, behind) = std::mem::take(&mut rest).split_at_mut((place.first - at) * PAGE);
            let (pages, behind) = behind.split_at_mut(place.count * PAGE);
            for part in (place.address..).step_by(PART_BYTES).zip(pages.chunks_mut(PART_BYTES)) {
                job_bytes += part.1.len();
                job.push(part);
                if job_bytes >= JOB_BYTES {
                    jobs.push(std::mem::take(&mut job));
                    job_bytes = 0;
                }
            }
            (rest, at) = (behind, place.first + place.count);
        }
        jobs.push(job);
        let jobs = Mutex::new(jobs.into_iter());
        let work = || loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next {
                Some(mut job) => read(&mut job)?,
                None => return Ok(()),
            }
        };
        let outcome = std::thread::scope(|scope| {
            let named = || std::thread::Builder::new().name("frost-copy".to_owned());
            let help = help.filter(|_| all_bytes >= MUCH_BYTES).map(|first| {
                || {
                    first();
                    work()
                }
            });
            // Without it we do it alone.
            let helper = help.and_then(|help| named().spawn_scoped(scope, help).ok());
            let own = work();
            let theirs = helper.map_or(Ok(Ok(())), std::thread::ScopedJoinHandle::join);
            own.and(theirs.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        if let Err(error) = outcome {
            ranges.iter().for_each(|(start, end)| self.forget(pid, *start, *end));
            return Err(error);
        }
        Ok(left)
    }

    /// Returns how many slots may be used.
    fn room(&self, room: Room) -> usize {
        let slots = self.bytes.as_ref().map_or(0, |bytes| bytes.len() / PAGE);
        if room == Room::All { slots } else { slots / 4 * 3 }
    }

    /// Gives consecutive slots to pages from `at` on, those that they have where they have some; `None` at the `end`, and if
    /// there is no `room`.
    fn place(&mut self, pid: i32, at: u64, end: u64, room: usize) -> Option<Place> {
        let most = (end.saturating_sub(at) / PAGE_SIZE) as usize;
        let page = |index: usize| (pid, at + index as u64 * PAGE_SIZE);
        let (first, count) = match self.slots.get(&page(0)) {
            Some(&first) => {
                let follows = |index: &usize| self.slots.get(&page(*index)) != Some(&(first + index));
                (first, (1..most).find(follows).unwrap_or(most))
            }
            None => {
                let most = most.min(room.saturating_sub(self.used));
                let count = (0..most).find(|index| self.slots.contains_key(&page(*index))).unwrap_or(most);
                let first = self.used;
                self.slots.extend((0..count).map(|index| (page(index), first + index)));
                self.used += count;
                (first, count)
            }
        };
        (count > 0).then_some(Place { address: at, first, count })
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
    fn all(byte: u8) -> impl Fn(&mut [Part<'_>]) -> Result<(), ()> + Sync {
        move |parts| {
            parts.iter_mut().for_each(|(_, out)| out.fill(byte));
            Ok(())
        }
    }

    /// Copies a range without help.
    fn copy(
        stash: &mut Stash,
        pid: i32,
        range: (u64, u64),
        room: Room,
        read: impl Fn(&mut [Part<'_>]) -> Result<(), ()> + Sync,
    ) -> Result<Vec<(u64, u64)>, ()> {
        stash.copy(pid, &[range], room, None::<fn()>, read)
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
            let left = copy(&mut stash, pid, (start, end), Room::All, all(byte)).unwrap();
            let until = left.first().map_or(end, |left| left.0);
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
    fn two_threads_copy_as_one_does() {
        const PAGES: u64 = 1024;
        let mut stash = Stash::with_room(PAGES as usize * PAGE).unwrap();
        // Each page tells its number, and which copy it is.
        let numbered = |copy: u8| {
            move |parts: &mut [Part<'_>]| {
                for (address, out) in parts {
                    for (index, page) in out.chunks_mut(PAGE).enumerate() {
                        let number = *address / PAGE_SIZE + index as u64;
                        page.fill(number as u8 ^ copy);
                        page[..8].copy_from_slice(&number.to_ne_bytes());
                    }
                }
                Ok::<(), ()>(())
            }
        };
        // Slots in another order than pages, and some of them twice.
        let page = |number: u64| number * PAGE_SIZE;
        copy(&mut stash, 1, (page(500), page(520)), Room::All, numbered(1)).unwrap();
        let ranges = [(page(510), page(700)), (page(0), page(400)), (page(750), page(2000))];
        let left = stash.copy(1, &ranges, Room::All, Some(|| ()), numbered(2)).unwrap();
        let fit = PAGES - 20 - 180 - 400;
        assert_eq!(left, [(page(750 + fit), page(2000))]);
        let mut found = BTreeMap::new();
        for kept in stash.empty() {
            for (index, bytes) in stash.bytes(kept).chunks(PAGE).enumerate() {
                let number = kept.address / PAGE_SIZE + index as u64;
                assert_eq!(bytes[..8], number.to_ne_bytes());
                found.insert(number, bytes[8] ^ number as u8);
            }
        }
        let first = (500..510).map(|number| (number, 1));
        let second = (0..400).chain(510..700).chain(750..750 + fit).map(|number| (number, 2));
        assert_eq!(found, first.chain(second).collect());
        assert_eq!(stash.copy(1, &ranges, Room::All, Some(|| ()), |_| Err(())), Err(()));
        assert!(stash.empty().is_empty());
    }

    #[test]
    fn what_could_not_be_read_has_no_copy() {
        let mut stash = Stash::with_room(8 * PAGE).unwrap();
        let page = |number: u64| number * PAGE_SIZE;
        copy(&mut stash, 1, (0, page(4)), Room::All, all(1)).unwrap();
        assert_eq!(copy(&mut stash, 1, (page(1), page(2)), Room::All, |_| Err(())), Err(()));
        assert_eq!([0, 1, 2, 3].map(|number| stash.has(1, page(number))), [true, false, true, true]);
        // Some room is kept for whoever needs it more.
        assert_eq!(copy(&mut stash, 2, (0, page(9)), Room::Spared, all(2)), Ok(vec![(page(2), page(9))]));
        assert_eq!(copy(&mut stash, 2, (page(2), page(9)), Room::All, all(2)), Ok(vec![(page(4), page(9))]));
    }
}
