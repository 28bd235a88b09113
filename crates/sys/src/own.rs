//! Memory of our own: anonymous mappings, and how much of it was used.

use crate::raw::check;
use rustix::fd::{IntoRawFd, OwnedFd};
use rustix::io::Result;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The size of a huge page of x86-64.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A private anonymous mapping, aligned to a huge page, zero at first.
#[derive(Debug)]
pub struct Anonymous {
    start: NonNull<u8>,
    len_bytes: usize,
    /// The whole mapping, of which the aligned part is used.
    mapped: NonNull<u8>,
    mapped_bytes: usize,
}

impl Anonymous {
    /// Maps `len_bytes`.
    ///
    /// # Errors
    /// ENOMEM; EINVAL for no bytes at all.
    pub fn map(len_bytes: usize) -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let mapped_bytes = len_bytes
            .checked_add(HUGE_PAGE_BYTES)
            .filter(|_| len_bytes > 0)
            .ok_or(rustix::io::Errno::INVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody has.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let mapped = NonNull::new(mapped.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        let skip = mapped.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `skip` is less than a huge page, by which the mapping is longer than what is used of it.
        let start = unsafe { mapped.add(skip) };
        Ok(Self { start, len_bytes, mapped, mapped_bytes })
    }

    /// Asks for huge pages, which the kernel then gives at the first touch where it has some.
    ///
    /// # Errors
    /// EINVAL if the kernel has none (CONFIG_TRANSPARENT_HUGEPAGE).
    pub fn prefer_huge_pages(&mut self) -> Result<()> {
        // SAFETY: the range is our mapping, and the call leaves its content as it is.
        unsafe {
            rustix::mm::madvise(self.start.as_ptr().cast(), self.len_bytes, rustix::mm::Advice::LinuxHugepage)
        }
    }
}

/// Maps `count` regions of one page, for the life of the process; none has the rights of its neighbours, so the kernel
/// keeps them apart.
pub fn map_patchwork(count: usize) -> Result<()> {
    const PAGE: usize = 4096;
    let memory = Anonymous::map(count * PAGE)?;
    for index in (0..count).step_by(2) {
        // SAFETY: the page lies in our mapping, which nobody reads or writes: it is forgotten below.
        let page = unsafe { memory.start.as_ptr().add(index * PAGE) };
        // SAFETY: as above.
        unsafe { rustix::mm::mprotect(page.cast(), PAGE, rustix::mm::MprotectFlags::READ) }?;
    }
    std::mem::forget(memory);
    Ok(())
}

impl Deref for Anonymous {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `map` made `len_bytes` readable bytes there, which live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len_bytes) }
    }
}

impl DerefMut for Anonymous {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed mutably, and nobody else knows the address.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len_bytes) }
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives `self`. It cannot fail for such a range.
        let _ = unsafe { rustix::mm::munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// Returns the greatest resident set that any one of the children had for which we have waited, in bytes, and
/// theirs if they have waited for them.
///
/// Source: `getrusage(2)`, RUSAGE_CHILDREN; `ru_maxrss` counts KiB.
pub fn peak_of_children_bytes() -> Result<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the struct, which is of its size.
    check(libc::c_long::from(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) }))?;
    // SAFETY: zeroed bytes are a valid rusage, and the call has filled it.
    let usage = unsafe { usage.assume_init() };
    Ok(u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024)
}

/// Returns how much processor time the children took for which we have waited, and theirs if they have waited for them.
///
/// Source: `getrusage(2)`, RUSAGE_CHILDREN.
pub fn processor_time_of_children() -> Result<std::time::Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the struct, which is of its size.
    check(libc::c_long::from(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) }))?;
    // SAFETY: zeroed bytes are a valid rusage, and the call has filled it.
    let usage = unsafe { usage.assume_init() };
    let of = |time: libc::timeval| {
        let (seconds, micros) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_usec));
        std::time::Duration::from_micros(seconds.unwrap_or(0) * 1_000_000 + micros.unwrap_or(0))
    };
    Ok(of(usage.ru_utime) + of(usage.ru_stime))
}

/// Opens what stands for standard input and output where nobody is to read or write: `/dev/null`, or, where that is missing or
/// not open to all, a counter of events that nobody waits for.
///
/// Allocates nothing, so a child may call it.
pub fn nowhere() -> Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{Mode, OFlags, open};
    open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .or_else(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
}

/// Closes every descriptor of ours but `keep`, standard input and output included, and opens [`nowhere`] for those.
///
/// For a process that stays behind and must hold nothing. Whatever still owns a descriptor of ours must not be used nor
/// dropped afterwards.
pub fn close_all_but(keep: Option<i32>) {
    let keep = keep.unwrap_or(-1);
    // SAFETY: the calls take integers and a constant string; the caller uses no other descriptor from here on.
    unsafe {
        let null = nowhere().map_or(-1, IntoRawFd::into_raw_fd);
        for fd in 0..3 {
            if fd != keep {
                libc::dup2(null, fd);
            }
        }
        let (mut from, last) = (3u32, libc::c_uint::MAX);
        if let Ok(keep) = u32::try_from(keep)
            && keep >= from
        {
            if keep > from {
                libc::syscall(libc::SYS_close_range, from, keep - 1, 0);
            }
            from = keep + 1;
        }
        libc::syscall(libc::SYS_close_range, from, last, 0);
    }
}

/// Makes every capability that we have survive the execution of another program by our children.
///
/// Source: capabilities(7): an ambient capability must be permitted and inheritable.
pub fn keep_capabilities_over_exec() -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    const PR_CAP_AMBIENT: libc::c_int = 47;
    const PR_CAP_AMBIENT_RAISE: libc::c_ulong = 2;
    let header = [VERSION_3, 0];
    // Effective, permitted, inheritable; the low halves first, then the high ones.
    let mut data = [0u32; 6];
    // SAFETY: header and data have the layout of version 3 (linux/capability.h) and are live.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    data[2] = data[1];
    data[5] = data[4];
    // SAFETY: as above; only read.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    let permitted = u64::from(data[1]) | u64::from(data[4]) << 32;
    for capability in (0..64u64).filter(|capability| permitted & (1 << capability) != 0) {
        // SAFETY: the call takes integers.
        check(unsafe { libc::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0u64, 0u64) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zero_and_writable() {
        let mut memory = Anonymous::map(3 * HUGE_PAGE_BYTES).unwrap();
        assert!(memory.as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES));
        assert!(memory.iter().step_by(4096).all(|byte| *byte == 0));
        // Whether there are huge pages depends on the machine; the content does not.
        let _ = memory.prefer_huge_pages();
        memory[HUGE_PAGE_BYTES] = 7;
        assert_eq!((memory[HUGE_PAGE_BYTES - 1], memory[HUGE_PAGE_BYTES]), (0, 7));
    }
}
