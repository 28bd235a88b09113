//! Named pipes.

use super::error::{About, Error};
use super::file::{self, Problem, Same};
use super::pipe;
use frost_model::cap::{Fifo, FileRef, Pipe};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// A description of both ends, which keeps opening from waiting and content from being lost.
#[derive(Debug)]
pub(super) struct Holder {
    _both_ends: Option<OwnedFd>,
}

/// Looks whether a fifo is still there, without opening an end of it.
pub(super) fn look(fifo: &Fifo) -> Result<(), Problem> {
    file::open(&fifo.file, OFlags::PATH.bits(), Same::Node).map(drop)
}

/// Opens a fifo for both ends and puts its content into it, unless something is in it already: then others kept it
/// open while the program was away, and its content stayed there.
pub(super) fn hold(file: &FileRef, pipe: &Pipe) -> Result<Holder, Error> {
    if !pipe.writers && pipe.content.is_empty() {
        // A reader to which no writer ever came must not see one come and go.
        return Ok(Holder { _both_ends: None });
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(file.path.as_path(), flags, Mode::empty()).about("open", &file.path)?;
    if rustix::io::ioctl_fionread(&fd).about("look into", &file.path)? == 0 {
        pipe::set_capacity(&fd, pipe.capacity_bytes).about("set the size of", &file.path)?;
        pipe::fill(&fd, pipe).about("write", &file.path)?;
    }
    Ok(Holder { _both_ends: Some(fd) })
}

/// Opens a description; with O_NONBLOCK at first, and the holder as the other end, this cannot wait.
pub(super) fn description(_holder: &Holder, fifo: &Fifo, flags: u32) -> Result<OwnedFd, Error> {
    let direct = OFlags::DIRECT.bits();
    let fd = file::open(&fifo.file, flags & !direct, Same::Node)
        .map_err(|problem| Error::Changed { object: fifo.file.path.to_string(), reason: problem.reason })?;
    file::set_status(&fd, flags).about("set the flags of", &fifo.file.path)?;
    Ok(fd)
}
