//! The program of the pauses: it writes to its memory at a steady rate, and tells each time it was held up.
//!
//! It is asked by lines on its standard input: `fork` makes it fork once, which is the floor of a snapshot, and a number to
//! write to so many of its pages. What it tells, a line each: `ready`; `gap START LENGTH` whenever more than [`TOLD_US`]
//! lies between two turns of its loop, in microseconds of CLOCK_MONOTONIC; `done LENGTH` when it did what it was asked.

use crate::memory;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, Write};
use std::time::Duration;

/// A turn of its loop: it sleeps so long.
const TURN: Duration = Duration::from_micros(200);
/// A gap that is told. Above what a timer and a busy processor add to a turn as a rule.
const TOLD_US: u64 = 400;
/// After a gap it does not write faster to make up for it: at most so many pages in a turn.
const MOST_PAGES: u64 = 64;
const PAGE_BYTES: u64 = 4096;

/// What it is.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Writer {
    /// Bytes of memory
    pub(crate) bytes: usize,
    /// Bytes of pages written in a second, anywhere in it
    pub(crate) rate: u64,
}

/// Microseconds of CLOCK_MONOTONIC.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

impl Writer {
    /// Becomes that program; ends with its standard input.
    pub(crate) fn be(self) -> io::Result<()> {
        let mut memory = memory::incompressible(self.bytes)?;
        let pages = (self.bytes as u64 / PAGE_BYTES).max(1);
        let mut out = io::stdout();
        writeln!(out, "ready")?;
        let input = rustix::stdio::stdin();
        rustix::fs::fcntl_setfl(input, OFlags::NONBLOCK)?;
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut last = now_us();
        // In bytes and microseconds, so that no rate is too small.
        let mut owed = 0;
        loop {
            std::thread::sleep(TURN);
            let now = now_us();
            let turn = now - last;
            last = now;
            if turn > TOLD_US {
                writeln!(out, "gap {} {turn}", now - turn)?;
            }
            owed = (owed + turn * self.rate).min(MOST_PAGES * PAGE_BYTES * 1_000_000);
            while owed >= PAGE_BYTES * 1_000_000 {
                owed -= PAGE_BYTES * 1_000_000;
                random ^= random >> 12;
                random ^= random << 25;
                random ^= random >> 27;
                let page = random.wrapping_mul(0x2545_f491_4f6c_dd1d) % pages;
                let at = (page * PAGE_BYTES + random % (PAGE_BYTES / 8) * 8) as usize;
                memory[at..at + 8].copy_from_slice(&random.to_le_bytes());
            }
            let mut line = [0; 24];
            match rustix::io::read(input, &mut line) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    let began = now_us();
                    let asked = std::str::from_utf8(&line[..len]).unwrap_or_default().trim();
                    if let Ok(count) = asked.parse::<u64>() {
                        // Spread evenly, so that no two share a block of the pack.
                        for index in 0..count.min(pages) {
                            let at = (index * pages / count * PAGE_BYTES) as usize;
                            memory[at..at + 8].copy_from_slice(&(began + index).to_le_bytes());
                        }
                        last = now_us();
                        writeln!(out, "done {}", last - began)?;
                        continue;
                    }
                    // The least that a copy of a program of this size costs.
                    match frost_sys::clone::fork_single_threaded(rustix::process::Signal::CHILD.as_raw())? {
                        frost_sys::clone::Clone::Child => frost_sys::clone::exit_now(0),
                        frost_sys::clone::Clone::Parent { .. } => {}
                    }
                    let ended = now_us();
                    let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
                    writeln!(out, "done {}", ended - began)?;
                    last = now_us();
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
