//! Contexts of asynchronous I/O (io_setup): rings of events that a process maps.
//!
//! A ring tells which events wait to be taken, but not how many requests are under way, and nothing else does either.
//! The program stands still, so no new ones come; those to disks end within milliseconds. So a context is idle when its
//! ring has not moved for a while. What can last longer is IOCB_CMD_POLL, which is not seen and not carried.

use frost_sys::memory;
use frost_sys::proc::Mapping;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// What the kernel calls the mapping of a ring (aio_private_file, fs/aio.c).
pub(crate) const NAME: &[u8] = b"/[aio] (deleted)";

/// `struct aio_ring`: id, number of events, head, tail, magic number, two masks of features, length of the header.
const HEADER_BYTES: u64 = 32;
const MAGIC: u32 = 0xa10a_10a1;
/// `struct io_event`.
const EVENT_BYTES: u64 = 32;
/// How long a ring must not move.
const QUIET: Duration = Duration::from_millis(20);
/// How long requests may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Number of events, head and tail of a ring.
fn header(pid: i32, mapping: &Mapping) -> Result<(u64, u64, u64), Errno> {
    let mut bytes = [0u8; HEADER_BYTES as usize];
    if memory::read(pid, mapping.start, &mut bytes)? != bytes.len() {
        return Err(Errno::FAULT);
    }
    let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
    let (count, head, tail) = (u64::from(word(4)), u64::from(word(8)), u64::from(word(12)));
    let fits = HEADER_BYTES + count * EVENT_BYTES <= mapping.end - mapping.start;
    if word(16) != MAGIC || u64::from(word(28)) != HEADER_BYTES || !fits || head >= count || tail >= count {
        return Err(Errno::BADMSG);
    }
    Ok((count, head, tail))
}

/// Waits until the rings of a stopped process do not move any more.
///
/// # Errors
/// TIMEDOUT if they do for long.
pub(crate) fn settle(pid: i32, mappings: &[Mapping]) -> Result<(), Errno> {
    let rings: Vec<&Mapping> = mappings.iter().filter(|mapping| mapping.name == NAME).collect();
    if rings.is_empty() {
        return Ok(());
    }
    let look = || rings.iter().map(|ring| header(pid, ring)).collect::<Result<Vec<_>, _>>();
    let start = Instant::now();
    let (mut last, mut since) = (look()?, Instant::now());
    while since.elapsed() < QUIET {
        if start.elapsed() > PATIENCE {
            return Err(Errno::TIMEDOUT);
        }
        std::thread::sleep(Duration::from_millis(1));
        let now = look()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Reads the events that wait in a ring, the oldest first.
pub(crate) fn events(pid: i32, mapping: &Mapping) -> Result<Vec<u8>, Errno> {
    let (count, head, tail) = header(pid, mapping)?;
    let mut events = Vec::new();
    let mut at = head;
    while at != tail {
        let mut event = [0u8; EVENT_BYTES as usize];
        let address = mapping.start + HEADER_BYTES + at * EVENT_BYTES;
        if memory::read(pid, address, &mut event)? != event.len() {
            return Err(Errno::FAULT);
        }
        events.extend_from_slice(&event);
        at = (at + 1) % count;
    }
    Ok(events)
}
