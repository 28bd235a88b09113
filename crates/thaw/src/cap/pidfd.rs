//! Descriptors of processes.

use super::{InnerCall, When};
use frost_model::Pid;
use frost_model::cap::PidFd;
use frost_model::pd::Descriptor;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

/// Makes a pidfd of a process that is gone, or, for one of the tree, something that keeps the number until the
/// process is there.
pub(super) fn make(pidfd: PidFd, flags: u32) -> Result<OwnedFd> {
    match pidfd.pid {
        None => {
            frost_sys::pidfd::pidfd_of_the_dead(open_flags(pidfd.thread, flags), pidfd.status.unwrap_or(0))
        }
        Some(_) => rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
    }
}

/// Opens one of a process or thread that is there.
pub(super) fn open(pid: Pid, thread: bool, flags: u32) -> Result<OwnedFd> {
    frost_sys::pidfd::pidfd_open(pid.raw(), open_flags(thread, flags))
}

/// PIDFD_NONBLOCK is O_NONBLOCK, PIDFD_THREAD is O_EXCL (include/uapi/linux/pidfd.h).
fn open_flags(thread: bool, flags: u32) -> u32 {
    let thread = if thread { OFlags::EXCL.bits() } else { 0 };
    flags & OFlags::NONBLOCK.bits() | thread
}

/// The calls by which a process opens a pidfd: under whatever number is free, which is closed with the rest when the
/// process is complete, and from there to its own number. `pid` is whom it denotes, as the process sees it.
pub(super) fn calls(pidfd: PidFd, pid: i32, flags: u32, descriptor: &Descriptor) -> Vec<InnerCall> {
    let fd = descriptor.fd.raw();
    let cloexec = if descriptor.close_on_exec { OFlags::CLOEXEC.bits() } else { 0 };
    let args = [pid as u64, u64::from(open_flags(pidfd.thread, flags))];
    let open = InnerCall {
        result_to: Some((1, 0)),
        when: When::Met,
        ..InnerCall::new(libc::SYS_pidfd_open, &args, fd)
    };
    let place = InnerCall::new(libc::SYS_dup3, &[0, fd as u64, u64::from(cloexec)], fd);
    vec![open, InnerCall { when: When::Met, ..place }]
}
