//! Pipes.

use super::file;
use frost_model::cap::Pipe;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// A pipe with its content, and both its ends.
#[derive(Debug)]
pub(super) struct Made {
    reader: OwnedFd,
    writer: OwnedFd,
    reader_used: bool,
    writer_used: bool,
    /// How many descriptions of it were made.
    descriptions: usize,
}

/// Makes a pipe and puts its content into it.
pub(super) fn make(pipe: &Pipe) -> Result<Made> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    set_capacity(&writer, pipe.capacity_bytes)?;
    fill(&writer, pipe)?;
    if let Some(node) = pipe.node {
        file::set_node(&writer, node)?;
    }
    Ok(Made { reader, writer, reader_used: false, writer_used: false, descriptions: 0 })
}

/// Sets the capacity, if it is not right already.
pub(super) fn set_capacity(fd: impl AsFd, bytes: u32) -> Result<()> {
    if fcntl_getpipe_size(&fd)? == bytes as usize {
        return Ok(());
    }
    fcntl_setpipe_size(&fd, bytes as usize).map(drop)
}

/// Writes content without ever waiting; what marks packets is O_DIRECT.
pub(super) fn fill(writer: impl AsFd, pipe: &Pipe) -> Result<()> {
    let now = rustix::fs::fcntl_getfl(&writer)?;
    let packets = pipe.content.len() > 1;
    let mode = if packets { OFlags::NONBLOCK | OFlags::DIRECT } else { OFlags::NONBLOCK };
    rustix::fs::fcntl_setfl(&writer, now | mode)?;
    for part in &pipe.content {
        let mut rest = part.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&writer, rest) {
                Ok(written) => rest = &rest[written..],
                // Where the pipe was filled by splice(2), page by page, plain writes may need no more room; if they
                // do, it is made.
                Err(Errno::AGAIN) => {
                    let size = fcntl_getpipe_size(&writer)?;
                    if size >= 1 << 30 {
                        return Err(Errno::NOBUFS);
                    }
                    fcntl_setpipe_size(&writer, size * 2)?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
    rustix::fs::fcntl_setfl(&writer, now)
}

impl Made {
    /// Makes a description of one end, or of both.
    pub(super) fn description(&mut self, flags: u32) -> Result<OwnedFd> {
        self.descriptions += 1;
        let mode = OFlags::from_bits_retain(flags) & OFlags::RWMODE;
        let (end, used) = match mode {
            OFlags::RDONLY => (&self.reader, &mut self.reader_used),
            OFlags::WRONLY => (&self.writer, &mut self.writer_used),
            // Both ends in one description are made by opening the pipe through /proc.
            _ => return reopen(&self.reader, flags),
        };
        if std::mem::replace(used, true) {
            return reopen(end, flags);
        }
        let fd = end.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
        file::set_status(&fd, flags)?;
        Ok(fd)
    }

    /// Returns how many descriptions of it were made so far.
    pub(super) fn descriptions(&self) -> usize {
        self.descriptions
    }
}

/// Opens a pipe through /proc; packet mode (O_DIRECT) is refused by open(2) and set afterwards.
fn reopen(fd: &OwnedFd, flags: u32) -> Result<OwnedFd> {
    let anew = file::reopen(fd, flags & !OFlags::DIRECT.bits())?;
    file::set_status(&anew, flags)?;
    Ok(anew)
}
