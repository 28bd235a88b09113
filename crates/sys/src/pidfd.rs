//! Process descriptors: the only hold on a process that cannot be mistaken for another.

use crate::raw::check;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Result;

/// Duplicates descriptor `fd` of the process behind `pidfd` into our table, close-on-exec.
///
/// Works for any kind of descriptor, O_PATH included; needs the right to ptrace-attach to the process.
///
/// Source: `pidfd_getfd(2)`, Linux 5.6.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    // SAFETY: the call takes three integers and touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
