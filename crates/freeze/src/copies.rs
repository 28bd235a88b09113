//! What the pack already has of shared memory and of files in memory, copied while the program ran or by an earlier image.
//!
//! Nobody tells which of such pages were written, since that is done through any mapping and any descriptor. So all of
//! them are read when the program stands still, and compared with their copies: that takes less time than to write them,
//! and only what differs is stored.

use crate::difference::compare;
use crate::ram::{self, SharedMemories};
use frost_model::PAGE_SIZE;
use frost_model::ram::{Pages, Run};
use frost_store::PackWriter;
use frost_sys::pagemap::{Pagemap, Scan, category};
use frost_sys::proc::Mapping;
use std::collections::BTreeMap;

/// An object by device and inode.
pub(crate) type Key = (u64, u64);

/// Where runs of pages lie in the pack: end of a run by offset or address, its start, its place.
pub(crate) type Places = BTreeMap<u64, (u64, u64)>;

/// Copies of objects.
#[derive(Default)]
pub(crate) struct Copies {
    places: BTreeMap<Key, Places>,
    theirs: Vec<u8>,
}

impl Copies {
    /// Returns whether there is a copy of an object.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.places.contains_key(&key)
    }

    /// Notes a copy of an object, instead of an earlier one: of its whole pages.
    pub(crate) fn note(&mut self, key: Key, pages: &Pages) {
        let place = |run: &Run| {
            let len_bytes = run.len_bytes / PAGE_SIZE * PAGE_SIZE;
            (len_bytes > 0).then_some((run.offset + len_bytes, (run.offset, run.pack_offset)))
        };
        self.places.insert(key, pages.runs.iter().filter_map(place).collect());
    }

    /// Stores bytes that begin at `offset` of an object, but for pages of which the pack has a copy, and adds where they lie.
    ///
    /// # Errors
    /// As for any write to the pack.
    pub(crate) fn store(
        &mut self,
        key: Key,
        offset: u64,
        bytes: &[u8],
        pack: &mut PackWriter,
        pages: &mut Pages,
    ) -> frost_store::Result<()> {
        let whole = bytes.len() / PAGE_SIZE as usize * PAGE_SIZE as usize;
        let file = pack.shared_file();
        let mut add = |offset: u64, bytes: &[u8], place: Option<u64>| {
            let len_bytes = bytes.len() as u64;
            let pack_offset = match place {
                Some(place) => {
                    pack.spared(len_bytes);
                    place
                }
                None => pack.append(bytes)?,
            };
            pages.push(Run { offset, len_bytes, pack_offset });
            Ok(())
        };
        compare(self.places.get(&key), &file, &mut self.theirs, (offset, &bytes[..whole]), &mut add)?;
        match &bytes[whole..] {
            [] => Ok(()),
            // The end of a file.
            rest => add(offset + whole as u64, rest, None),
        }
    }

    /// Copies the shared memory that processes have mapped, as far as their page tables show it, while they run.
    ///
    /// # Errors
    /// As for any write to the pack. What cannot be read is left for the stop.
    pub(crate) fn copy_ahead(
        &mut self,
        processes: &[(i32, &Pagemap, &[Mapping])],
        pack: &mut PackWriter,
    ) -> Result<u64, ram::Error> {
        let mut found = SharedMemories::new();
        for (pid, pagemap, mappings) in processes {
            for mapping in mappings.iter().filter(|mapping| is_shared_memory(mapping)) {
                let populated = pagemap.scan(Scan::Look, mapping.start, mapping.end).unwrap_or_default();
                for pages in populated.iter().filter(|pages| pages.categories & category::GUARD == 0) {
                    let window = Mapping {
                        start: pages.start,
                        end: pages.end,
                        offset: mapping.offset + (pages.start - mapping.start),
                        ..mapping.clone()
                    };
                    ram::note_shared_window(&mut found, *pid, &window);
                }
            }
        }
        let before = pack.len_bytes();
        for (key, object) in &found {
            match ram::capture_shared(object, (*key, self), pack) {
                Ok(dataspace) => self.note(*key, &dataspace.pages),
                Err(ram::Error::Read { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pack.len_bytes() - before)
    }
}

/// Whether a mapping shows memory of the kind that is worth a copy ahead: shared anonymous memory, a memfd, or POSIX shared
/// memory.
fn is_shared_memory(mapping: &Mapping) -> bool {
    let name = mapping.name.as_slice();
    let kinds = [&b"/dev/zero (deleted)"[..], b"/memfd:", b"/dev/shm/"];
    mapping.shared && kinds.iter().any(|kind| name.starts_with(kind)) && !mapping.flags.has(*b"ht")
}
