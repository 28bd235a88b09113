//! What no mapping shows of shared memory, or of a file, that has neither a name nor a descriptor.
//!
//! Such an object lives by its mappings alone, but need not be shown whole by them: a program may have unmapped a part of it,
//! or changed what a mapping shows (remap_file_pages(2)), and get it back by what is left (mremap(2)). Root opens the object
//! by the kernel's link to it (`/proc/PID/map_files`); for anybody else the process itself makes a view of all of it, that
//! lasts while we look.
//!
//! And who reads a hole of such an object through a mapping fills it, so that is read as a file, or the process tells first
//! what there is.

use crate::ram::{Error, Window};
use frost_abi::tape::Entry as Call;
use frost_model::PAGE_SIZE;
use frost_sys::proc::{self, Mapping};
use frost_tracee::inject::{self, AREA_BYTES, Area, Job};
use frost_tracee::seize::StoppedProcess;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The end of what a process may map (`TASK_SIZE`, with page tables of four levels; beyond it nothing lies unless asked for).
const END: u64 = 0x7fff_ffff_f000;
/// What stays free on both sides of a view: below a stack the kernel keeps a gap (`stack_guard_gap`, 256 pages).
const MARGIN: u64 = 2 << 20;
/// So much shared memory is worth the question which of its pages there are.
const LARGE_BYTES: u64 = 64 << 10;
/// Memory that is asked about at a time: a byte for each page is told.
const ASKED_BYTES: u64 = 1 << 30;

/// The processes of a tree that may be asked for a view.
pub(crate) struct Onlookers<'a> {
    living: Vec<(&'a StoppedProcess, &'a [Mapping])>,
    /// Whether a process may make a call.
    may: &'a dyn Fn(&StoppedProcess, libc::c_long) -> bool,
    /// Where those run tapes that were asked.
    areas: RefCell<BTreeMap<i32, Area<'a>>>,
}

/// What came of asking for a view.
pub(crate) enum Looked<T> {
    /// What was made of it.
    Seen(T),
    /// Nobody could make one.
    Unseen(String),
}

/// By which mapping a view is made.
struct Way<'a> {
    process: &'a StoppedProcess,
    mappings: &'a [Mapping],
    window: Window,
}

impl<'a> Onlookers<'a> {
    pub(crate) fn new(
        living: Vec<(&'a StoppedProcess, &'a [Mapping])>,
        may: &'a dyn Fn(&StoppedProcess, libc::c_long) -> bool,
    ) -> Self {
        Self { living, may, areas: RefCell::default() }
    }

    /// Takes all away that this has made in them.
    ///
    /// # Errors
    /// That a process could not be asked.
    pub(crate) fn leave(self) -> Result<(), Error> {
        for (pid, area) in self.areas.into_inner() {
            area.unmap().map_err(|source| Error::View { pid, source })?;
        }
        Ok(())
    }

    /// Lets `what` use the area of a process, which stays for the next question.
    fn ask<T>(
        &self,
        (process, mappings): (&'a StoppedProcess, &[Mapping]),
        what: impl FnOnce(&mut Area<'a>) -> Result<T, inject::Error>,
    ) -> Result<T, Error> {
        let failed = |source| Error::View { pid: process.pid, source };
        let mut areas = self.areas.borrow_mut();
        let area = match areas.entry(process.pid) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Area::map(process, mappings).map_err(failed)?),
        };
        what(area).map_err(failed)
    }

    /// Gives `look` windows onto all that `windows` do not show of their object. A view is made by one of `shared`, which are
    /// those of them that may be: only what is shared is shown twice by mremap(2).
    ///
    /// # Errors
    /// That the process could not be asked, or its memory not be read.
    pub(crate) fn look<T>(
        &self,
        windows: &[Window],
        shared: &[Window],
        look: impl FnOnce(Vec<Window>) -> Result<T, Error>,
    ) -> Result<Looked<T>, Error> {
        let way = match self.way(shared) {
            Ok(way) => way,
            Err(why) => return Ok(Looked::Unseen(why)),
        };
        let through = way.process.through;
        let shown = windows.iter().map(|(offset, .., len)| offset + len).max().unwrap_or(0);
        let (offset, _, address, _) = way.window;
        self.ask((way.process, way.mappings), |area| {
            let area_at = area.entry_address(0) / AREA_BYTES * AREA_BYTES;
            let (start, len) = room(through, way.mappings, area_at);
            if shown >= len {
                return Ok(Ok(Looked::Unseen("its address space has no room for a view of it".to_owned())));
            }
            let mut job = Job::new(0);
            // Without a length of what is there this makes another mapping of the same object (`vrm_overlaps` and what calls it,
            // mm/mremap.c), which may be longer than the object.
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            job.tape.push(Call::call(libc::SYS_mremap as u64, [address, 0, len, flags, start, 0]));
            if offset > 0 {
                // Else it would be filled with pages (`MAP_POPULATE` in the same call, mm/mmap.c).
                let flags = libc::MAP_NONBLOCK as u64;
                job.tape.push(Call::call(libc::SYS_remap_file_pages as u64, [start, len, 0, 0, flags, 0]));
            }
            let made = job.tape.len();
            // Should there be none, there is nothing.
            job.tape.push(Call::call(libc::SYS_munmap as u64, [start, len, 0, 0, 0, 0]));
            let between = |so_far: &Job| {
                if let Some(call) = so_far.tape.iter().find(|call| call.result < 0) {
                    let why = Errno::from_raw_os_error(-call.result as i32);
                    return Ok(Looked::Unseen(format!("a view of it cannot be mapped: {why}")));
                }
                frost_sys::fault::point("freeze.view").map_err(|source| Error::Read {
                    pid: through,
                    address: start,
                    source,
                })?;
                let end = end_of(through, start, shown, len);
                if end == len {
                    return Ok(Looked::Unseen(
                        "its address space has no room for a view of all of it".to_owned(),
                    ));
                }
                look(gaps(windows, end, (through, start))).map(Looked::Seen)
            };
            area.run_halting(&mut job, made, between)
        })?
    }

    /// Returns the parts of windows onto shared memory that are filled, and where they end as an empty one: who reads a hole
    /// through a mapping fills it, so that a program of few pages amid much reserved memory would grow by all of that.
    ///
    /// # Errors
    /// That a process could not be asked.
    pub(crate) fn filled(&self, windows: &[Window]) -> Result<Vec<Window>, Error> {
        let large: u64 = windows.iter().map(|(.., len)| len).sum();
        if large < LARGE_BYTES {
            return Ok(windows.to_vec());
        }
        let mut filled = Vec::new();
        let mut windows = windows.to_vec();
        windows.sort_unstable_by_key(|window| window.1);
        for theirs in windows.chunk_by(|one, next| one.1 == next.1) {
            let found = self.living.iter().find(|(process, _)| process.through == theirs[0].1);
            match found.filter(|(process, _)| (self.may)(process, libc::SYS_mincore)) {
                None => filled.extend(theirs),
                Some((process, mappings)) => self.ask((process, mappings), |area| {
                    for window in theirs {
                        filled.extend(self::filled(area, *window)?);
                    }
                    Ok(())
                })?,
            }
        }
        Ok(filled)
    }

    /// Finds a process that may make a view, by a mapping that serves.
    fn way(&self, windows: &[Window]) -> Result<Way<'a>, String> {
        let may = |process: &StoppedProcess, offset: u64| {
            let calls = [libc::SYS_mremap, libc::SYS_munmap, libc::SYS_remap_file_pages];
            let needed = if offset > 0 { &calls[..] } else { &calls[..2] };
            needed.iter().all(|call| (self.may)(process, *call))
        };
        // One that shows the start takes a call less.
        let mut windows: Vec<_> = windows.iter().collect();
        windows.sort_unstable_by_key(|window| **window);
        let mut why = "no process maps it that could make a view of it";
        for window in windows {
            let (offset, pid, address, _) = *window;
            let found = self.living.iter().find(|(process, _)| process.through == pid);
            let Some((process, mappings)) = found else { continue };
            let shows = |mapping: &&Mapping| (mapping.start..mapping.end).contains(&address);
            let Some(mapping) = mappings.iter().find(shows) else { continue };
            if mapping.flags.has(*b"lo") {
                // A view of it would be locked as well, which fills all that is not there yet.
                why = "it is locked in memory";
            } else if mapping.flags.has(*b"sl") {
                why = "its mapping is sealed";
            } else if !may(process, offset) {
                why = "a system call filter forbids to make a view of it";
            } else {
                return Ok(Way { process, mappings, window: *window });
            }
        }
        Err(why.to_owned())
    }
}

/// Whether anything is swapped out: mincore(2) does not tell of shared memory that is (`filemap_get_incore_folio`, mm/filemap.c).
fn swaps() -> bool {
    let system = rustix::system::sysinfo();
    system.totalswap != system.freeswap
}

/// Has a process tell which parts of a window of its own are filled; the last of what this returns is where it ends, of no
/// length.
///
/// Only for memory that lives in the page cache alone: of a file on disk this tells what is cached, and of huge pages of
/// hugetlbfs what this process has mapped (`mincore_hugetlb`, mm/mincore.c).
///
/// # Errors
/// That it could not be asked.
pub(crate) fn filled(area: &mut Area<'_>, window: Window) -> Result<Vec<Window>, inject::Error> {
    if swaps() {
        return Ok(vec![window]);
    }
    let mut filled = Vec::new();
    let (offset, pid, address, len) = window;
    let mut at = 0;
    while at < len {
        let bytes = (len - at).min(ASKED_BYTES);
        let mut job = Job::new(0);
        // What is not told counts as filled.
        job.data = vec![1; bytes.div_ceil(PAGE_SIZE) as usize];
        let told = area.data_address(0, 1);
        job.tape.push(Call::call(libc::SYS_mincore as u64, [address + at, bytes, told, 0, 0, 0]));
        area.run(std::slice::from_mut(&mut job))?;
        for page in job.data.chunk_by(|one, next| one & 1 == next & 1) {
            let part = (page.len() as u64 * PAGE_SIZE).min(len - at);
            if page[0] & 1 == 1 {
                filled.push((offset + at, pid, address + at, part));
            }
            at += part;
        }
    }
    filled.push((offset + len, pid, address + len, 0));
    // Nor since then: a page may have gone before it was asked about.
    Ok(if swaps() { vec![window] } else { filled })
}

/// Finds the greatest part of an address space that is free, and may be mapped.
fn room(pid: i32, mappings: &[Mapping], area_at: u64) -> (u64, u64) {
    const RLIMIT_AS: usize = 9;
    let mut taken: Vec<_> = mappings.iter().map(|mapping| (mapping.start, mapping.end)).collect();
    taken.retain(|(start, _)| *start < END);
    let mapped: u64 = taken.iter().map(|(start, end)| end - start).sum::<u64>() + AREA_BYTES;
    taken.push((area_at, area_at + AREA_BYTES));
    taken.push((END, END));
    taken.sort_unstable();
    let (mut at, mut best) = (0, (0, 0));
    for (start, end) in taken {
        let free = (at + MARGIN, start.saturating_sub(at).saturating_sub(2 * MARGIN));
        if free.1 > best.1 {
            best = free;
        }
        at = at.max(end);
    }
    let limits = proc::limits(pid).unwrap_or_default();
    let limit = limits.get(RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft / PAGE_SIZE * PAGE_SIZE);
    (best.0, best.1.min(limit.saturating_sub(mapped)) / PAGE_SIZE * PAGE_SIZE)
}

/// Finds where an object ends that is shown from its start by a view of `len` bytes, and has `shown` bytes at least: beyond
/// its end a view cannot be read.
fn end_of(pid: i32, view: u64, shown: u64, len: u64) -> u64 {
    let mem = crate::ram::open_mem(pid);
    let is_there = |at: u64| {
        let mut byte = [0u8; 1];
        let read =
            mem.as_ref().map_or(Err(Errno::ACCESS), |mem| rustix::io::pread(mem, &mut byte[..], view + at));
        read == Ok(1)
    };
    let (mut low, mut step) = (shown / PAGE_SIZE, 1);
    let last = len / PAGE_SIZE;
    let mut high = low;
    while high < last && is_there(high * PAGE_SIZE) {
        low = high + 1;
        high = (high + step).min(last);
        step *= 2;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if is_there(middle * PAGE_SIZE) { low = middle + 1 } else { high = middle }
    }
    low * PAGE_SIZE
}

/// Returns windows of process `pid`, that shows all of an object of `end` bytes at `view`, onto what `windows` do not show.
fn gaps(windows: &[Window], end: u64, (pid, view): (i32, u64)) -> Vec<Window> {
    let mut windows = windows.to_vec();
    windows.sort_unstable();
    let (mut at, mut gaps) = (0, Vec::new());
    let ends = windows.iter().map(|(offset, .., len)| (*offset, offset + len));
    for (start, next) in ends.chain([(end, end)]) {
        if at < start {
            gaps.push((at, pid, view + at, start - at));
        }
        at = at.max(next);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_no_window_shows() {
        let windows =
            [(0x4000, 7, 0x10_0000, 0x2000), (0x5000, 8, 0x20_0000, 0x3000), (0x9000, 7, 0x30_0000, 0x1000)];
        let found = gaps(&windows, 0xb000, (9, 0x100_0000));
        let expected =
            [(0, 9, 0x100_0000, 0x4000), (0x8000, 9, 0x100_8000, 0x1000), (0xa000, 9, 0x100_a000, 0x1000)];
        assert_eq!(found, expected);
        assert_eq!(gaps(&[(0, 7, 0x10_0000, 0x2000)], 0x2000, (9, 0x100_0000)), []);
    }
}
