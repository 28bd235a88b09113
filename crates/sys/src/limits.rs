//! Resource limits by number.

use crate::raw::check;
use rustix::io::Result;

/// Reads the soft and the hard value of a limit of the calling process; `u64::MAX` is RLIM_INFINITY.
///
/// Source: `prlimit(2)`.
pub fn get(number: u32) -> Result<(u64, u64)> {
    let mut limit = [0u64; 2];
    // SAFETY: `limit` has the layout of struct rlimit64 and is writable; no new value is given.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, 0usize, limit.as_mut_ptr()) })?;
    Ok(limit.into())
}

/// Sets a limit of the calling process.
pub fn set(number: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: `limit` has the layout of struct rlimit64 and is only read; no old value is asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, limit.as_ptr(), 0usize) }).map(drop)
}
