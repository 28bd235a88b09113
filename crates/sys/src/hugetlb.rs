//! Files of huge pages (hugetlbfs), which memfds of MFD_HUGETLB and mappings of MAP_HUGETLB are too.
//!
//! Their pages come from a pool of the machine's, of one size each, and they are written through mappings only: the file
//! system has no write(2) (`hugetlbfs_file_operations`, fs/hugetlbfs/inode.c).

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{Errno, Result};
use std::fs;
use std::path::PathBuf;

/// `HUGETLBFS_MAGIC`, include/uapi/linux/magic.h.
pub const FILE_SYSTEM: u32 = 0x9584_58f6;

/// Returns the logarithm of the page size of a file, if it is one of huge pages.
pub fn page_shift(file: impl AsFd) -> Option<u32> {
    let stat = rustix::fs::fstatfs(file).ok()?;
    (stat.f_type as u32 == FILE_SYSTEM).then(|| (stat.f_bsize as u64).trailing_zeros())
}

/// Copies `len_bytes` of `from` at `from_offset` to a file of huge pages at `offset`.
///
/// # Errors
/// ENOMEM if the machine has no huge pages left, EIO if `from` has less.
pub fn fill(
    file: impl AsFd,
    offset: u64,
    (from, from_offset): (impl AsFd, u64),
    len_bytes: u64,
) -> Result<()> {
    let page = 1 << page_shift(&file).ok_or(Errno::INVAL)?;
    let start = offset / page * page;
    let view = View::map(file, start, (offset + len_bytes).next_multiple_of(page) - start)?;
    let mut done = 0;
    while done < len_bytes {
        let at = i64::try_from(from_offset + done).map_err(|_| Errno::INVAL)?;
        let place = (offset - start + done) as usize;
        let (from, rest) = (from.as_fd().as_raw_fd(), (len_bytes - done) as usize);
        // SAFETY: the range lies in our view, to which there is no reference.
        let got = check(unsafe { libc::syscall(libc::SYS_pread64, from, view.start.add(place), rest, at) })?;
        if got == 0 {
            return Err(Errno::IO);
        }
        done += got as u64;
    }
    Ok(())
}

/// A shared mapping of a file for as long as we write to it. The kernel reserves its pages at once, or refuses.
struct View {
    start: *mut u8,
    len_bytes: usize,
}

impl View {
    fn map(file: impl AsFd, offset: u64, len_bytes: u64) -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let len_bytes = usize::try_from(len_bytes).map_err(|_| Errno::NOMEM)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody has.
        let start = unsafe { mmap(std::ptr::null_mut(), len_bytes, rights, MapFlags::SHARED, file, offset) }?;
        Ok(Self { start: start.cast(), len_bytes })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len_bytes) };
    }
}

/// What the machine has of huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Pages that somebody can have: nobody has them and nobody was promised them, or the kernel makes them when they are asked
    /// for, if it finds the memory.
    pub free: u64,
    /// How many the kernel makes at most (`nr_overcommit_hugepages`).
    pub overcommit: u64,
}

/// Returns the directory of the pool of pages of `1 << shift` bytes.
pub fn pool_directory(shift: u32) -> PathBuf {
    PathBuf::from(format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB",
        1_u64.checked_shl(shift).unwrap_or(0) >> 10
    ))
}

/// Asks what the machine has of pages of `1 << shift` bytes; `None` if it has no pages of that size.
///
/// Source: Documentation/admin-guide/mm/hugetlbpage.rst.
pub fn pool(shift: u32) -> Option<Pool> {
    let directory = pool_directory(shift);
    let number = |name: &str| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<u64>().ok();
    let idle = number("free_hugepages")?.saturating_sub(number("resv_hugepages")?);
    let overcommit = number("nr_overcommit_hugepages")?;
    let free = idle + overcommit.saturating_sub(number("surplus_hugepages")?);
    Some(Pool { free, overcommit })
}
