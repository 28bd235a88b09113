//! Scheduling and other settings of threads that can be read from outside.

use crate::raw::check;
use rustix::io::Result;

/// `struct sched_attr` up to the fields of Linux 5.3 (`include/uapi/linux/sched/types.h`, SCHED_ATTR_SIZE_VER1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

const _: () = assert!(size_of::<SchedAttr>() == 56);

/// Reads how `tid` is scheduled. Source: `sched_getattr(2)`.
pub fn attributes(tid: i32) -> Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: the kernel writes at most `size` bytes to `attr`.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) })?;
    Ok(attr)
}

/// Reads the I/O priority of `tid`: class and level in one number. Source: `ioprio_get(2)`.
pub fn io_priority(tid: i32) -> Result<u32> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: the call takes two integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) }).map(|value| value as u32)
}

/// Reads the head and size of the robust futex list of `tid`; a head of 0 means that there is none.
///
/// Needs the right to read the thread. Source: `get_robust_list(2)`.
pub fn robust_list(tid: i32) -> Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes one word to each.
    check(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((head, len))
}
