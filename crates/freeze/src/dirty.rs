//! Which pages of a running process were written since they were read.
//!
//! A [`Tracker`] is a userfaultfd of the process' address space, held by us (`frost_sys::userfaultfd`). It lives from
//! one look to the next; its descriptor may be handed to somebody else who keeps it until then.
//!
//! Only private anonymous memory is tracked. Private mappings of files are not, since there a page that was given back
//! (MADV_DONTNEED) leaves a mark that reads like an unwritten page; nor is memory that others may write by other ways:
//! shared mappings, and, while a descriptor exists that reads past the page cache, any at all, since a device or a server
//! may be writing to pages that the kernel has pinned before they were protected ([`reads_directly`]). Whatever is not tracked reads as written.

use crate::reach;
use frost_abi::tape::Entry;
use frost_sys::mounts::Mount;
use frost_sys::pagemap::{PageRegion, Pagemap, Scan};
use frost_sys::pidfd;
use frost_sys::proc::{self, Mapping};
use frost_sys::userfaultfd::{self, WriteTracker};
use frost_tracee::inject::{self, Area, Job};
use frost_tracee::seize::StoppedProcess;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::collections::BTreeSet;

/// Bytes that one call of the kernel protects or releases: a longer one would stall the program.
pub(crate) const STRIDE_BYTES: u64 = 16 << 20;

/// Why a process cannot be tracked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the kernel does not track writes")]
    Kernel {
        #[source]
        source: Errno,
    },
    #[error(transparent)]
    Inject(#[from] inject::Error),
}

/// Tracks the writes of one process.
#[derive(Debug)]
pub(crate) struct Tracker {
    tracker: WriteTracker,
    registered: BTreeSet<(u64, u64)>,
    /// Whether it was registered since pages were taken last.
    is_fresh: bool,
    /// Before Linux 6.13 pages that mremap(2) took out of a tracked mapping keep their protection, though writes lift it
    /// no more. Where such a mapping is tracked again they would read as unwritten ("mm: clear uffd-wp PTE/PMD state on
    /// mremap()"; older kernels may have it, too, and then this only takes time).
    moved_keep_protection: bool,
}

impl Tracker {
    /// Makes the stopped process create a userfaultfd, takes it away from it, and registers its mappings.
    pub(crate) fn enter(process: &StoppedProcess, mappings: &[Mapping]) -> Result<Self, Error> {
        let kernel = |source| Error::Kernel { source };
        let mut area = Area::map(process, mappings)?;
        let mut job = Job::new(0);
        job.tape.push(Entry::call(libc::SYS_userfaultfd as u64, [userfaultfd::MARKED_FLAGS, 0, 0, 0, 0, 0]));
        // Behind the halt; a failure is passed on as a number that no descriptor has.
        job.tape.push(Entry::call(libc::SYS_close as u64, [u64::MAX, 0, 0, 0, 0, 0]));
        job.tape[0].forward = area.entry_address(2) + Entry::arg_offset(0) as u64;
        let taken = area.run_halting(&mut job, 1, |so_far| match so_far.tape[0].result {
            fd @ 0.. => pidfd::pidfd_getfd(process.pidfd.as_fd(), fd as i32),
            errno => Err(Errno::from_raw_os_error(-errno as i32)),
        })?;
        area.unmap()?;
        let tracker = WriteTracker::new(taken.map_err(kernel)?).map_err(kernel)?;
        let moved_keep_protection = kernel_version() < (6, 13);
        let mut entered =
            Self { tracker, registered: BTreeSet::new(), is_fresh: false, moved_keep_protection };
        entered.register(mappings);
        Ok(entered)
    }

    /// Goes on with a tracker that somebody else has kept.
    pub(crate) fn adopt(descriptor: OwnedFd, registered: BTreeSet<(u64, u64)>) -> Self {
        let moved_keep_protection = kernel_version() < (6, 13);
        Self { tracker: WriteTracker::adopt(descriptor), registered, is_fresh: false, moved_keep_protection }
    }

    /// Returns what was registered.
    pub(crate) fn registered(&self) -> &BTreeSet<(u64, u64)> {
        &self.registered
    }

    /// Registers all mappings that can be tracked, of a process that stands still.
    pub(crate) fn register(&mut self, mappings: &[Mapping]) {
        self.registered.clear();
        let trackable: Vec<_> = mappings.iter().filter(|mapping| is_trackable(mapping)).collect();
        for beside in trackable.chunk_by(|left, right| left.end == right.start) {
            let (start, end) = (beside[0].start, beside[beside.len() - 1].end);
            // One call for all, unless one of them cannot be registered (MAP_DROPPABLE; by the program itself): that reads
            // as written.
            if self.tracker.register(start, end).is_err() {
                beside.iter().for_each(|mapping| _ = self.tracker.register(mapping.start, mapping.end));
            }
            self.registered.extend(beside.iter().map(|mapping| (mapping.start, mapping.end)));
        }
        self.is_fresh = true;
    }

    /// Does what has to be done before pages are taken for the first time behind a registration.
    pub(crate) fn begin(&mut self) {
        if std::mem::take(&mut self.is_fresh) && self.moved_keep_protection {
            for (start, end) in self.registered.iter().flat_map(|(start, end)| strides(*start, *end)) {
                let _ = self.tracker.unprotect(start, end);
            }
        }
    }

    /// Returns whether a mapping overlaps what was registered.
    pub(crate) fn covers(&self, mapping: &Mapping) -> bool {
        let before = self.registered.range(..(mapping.end, 0)).next_back();
        before.is_some_and(|range| range.1 > mapping.start)
    }

    /// Lifts all protection while the process runs, range by range so that it is not stalled; returns the ranges.
    pub(crate) fn lift(&self, mappings: &[Mapping]) -> Vec<(u64, u64)> {
        let tracked = mappings.iter().filter(|mapping| self.covers(mapping));
        let lifted = |mapping: &&Mapping| {
            strides(mapping.start, mapping.end).all(|(start, end)| self.tracker.unprotect(start, end).is_ok())
        };
        tracked.filter(lifted).map(|mapping| (mapping.start, mapping.end)).collect()
    }

    /// Ends the tracking of ranges that were lifted, of a process that stands still. That of all others ends when this is
    /// dropped, with a walk of the kernel over their pages.
    pub(crate) fn leave(&self, lifted: &[(u64, u64)], mappings: &[Mapping]) {
        // Both ascend, and there may be thousands.
        let is_lifted = |mapping: &&Mapping| {
            let behind = lifted.partition_point(|(start, _)| *start <= mapping.start);
            behind > 0 && mapping.end <= lifted[behind - 1].1
        };
        for mapping in mappings.iter().filter(|mapping| is_trackable(mapping)).filter(is_lifted) {
            // Not registered, or gone: as good.
            let _ = self.tracker.unregister(mapping.start, mapping.end);
        }
    }
}

impl AsFd for Tracker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tracker.as_fd()
    }
}

fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Lists the pages of a stride that were written since they were taken last, and takes them.
pub(crate) fn take(pagemap: &Pagemap, start: u64, end: u64) -> Result<Vec<PageRegion>, Errno> {
    pagemap.scan(Scan::TakeWritten, start, end)
}

/// Returns whether a mapping is private anonymous memory, as far as `/proc/PID/maps` tells.
pub(crate) fn is_trackable(mapping: &Mapping) -> bool {
    let name = mapping.name.as_slice();
    !mapping.shared
        && mapping.inode == 0
        && mapping.device == 0
        && (name.is_empty() || name == b"[heap]" || name.starts_with(b"[stack") || name.starts_with(b"[anon"))
}

/// Returns whether a mapping belongs to a context of asynchronous I/O, whose reads may outlive the descriptor.
pub(crate) fn is_aio_ring(mapping: &Mapping) -> bool {
    mapping.name.starts_with(b"/[aio]")
}

/// Splits a range at multiples of [`STRIDE_BYTES`].
pub(crate) fn strides(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let next = end.min((at / STRIDE_BYTES + 1) * STRIDE_BYTES);
        (at < end).then(|| (std::mem::replace(&mut at, next), next))
    })
}

/// Returns whether a process has a file open that is read past the page cache: a read from it may have pinned pages, and
/// a device or a server writes to them past all protection.
///
/// That is so with O_DIRECT, and where the file system decides it by itself: FOPEN_DIRECT_IO of FUSE
/// (`fuse_direct_io`, fs/fuse/file.c), `cache=none` of 9p and cifs (`netfs_unbuffered_read_iter_locked`,
/// fs/netfs/direct_read.c). Which of these files are read so is not told.
pub(crate) fn reads_directly(pid: i32) -> bool {
    // NFS does so with O_DIRECT only.
    let by_itself = |mount: &Mount| !matches!(mount.file_system.as_str(), "nfs" | "nfs4");
    let served: Vec<u64> =
        reach::served(pid).iter().filter(|mount| by_itself(mount)).map(|mount| mount.id).collect();
    let direct = |(fd, link): &(i32, Vec<u8>)| {
        // Of a pipe, O_DIRECT says that it keeps packets apart.
        link.starts_with(b"/")
            && proc::read(pid, &format!("fdinfo/{fd}")).is_ok_and(|text| {
                let text = String::from_utf8_lossy(&text);
                let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
                let mount = field("mnt_id:").and_then(|id| id.parse().ok());
                flags.is_some_and(|flags| flags & libc::O_DIRECT != 0)
                    || mount.is_some_and(|id| served.contains(&id))
            })
    };
    proc::open_files(pid).unwrap_or_default().iter().any(direct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_cover_a_range_once() {
        let (start, end) = (3 * STRIDE_BYTES - 4096, 5 * STRIDE_BYTES + 4096);
        let found: Vec<_> = strides(start, end).collect();
        assert_eq!((found[0].0, found[found.len() - 1].1, found.len()), (start, end, 4));
        assert!(found.windows(2).all(|pair| pair[0].1 == pair[1].0));
        assert_eq!(strides(start, start).count(), 0);
    }
}
