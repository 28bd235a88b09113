//! Descriptors of processes.

use super::recognise::Refusal;
use super::{Error, Held, Members};
use frost_model::Pid;
use frost_model::cap::{Capability, PidFd};
use rustix::fs::OFlags;

/// Finds the process behind a pidfd: its pid inside, or `None` if it is gone.
pub(super) fn target(held: &Held, members: &Members) -> Result<Result<Option<Pid>, Refusal>, Error> {
    let info = held.info()?;
    let pid: Option<i32> = info.field("Pid").and_then(|text| text.parse().ok());
    Ok(match pid {
        // -1 is a process that was waited for, 0 one of another pid namespace (fs/pidfs.c).
        Some(-1) => Ok(None),
        Some(pid) => match members.inner(Pid::new(pid)).or_else(|| zombie(pid, members)) {
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

/// Returns the inner pid of a child of the tree that has ended and was not waited for.
fn zombie(pid: i32, members: &Members) -> Option<Pid> {
    let stat = frost_sys::proc::stat(pid).ok().filter(|stat| stat.is_zombie())?;
    members.inner(Pid::new(stat.ppid))?;
    let status = frost_sys::proc::status(pid).ok()?;
    Some(Pid::new(status.number().unwrap_or(pid)))
}

/// Captures a pidfd.
pub(super) fn capture(held: &Held, members: &Members) -> Result<Capability, Error> {
    let pid = target(held, members)?.map_err(|_| Error::Refused { object: held.describe() })?;
    // PIDFD_THREAD is O_EXCL, which stays in the flags (include/uapi/linux/pidfd.h, Linux 6.9).
    Ok(Capability::PidFd(PidFd { pid, thread: held.flags.contains(OFlags::EXCL) }))
}
