//! Pseudoterminals whose master is in the tree.
//!
//! All facts but one are asked of the master. What waits in the queues can only be taken out and put back
//! (`frost_sys::pty::take`): both is done by a process of its own in a session of its own, as far as possible in one go,
//! so that our death in between loses nothing.
//!
//! Not seen from outside, so not carried: what was typed before the slave was ever opened, since who opens it is seen by
//! the master; the column of output while it is stopped, or where only the erasing of a tab that is typed depends on it.

use super::aside::{aside, inside};
use super::{Error, Held, Members};
use frost_model::Pid;
use frost_model::cap::{Capability, Flow, Pty, PtyEnd, PtySide};
use frost_model::id::ObjectId;
use frost_sys::pty::{self, Waiting};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{OFlags, major, minor};
use rustix::io::{Errno, Result};
use serde_bytes::ByteBuf;

/// A pair of which the tree holds the master.
#[derive(Debug)]
pub(super) struct Pair {
    /// The description of the master.
    pub(super) master: usize,
    /// Those of the slave.
    pub(super) slaves: Vec<usize>,
    number: u32,
    /// The device number of the file system that has its slave, if that could be found.
    instance: Option<u64>,
}

impl Pair {
    /// Looks at a master.
    pub(super) fn of(index: usize, master: &Held) -> Option<Self> {
        let number = pty::number(&master.fd)?;
        // The node that was opened lies in the instance of devpts itself, or beside the directory where it is mounted.
        let magic = rustix::fs::fstatfs(&master.fd).map_or(0, |stat| stat.f_type as u32);
        let instance = if magic == DEVPTS {
            Some(master.stat.st_dev)
        } else {
            let pts = format!("/proc/{}/root/dev/pts", crate::target::shown_by(master.place.pid));
            rustix::fs::stat(pts).ok().map(|stat| stat.st_dev)
        };
        Some(Self { master: index, slaves: Vec::new(), number, instance })
    }

    /// Returns the device number of the file system that has its slave, if that could be found.
    pub(super) fn instance(&self) -> Option<u64> {
        self.instance
    }

    /// Whether a terminal is the slave of this pair: its number says so, and it lies in the same instance of devpts; if it
    /// was opened as /dev/tty, that this is the terminal of its holder's session.
    pub(super) fn has(&self, terminal: &Held, master: &Held) -> bool {
        if pty::number(&terminal.fd) != Some(self.number) {
            return false;
        }
        if is_controlling(terminal) {
            let session = frost_sys::proc::stat(terminal.place.pid.raw()).map(|stat| stat.session);
            return session.ok() == pty::session(&master.fd).ok();
        }
        self.instance.is_none_or(|instance| instance == terminal.stat.st_dev)
    }

    /// Makes the record of one of its descriptions.
    pub(super) fn end(&self, id: ObjectId, index: usize, held: &Held) -> Capability {
        let side = match () {
            () if index == self.master => PtySide::Master,
            () if is_controlling(held) => PtySide::Controlling,
            () => PtySide::Slave,
        };
        Capability::Pty(PtyEnd { pty: id, side, number: self.number })
    }

    /// Captures the pair. `held` are all descriptions.
    pub(super) fn capture(&self, held: &[Held], members: &Members) -> std::result::Result<Pty, Error> {
        let master = &held[self.master];
        self.read(master, held, members).map_err(|error| master.error(error))
    }

    fn read(&self, master: &Held, held: &[Held], members: &Members) -> Result<Pty> {
        let fd = master.fd.as_fd();
        let slaves = || self.slaves.iter().map(|index| &held[*index]);
        // A master whose slave was closed tells so; one whose slave was never opened waits for it.
        let opened = !self.slaves.is_empty() || super::pipe::events(&master.fd).contains(PollFlags::HUP);
        let own = opened.then(|| pty::open_slave(fd, OFlags::RDWR | OFlags::NONBLOCK)).and_then(Result::ok);
        // In exclusive mode no more descriptions are made, for an ordinary user; the program's will do.
        let theirs = slaves().find(|slave| slave.is_readable() && slave.is_writable());
        let slave = own.as_ref().map(AsFd::as_fd).or_else(|| theirs.map(|slave| slave.fd.as_fd()));
        if opened && slave.is_none() {
            return Err(Errno::BUSY);
        }
        let settings = pty::settings(fd)?;
        let size = rustix::termios::tcgetwinsize(fd)?;
        let node = match slave {
            Some(slave) => Some(rustix::fs::fstat(slave)?),
            None => None,
        };
        let exclusive = slave.is_some_and(|slave| pty::is_exclusive(slave).unwrap_or(false));
        let waiting = waiting(fd, slave, &settings)?;
        Ok(Pty {
            number: self.number,
            settings: settings.to_vec(),
            size: [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel],
            locked: pty::is_locked(fd)?,
            packet_mode: pty::is_packet_mode(fd)?,
            exclusive,
            flow: match waiting.flow {
                pty::Flow::Runs => Flow::Runs,
                pty::Flow::StoppedByKey => Flow::StoppedByKey,
                pty::Flow::StoppedByCall => Flow::StoppedByCall,
            },
            opened,
            mode: node.map_or(0o600, |node| node.st_mode & 0o7777),
            uid: node.map_or(0, |node| node.st_uid),
            gid: node.map_or(0, |node| node.st_gid),
            session: pty::session(fd).ok().and_then(|leader| members.inner(Pid::new(leader))),
            foreground: foreground(fd, members),
            lines: waiting.lines.into_iter().map(ByteBuf::from).collect(),
            typed: waiting.typed,
            output: waiting.output,
            status: waiting.status,
            literal: waiting.literal,
            column: waiting.column,
        })
    }
}

/// DEVPTS_SUPER_MAGIC of include/uapi/linux/magic.h.
const DEVPTS: u32 = 0x1cd1;

/// Whether it was opened as /dev/tty.
fn is_controlling(held: &Held) -> bool {
    (major(held.stat.st_rdev), minor(held.stat.st_rdev)) == (5, 0)
}

/// The foreground group of a pair, which may have no member any more.
fn foreground(fd: BorrowedFd<'_>, members: &Members) -> Option<Pid> {
    let group = pty::foreground(fd).ok().filter(|group| *group > 0)?;
    inner_group(group, members).or_else(|| {
        let group = inside(members, || pty::foreground(fd)).ok();
        group.filter(|group| *group > 0).map(Pid::new)
    })
}

/// The number inside of a process group that has a member in the tree; its leader may have ended.
pub(super) fn inner_group(group: i32, members: &Members) -> Option<Pid> {
    if group <= 0 {
        return None;
    }
    let member =
        members.outer().find(|pid| frost_sys::proc::stat(pid.raw()).is_ok_and(|stat| stat.pgrp == group))?;
    let inner = frost_sys::proc::status(member.raw()).ok()?.group()?;
    (inner > 0).then(|| Pid::new(inner))
}

/// Finds out what waits in a pair, and leaves it as it was.
fn waiting(
    master: BorrowedFd<'_>,
    slave: Option<BorrowedFd<'_>>,
    settings: &[u8; pty::TERMIOS2_BYTES],
) -> Result<Waiting> {
    let look = || {
        let taken = pty::take(master, slave)?;
        if let (Some(slave), true) = (slave, taken.is_to_be_put_back()) {
            pty::put(master, slave, settings, &taken)?;
        }
        Ok(taken)
    };
    let (lines, typed, output, flow, status, literal, column) = aside("freeze.terminals", || {
        let taken = look()?;
        let lines = taken.lines.into_iter().map(ByteBuf::from).collect::<Vec<_>>();
        let (typed, output) = (ByteBuf::from(taken.typed), ByteBuf::from(taken.output));
        Ok((lines, typed, output, taken.flow as u8, taken.status, taken.literal, taken.column))
    })?;
    let lines = lines.into_iter().map(ByteBuf::into_vec).collect();
    let flow = pty::Flow::of(flow);
    let (typed, output) = (typed.into_vec(), output.into_vec());
    Ok(Waiting { lines, typed, output, flow, status, literal, column })
}
