//! Pseudoterminals whose master was in the tree.
//!
//! The program may have the path of its terminal in its memory and environment, so a pair gets its old number. In an
//! instance of devpts of its own, which a program in namespaces gets, every number is free; in the machine's the number
//! may be taken, and then another one is taken, and the plan says so.

use super::error::{About, Error};
use super::file;
use frost_model::cap::{Flow, Pty, PtyEnd, PtySide};
use frost_model::{Checkpoint, Pid};
use frost_sys::pty::{self, Waiting};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::{Errno, Result};
use rustix::termios::{Winsize, tcsetwinsize};

/// A pair that is made.
pub(super) struct Made {
    master: OwnedFd,
}

/// Makes all pairs, under their old numbers where these are free.
///
/// `terminals` are the instances of devpts of the nests, in their order.
pub(super) fn make_all(
    checkpoint: &Checkpoint,
    terminals: &[OwnedFd],
) -> std::result::Result<Vec<Made>, Error> {
    let ptys = &checkpoint.objects.ptys;
    let nest_of = |index: usize| {
        checkpoint.nests.iter().position(|nest| nest.ptys.iter().any(|pty| pty.index() == index))
    };
    let mut made: Vec<Option<Made>> = ptys.iter().map(|_| None).collect();
    for nest in std::iter::once(None).chain((0..checkpoint.nests.len()).map(Some)) {
        let here: Vec<usize> = (0..ptys.len()).filter(|index| nest_of(*index) == nest).collect();
        if here.is_empty() {
            continue;
        }
        let numbers: Vec<u32> = here.iter().map(|index| ptys[*index].number).collect();
        let masters = match nest.and_then(|nest| terminals.get(nest)) {
            Some(instance) => pty::open_masters_in(instance.as_fd(), &numbers),
            None => pty::open_masters(&numbers),
        };
        let masters = masters.about("make", format!("{} pseudoterminals", here.len()))?;
        for (index, master) in here.into_iter().zip(masters) {
            made[index] = Some(Made { master });
        }
    }
    Ok(made.into_iter().flatten().collect())
}

/// Says what the program will find, if a pair does not get its number in the machine's instance of devpts.
pub(super) fn number_text(end: &PtyEnd) -> Option<String> {
    let path = format!("/dev/pts/{}", end.number);
    let taken = end.side == PtySide::Master && rustix::fs::lstat(&path).is_ok();
    taken.then(|| format!("it gets another number, since {path} is taken; a copy (--clone) gets its own"))
}

impl Made {
    /// Makes a description of one side.
    pub(super) fn description(&self, end: &PtyEnd, flags: u32) -> Result<OwnedFd> {
        let fd = match end.side {
            // There is one description of a master only: who opens /dev/ptmx again makes another pair.
            PtySide::Master => self
                .master
                .try_clone()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?,
            // One of /dev/tty can be opened by a process of that session only, for itself.
            PtySide::Slave | PtySide::Controlling => {
                let mode = OFlags::from_bits_retain(flags) & OFlags::RWMODE;
                pty::open_slave(&self.master, mode | OFlags::NONBLOCK)?
            }
        };
        file::set_status(&fd, flags)?;
        Ok(fd)
    }

    /// Gives a pair its settings and what waited in it, once its descriptions are there. Returns a descriptor of the
    /// terminal for the session that it controls.
    pub(super) fn finish(&self, pty: &Pty) -> Result<Option<OwnedFd>> {
        let master = self.master.as_fd();
        let size = Winsize {
            ws_row: pty.size[0],
            ws_col: pty.size[1],
            ws_xpixel: pty.size[2],
            ws_ypixel: pty.size[3],
        };
        tcsetwinsize(master, size)?;
        let settings = pty.settings.as_slice().try_into().map_err(|_| Errno::INVAL)?;
        // A slave that is opened and closed again is one that its master sees closed.
        let slave =
            pty.opened.then(|| pty::open_slave(master, OFlags::RDWR | OFlags::NONBLOCK)).transpose()?;
        if let Some(slave) = &slave {
            pty::advance(master, slave, pty.column)?;
        }
        // Before its status is made, which is forgotten when this begins.
        pty::set_packet_mode(master, pty.packet_mode)?;
        match &slave {
            Some(slave) => {
                let waiting = Waiting {
                    lines: pty.lines.iter().map(|line| line.to_vec()).collect(),
                    typed: pty.typed.clone(),
                    output: pty.output.clone(),
                    status: pty.status,
                    literal: pty.literal,
                    column: pty.column,
                    flow: match pty.flow {
                        Flow::Runs => pty::Flow::Runs,
                        Flow::StoppedByKey => pty::Flow::StoppedByKey,
                        Flow::StoppedByCall => pty::Flow::StoppedByCall,
                    },
                };
                pty::put(master, slave, settings, &waiting)?;
                own(slave, pty);
                if pty.exclusive {
                    pty::set_exclusive(slave)?;
                }
            }
            None => pty::set_settings(master, settings)?,
        }
        pty::set_locked(master, pty.locked)?;
        Ok(slave.filter(|_| pty.session.is_some()))
    }
}

/// Gives the node its mode and owner. Who may not, as a user in a namespace that has only one user, has it as a new
/// terminal has it: it belongs to its user.
fn own(slave: &OwnedFd, pty: &Pty) {
    let (uid, gid) = (Uid::from_raw(pty.uid), Gid::from_raw(pty.gid));
    let _ = rustix::fs::fchown(slave, Some(uid), None);
    let _ = rustix::fs::fchown(slave, None, Some(gid));
    let _ = rustix::fs::fchmod(slave, Mode::from_raw_mode(pty.mode & 0o7777));
}

/// Finds the pseudoterminal that controls a session.
pub(crate) fn of_session(checkpoint: &Checkpoint, session: Pid) -> Option<usize> {
    checkpoint.objects.ptys.iter().position(|pty| pty.session == Some(session))
}
