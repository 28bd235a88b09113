//! Our terminal in front of a program that a keeper has: what it shows, what is typed, signals, until somebody breaks off.

use frost_keeper::Connection;
use frost_keeper::protocol::{self as say, DATA_BYTES, Message};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, Write};
use std::ops::ControlFlow;

/// What happens before a terminal, beside that the program shows something.
pub(super) enum Event<'a> {
    /// The keeper said something.
    Said(Message),
    /// The keeper has ended, or hung up.
    Gone,
    /// A signal came, of those that were taken.
    Signal(i32),
    /// Bytes were typed; none when there will be no more.
    Typed(&'a [u8]),
}

/// Shows what comes from the keeper and tells `on` all else, until it breaks off. Our terminal is raw meanwhile.
pub(super) fn pass<T>(
    connection: &Connection,
    signals: &Signals,
    on: &mut dyn FnMut(Event<'_>) -> ControlFlow<T>,
) -> io::Result<T> {
    let stdin = rustix::stdio::stdin();
    let _raw = Raw::enter();
    let mut reading = true;
    loop {
        // Nothing more is read before there is room for it on the way to the keeper: it would have us wait, and the keeper
        // for us, who are to show what comes meanwhile.
        let is_choked = reading && !has_room(connection)?;
        let news = if is_choked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = vec![PollFd::new(connection, news), PollFd::new(&signals.fd, PollFlags::IN)];
        if reading && !is_choked {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let is_ready = |fd: &PollFd<'_>| !(fd.revents() - PollFlags::OUT).is_empty();
        let ready: Vec<bool> = fds.iter().map(is_ready).collect();
        if ready[0] {
            let event = match connection.receive() {
                Ok(packet) if packet.message.kind == say::OUTPUT => {
                    let mut out = io::stdout().lock();
                    out.write_all(&packet.data)?;
                    out.flush()?;
                    None
                }
                Ok(packet) => Some(Event::Said(packet.message)),
                Err(_) => Some(Event::Gone),
            };
            if let Some(event) = event
                && let ControlFlow::Break(end) = on(event)
            {
                return Ok(end);
            }
        }
        if ready[1]
            && let Some(signal) = signals.next()
            && let ControlFlow::Break(end) = on(Event::Signal(signal))
        {
            return Ok(end);
        }
        if ready.get(2) == Some(&true) {
            let mut bytes = [0; DATA_BYTES];
            let count = match rustix::io::read(stdin, &mut bytes) {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                // A terminal that is gone is an end too.
                Err(_) => 0,
                Ok(count) => count,
            };
            reading = count > 0;
            if let ControlFlow::Break(end) = on(Event::Typed(&bytes[..count])) {
                return Ok(end);
            }
        }
    }
}

/// Whether a packet can be sent without waiting.
fn has_room(connection: &Connection) -> io::Result<bool> {
    let mut fds = [PollFd::new(connection, PollFlags::OUT)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&none)))?;
    Ok(!fds[0].revents().is_empty())
}

/// Signals that are taken as they come, as a descriptor, until this is dropped.
pub(super) struct Signals {
    fd: OwnedFd,
    old: u64,
}

impl Signals {
    pub(super) fn take(signals: &[Signal]) -> io::Result<Self> {
        let mask = signals.iter().fold(0u64, |mask, signal| mask | 1 << (signal.as_raw() - 1));
        let old = frost_sys::signals::set_mask(mask)?;
        Ok(Self { fd: frost_sys::signalfd::signalfd(mask)?, old })
    }

    /// The number of one that came.
    fn next(&self) -> Option<i32> {
        // struct signalfd_siginfo begins with it.
        let mut info = [0; 128];
        let count = rustix::io::read(&self.fd, &mut info).ok()?;
        (count >= 4).then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = frost_sys::signals::set_mask(self.old);
    }
}

/// Rows and columns of our terminal, 0 if it is none.
pub(super) fn size() -> (i32, i32) {
    tcgetwinsize(rustix::stdio::stdin()).map_or((0, 0), |size| (size.ws_row.into(), size.ws_col.into()))
}

/// Our terminal, passing all that is typed as it is, until this is dropped.
pub(super) struct Raw(Option<Termios>);

impl Raw {
    pub(super) fn enter() -> Self {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Self(None);
        }
        let Ok(before) = tcgetattr(stdin) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = tcsetattr(stdin, OptionalActions::Now, &raw);
        Self(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
}
