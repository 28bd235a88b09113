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

/// Reads the memory policy of the calling thread: MPOL_ number with flags, and the nodes that it names.
///
/// Source: `get_mempolicy(2)`.
pub fn memory_policy() -> Result<(u32, Vec<u32>)> {
    /// MAX_NUMNODES of x86-64: the kernel gives no shorter mask than all nodes that there may be.
    const NODES: u32 = 1024;
    let (mut mode, mut mask) = (0i32, [0u64; NODES as usize / 64]);
    // SAFETY: the kernel writes an integer to the one and at most NODES bits to the other.
    check(unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, mask.as_mut_ptr(), NODES, 0, 0) })?;
    let is_in = |node: &u32| mask[*node as usize / 64] >> (node % 64) & 1 == 1;
    Ok((mode as u32, (0..NODES).filter(is_in).collect()))
}

/// Reads whether the calling process gets transparent huge pages: 0 if it does, else 1 and flags. Source: `prctl(2)`.
pub fn huge_pages_disabled() -> Result<u32> {
    // SAFETY: the call takes integers, all of which but the first must be 0.
    let told = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0u64, 0u64, 0u64, 0u64) };
    check(i64::from(told)).map(|value| value as u32)
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
