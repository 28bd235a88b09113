//! The passes over the memory of one process that runs.
//!
//! What was written since the last pass is protected first and copied then, to the stash or to the pack.

use crate::difference::Earlier;
use crate::dirty::{self, Tracker};
use crate::places::Places;
use crate::ram;
use crate::stash::{Room, Stash};
use frost_model::Pid;
use frost_store::PackWriter;
use frost_sys::memory::Part;
use frost_sys::pagemap::{Pagemap, category};
use frost_sys::proc::{self, Mapping};
use frost_tracee::seize::StoppedProcess;
use rustix::fd::OwnedFd;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Bytes copied at a time.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;
/// Most bytes that are read as one.
const PART_BYTES: u64 = 256 << 10;

/// A process of a tree that is copied while it runs.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) start_time: u64,
    /// Its number in its own pid namespace.
    pub(crate) inner: Pid,
    pub(crate) parent: i32,
    pub(crate) tracker: Option<Tracker>,
    /// That of the address space at the first stop.
    pub(crate) pagemap: Pagemap,
    pub(crate) mem: OwnedFd,
    /// Its mappings with their flags, as before they were tracked.
    pub(crate) before: Vec<Mapping>,
    pub(crate) places: Places,
    /// Whether a page is copied to a new place each time, so that no block of the pack is hashed twice: it is larger
    /// then, but soon complete.
    pub(crate) afresh: bool,
    /// Whether its written pages were taken before, so that those which are found were written since.
    pub(crate) is_taken: bool,
    /// After so much is judged whether it is worth its time to compare with the earlier image.
    pub(crate) trial_bytes: u64,
    /// Where our part of the pack begins.
    pub(crate) own_from: u64,
    /// Memory that the last pass has found to have come into being since the mappings were registered.
    pub(crate) untracked_bytes: u64,
}

impl Member {
    pub(crate) fn is(&self, process: &StoppedProcess) -> bool {
        self.start_time == process.stat.starttime
    }

    /// Copies what was written since the last pass, but for pages that the parent has too; returns how many bytes.
    pub(crate) fn pass(
        &mut self,
        pid: i32,
        kin: Option<&ram::Kin>,
        mut stash: Option<&mut Stash>,
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<u64, ram::Error> {
        self.untracked_bytes = 0;
        let Ok(mappings) = proc::bare_mappings(pid) else { return Ok(0) };
        let Some(tracker) = &mut self.tracker else { return Ok(0) };
        // None at all has one whose leader has ended, and nobody can tell what files its other threads have open.
        let cannot = mappings.is_empty() || mappings.iter().any(dirty::is_aio_ring);
        if cannot || stash.is_none() && dirty::reads_directly(pid) {
            self.tracker = None;
            return Ok(0);
        }
        tracker.begin();
        let since_taken = std::mem::replace(&mut self.is_taken, true);
        let mut copied = 0;
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for mapping in mappings.iter().filter(|mapping| dirty::is_trackable(mapping)) {
            for (start, end) in dirty::strides(mapping.start, mapping.end) {
                // Gone, or its address space is.
                let Ok(written) = dirty::take(&self.pagemap, start, end) else { return Ok(copied) };
                let mut own = Vec::with_capacity(written.len());
                let mut perhaps_shared = Vec::new();
                for region in written {
                    let tracked = region.categories & category::WPALLOWED != 0;
                    if !tracked {
                        self.untracked_bytes += region.end - region.start;
                    }
                    self.forget_places(region.start, region.end);
                    let shared =
                        kin.and_then(|kin| kin.split(pid, &self.pagemap, region.start, region.end).ok());
                    for (start, end, parents) in shared.unwrap_or(vec![(region.start, region.end, None)]) {
                        if parents.is_some() {
                            // If it is no more when the tree stands still, it has no copy.
                            self.places.remove(start, end);
                            if let Some(stash) = &mut stash {
                                stash.forget(pid, start, end);
                            }
                        } else {
                            let list = if tracked && since_taken { &mut own } else { &mut perhaps_shared };
                            list.push((start, end));
                            copied += end - start;
                        }
                    }
                }
                self.copy((pid, true), own, stash.as_deref_mut(), &mut buffer, pack, earlier)?;
                self.copy((pid, false), perhaps_shared, stash.as_deref_mut(), &mut buffer, pack, earlier)?;
            }
        }
        // Also for the next pass: what is open now was not closed before it.
        if dirty::reads_directly(pid) || proc::stat(pid).is_ok_and(|stat| stat.is_zombie()) {
            self.tracker = None;
        }
        Ok(copied)
    }

    /// Copies pages of the running process, which it has all `written` since they were taken last or which may be those of others,
    /// too; what cannot be read is left for the stop.
    fn copy(
        &mut self,
        (pid, written): (i32, bool),
        mut ranges: Vec<(u64, u64)>,
        stash: Option<&mut Stash>,
        buffer: &mut [u8],
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<(), ram::Error> {
        if ranges.is_empty() {
            return Ok(());
        }
        if let Some(stash) = stash {
            let unread = Mutex::new(Vec::new());
            let read = |parts: &mut [Part<'_>]| {
                let read = |address, out: &mut [u8]| {
                    if ram::read_exactly_at(&self.mem, out, address).is_err() {
                        let part = (address, address + out.len() as u64);
                        unread.lock().unwrap_or_else(PoisonError::into_inner).push(part);
                    }
                    Ok::<(), ram::Error>(())
                };
                ram::read_parts((pid, written), parts, read)
            };
            ranges = stash.copy(pid, &ranges, Room::Spared, None::<fn()>, read)?;
            for (start, end) in unread.into_inner().unwrap_or_else(PoisonError::into_inner) {
                stash.forget(pid, start, end);
                self.places.remove(start, end);
            }
            // What is there is older than what goes to the pack now.
            ranges.iter().for_each(|(start, end)| stash.forget(pid, *start, *end));
        }
        self.store_read((pid, written), &ranges, buffer, pack, earlier)
    }

    /// Copies ranges to the pack, as much at a time as `buffer` has room for: what gets a new place by one write.
    fn store_read(
        &mut self,
        (pid, written): (i32, bool),
        ranges: &[(u64, u64)],
        buffer: &mut [u8],
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<(), ram::Error> {
        let pieces = |&(start, end): &(u64, u64)| {
            (start..end).step_by(PART_BYTES as usize).map(move |at| (at, (end - at).min(PART_BYTES)))
        };
        let mut pieces = ranges.iter().flat_map(pieces).peekable();
        while pieces.peek().is_some() {
            let mut rest = &mut *buffer;
            let mut parts: Vec<Part<'_>> = Vec::new();
            while let Some((address, len_bytes)) = pieces.next_if(|piece| piece.1 <= rest.len() as u64) {
                let (out, behind) = std::mem::take(&mut rest).split_at_mut(len_bytes as usize);
                parts.push((address, out));
                rest = behind;
            }
            let mut unread = HashSet::new();
            ram::read_parts((pid, written), &mut parts, |address, out| {
                if ram::read_exactly_at(&self.mem, out, address).is_err() {
                    unread.insert(address);
                }
                Ok::<(), ram::Error>(())
            })?;
            let read: Vec<_> = parts.iter().map(|(address, out)| (*address, out.len())).collect();
            let mut store = Batch::new(buffer);
            let mut at = 0;
            for (address, len) in read {
                if unread.contains(&address) {
                    // It is protected and has no copy, or an old one: no place tells that.
                    self.places.remove(address, address + len as u64);
                } else {
                    self.store((address, at, len), &mut store, pack, earlier)?;
                }
                at += len;
            }
            store.end(&mut self.places, pack)?;
            pack.filled(pack.len_bytes());
        }
        Ok(())
    }

    /// Stores pages that were written since they were stored last.
    pub(crate) fn keep(
        &mut self,
        address: u64,
        bytes: &[u8],
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<(), ram::Error> {
        self.forget_places(address, address + bytes.len() as u64);
        let mut batch = Batch::new(bytes);
        self.store((address, 0, bytes.len()), &mut batch, pack, earlier)?;
        batch.end(&mut self.places, pack)
    }

    /// Stores pages at `address`, which lie at `at` in the buffer of a batch: where they have their place, or as a part of it,
    /// unless the earlier image has just these.
    fn store(
        &mut self,
        (address, at, len): (u64, usize, usize),
        batch: &mut Batch<'_>,
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<(), ram::Error> {
        for piece in self.places.find(address, address + len as u64) {
            let at = at + (piece.address - address) as usize;
            let bytes = &batch.buffer[at..at + piece.len_bytes as usize];
            if let Some(offset) = piece.pack_offset {
                ram::write_at(pack, bytes, offset)?;
                continue;
            }
            let places = &mut self.places;
            let mut keep = |address: u64, bytes: &[u8], place: Option<u64>| {
                let len_bytes = bytes.len() as u64;
                match place {
                    Some(place) => {
                        places.insert(address, len_bytes, place);
                        pack.spared(len_bytes);
                        Ok(())
                    }
                    None => {
                        let at = at + (address - piece.address) as usize;
                        batch.add((address, at, bytes.len()), places, pack)
                    }
                }
            };
            match earlier {
                Some(earlier) if earlier.is_alike(self.trial_bytes) => {
                    earlier.compare(self.inner, piece.address, bytes, keep)?;
                }
                _ => keep(piece.address, bytes, None)?,
            }
        }
        Ok(())
    }

    /// Forgets places of pages that were written which cannot be written to once more: those of an earlier image, which
    /// are not ours, or all.
    fn forget_places(&mut self, start: u64, end: u64) {
        for piece in self.places.find(start, end) {
            if self.afresh || piece.pack_offset.is_some_and(|offset| offset < self.own_from) {
                self.places.remove(piece.address, piece.address + piece.len_bytes);
            }
        }
    }

    /// Takes the flag of our tracking off.
    pub(crate) fn hide_tracking(&self, mappings: &mut [Mapping]) {
        if let Some(tracker) = &self.tracker {
            mappings
                .iter_mut()
                .filter(|mapping| tracker.covers(mapping))
                .for_each(|mapping| mapping.flags.remove(*b"uw"));
        }
    }
}

/// Pages that get new places, and lie behind one another in a buffer: they are written at once.
struct Batch<'a> {
    buffer: &'a [u8],
    from: usize,
    until: usize,
    /// Addresses and lengths.
    pages: Vec<(u64, u64)>,
}

impl<'a> Batch<'a> {
    fn new(buffer: &'a [u8]) -> Self {
        Self { buffer, from: 0, until: 0, pages: Vec::new() }
    }

    /// Takes pages in that lie at `at`; those before are written if they do not lie before these.
    fn add(
        &mut self,
        (address, at, len): (u64, usize, usize),
        places: &mut Places,
        pack: &mut PackWriter,
    ) -> Result<(), ram::Error> {
        if self.until != at {
            self.end(places, pack)?;
            self.from = at;
        }
        self.until = at + len;
        self.pages.push((address, len as u64));
        Ok(())
    }

    /// Writes what was taken in.
    fn end(&mut self, places: &mut Places, pack: &mut PackWriter) -> Result<(), ram::Error> {
        if self.pages.is_empty() {
            return Ok(());
        }
        let mut offset = pack.reserve((self.until - self.from) as u64);
        ram::write_at(pack, &self.buffer[self.from..self.until], offset)?;
        for (address, len_bytes) in self.pages.drain(..) {
            places.insert(address, len_bytes, offset);
            offset += len_bytes;
        }
        Ok(())
    }
}
