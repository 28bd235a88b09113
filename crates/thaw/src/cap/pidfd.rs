//! Descriptors of processes.

use super::InnerCall;
use frost_model::cap::PidFd;
use frost_model::pd::Descriptor;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

/// Makes a pidfd of a process that is gone, or, for one of the tree, something that keeps the number until the
/// process is there.
pub(super) fn make(pidfd: PidFd) -> Result<OwnedFd> {
    match pidfd.pid {
        None => frost_sys::pidfd::pidfd_of_the_dead(),
        Some(_) => rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
    }
}

/// The calls by which a process makes its own pidfd: under whatever number is free, which is closed with the rest
/// when the process is complete, and from there to its own number. `pid` is whom it denotes, as the process sees it.
pub(super) fn calls(pidfd: PidFd, pid: Option<i32>, flags: u32, descriptor: &Descriptor) -> Vec<InnerCall> {
    let Some(pid) = pid else { return Vec::new() };
    // PIDFD_NONBLOCK is O_NONBLOCK, PIDFD_THREAD is O_EXCL (include/uapi/linux/pidfd.h).
    let nonblock = flags & OFlags::NONBLOCK.bits();
    let thread = if pidfd.thread { OFlags::EXCL.bits() } else { 0 };
    let fd = descriptor.fd.raw();
    let cloexec = if descriptor.close_on_exec { OFlags::CLOEXEC.bits() } else { 0 };
    let open = InnerCall {
        result_to: Some((1, 0)),
        ..InnerCall::new(libc::SYS_pidfd_open, &[pid as u64, u64::from(nonblock | thread)], fd)
    };
    vec![open, InnerCall::new(libc::SYS_dup3, &[0, fd as u64, u64::from(cloexec)], fd)]
}
