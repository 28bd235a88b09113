//! Pipes: what is in them, and who is at their ends.

use super::{Error, Held};
use frost_model::cap::Pipe;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};
use rustix::time::Timespec;

/// The descriptions of one pipe in the tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Indices of them.
    pub(super) descriptions: Vec<usize>,
    /// Whether one of them reads.
    pub(super) reader: bool,
    /// Whether one of them writes.
    pub(super) writer: bool,
    /// Whether the end that the tree does not hold is held by another program.
    pub(super) outside: bool,
}

/// Returns the events that a description shows right now.
pub(super) fn events(fd: impl AsFd) -> PollFlags {
    let all = PollFlags::IN | PollFlags::PRI | PollFlags::OUT | PollFlags::RDHUP;
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), all)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

impl Ends {
    /// Adds a description.
    pub(super) fn add(&mut self, index: usize, held: &Held) {
        self.descriptions.push(index);
        self.reader |= held.is_readable();
        self.writer |= held.is_writable();
    }

    /// Decides whether the other end is with another program, from one of the descriptions.
    ///
    /// A reader shows POLLHUP when there is no writer, a writer POLLERR when there is no reader (pipe_poll, fs/pipe.c).
    /// Our duplicates share the description of the program's own ends, so they change neither.
    pub(super) fn look_outside(&mut self, held: &Held) {
        let shown = events(&held.fd);
        self.outside = match (self.reader, self.writer) {
            (true, false) => !shown.contains(PollFlags::HUP),
            (false, true) => !shown.contains(PollFlags::ERR),
            _ => false,
        };
    }
}

/// Returns the capacity in bytes.
pub(super) fn capacity(held: &Held) -> Result<u32, Error> {
    rustix::pipe::fcntl_getpipe_size(&held.fd)
        .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
        .map_err(|e| held.error(e))
}

/// Captures a pipe; `reader` is a description of it that can be read, if there is one.
pub(super) fn capture(ends: &Ends, held: &Held, reader: Option<BorrowedFd<'_>>) -> Result<Pipe, Error> {
    let capacity_bytes = capacity(held)?;
    let content = match reader {
        Some(reader) => content(held, reader, capacity_bytes)?,
        None => Vec::new(),
    };
    let node = Some(held.node());
    Ok(Pipe { capacity_bytes, content, readers: ends.reader, writers: ends.writer, node })
}

/// Copies what waits in a pipe without taking it: one element for each packet, one in all for a stream.
///
/// tee(2) refers to the same pages from a pipe of ours, slot by slot, so ours has as many slots. Reading ours then
/// stops at the end of each packet (O_DIRECT), since the marks are copied too (link_pipe, fs/splice.c). One more byte
/// behind it all tells a packet that is alone, behind which the reading stops as well, from a stream: what is written
/// behind that would become part of it. An empty element then follows it.
pub(super) fn content(
    held: &Held,
    reader: BorrowedFd<'_>,
    capacity_bytes: u32,
) -> Result<Vec<serde_bytes::ByteBuf>, Error> {
    let fail = |source| held.error(source);
    let waiting = rustix::io::ioctl_fionread(reader).map_err(fail)?;
    if waiting == 0 {
        return Ok(Vec::new());
    }
    let (ours, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(fail)?;
    // Refused beyond the limits of an ordinary user; then it may still have slots enough.
    let _ = rustix::pipe::fcntl_setpipe_size(&into, (capacity_bytes as usize).max(2 * PACKET_MAX));
    let copied = rustix::pipe::tee(reader, &into, i32::MAX as usize, SpliceFlags::NONBLOCK).map_err(fail)?;
    if (copied as u64) < waiting {
        return Err(held.error(Errno::NOBUFS));
    }
    // Without room for it, there are several slots, of which no packet is the only one.
    let marked = rustix::io::write(&into, b"|").is_ok();
    let mut content = Vec::new();
    let mut buffer = vec![0u8; copied + 1];
    loop {
        match rustix::io::read(&ours, &mut buffer[..]) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(got) => content.push(serde_bytes::ByteBuf::from(&buffer[..got])),
            Err(Errno::INTR) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    if marked {
        content.last_mut().and_then(|last| last.pop());
        if content.len() > 2 && content.last().is_some_and(|last| last.is_empty()) {
            content.pop();
        }
    }
    Ok(content)
}

/// The longest packet: a page. Longer ones are split (pipe(2)).
const PACKET_MAX: usize = 4096;
