//! Named pipes.
//!
//! A fifo is a meeting place by name, so thaw opens it again whoever else is there. Only its content needs care: it
//! belongs to the tree if nobody else can read it.

use super::pipe::{self, Ends};
use super::{Error, Held};
use frost_model::cap::Pipe;
use rustix::event::PollFlags;
use rustix::fd::AsFd;

/// Captures the pipe behind a fifo, of which `reader` is a description that can be read.
pub(super) fn capture(ends: &Ends, held: &Held, reader: Option<&Held>) -> Result<Pipe, Error> {
    let capacity_bytes = pipe::capacity(held)?;
    let (content, writers) = match reader {
        Some(reader) => {
            let content = pipe::content(reader, reader.fd.as_fd(), capacity_bytes)?;
            // A reader to which no writer ever came shows no POLLHUP (fifo_open, fs/pipe.c).
            let had_writer = ends.writer || pipe::events(&reader.fd).contains(PollFlags::HUP);
            (content, had_writer)
        }
        // Nobody reads, so what is in it waits for the next one who opens it to read; that may be us.
        None if pipe::events(&held.fd).contains(PollFlags::ERR) => {
            let anew = held.open_anew().map_err(|e| held.error(e))?;
            (pipe::content(held, anew.as_fd(), capacity_bytes)?, true)
        }
        None => (Vec::new(), true),
    };
    Ok(Pipe { capacity_bytes, content, readers: ends.reader, writers, node: None })
}
