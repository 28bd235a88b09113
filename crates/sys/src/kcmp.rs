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
