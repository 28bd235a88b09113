//! Write tracking by userfaultfd: write-protected pages whose faults the kernel resolves by itself.
//!
//! Of userfaultfd only WP_ASYNC is used (Linux 6.7): the first write to a protected page lifts its protection in the
//! kernel, nobody is asked and nobody waits. Which pages are still protected is told by
//! [`Pagemap`](crate::pagemap::Pagemap).
//!
//! The descriptor belongs to the address space in which it was made, not to whoever holds it. When its last holder
//! closes it, or dies, the kernel lifts all protections and forgets all registrations.

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, Result};

/// Flags of userfaultfd(2) for [`WriteTracker`]: faults of the kernel on a program's behalf are resolved as well, since
/// nobody is asked; so no right is needed (`vm.unprivileged_userfaultfd` may be 0).
pub const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;

/// The argument with which a program is made to call userfaultfd(2) for [`WriteTracker`]: [`FLAGS`], and a mark in the
/// upper half, which the kernel does not look at (`SYSCALL_DEFINE1(userfaultfd, int, flags)`, fs/userfaultfd.c) but a
/// filter of system calls does. No program has it there by accident: it is no address, and no text.
pub const MARKED_FLAGS: u64 = 0x9e1d_f057 << 32 | FLAGS as u64;

// `include/uapi/linux/userfaultfd.h`, Linux 6.7.
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_API: u64 = 0xaa;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_MISSING: u64 = 1 << 0;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

const _: () = assert!(size_of::<Api>() == 24);
const _: () = assert!(size_of::<Range>() == 16);
const _: () = assert!(size_of::<Register>() == 32);
const _: () = assert!(size_of::<WriteProtect>() == 24);

/// Tracks which pages of an address space are written.
#[derive(Debug)]
pub struct WriteTracker(OwnedFd);

impl WriteTracker {
    /// Makes a tracker of a fresh userfaultfd, which was made with [`FLAGS`] by the process to be tracked.
    ///
    /// # Errors
    /// [`Errno::INVAL`] if this kernel has no WP_ASYNC.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let mut api = Api { api: UFFD_API, features: FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED, ioctls: 0 };
        // SAFETY: the request reads and writes a struct uffdio_api, which `api` is (size asserted above).
        check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API as _, &raw mut api) })?;
        Ok(Self(fd))
    }

    /// Makes a tracker of one that was in use already, as another process has kept it.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Registers the mappings of a range. No page is protected by it.
    ///
    /// A mapping of which the range is a part becomes two for the kernel, and mremap(2) over both of them fails with EFAULT.
    /// So the program must stand still since its mappings were read.
    ///
    /// # Errors
    /// [`Errno::BUSY`] if they are registered elsewhere, as by the program itself; [`Errno::INVAL`] for memory that
    /// cannot be tracked (MAP_DROPPABLE) or that is not there; [`Errno::NOMEM`] if the address space is gone.
    pub fn register(&self, start: u64, end: u64) -> Result<()> {
        self.register_as(start, end, REGISTER_MODE_WP)
    }

    fn register_as(&self, start: u64, end: u64, mode: u64) -> Result<()> {
        let range = Range { start, len: end - start };
        let mut register = Register { range, mode, ioctls: 0 };
        // SAFETY: as above, struct uffdio_register.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER as _, &raw mut register) }).map(drop)
    }

    /// Ends the registration of mappings in a range, of which no page is protected any more, while the program stands still.
    ///
    /// The kernel walks over all pages of what was registered for WP, 100 ns each, and holds the lock of the address space
    /// for so long. Once registered for missing pages instead, which takes no walk, it has nothing to lift
    /// (`userfaultfd_set_vm_flags` and `userfaultfd_clear_vma`, fs and mm/userfaultfd.c). Between the two a fault would wait,
    /// or fail.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn unregister(&self, start: u64, end: u64) -> Result<()> {
        self.register_as(start, end, REGISTER_MODE_MISSING)?;
        let mut range = Range { start, len: end - start };
        // SAFETY: as above, struct uffdio_range.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_UNREGISTER as _, &raw mut range) }).map(drop)
    }

    /// Lifts the protection of all pages of a registered range: they count as written.
    ///
    /// # Errors
    /// [`Errno::NOENT`] if a part of it is not registered, [`Errno::SRCH`] if the address space is gone.
    pub fn unprotect(&self, start: u64, end: u64) -> Result<()> {
        self.write_protect(start, end, 0)
    }

    /// Protects all populated pages of a registered range, whatever they are: they count as not written.
    ///
    /// # Errors
    /// As [`unprotect`](Self::unprotect).
    pub fn protect(&self, start: u64, end: u64) -> Result<()> {
        self.write_protect(start, end, WRITEPROTECT_MODE_WP)
    }

    fn write_protect(&self, start: u64, end: u64, mode: u64) -> Result<()> {
        loop {
            let mut protect = WriteProtect { range: Range { start, len: end - start }, mode };
            // SAFETY: as above, struct uffdio_writeprotect.
            let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_WRITEPROTECT as _, &raw mut protect) };
            match check(done) {
                Ok(_) => return Ok(()),
                // The mappings are just being changed (`mmap_changing`, mm/userfaultfd.c).
                Err(Errno::AGAIN) => std::thread::yield_now(),
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for WriteTracker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<WriteTracker> for OwnedFd {
    fn from(tracker: WriteTracker) -> Self {
        tracker.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own::Anonymous;
    use crate::pagemap::{Pagemap, Scan, category};
    use rustix::fd::FromRawFd;

    const PAGE: usize = 4096;

    /// A tracker of our own memory, where the kernel has it.
    fn tracker() -> Option<WriteTracker> {
        // SAFETY: the call takes an integer; the descriptor is nobody else's.
        let fd = unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, MARKED_FLAGS);
            (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
        };
        let tracker = fd.and_then(|fd| WriteTracker::new(fd).ok());
        if tracker.is_none() {
            eprintln!("skipped: this kernel has no write tracking");
        }
        tracker
    }

    fn pages(map: &Pagemap, scan: Scan, start: u64, len: u64) -> Vec<(u64, u64, bool)> {
        let found = map.scan(scan, start, start + len).unwrap();
        let page = |address: u64| (address - start) / PAGE as u64;
        let clean =
            |categories| categories & (category::WPALLOWED | category::WRITTEN) == category::WPALLOWED;
        found.iter().map(|found| (page(found.start), page(found.end), clean(found.categories))).collect()
    }

    #[test]
    fn what_is_written_after_it_was_taken_is_told_once_more() {
        let Some(tracker) = tracker() else { return };
        let mut memory = Anonymous::map(5000 * PAGE).unwrap();
        // Alternating pages: more runs than the kernel collects at a time, and the end of the range is a hole.
        (0..2000).for_each(|index| memory[2 * index * PAGE] = 1);
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let map = Pagemap::open(std::process::id() as i32).unwrap();
        tracker.register(start, start + len).unwrap();
        let taken = pages(&map, Scan::TakeWritten, start, len);
        assert_eq!(
            taken.iter().map(|run| run.0).collect::<Vec<_>>(),
            (0..2000).map(|index| 2 * index).collect::<Vec<_>>()
        );
        assert!(pages(&map, Scan::TakeWritten, start, len).is_empty());
        // Written again, and written for the first time.
        memory[6 * PAGE] = 2;
        memory[7 * PAGE] = 2;
        memory[4999 * PAGE] = 2;
        let seen = pages(&map, Scan::Look, start, len);
        assert_eq!(
            seen.iter().filter(|run| !run.2).copied().collect::<Vec<_>>(),
            [(6, 8, false), (4999, 5000, false)]
        );
        assert_eq!(seen.iter().filter(|run| run.2).count(), 1999);
        let taken = pages(&map, Scan::TakeWritten, start, len);
        assert_eq!(taken.iter().map(|run| (run.0, run.1)).collect::<Vec<_>>(), [(6, 8), (4999, 5000)]);
    }

    #[test]
    fn what_is_given_back_is_no_page_any_more() {
        let Some(tracker) = tracker() else { return };
        let mut memory = Anonymous::map(4096 * PAGE).unwrap();
        memory.fill(1);
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let map = Pagemap::open(std::process::id() as i32).unwrap();
        tracker.register(start, start + len).unwrap();
        map.scan(Scan::TakeWritten, start, start + len).unwrap();
        // A few pages, and what fills several page tables, which vanish with it.
        for (from, count) in [(10, 3), (512, 2048)] {
            // SAFETY: inside of the memory, whose bytes are plain integers.
            unsafe {
                let at = memory.as_mut_ptr().add(from * PAGE);
                assert_eq!(libc::madvise(at.cast(), count * PAGE, libc::MADV_DONTNEED), 0);
            }
        }
        let seen = pages(&map, Scan::Look, start, len);
        let populated: u64 = seen.iter().map(|run| run.1 - run.0).sum();
        assert_eq!(populated, 4096 - 3 - 2048, "{seen:?}");
        tracker.unprotect(start, start + len).unwrap();
        tracker.unregister(start, start + len).unwrap();
        memory[4000 * PAGE] = 2;
        assert!(memory[600 * PAGE] == 0 && memory[4095 * PAGE] == 1);
        assert!(pages(&map, Scan::Look, start, len).iter().all(|run| !run.2));
    }
}
