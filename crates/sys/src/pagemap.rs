//! Which pages of another process exist, and of what kind.

use crate::raw::check;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use std::cell::RefCell;

/// Pages that one range of the answer has in common, as bits of `enum page_categories`
/// (`include/uapi/linux/fs.h`, Linux 6.7).
pub mod category {
    /// In a mapping whose writes are tracked (userfaultfd, WP_ASYNC).
    pub const WPALLOWED: u64 = 1 << 0;
    /// Not write-protected for tracking; untracked memory always has it.
    pub const WRITTEN: u64 = 1 << 1;
    /// Of a file or shared memory.
    pub const FILE: u64 = 1 << 2;
    /// In memory.
    pub const PRESENT: u64 = 1 << 3;
    /// In swap.
    pub const SWAPPED: u64 = 1 << 4;
    /// The zero page.
    pub const PFNZERO: u64 = 1 << 5;
    /// Part of a huge page.
    pub const HUGE: u64 = 1 << 6;
    /// A guard (MADV_GUARD_INSTALL), Linux 6.15.
    pub const GUARD: u64 = 1 << 8;
}

/// A run of pages of equal categories.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRegion {
    /// First address.
    pub start: u64,
    /// Address behind the last page.
    pub end: u64,
    /// Bits of [`category`].
    pub categories: u64,
}

/// What [`Pagemap::scan`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// All pages, with [`WPALLOWED`](category::WPALLOWED), [`WRITTEN`](category::WRITTEN) and
    /// [`GUARD`](category::GUARD). All of the range must be mapped.
    Look,
    /// Those of tracked mappings that were written, which are write-protected by it.
    ///
    /// Holes stay as they are: what is populated later counts as written.
    TakeWritten,
}

/// The page map of a process, open.
#[derive(Debug)]
pub struct Pagemap {
    file: OwnedFd,
    /// Without PAGEMAP_SCAN each entry is read.
    scan: bool,
    /// Whether the kernel knows guard regions.
    guards: bool,
    /// Where [`scan`](Self::scan) has its answers: clearing it anew would take longer than a small scan.
    regions: RefCell<Vec<PageRegion>>,
}

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScanArg>() == 96);
/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// PM_SCAN_WP_MATCHING: write-protects what matches.
const WP_MATCHING: u64 = 1;

impl Pagemap {
    /// Opens the page map of `pid`.
    pub fn open(pid: i32) -> Result<Self> {
        let file = rustix::fs::open(
            crate::proc::path(pid, "pagemap"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut map = Self { file, scan: true, guards: true, regions: RefCell::default() };
        // Both are found out by asking about no page at all.
        if map.scan_once(0, 0, category::GUARD, &mut [PageRegion::default()]).is_err() {
            map.guards = false;
            map.scan = map.scan_once(0, 0, category::PRESENT, &mut [PageRegion::default()]).is_ok();
        }
        Ok(map)
    }

    /// Reads the entries of the pages of `start..end`, as `Documentation/admin-guide/mm/pagemap.rst` describes them.
    /// Without CAP_SYS_ADMIN the number of the page frame is 0 in each.
    pub fn entries(&self, start: u64, end: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; ((end - start) / 4096 * 8) as usize];
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pread(&self.file, &mut bytes[done..], start / 4096 * 8 + done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(got) => done += got,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes)).collect())
    }

    /// Lists the pages of `start..end` that hold content of the process' own: in memory or swapped, not of a file,
    /// not the zero page, no guard. Adjacent runs are joined; the second list has the guards.
    pub fn private_pages(&self, start: u64, end: u64) -> Result<(Vec<PageRegion>, Vec<PageRegion>)> {
        let mut content = Vec::new();
        let mut guards = Vec::new();
        let mut sort = |region: PageRegion| {
            let guard = region.categories & category::GUARD != 0;
            let list: &mut Vec<PageRegion> = if guard { &mut guards } else { &mut content };
            match list.last_mut() {
                Some(last) if last.end == region.start => last.end = region.end,
                _ => list.push(region),
            }
        };
        if self.scan {
            // Most mappings are small, and a process may have thousands: a buffer for all their pages is cheaper.
            let pages = usize::try_from((end - start) / 4096).unwrap_or(usize::MAX);
            let mut regions = vec![PageRegion::default(); pages.clamp(1, 1024)];
            let mut at = start;
            while at < end {
                let (count, walked) = self.scan_once(at, end, 0, &mut regions)?;
                regions[..count].iter().for_each(|region| sort(*region));
                if walked <= at {
                    return Err(Errno::IO);
                }
                at = walked;
            }
        } else {
            self.read_entries(start, end, sort)?;
        }
        Ok((content, guards))
    }

    /// Returns whether [`scan`](Self::scan) works.
    pub fn can_scan(&self) -> bool {
        self.scan
    }

    /// Lists the pages of private anonymous memory in `start..end` that `scan` looks for, in ascending order; equal
    /// neighbours are one run. The zero page is none.
    ///
    /// No page structure is looked at, unlike in [`private_pages`](Self::private_pages), so this is several times
    /// faster; it would take pages of a file for the process' own.
    ///
    /// # Errors
    /// [`Errno::NOTTY`] before Linux 6.7.
    pub fn scan(&self, scan: Scan, start: u64, end: u64) -> Result<Vec<PageRegion>> {
        let guard = if self.guards { category::GUARD } else { 0 };
        let populated = category::PRESENT | category::SWAPPED;
        let mut arg = ScanArg { size: size_of::<ScanArg>() as u64, end, ..ScanArg::default() };
        match scan {
            // The kernel takes four times as long for a page that it tells of as for one that it passes over. So it is
            // asked for what is not in memory, tracked and unwritten; the rest is just that.
            Scan::Look => {
                let usual = category::PRESENT | category::WPALLOWED;
                arg.category_inverted = usual;
                arg.category_anyof_mask = usual | category::WRITTEN | category::PFNZERO | guard;
                arg.return_mask = usual | category::WRITTEN | category::SWAPPED | category::PFNZERO | guard;
            }
            Scan::TakeWritten => {
                arg.category_inverted = category::PFNZERO;
                arg.flags = WP_MATCHING;
                arg.category_mask = category::PFNZERO | category::WRITTEN;
                arg.category_anyof_mask = populated;
                arg.return_mask = category::WRITTEN | category::WPALLOWED;
            }
        }
        let mut found: Vec<PageRegion> = Vec::new();
        let mut add = |start: u64, end: u64, categories: u64| match found.last_mut() {
            Some(last) if last.end == start && last.categories == categories => last.end = end,
            _ => found.push(PageRegion { start, end, categories }),
        };
        let mut regions = self.regions.borrow_mut();
        regions.resize(4096, PageRegion::default());
        let mut told = start;
        arg.start = start;
        while arg.start < end {
            let count = self.request(&mut arg, &mut regions)?;
            for region in &regions[..count] {
                if scan == Scan::Look && told < region.start {
                    add(told, region.start, category::WPALLOWED);
                }
                told = region.end;
                let zero = region.categories & category::PFNZERO != 0;
                let content = scan == Scan::TakeWritten || region.categories & populated != 0 && !zero;
                if content || region.categories & guard != 0 {
                    let kept = category::WPALLOWED | category::WRITTEN | guard;
                    add(region.start, region.end, region.categories & kept);
                }
            }
            // Not `walk_end`, which may be stale (below): a page that is protected and looked at once more would be lost
            // as a written one. All was looked at unless our own list is full.
            if count < regions.len() {
                break;
            }
            arg.start = regions[count - 1].end;
        }
        if scan == Scan::Look && told < end {
            add(told, end, category::WPALLOWED);
        }
        Ok(found)
    }

    fn request(&self, arg: &mut ScanArg, out: &mut [PageRegion]) -> Result<usize> {
        arg.vec = out.as_mut_ptr() as u64;
        arg.vec_len = out.len() as u64;
        // SAFETY: `arg` is the struct that the request takes (size asserted above); the kernel writes at most
        // `vec_len` regions to `vec`, which is `out`, and `walk_end` of `arg`.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut *arg) })
            .map(|count| count as usize)
    }

    fn scan_once(&self, start: u64, end: u64, probe: u64, out: &mut [PageRegion]) -> Result<(usize, u64)> {
        let guard = if self.guards { category::GUARD } else { 0 };
        let without = category::PFNZERO | category::FILE;
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start,
            end,
            category_inverted: without,
            category_mask: without,
            category_anyof_mask: category::PRESENT | category::SWAPPED | guard | probe,
            return_mask: guard | category::PRESENT,
            ..ScanArg::default()
        };
        let count = self.request(&mut arg, out)?;
        let walked = arg.walk_end;
        // The kernel collects 512 regions at a time, and `walk_end` stays where it last had to empty its buffer, also if
        // the walk then came to its end (`do_pagemap_scan`, fs/proc/task_mmu.c, up to 6.18 at least). Regions come in
        // ascending order, so whatever lies before the end of the last one was looked at.
        let told = out[..count].last().map_or(0, |region| region.end);
        Ok((count, walked.max(told)))
    }

    /// Before Linux 6.7: one word a page (`Documentation/admin-guide/mm/pagemap.rst`). The zero page is not told
    /// from others, since frame numbers are hidden from ordinary users.
    fn read_entries(&self, start: u64, end: u64, mut sort: impl FnMut(PageRegion)) -> Result<()> {
        let mut words = vec![0u8; 512 * 1024];
        let mut at = start;
        while at < end {
            let want = (((end - at) / 4096 * 8) as usize).min(words.len());
            let got = rustix::io::pread(&self.file, &mut words[..want], at / 4096 * 8)?;
            if got == 0 {
                return Ok(());
            }
            for word in words[..got].chunks_exact(8) {
                let entry = u64::from_ne_bytes(word.try_into().unwrap_or_default());
                let (present, swapped, file) = (entry >> 63 & 1, entry >> 62 & 1, entry >> 61 & 1);
                if file == 0 && (present | swapped) == 1 {
                    sort(PageRegion { start: at, end: at + 4096, categories: category::PRESENT });
                }
                at += 4096;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_regions_than_the_kernel_collects_at_a_time_are_told_once() {
        // Some end with the range, behind others it goes on.
        for (count, rest) in [(600, 0), (1023, 0), (1024, 0), (1025, 7), (3000, 100)] {
            let pages = 2 * count + rest;
            let mut memory = crate::own::Anonymous::map(pages * 4096).unwrap();
            for index in 0..count {
                memory[(2 * index + 1) * 4096] = 1;
            }
            let start = memory.as_ptr() as u64;
            let map = Pagemap::open(std::process::id() as i32).unwrap();
            let (found, _) = map.private_pages(start, start + pages as u64 * 4096).unwrap();
            let expected: Vec<u64> = (0..count as u64).map(|index| start + (2 * index + 1) * 4096).collect();
            assert_eq!(found.iter().map(|region| region.start).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|region| region.end == region.start + 4096));
        }
    }

    #[test]
    fn written_pages_are_found_and_untouched_ones_are_not() {
        const PAGES: usize = 64;
        let block = std::alloc::Layout::from_size_align(PAGES * 4096, 4096).unwrap();
        // SAFETY: the layout has a size; the block is freed below with the same layout.
        let memory = unsafe { std::alloc::alloc_zeroed(block) };
        for page in [3usize, 4, 9] {
            // SAFETY: inside the block.
            unsafe { memory.add(page * 4096).write_volatile(1) };
        }
        let start = (memory as u64).next_multiple_of(4096);
        let map = Pagemap::open(std::process::id() as i32).unwrap();
        let (pages, guards) = map.private_pages(start, start + PAGES as u64 * 4096).unwrap();
        let covered = |page: u64| {
            let at = start + page * 4096;
            pages.iter().any(|region| region.start <= at && at < region.end)
        };
        assert!(covered(3) && covered(4) && covered(9));
        assert!(guards.is_empty());
        // SAFETY: allocated above with this layout.
        unsafe { std::alloc::dealloc(memory, block) };
    }
}
