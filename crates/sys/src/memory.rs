//! Memory of another process.

use crate::raw::check;
use rustix::io::Result;

/// Reads from `address` of process `pid` into `out` and returns how many bytes were read.
///
/// Less is read if an unreadable page comes first. Source: `process_vm_readv(2)`.
pub fn read(pid: i32, address: u64, out: &mut [u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: out.len() };
    // SAFETY: `local` describes `out`, which is ours to write for the whole call; the remote address is only
    // looked up in the other process.
    check(unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) } as libc::c_long)
        .map(|n| n as usize)
}

/// Most parts that one call of [`read_parts`] takes (UIO_MAXIOV, `include/uapi/linux/uio.h`).
pub const MOST_PARTS: usize = 1024;

/// A part of the memory of a process: its address, and where it is read to.
pub type Part<'a> = (u64, &'a mut [u8]);

/// Reads `parts` of process `pid` in their order and returns how many bytes were read; those behind an unreadable page are
/// not.
///
/// # Errors
/// If nothing was read: [EFAULT](rustix::io::Errno::FAULT) if the first page cannot be; EINVAL for more than
/// [`MOST_PARTS`]. Source: `process_vm_readv(2)`.
pub fn read_parts(pid: i32, parts: &mut [Part<'_>]) -> Result<usize> {
    let iovec = |start: *mut u8, len: usize| libc::iovec { iov_base: start.cast(), iov_len: len };
    let local: Vec<_> = parts.iter_mut().map(|(_, out)| iovec(out.as_mut_ptr(), out.len())).collect();
    let remote: Vec<_> = parts.iter().map(|(address, out)| iovec(*address as *mut u8, out.len())).collect();
    let count = parts.len() as libc::c_ulong;
    // SAFETY: `local` describes the slices of `parts`, which are ours to write for the whole call and part from one another; the
    // remote addresses are only looked up in the other process.
    check(unsafe { libc::process_vm_readv(pid, local.as_ptr(), count, remote.as_ptr(), count, 0) }
        as libc::c_long)
    .map(|n| n as usize)
}

/// Writes `bytes` to `address` of process `pid` and returns how many were written.
///
/// Obeys the protection of the pages, so it fails on a guard page. Source: `process_vm_writev(2)`.
pub fn write(pid: i32, address: u64, bytes: &[u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: `local` describes `bytes`, which the call only reads; the remote address is only looked up in the
    // other process.
    check(unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) } as libc::c_long)
        .map(|n| n as usize)
}
