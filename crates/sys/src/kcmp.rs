//! Whether two processes share a kernel object.

use crate::raw::check;
use rustix::io::Result;
use std::cmp::Ordering;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The open file descriptions behind one descriptor of each.
    File(i32, i32),
    /// The address spaces.
    Vm,
    /// The descriptor tables.
    Files,
    /// The file system contexts (cwd, root, umask).
    Fs,
    /// The signal handler tables.
    SigHand,
    /// The System V semaphore undo lists.
    SysVSem,
}

/// Compares a kernel object of two processes: `Equal` if it is the same, else an order that is the same for as
/// long as both exist.
///
/// Source: `kcmp(2)`; needs CONFIG_KCMP and the right to read both processes.
pub fn kcmp(a: i32, b: i32, resource: Resource) -> Result<Ordering> {
    // The numbers are those of enum kcmp_type, include/uapi/linux/kcmp.h.
    let (kind, first, second) = match resource {
        Resource::File(first, second) => (0, first, second),
        Resource::Vm => (1, 0, 0),
        Resource::Files => (2, 0, 0),
        Resource::Fs => (3, 0, 0),
        Resource::SigHand => (4, 0, 0),
        Resource::SysVSem => (6, 0, 0),
    };
    // SAFETY: the call takes five integers and touches no memory of ours.
    match check(unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, i64::from(first), i64::from(second)) })? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        // 2 is "greater"; 3 is "not equal, order unknown", which the kernel gives for nothing we compare.
        _ => Ok(Ordering::Greater),
    }
}

/// Compares the file behind descriptor `fd` of process `a` with one that an epoll instance of process `b` watches:
/// the `nth` that was added under number `watched`.
///
/// # Errors
/// ENOENT if the instance watches no such file.
///
/// Source: `kcmp(2)`, KCMP_EPOLL_TFD, Linux 4.13.
pub fn kcmp_watched(a: i32, fd: i32, b: i32, epoll: i32, watched: i32, nth: u32) -> Result<Ordering> {
    /// `struct kcmp_epoll_slot`.
    #[repr(C)]
    struct Slot {
        epoll: u32,
        watched: u32,
        nth: u32,
    }
    let slot = Slot { epoll: epoll as u32, watched: watched as u32, nth };
    // SAFETY: `slot` is a live object of the layout that KCMP_EPOLL_TFD (7) reads.
    match check(unsafe { libc::syscall(libc::SYS_kcmp, a, b, 7, i64::from(fd), &raw const slot) })? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        _ => Ok(Ordering::Greater),
    }
}
