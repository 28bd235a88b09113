//! An enclosure: namespaces in which a program finds nothing of the outside but what it is given.

use crate::clone::{Clone, fork_with};
use rustix::io::{Errno, Result};

/// Forks into user, pid, mount, ipc and uts namespaces, and a network one if `network`; the child is pid 1 there.
///
/// A new network has not even a loopback that is up. No process outside can be named, signalled or looked at. The user
/// namespace is made for root as well: rights in there are none outside.
///
/// # Errors
/// EBUSY if the process has other threads; EPERM or ENOSPC if namespaces are not to be had.
pub fn fork(network: bool) -> Result<Clone> {
    if crate::proc::threads(std::process::id() as i32)?.len() != 1 {
        return Err(Errno::BUSY);
    }
    let network = if network { libc::CLONE_NEWNET } else { 0 };
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: this process has one thread, so the child has all of them and every lock is consistent.
    unsafe { fork_with((flags | network) as u64, &[], libc::SIGCHLD) }
}
