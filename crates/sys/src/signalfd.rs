//! Descriptors that read signals.

use crate::raw::check;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Result;

/// Makes a signalfd for `mask` (bit 0 for signal 1), close-on-exec.
pub fn signalfd(mask: u64) -> Result<OwnedFd> {
    // SAFETY: `mask` is a live word, and its size is what the kernel expects of a signal set.
    let fd = check(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8, libc::SFD_CLOEXEC) })?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
