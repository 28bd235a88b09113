//! The region map and its content.
//!
//! Regions are mapped at the addresses they had; a region with content that may not be written is mapped writable
//! first. Full 2 MiB ranges are filled as huge pages: a byte of each is read so that page tables exist, MADV_COLLAPSE
//! makes the pages, then they are read over. That is 3 to 5 times as fast as 4 KiB pages and leaves no trace in the
//! region's flags, as MADV_HUGEPAGE would.
//!
//! Each of the three is one call for some huge pages. Every MADV_COLLAPSE first drains the page lists of all processors
//! (`lru_add_drain_all` in `madvise_collapse`, mm/khugepaged.c), which waits for a kernel thread on each of them:
//! microseconds on an idle machine, milliseconds on a busy one. So one call for each page is too many: 512 MiB by 2 MiB took
//! 90 to 2500 ms. One call for all of it is too few: what the kernel has zeroed is out of the caches when it is read over.
//! The least times for 512 MiB, of 25 each, were 56 ms by one call, 51 ms by 8 MiB, and 39 ms where MADV_HUGEPAGE was
//! given before.

use super::{Compiler, FileMode, FileUse, keys};
use crate::error::Error;
use crate::layout::{self, Gaps};
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_abi::tape::Entry;
use frost_model::ram::{DataspaceKind, Pages, Run};
use frost_model::rm::{Attachment, Protection, ProtectionKeys, Region, SpecialRegion};
use frost_model::{PAGE_SIZE, Process};
use frost_sys::sysv;

const HUGE: u64 = 2 << 20;
/// How much is made huge at a time.
const WINDOW: u64 = 4 * HUGE;
/// The most that one call reads or maps.
const MOST: u64 = 1 << 30;
/// IOV_MAX.
const MOST_PARTS: usize = 1024;

// include/uapi/asm-generic/mman-common.h; those that libc lacks on some targets.
const MADV_SEQUENTIAL: u64 = 2;
const MADV_RANDOM: u64 = 1;
const MADV_DONTFORK: u64 = 10;
const MADV_MERGEABLE: u64 = 12;
const MADV_HUGEPAGE: u64 = 14;
const MADV_NOHUGEPAGE: u64 = 15;
const MADV_DONTDUMP: u64 = 16;
const MADV_WIPEONFORK: u64 = 18;
const MADV_COLLAPSE: u64 = 25;
const MADV_GUARD_INSTALL: u64 = 102;
/// A type of mapping beside MAP_SHARED and MAP_PRIVATE, Linux 6.11.
const MAP_DROPPABLE: i32 = 0x08;
const ARCH_MAP_VDSO_64: u64 = 0x2003;
/// mseal(2), Linux 6.10.
const SYS_MSEAL: libc::c_long = 462;

/// `struct aio_ring` and `struct io_event`.
const AIO_HEADER_BYTES: u64 = 32;
const AIO_EVENT_BYTES: u64 = 32;

/// Returns the least number of requests for which the kernel makes a ring of `len_bytes`.
///
/// It makes room for twice as many and two more, in whole pages (ioctx_alloc and aio_setup_ring, fs/aio.c).
fn aio_requests(len_bytes: u64) -> u64 {
    let events_of_less = (len_bytes - PAGE_SIZE).saturating_sub(AIO_HEADER_BYTES) / AIO_EVENT_BYTES;
    (events_of_less.saturating_sub(1) / 2).max(1)
}

/// Returns the least length of a ring on a host with that many possible processors: the kernel makes room for four
/// requests of each, however few are asked for.
pub(crate) fn least_aio_ring(processors: u64) -> u64 {
    let events = processors * 4 * 2 + 2;
    (AIO_HEADER_BYTES + events * AIO_EVENT_BYTES).next_multiple_of(PAGE_SIZE)
}

pub(super) fn protection_bits(protection: Protection) -> u64 {
    let bit = |set: bool, bit: i32| if set { bit as u64 } else { 0 };
    bit(protection.read, libc::PROT_READ)
        | bit(protection.write, libc::PROT_WRITE)
        | bit(protection.execute, libc::PROT_EXEC)
}

const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;

impl Compiler<'_> {
    /// Gives each shared anonymous dataspace a parking address: it is made once, in the root, and every process
    /// takes its part from what it inherits.
    pub(super) fn park(&mut self, mut gaps: Gaps) -> Result<(), Error> {
        let mut total = 0u64;
        let mut offsets = Vec::new();
        for (index, dataspace) in self.checkpoint.dataspaces.iter().enumerate() {
            let parks = matches!(dataspace.kind, DataspaceKind::SharedAnonymous)
                && layout::attached(self.checkpoint, index).is_some();
            offsets.push(parks.then_some(total));
            if parks {
                let len = dataspace.len_bytes.next_multiple_of(PAGE_SIZE);
                total = total.checked_add(len).ok_or(Error::TooLarge { what: "its shared memory" })?;
            }
        }
        self.parked = vec![None; offsets.len()];
        let segments = self.segment_offsets(&mut total)?;
        if total == 0 {
            return Ok(());
        }
        let base = gaps.take(total)?;
        self.segments = segments.into_iter().map(|both| both.map(|at| at.map(|at| base + at))).collect();
        self.parking = Some((base, total));
        self.parked = offsets.into_iter().map(|offset| offset.map(|offset| base + offset)).collect();
        Ok(())
    }

    /// Makes the shared anonymous dataspaces at their parking addresses, in the root.
    pub(super) fn build_parking(&mut self, script: &mut Script) {
        for (index, dataspace) in self.checkpoint.dataspaces.iter().enumerate() {
            let Some(address) = self.parked[index] else { continue };
            self.about(script, 0, Stage::Parking, Subject::Dataspace(index as u32));
            let len = dataspace.len_bytes.next_multiple_of(PAGE_SIZE);
            let reserve = layout::attached(self.checkpoint, index) == Some(true);
            let mut flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            if reserve {
                flags |= libc::MAP_NORESERVE;
            }
            script.call(libc::SYS_mmap, &[address, len, READ_WRITE, flags as u64, u64::MAX, 0]);
            self.fill(script, address, &dataspace.pages, false);
        }
        self.attach_segments(script);
    }

    /// Builds the region map of a process.
    pub(super) fn memory(&mut self, script: &mut Script, index: usize, process: &Process) {
        if let Some(vdso) = process.rm.vdso.as_ref().filter(|_| !self.inheritance[index].has_vdso()) {
            self.about(script, index, Stage::Vdso, Subject::Step);
            script.call(libc::SYS_arch_prctl, &[ARCH_MAP_VDSO_64, vdso.address]);
        }
        for (number, region) in process.rm.regions.iter().enumerate() {
            if self.inheritance[index].kept(number).is_none() {
                self.map(script, index, number, region);
            }
        }
        for (number, region) in process.rm.regions.iter().enumerate() {
            let (range, flags) = (region.range, region.flags);
            if matches!(region.attachment, Attachment::Special(_) | Attachment::Aio { .. }) {
                continue;
            }
            if flags.huge_page || flags.no_huge_page {
                self.about(script, index, Stage::Advise, Subject::Region(number as u32));
                let advice = if flags.huge_page { MADV_HUGEPAGE } else { MADV_NOHUGEPAGE };
                // Without CONFIG_TRANSPARENT_HUGEPAGE there is nothing to advise.
                script.attempt(libc::SYS_madvise, &[range.start(), range.len_bytes(), advice]);
            }
            if let Some(difference) = self.inheritance[index].kept(number).cloned() {
                self.about(script, index, Stage::Fill, Subject::Region(number as u32));
                self.differ(script, range.start(), &difference);
            } else if self.carries_content(region) {
                self.about(script, index, Stage::Fill, Subject::Region(number as u32));
                // Where it is advised, the kernel gives huge pages at the first touch.
                let huge = matches!(region.attachment, Attachment::Anonymous)
                    && region.huge_shift.is_none()
                    && !flags.no_huge_page
                    && !flags.huge_page;
                self.fill(script, range.start(), &region.private, huge);
            }
        }
    }

    /// What fork(2) would hand on or forget, and rights that would be in the way of filling; the parking area goes.
    pub(super) fn finish_memory(&mut self, script: &mut Script, index: usize, process: &Process) {
        for (number, region) in process.rm.regions.iter().enumerate() {
            if let Attachment::Aio { events } = &region.attachment {
                self.about(script, index, Stage::Map, Subject::Region(number as u32));
                self.aio(script, process, region, events);
            }
        }
        let keys = self.allocate_keys(script, index, process);
        for (number, region) in process.rm.regions.iter().enumerate() {
            self.advise(script, index, number, region, process.rm.keys);
        }
        self.free_keys(script, index, process, keys);
        if let Some((address, len)) = self.parking {
            self.about(script, index, Stage::Parking, Subject::Step);
            script.call(libc::SYS_munmap, &[address, len]);
        }
    }

    /// Returns whether private pages of a region are to be read from the pack. A copy gets none of what fork would
    /// not give it either.
    fn carries_content(&self, region: &Region) -> bool {
        let forgets = region.flags.droppable || region.flags.wipe_on_fork;
        let forgotten = self.relation.copy && forgets;
        !forgotten && !region.private.is_empty()
    }

    fn first_protection(&self, region: &Region) -> u64 {
        match region.protection {
            _ if self.carries_content(region) => READ_WRITE,
            // The kernel would give it a key before those of the program have theirs.
            protection if protection.is_execute_only() && protection.key != 0 => 0,
            protection => protection_bits(protection),
        }
    }

    fn map(&mut self, script: &mut Script, index: usize, number: usize, region: &Region) {
        let (range, flags) = (region.range, region.flags);
        let sharing = |shared: bool| if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let mut bits = libc::MAP_FIXED_NOREPLACE;
        if flags.no_reserve {
            bits |= libc::MAP_NORESERVE;
        }
        if flags.grows_down {
            // Without MAP_STACK, which means MADV_NOHUGEPAGE since Linux 6.7.
            bits |= libc::MAP_GROWSDOWN;
        }
        let protection = self.first_protection(region);
        let (fd, offset, shared) = match &region.attachment {
            Attachment::Special(
                SpecialRegion::Vvar
                | SpecialRegion::VvarVclock
                | SpecialRegion::Vdso
                | SpecialRegion::Vsyscall,
            ) => return,
            Attachment::Aio { .. } => {
                // Keeps the place, which the kernel would else choose for the new ring: it could not be moved there.
                self.about(script, index, Stage::Map, Subject::Region(number as u32));
                let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
                script.call(libc::SYS_mmap, &[range.start(), range.len_bytes(), 0, flags, u64::MAX, 0]);
                return;
            }
            Attachment::Anonymous => {
                self.about(script, index, Stage::Map, Subject::Region(number as u32));
                bits |= libc::MAP_ANONYMOUS | if flags.droppable { MAP_DROPPABLE } else { libc::MAP_PRIVATE };
                // Heuristic overcommit judges each call by itself, so a region that has grown by and by is mapped
                // by and by; the kernel joins the parts. A stack that grows down is one region from the start, and so is one
                // of huge pages, each of which is a file of its own.
                let mut huge = 0;
                let whole = flags.grows_down || flags.no_reserve || protection == 0;
                let step = if whole || region.huge_shift.is_some() { u64::MAX } else { MOST };
                if let Some(shift) = region.huge_shift {
                    huge = libc::MAP_HUGETLB as u64 | u64::from(shift & 0x3f) << libc::MAP_HUGE_SHIFT;
                }
                let mut at = range.start();
                while at < range.end() {
                    let len = step.min(range.end() - at);
                    script.call(libc::SYS_mmap, &[at, len, protection, bits as u64 | huge, u64::MAX, 0]);
                    at += len;
                }
                return;
            }
            Attachment::File { file, offset, shared, may_write } => {
                let mode = if *shared && *may_write { FileMode::Write } else { FileMode::Read };
                (self.numbers.files.get(&FileUse::new(file, mode)).copied(), *offset, *shared)
            }
            Attachment::Dataspace { dataspace, offset, shared, may_write } => {
                if let Some(parked) = self.parked.get(dataspace.index()).copied().flatten() {
                    self.about(script, index, Stage::Map, Subject::Region(number as u32));
                    // A move of length zero makes a second mapping of shared memory (mremap(2)).
                    let how = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
                    let args = [parked + offset, 0, range.len_bytes(), how, range.start()];
                    script.call(libc::SYS_mremap, &args);
                    return;
                }
                let to_read = self.numbers.dataspaces_to_read.get(&dataspace.index()).copied();
                let to_read = to_read.filter(|_| *shared && !*may_write);
                let any = || self.numbers.dataspaces.get(dataspace.index()).copied().flatten();
                (to_read.or_else(any), *offset, *shared)
            }
            Attachment::Segment { segment, offset, may_write } => {
                let parked = self.parked_segment(*segment, *may_write);
                let known = self.checkpoint.objects.segments.get(segment.index());
                if let Some(known) = known.filter(|known| known.huge_shift.is_some()) {
                    self.about(script, index, Stage::Map, Subject::Region(number as u32));
                    let flags = if *may_write { 0 } else { sysv::SHM_RDONLY as u64 };
                    script.call(libc::SYS_shmat, &[known.ipc.id as u64, range.start(), flags]);
                    let end = range.start() + known.attached_bytes().unwrap_or(0);
                    if range.end() < end {
                        // Regions ascend, so that nothing is there yet.
                        script.call(libc::SYS_munmap, &[range.end(), end - range.end()]);
                    }
                    return;
                }
                self.about(script, index, Stage::Map, Subject::Region(number as u32));
                // As for shared memory; the kernel counts it as an attachment like any other. What is not parked, which
                // a checked image has none of, fails.
                let how = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
                let from = parked.map_or(u64::MAX, |parked| parked + offset);
                script.call(libc::SYS_mremap, &[from, 0, range.len_bytes(), how, range.start()]);
                return;
            }
            Attachment::Description { description, offset, shared, may_write } => {
                let shown = (description.index(), *shared && *may_write);
                let own = self.numbers.descriptions_shown.get(&shown).copied();
                let any = || self.numbers.descriptions.get(description.index()).copied().flatten();
                (own.or_else(any), *offset, *shared)
            }
        };
        self.about(script, index, Stage::Map, Subject::Region(number as u32));
        bits |= sharing(shared);
        // A missing number fails as EBADF with the region's name; the plan found it before.
        let fd = fd.unwrap_or(-1) as u64;
        script.call(libc::SYS_mmap, &[range.start(), range.len_bytes(), protection, bits as u64, fd, offset]);
    }

    /// Makes a context of asynchronous I/O whose ring is of the same length, moves it to its place, which is what the
    /// program knows it by (aio_ring_mremap, fs/aio.c), and lets the events wait in it that did.
    fn aio(&mut self, script: &mut Script, process: &Process, region: &Region, events: &[u8]) {
        let (place, len) = (region.range.start(), region.range.len_bytes());
        // The call stores the address of the ring where it finds a zero: as the argument of the call behind it.
        let setup = script.call(libc::SYS_io_setup, &[aio_requests(len), 0]);
        let how = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let moved = script.call(libc::SYS_mremap, &[0, len, len, how, place]);
        let argument = script.tape.address_of(moved) + Entry::arg_offset(0) as u64;
        script.tape.entry_mut(setup).args[1] = argument;
        let count = events.len() as u64 / AIO_EVENT_BYTES;
        if count == 0 {
            return;
        }
        // The kernel counts the events itself: as many reads of nothing make room, then the events are put over theirs.
        // struct iocb: data, key and flags, IOCB_CMD_PREAD (0) and the descriptor, buffer, length, offset, ...
        let nothing = self.control.words(&[0, 0, (self.numbers.pack as u64) << 32, place, 0, 0, 0, 0]);
        let all = self.control.words(&vec![nothing; count as usize]);
        script.transfer(libc::SYS_io_submit, &[place, count, all], count);
        let bytes = self.control.blob(events);
        let from = self.control.words(&[bytes, events.len() as u64]);
        let to = self.control.words(&[place + AIO_HEADER_BYTES, events.len() as u64]);
        let own = process.pd.relation.pid.raw() as u64;
        script.transfer(libc::SYS_process_vm_readv, &[own, to, 1, from, 1, 0], events.len() as u64);
    }

    /// Reads pages from the pack to `address` on.
    pub(super) fn fill(&mut self, script: &mut Script, address: u64, pages: &Pages, huge: bool) {
        let windows = if huge { huge_ranges(address, &pages.runs) } else { Vec::new() };
        let mut windows = windows.into_iter().peekable();
        // Parts that follow each other in the pack, read by one call.
        let mut parts: Vec<u64> = Vec::new();
        let mut from = 0;
        let mut len = 0;
        for run in &pages.runs {
            let start = address + run.offset;
            let end = start + run.len_bytes;
            let mut at = start;
            while at < end {
                let pack_at = run.pack_offset + (at - start);
                if let Some((window, window_end)) = windows.next_if(|(window, _)| *window <= at) {
                    if !parts.is_empty() {
                        self.read_parts(script, &parts, from, len);
                        parts.clear();
                    }
                    self.make_huge(script, window, window_end - window, pages.runs[0].pack_offset);
                }
                let limit = windows.peek().map_or(end, |(window, _)| end.min(*window));
                let part = MOST.min(limit - at);
                let follows = from + len == pack_at;
                if !parts.is_empty() && (!follows || parts.len() / 2 >= MOST_PARTS || len + part > MOST) {
                    self.read_parts(script, &parts, from, len);
                    parts.clear();
                }
                if parts.is_empty() {
                    (from, len) = (pack_at, 0);
                }
                parts.extend([at, part]);
                len += part;
                at += part;
            }
        }
        if !parts.is_empty() {
            self.read_parts(script, &parts, from, len);
        }
    }

    /// Puts a range of whole huge pages, not yet touched, into huge pages.
    fn make_huge(&mut self, script: &mut Script, address: u64, len_bytes: u64, pack_at: u64) {
        // Any bytes of the pack, one into the first page of each.
        let touches: Vec<u64> =
            (address..address + len_bytes).step_by(HUGE as usize).flat_map(|at| [at, 1]).collect();
        let count = touches.len() as u64 / 2;
        let vector = self.control.words(&touches);
        script.transfer(libc::SYS_preadv, &[self.numbers.pack as u64, vector, count, pack_at, 0], count);
        script.attempt(libc::SYS_madvise, &[address, len_bytes, MADV_COLLAPSE]);
    }

    fn read_parts(&mut self, script: &mut Script, parts: &[u64], from: u64, len: u64) {
        let pack = self.numbers.pack as u64;
        if let [address, bytes] = *parts {
            script.transfer(libc::SYS_pread64, &[pack, address, bytes, from], bytes);
        } else {
            let vector = self.control.words(parts);
            script.transfer(libc::SYS_preadv, &[pack, vector, (parts.len() / 2) as u64, from, 0], len);
        }
    }

    /// Advice and rights that would be in the way of filling.
    fn advise(
        &mut self,
        script: &mut Script,
        index: usize,
        number: usize,
        region: &Region,
        keys: ProtectionKeys,
    ) {
        let (range, flags) = (region.range, region.flags);
        if matches!(region.attachment, Attachment::Special(_) | Attachment::Aio { .. }) {
            return;
        }
        self.about(script, index, Stage::Advise, Subject::Region(number as u32));
        let whole = [range.start(), range.len_bytes()];
        // A droppable region is wiped on fork and left out of dumps by itself.
        let wipe = flags.wipe_on_fork && !flags.droppable;
        let dump = flags.dont_dump && !flags.droppable;
        for (set, advice) in [
            (flags.dont_fork, MADV_DONTFORK),
            (wipe, MADV_WIPEONFORK),
            (dump, MADV_DONTDUMP),
            (flags.mergeable, MADV_MERGEABLE),
            (flags.sequential, MADV_SEQUENTIAL),
            (flags.random, MADV_RANDOM),
        ] {
            if set {
                script.call(libc::SYS_madvise, &[whole[0], whole[1], advice]);
            }
        }
        if flags.locked {
            let on_fault = u64::from(flags.lock_on_fault);
            script.call(libc::SYS_mlock2, &[whole[0], whole[1], on_fault]);
        }
        if let Some(policy) = &region.policy {
            const MPOL_MF_MOVE: u64 = 1 << 1;
            let [mode, mask, bits] = self.memory_policy(Some(policy));
            // EINVAL if none of these nodes exists here: then its pages come from wherever there are some.
            script.attempt(libc::SYS_mbind, &[whole[0], whole[1], mode, mask, bits, MPOL_MF_MOVE]);
        }
        for guard in &region.guards {
            script.call(libc::SYS_madvise, &[guard.start(), guard.len_bytes(), MADV_GUARD_INSTALL]);
        }
        let parked = matches!(&region.attachment, Attachment::Dataspace { dataspace, .. }
            if self.parked.get(dataspace.index()).copied().flatten().is_some());
        let first = match &region.attachment {
            Attachment::Segment { may_write: false, .. } => libc::PROT_READ as u64,
            Attachment::Segment { .. } => READ_WRITE,
            _ if parked || self.inheritance[index].kept(number).is_some() => READ_WRITE,
            _ => self.first_protection(region),
        };
        let last = protection_bits(region.protection);
        if keys::is_explicit(region.protection, keys) {
            let key = region.protection.key.into();
            script.call(libc::SYS_pkey_mprotect, &[whole[0], whole[1], last, key]);
        } else if first != last {
            script.call(libc::SYS_mprotect, &[whole[0], whole[1], last]);
        }
        if flags.sealed {
            script.call(SYS_MSEAL, &[whole[0], whole[1], 0]);
        }
    }
}

/// Returns the ranges of whole huge pages that runs cover, in windows; where in the pack the runs lie does not matter.
fn huge_ranges(address: u64, runs: &[Run]) -> Vec<(u64, u64)> {
    let mut covered: Vec<(u64, u64)> = Vec::new();
    for run in runs {
        let (start, end) = (address + run.offset, address + run.offset + run.len_bytes);
        match covered.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => covered.push((start, end)),
        }
    }
    let whole = covered.into_iter().map(|(start, end)| (start.next_multiple_of(HUGE), end / HUGE * HUGE));
    whole
        .filter(|(start, end)| start < end)
        .flat_map(|(start, end)| {
            (start..end).step_by(WINDOW as usize).map(move |at| (at, end.min(at + WINDOW)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_huge_pages_are_found_across_runs() {
        let run = |offset, len_bytes, pack_offset| Run { offset, len_bytes, pack_offset };
        // 1 MiB in front of a boundary; 2 MiB whose first page lies elsewhere in the pack; a hole; two windows and a half.
        let start = HUGE / 2;
        let address = 1 << 40;
        let runs = [
            run(start, HUGE / 2, 0),
            run(HUGE, 4096, 99 * 4096),
            run(HUGE + 4096, HUGE - 4096, HUGE),
            run(4 * HUGE - 4096, 4096 + 5 * WINDOW / 2, 4 * HUGE),
        ];
        let large = address + 4 * HUGE;
        let expected = vec![
            (address + HUGE, address + 2 * HUGE),
            (large, large + WINDOW),
            (large + WINDOW, large + 2 * WINDOW),
            (large + 2 * WINDOW, large + 5 * WINDOW / 2),
        ];
        assert_eq!(huge_ranges(address, &runs), expected);
        assert_eq!(huge_ranges(4096, &[run(0, HUGE, 0)]), vec![]);
    }
}
