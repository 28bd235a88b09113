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

/// Returns the wait status of a process behind a pidfd that was waited for; `None` if it was not, or is not told.
///
/// Source: PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15.
pub fn end_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // `struct pidfd_info` of include/uapi/linux/pidfd.h, as first released: a mask of 64 bits, at 60 the status.
    const GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
    const EXIT: u32 = 1 << 3;
    let mut info = [0u32; 16];
    info[0] = EXIT;
    // SAFETY: the call reads and fills 64 bytes, which `info` has.
    check(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, info.as_mut_ptr()) }).ok()?;
    (info[0] & EXIT != 0).then_some(info[15] as i32)
}

/// Makes a pidfd of a process that is gone, with flags as [`pidfd_open`]: one of a child that ends at once, with this wait
/// status, and is waited for.
pub fn pidfd_of_the_dead(flags: u32, status: i32) -> Result<OwnedFd> {
    // Exit signal 0: nobody is told, and only __WALL finds it.
    // SAFETY: the child makes system calls only.
    match unsafe { crate::clone::fork_with(0, &[], 0) }? {
        crate::clone::Clone::Child => {
            let signal = status & 0x7f;
            // SAFETY: calls about this process alone; the last one ends it.
            unsafe {
                if signal != 0 {
                    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                    libc::signal(signal, libc::SIG_DFL);
                    let mut mask: libc::sigset_t = std::mem::zeroed();
                    libc::sigaddset(&raw mut mask, signal);
                    libc::sigprocmask(libc::SIG_UNBLOCK, &raw const mask, std::ptr::null_mut());
                    libc::kill(libc::getpid(), signal);
                }
                libc::_exit(status >> 8 & 0xff)
            }
        }
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
        let fd = pidfd_of_the_dead(0, 0).unwrap();
        assert_eq!(crate::fdinfo::FdInfo::of_ours(&fd).unwrap().field("Pid"), Some("-1"));
    }
}
