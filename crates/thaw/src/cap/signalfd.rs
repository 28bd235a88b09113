//! Descriptors that read signals.

use super::file;
use frost_model::cap::SignalFd;
use rustix::fd::OwnedFd;
use rustix::io::Result;

/// Makes a signalfd: it reads the signals of whoever reads it, so it can be made by us.
pub(super) fn make(signals: SignalFd, flags: u32) -> Result<OwnedFd> {
    let fd = frost_sys::signalfd::signalfd(signals.mask)?;
    file::set_status(&fd, flags)?;
    Ok(fd)
}
