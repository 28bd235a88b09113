//! Descriptors of processes.

use super::recognise::Refusal;
use super::{Error, Held, Members};
use frost_model::Pid;
use frost_model::cap::{Capability, PidFd};
use rustix::fd::AsFd;
use rustix::fs::OFlags;

/// The number as we see it of what a pidfd denotes: -1 if that was waited for, 0 if it is of another pid namespace
/// (fs/pidfs.c); `None` if the kernel does not tell.
pub(super) fn number(held: &Held) -> Result<Option<i32>, Error> {
    Ok(held.info()?.field("Pid").and_then(|text| text.parse().ok()))
}

/// Finds the process or thread behind a pidfd: its number inside, or `None` if it is gone.
pub(super) fn target(held: &Held, members: &Members) -> Result<Result<Option<Pid>, Refusal>, Error> {
    Ok(match number(held)? {
        Some(-1) => Ok(None),
        Some(pid) => match members.number(pid) {
            Some(inner) => Ok(Some(inner)),
            None => Err(Refusal::new(
                format!("pidfd of process {pid}"),
                "that process is not in the tree",
                "freeze an ancestor of both, or close it first",
            )),
        },
        None => Err(Refusal::new("pidfd", "the kernel does not tell of which process", "close it first")),
    })
}

/// Captures a pidfd.
pub(super) fn capture(held: &Held, members: &Members) -> Result<Capability, Error> {
    let pid = target(held, members)?.map_err(|_| Error::Refused { object: held.describe() })?;
    // Of a thread, leader or not, the number is its own. PIDFD_THREAD is O_EXCL, which stays in the flags (include/uapi/linux/pidfd.h, Linux 6.9).
    let status = if pid.is_none() { frost_sys::pidfd::end_of(held.fd.as_fd()) } else { None };
    Ok(Capability::PidFd(PidFd { pid, thread: held.flags.contains(OFlags::EXCL), status }))
}
