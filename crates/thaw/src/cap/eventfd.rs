//! Event counters.

use super::file;
use frost_model::cap::EventFd;
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use rustix::io::Result;

/// Makes an eventfd. Its greatest value, 2^64 - 1, cannot be written, and is not reached by a program either.
pub(super) fn make(event: EventFd, flags: u32) -> Result<OwnedFd> {
    let semaphore = if event.semaphore { EventfdFlags::SEMAPHORE } else { EventfdFlags::empty() };
    // Only 32 bits fit into the call; the rest is written.
    let first = u32::try_from(event.count).unwrap_or(0);
    let fd = rustix::event::eventfd(first, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | semaphore)?;
    if u64::from(first) != event.count {
        rustix::io::write(&fd, &event.count.to_ne_bytes())?;
    }
    file::set_status(&fd, flags)?;
    Ok(fd)
}
