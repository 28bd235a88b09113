//! What of a program's memory is as an earlier image has it, so that it need not be stored again.
//!
//! Pages are compared with those that the earlier image has at the same address of the process of the same number:
//! whatever changed them, by whichever way, is found. The earlier image's pack is read for it, which is as a rule in the
//! page cache and at worst as long as what a full image would write.

use crate::copies::{self, Copies};
use crate::held::Since;
use crate::places::Places;
use crate::ram::{self, Error};
use crate::rm::Backing;
use frost_model::bundle::Bundled;
use frost_model::ram::{Pages, Run};
use frost_model::rm::{Attachment, PageRange};
use frost_model::{Checkpoint, PAGE_SIZE, Pid};
use frost_store::{Draft, Image, Name, PackWriter, Store};
use frost_sys::pagemap::Pagemap;
use frost_sys::proc::Mapping;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, ReadWriteFlags};
use std::collections::BTreeMap;
use std::io::IoSliceMut;

/// Bytes compared at a time: both sides stay in the second-level cache.
const CHUNK_BYTES: usize = 256 << 10;
/// So little is written again rather than fetched from the disk to be compared, which would take longer.
const FEW_BYTES: usize = 64 << 10;
/// After so much is judged whether comparing is worth its time.
pub(crate) const TRIAL_BYTES: u64 = 64 << 20;

/// A pack that is no longer than this is gone on with in any case.
const SHORT_PACK_BYTES: u64 = 64 << 20;
/// How many times what an image needs a pack may have beyond that.
const MOST_TIMES: u64 = 16;

/// Regions that show dataspaces: end of a region, its start, its offset in the dataspace, which that is.
type Shown = BTreeMap<u64, (u64, u64, usize)>;

/// An earlier image of a program, whose pack the new one goes on with.
pub(crate) struct Earlier {
    since: Since,
    pack: OwnedFd,
    /// Where the pages of each process lie in the pack: end of a run by address, its start, its place.
    runs: BTreeMap<Pid, copies::Places>,
    /// The files that it brings along.
    pub(crate) bundle: Vec<Bundled>,
    /// Regions of each process that show memory that may be shared.
    shared: BTreeMap<Pid, Shown>,
    /// Where such memory lies in the pack.
    dataspaces: Vec<Pages>,
    /// Files in memory, by path.
    volatile: BTreeMap<Vec<u8>, Pages>,
    compared_bytes: u64,
    equal_bytes: u64,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

impl Earlier {
    /// Lets `draft` go on with the newest image of `name`, if there is one with which that can be done.
    ///
    /// # Errors
    /// As for any write to the store. That an earlier image is damaged is no error.
    pub(crate) fn find(store: &Store, name: &Name, draft: &mut Draft) -> frost_store::Result<Option<Self>> {
        let Some(version) = store.versions(name)?.last().copied() else { return Ok(None) };
        let id = frost_store::ImageId { name: name.clone(), version };
        let Ok(image) = store.open_image(&id) else { return Ok(None) };
        if is_overgrown(&image) || !draft.share_pack(&image)? {
            return Ok(None);
        }
        Self::of(&image).map(Some)
    }

    fn of(image: &Image) -> frost_store::Result<Self> {
        Ok(Self {
            since: since(image),
            pack: image.pack()?,
            runs: runs(image.checkpoint()),
            bundle: image.checkpoint().bundle.clone(),
            shared: shared(image.checkpoint()),
            dataspaces: image.checkpoint().dataspaces.iter().map(|memory| memory.pages.clone()).collect(),
            volatile: volatile(image.checkpoint()),
            compared_bytes: 0,
            equal_bytes: 0,
            ours: vec![0; CHUNK_BYTES],
            theirs: Vec::new(),
        })
    }

    /// Returns the version.
    pub(crate) fn version(&self) -> u32 {
        self.since.version
    }

    /// Returns which image it is.
    pub(crate) fn since(&self) -> &Since {
        &self.since
    }

    /// Lists the private pages of process `inner`, and where they lie.
    pub(crate) fn places(&self, inner: Pid) -> Places {
        let mut places = Places::default();
        for (end, (start, pack_offset)) in self.runs.get(&inner).into_iter().flatten() {
            places.insert(*start, end - start, *pack_offset);
        }
        places
    }

    /// Returns whether comparing has been worth its time so far, which is not judged before it was tried with `trial_bytes`.
    pub(crate) fn is_alike(&self, trial_bytes: u64) -> bool {
        self.compared_bytes < trial_bytes || self.equal_bytes > self.compared_bytes / 4
    }

    /// Finds the pages that belong to one mapping alone, and stores those that the earlier image does not have.
    ///
    /// # Errors
    /// As for any read of the process and any write to the pack.
    pub(crate) fn store_private(
        &mut self,
        (pid, inner): (i32, Pid),
        pagemap: &Pagemap,
        mapping: &Mapping,
        backing: &Backing,
        kin: Option<&ram::Kin>,
        pack: &mut PackWriter,
    ) -> Result<(Pages, Vec<PageRange>), Error> {
        let (pieces, guards) = ram::private_content(pid, pagemap, mapping, backing, kin)?;
        let mut pages = Pages::default();
        let source = ram::Source::new(pid);
        for (start, end, place) in pieces {
            if let Some(pack_offset) = place {
                pages.push(Run { offset: start - mapping.start, len_bytes: end - start, pack_offset });
                continue;
            }
            let mut at = start;
            while at < end {
                let len = ((end - at) as usize).min(CHUNK_BYTES);
                let mut ours = std::mem::take(&mut self.ours);
                let stored = source.read(at, &mut ours[..len]).and_then(|()| {
                    self.compare(inner, at, &ours[..len], |address, bytes, place| {
                        let pack_offset = match place {
                            Some(place) => {
                                pack.spared(bytes.len() as u64);
                                place
                            }
                            None => pack.append(bytes)?,
                        };
                        let offset = address - mapping.start;
                        pages.push(Run { offset, len_bytes: bytes.len() as u64, pack_offset });
                        Ok(())
                    })
                });
                self.ours = ours;
                stored?;
                at += len as u64;
            }
        }
        Ok((pages, guards))
    }

    /// Compares pages that were read of process `inner` at address `at`, and hands each run of them on with its address
    /// and, if the earlier image has just these, their place there.
    ///
    /// # Errors
    /// Those of `each`.
    pub(crate) fn compare(
        &mut self,
        inner: Pid,
        at: u64,
        ours: &[u8],
        mut each: impl FnMut(u64, &[u8], Option<u64>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut compared, mut equal) = (0, 0);
        let runs = self.runs.get(&inner);
        let result = compare(runs, &self.pack, &mut self.theirs, (at, ours), |address, bytes, place| {
            compared += bytes.len() as u64;
            equal += if place.is_some() { bytes.len() as u64 } else { 0 };
            each(address, bytes, place)
        });
        self.compared_bytes += compared;
        self.equal_bytes += equal;
        result
    }

    /// Notes the copies that the earlier image has of memory that process `inner` shares by these mappings. It need not be the
    /// same memory: what differs is stored.
    pub(crate) fn tell(&self, inner: Pid, mappings: &[Mapping], copies: &mut Copies) {
        for mapping in mappings.iter().filter(|mapping| mapping.shared && mapping.inode != 0) {
            let key = (mapping.device, mapping.inode);
            if copies.has(key) {
                continue;
            }
            let shown = || {
                let shown = self.shared.get(&inner)?;
                let (_, (start, offset, dataspace)) = shown.range(mapping.start + 1..).next()?;
                let is_same = *start <= mapping.start && offset + (mapping.start - start) == mapping.offset;
                self.dataspaces.get(*dataspace).filter(|_| is_same)
            };
            if let Some(pages) = self.volatile.get(&mapping.name).or_else(shown) {
                copies.note(key, pages);
            }
        }
    }
}

/// Compares pages that begin at `at` with those that a pack has in `runs`, and hands each run of them on with where it
/// begins and, if the pack has just these, their place there.
///
/// # Errors
/// Those of `each`.
pub(crate) fn compare<E>(
    runs: Option<&copies::Places>,
    pack: &impl AsFd,
    theirs: &mut Vec<u8>,
    (at, ours): (u64, &[u8]),
    mut each: impl FnMut(u64, &[u8], Option<u64>) -> Result<(), E>,
) -> Result<(), E> {
    theirs.resize(CHUNK_BYTES, 0);
    let mut here = at;
    while here < at + ours.len() as u64 {
        let end = (at + ours.len() as u64).min(here + CHUNK_BYTES as u64);
        let found = runs.and_then(|runs| runs.range(here + 1..).next());
        let (until, place) = match found {
            Some((run_end, (run_start, place))) if *run_start <= here => {
                (end.min(*run_end), Some(place + (here - run_start)))
            }
            // Nothing of this is there until the next run.
            Some((_, (run_start, _))) => (end.min(*run_start), None),
            None => (end, None),
        };
        let ours = &ours[(here - at) as usize..(until - at) as usize];
        let place = place.filter(|place| {
            let theirs = &mut theirs[..ours.len()];
            match ours.len() {
                ..=FEW_BYTES => read_at_hand(pack, theirs, *place),
                _ => ram::read_exactly_at(pack, theirs, *place).is_ok(),
            }
        });
        let page = PAGE_SIZE as usize;
        let equal = |index: usize| {
            let range = index * page..(index + 1) * page;
            place.is_some() && ours[range.clone()] == theirs[range]
        };
        let count = ours.len() / page;
        let mut index = 0;
        while index < count {
            let first = index;
            let same = equal(first);
            while index < count && equal(index) == same {
                index += 1;
            }
            let bytes = &ours[first * page..index * page];
            let offset = (first * page) as u64;
            each(here + offset, bytes, place.filter(|_| same).map(|place| place + offset))?;
        }
        here = until;
    }
    Ok(())
}

/// Reads all of `out` from a file if that takes no disk; returns whether it did.
fn read_at_hand(file: &impl AsFd, out: &mut [u8], offset: u64) -> bool {
    let len = out.len();
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(out)], offset, ReadWriteFlags::NOWAIT) {
        Ok(count) => count == len,
        // Not every file system knows the flag (`preadv2(2)`).
        Err(Errno::OPNOTSUPP) => ram::read_exactly_at(file, out, offset).is_ok(),
        Err(_) => false,
    }
}

/// Names an image.
pub(crate) fn since(image: &Image) -> Since {
    Since { version: image.id().version, digest: image.header().manifest_digest }
}

/// Whether a pack has become so long beside what its newest image needs that a new one is begun: each image lists the
/// digests of its whole pack, and what is in a pack stays as long as any image needs a part of it.
///
/// So of every [`MOST_TIMES`] images of a program that is written all over one stores all of it, which it does anyway.
fn is_overgrown(image: &Image) -> bool {
    let pack_bytes = image.header().pack.len_bytes;
    if pack_bytes <= SHORT_PACK_BYTES {
        return false;
    }
    let stored = image.checkpoint().stored(pack_bytes).unwrap_or_default();
    let needed_bytes: u64 = stored.iter().map(|range| range.end - range.start).sum();
    pack_bytes > SHORT_PACK_BYTES + MOST_TIMES * needed_bytes
}

/// Lists where the private pages of each process lie.
fn runs(checkpoint: &Checkpoint) -> BTreeMap<Pid, copies::Places> {
    let mut all = BTreeMap::new();
    for process in &checkpoint.processes {
        let runs: &mut BTreeMap<_, _> = all.entry(process.pd.relation.pid).or_default();
        for region in &process.rm.regions {
            for run in &region.private.runs {
                let start = region.range.start() + run.offset;
                runs.insert(start + run.len_bytes, (start, run.pack_offset));
            }
        }
    }
    all
}

/// Lists where each process shows memory that may be shared.
fn shared(checkpoint: &Checkpoint) -> BTreeMap<Pid, Shown> {
    let mut all = BTreeMap::new();
    for process in &checkpoint.processes {
        let shared: &mut Shown = all.entry(process.pd.relation.pid).or_default();
        for region in &process.rm.regions {
            if let Attachment::Dataspace { dataspace, offset, .. } = &region.attachment {
                shared.insert(region.range.end(), (region.range.start(), *offset, dataspace.index()));
            }
        }
    }
    all
}

/// Lists where files in memory lie.
fn volatile(checkpoint: &Checkpoint) -> BTreeMap<Vec<u8>, Pages> {
    let files = checkpoint.objects.volatile.iter();
    files.map(|volatile| (volatile.file.path.as_bytes().to_vec(), volatile.pages.clone())).collect()
}
