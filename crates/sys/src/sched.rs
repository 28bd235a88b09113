//! Scheduling and other settings of threads that can be read from outside.

use crate::raw::check;
use rustix::io::{Errno, Result};

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

/// Finds out whether the kernel takes a memory policy, by giving it to a thread that ends at once.
///
/// # Errors
/// EINVAL if it does not know the mode, or if none of the nodes is here. Source: `set_mempolicy(2)`.
pub fn try_memory_policy(mode: u32, nodes: &[u32]) -> Result<()> {
    let mut mask = vec![0u64; nodes.last().map_or(0, |node| *node as usize / 64 + 1)];
    for node in nodes {
        *mask.get_mut(*node as usize / 64).ok_or(Errno::INVAL)? |= 1 << (node % 64);
    }
    // The kernel counts one bit less than it is told, and of no bits it takes no address (get_nodes, mm/mempolicy.c).
    let bits = if mask.is_empty() { 0 } else { mask.len() * 64 + 1 };
    in_a_thread(|| {
        let mask = if bits == 0 { std::ptr::null() } else { mask.as_ptr() };
        // SAFETY: the kernel reads as many bits of the mask as it has.
        check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
    })
}

/// Finds out whether there is one of these processors here, by binding a thread to them that ends at once.
///
/// # Errors
/// EINVAL if there is none. Source: `sched_setaffinity(2)`.
pub fn try_affinity(cpus: &[u32]) -> Result<()> {
    // More than any kernel has (NR_CPUS is at most 8192).
    const MOST: u32 = 65_536;
    let cpus = || cpus.iter().filter(|cpu| **cpu < MOST);
    let mut mask = vec![0u64; cpus().max().map_or(0, |cpu| *cpu as usize / 64 + 1)];
    for cpu in cpus() {
        mask[*cpu as usize / 64] |= 1 << (cpu % 64);
    }
    in_a_thread(|| {
        let bytes = mask.len() * 8;
        // SAFETY: the kernel reads at most `bytes` bytes of `mask`, which has as many.
        check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, mask.as_ptr()) }).map(drop)
    })
}

/// Runs `act` in a thread of its own, whose settings end with it.
fn in_a_thread(act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| match std::thread::Builder::new().spawn_scoped(scope, act) {
        Ok(thread) => thread.join().unwrap_or(Err(Errno::IO)),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_here_is_told_and_nothing_is_changed() {
        const MPOL_BIND: u32 = 2;
        let before = memory_policy().unwrap();
        assert_eq!(try_memory_policy(0, &[]), Ok(()));
        assert_eq!(try_memory_policy(MPOL_BIND, &[0, 1023]), Ok(()));
        assert_eq!(try_memory_policy(MPOL_BIND, &[1023]), Err(Errno::INVAL));
        assert_eq!(try_memory_policy(4711, &[0]), Err(Errno::INVAL));
        assert_eq!(try_affinity(&[0, 8000]).err(), try_affinity(&[0]).err());
        assert_eq!(try_affinity(&[8000, u32::MAX]), Err(Errno::INVAL));
        assert_eq!(try_affinity(&[]), Err(Errno::INVAL));
        assert_eq!(memory_policy().unwrap(), before);
    }
}
