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

/// Helps a process that was killed to give its memory back: the caller frees what the process has not come to yet.
///
/// # Errors
/// ESRCH if it has none any more, EINVAL or EAGAIN if it is not dying or shares its memory with one that is not, ENOSYS
/// before Linux 5.15. It ends all the same.
///
/// Source: `process_mrelease(2)`, `mm/oom_kill.c`.
pub fn release_memory(pidfd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) }).map(drop)
}

/// Opens a pidfd of a thread, leader or not.
///
/// Source: `pidfd_open(2)`, PIDFD_THREAD, Linux 6.9; EINVAL before.
pub fn pidfd_of_thread(tid: i32) -> Result<OwnedFd> {
    pidfd_open(tid, libc::O_EXCL as u32)
}

/// Opens a pidfd with flags that the caller knows (PIDFD_NONBLOCK, PIDFD_THREAD).
pub fn pidfd_open(id: i32, flags: u32) -> Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) })?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes a pidfd of a process that is gone, with flags as [`pidfd_open`]: one of a child that ends at once and is waited for.
pub fn pidfd_of_the_dead(flags: u32) -> Result<OwnedFd> {
    // Exit signal 0: nobody is told, and only __WALL finds it.
    // SAFETY: the child makes one system call, which does not return.
    match unsafe { crate::clone::fork_with(0, &[], 0) }? {
        // SAFETY: ends this process without running anything else of ours.
        crate::clone::Clone::Child => unsafe { libc::_exit(0) },
        crate::clone::Clone::Parent { pid, .. } => {
            let opened = pidfd_open(pid, flags);
            let mut status = 0;
            loop {
                // SAFETY: `status` is a live integer.
                match check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error),
                    Ok(_) => return opened,
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_have_no_pid() {
        let fd = pidfd_of_the_dead(0).unwrap();
        assert_eq!(crate::fdinfo::FdInfo::of_ours(&fd).unwrap().field("Pid"), Some("-1"));
    }
}
