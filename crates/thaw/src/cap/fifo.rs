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
    /// The node, if it has no name.
    node: Option<OwnedFd>,
    _both_ends: Option<OwnedFd>,
}

/// Looks whether a fifo is still there, without opening an end of it.
pub(super) fn look(fifo: &Fifo) -> Result<(), Problem> {
    if fifo.deleted {
        return Ok(());
    }
    file::open(&fifo.file, OFlags::PATH.bits(), Same::Node).map(drop)
}

/// Opens a fifo for both ends and puts its content into it, unless something is in it already: then others kept it
/// open while the program was away, and its content stayed there.
pub(super) fn hold(fifo: &Fifo, pipe: &Pipe) -> Result<Holder, Error> {
    let path = &fifo.file.path;
    let deleted = fifo.deleted.then(|| make_deleted(&fifo.file)).transpose().about("make", path)?;
    if !pipe.writers && pipe.content.is_empty() {
        // A reader to which no writer ever came must not see one come and go.
        return Ok(Holder { node: deleted, _both_ends: None });
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match &deleted {
        Some(node) => rustix::fs::open(file::own_path(node), flags, Mode::empty()),
        None => rustix::fs::open(path.as_path(), flags, Mode::empty()),
    };
    let fd = fd.about("open", path)?;
    if rustix::io::ioctl_fionread(&fd).about("look into", path)? == 0 {
        pipe::set_capacity(&fd, pipe.capacity_bytes).about("set the size of", path)?;
        pipe::fill(&fd, pipe).about("write", path)?;
    }
    Ok(Holder { node: deleted, _both_ends: Some(fd) })
}

/// Makes a fifo that has no name any more: at its old path if that is free, so that the kernel calls it as it did.
fn make_deleted(file: &FileRef) -> rustix::io::Result<OwnedFd> {
    let old = file.path.as_path();
    let elsewhere =
        ["/var/tmp", "/tmp"].map(|directory| std::path::Path::new(directory).join(super::nobodys_name()));
    let mut result = Err(rustix::io::Errno::NOENT);
    for path in [old, &elsewhere[0], &elsewhere[1]] {
        let mode = Mode::from_raw_mode(file.identity.mode & 0o7777);
        result = rustix::fs::mkfifoat(rustix::fs::CWD, path, mode);
        if result.is_ok() {
            let node = rustix::fs::open(
                frost_sys::sight::of(path),
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            );
            rustix::fs::unlink(path)?;
            return node;
        }
    }
    result.and(Err(rustix::io::Errno::NOENT))
}

/// Opens a description; with O_NONBLOCK at first, and the holder as the other end, this cannot wait.
pub(super) fn description(holder: &Holder, fifo: &Fifo, flags: u32) -> Result<OwnedFd, Error> {
    let path = &fifo.file.path;
    let open = flags & !OFlags::DIRECT.bits();
    let fd = match &holder.node {
        Some(node) => file::reopen(node, open).about("open", path)?,
        None => file::open(&fifo.file, open, Same::Node)
            .map_err(|problem| Error::Changed { object: path.to_string(), reason: problem.reason })?,
    };
    file::set_status(&fd, flags).about("set the flags of", path)?;
    Ok(fd)
}
