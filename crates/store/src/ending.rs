//! The end of a tree of processes: of all of them, whoever dies meanwhile.
//!
//! No call ends several processes at once, so who ends a tree may die between two of them, and half a tree would go on.
//! Therefore it makes all of them stop before it kills the first, and says here how far it is. Should it die, its command,
//! or the next one, lets all go on or ends what is left.

use crate::draft::Place;
use crate::error::{Error, Result};
use crate::instance::{Liveness, liveness, observe};
use crate::root::{Root, write_all_at};
use frost_image::Name;
use frost_sys::proc;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The file in the directory of a draft.
const NOTE: &str = "ending";
/// No longer note is read: there are not so many processes.
const NOTE_BYTES: u64 = 4 << 20;
/// A process that was killed may have much memory to give back; then it is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far the end is, as the first byte of the note tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// All of them run, or stand still in somebody's hands.
    Nothing = b'0' as isize,
    /// Some may have been stopped.
    Stopping = b'1' as isize,
    /// All of them are, and some may have been killed.
    Killing = b'2' as isize,
}

/// What became of one process while they were stopped, as one byte of the note's first line tells, behind the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Nothing.
    Untouched = b'-' as isize,
    /// A SIGSTOP was about to be sent to it.
    Aimed = b'?' as isize,
    /// It was sent.
    Held = b'+' as isize,
}

/// Says that a tree is about to be ended; it takes that back when it is dropped, unless by a panic: then it is taken up as
/// one of who died.
pub struct Ending {
    place: Place,
    note: OwnedFd,
    /// Where the mark of each process is.
    marks: BTreeMap<i32, u64>,
}

impl Ending {
    /// The first byte of the [note](Self::note) from [`kills`](Self::kills) on.
    pub const KILLS: u8 = Phase::Killing as u8;

    /// `processes` are what is to be stopped and ended: pid and start time, in the pid namespace of this process.
    pub(crate) fn new(root: &Arc<Root>, name: &Name, processes: &[(i32, u64)]) -> Result<Self> {
        let place = Place::new(root, "end", name)?;
        let us = observe(std::process::id().cast_signed())?.unwrap_or_default();
        let marks = String::from(Mark::Untouched as u8 as char).repeat(processes.len());
        let phase = Phase::Nothing as u8 as char;
        let mut text = format!("{phase}{marks}\n{} {}\n", us.pid_namespace, us.boot_id);
        for (pid, start_time) in processes {
            text.push_str(&format!("{pid} {start_time}\n"));
        }
        let note = place.create(NOTE)?;
        let failed = |errno| Error::write(&place.show(NOTE), errno, text.len() as u64, || root.free_bytes());
        write_all_at(note.as_fd(), text.as_bytes(), 0).map_err(failed)?;
        let marks = processes.iter().zip(1..).map(|((pid, _), offset)| (*pid, offset)).collect();
        Ok(Self { place, note, marks })
    }

    /// Says that they are stopped from now on, each by a SIGSTOP.
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn stops(&self) -> Result<()> {
        self.tell(Phase::Stopping)
    }

    /// Says that a SIGSTOP is about to be sent to a process. Without that nobody would let it go on.
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn aims_at(&self, pid: i32) -> Result<()> {
        self.mark(pid, Mark::Aimed)
    }

    /// Says that it was sent: so nobody has to find that out, which cannot be for the moment in which a process has taken the
    /// signal and does not stand still yet.
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn holds(&self, pid: i32) -> Result<()> {
        self.mark(pid, Mark::Held)
    }

    /// Says that all of them are stopped, and are killed from now on.
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn kills(&self) -> Result<()> {
        self.tell(Phase::Killing)
    }

    /// Returns the note: who reads it in there decides as the next command does.
    pub fn note(&self) -> BorrowedFd<'_> {
        self.note.as_fd()
    }

    fn mark(&self, pid: i32, mark: Mark) -> Result<()> {
        self.marks.get(&pid).map_or(Ok(()), |offset| self.put(mark as u8, *offset))
    }

    fn tell(&self, phase: Phase) -> Result<()> {
        self.put(phase as u8, 0)
    }

    fn put(&self, byte: u8, offset: u64) -> Result<()> {
        let failed = |errno| Error::io("write", &self.place.show(NOTE), errno);
        write_all_at(self.note.as_fd(), &[byte], offset).map_err(failed)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.place.leave();
        }
    }
}

/// Takes up all ends of trees that dead processes have begun.
pub(crate) fn take_up_all(root: &Arc<Root>) {
    crate::store::each_dead_draft(root, |draft, relative| {
        if draft.starts_with("end.") && take_up(root, relative) {
            // If that fails it is the next command's, which finds nothing to do.
            let _ = root.remove_tree(relative);
        }
    });
}

/// Takes up the end that is noted in a draft. Returns whether the note is of no more use.
pub(crate) fn take_up(root: &Root, draft: &Path) -> bool {
    let Ok(Some((file, _))) = root.open_file(draft.join(NOTE)) else { return true };
    let mut text = String::new();
    // What cannot be read says nothing: whoever writes it does nothing before it is written.
    let read = File::from(file).take(NOTE_BYTES).read_to_string(&mut text);
    let Some((phase, processes)) = read.ok().and_then(|_| parse(&text)) else { return true };
    if processes.iter().any(|(_, process)| matches!(liveness(process), Ok(Liveness::Unknown))) {
        return false;
    }
    let found = processes.iter().filter_map(|(mark, process)| Some((*mark, process.pid, open(process)?)));
    match phase {
        Phase::Nothing => {}
        Phase::Stopping => found.for_each(|(mark, pid, pidfd)| go_on(mark, pid, &pidfd)),
        Phase::Killing => {
            let killed: Vec<OwnedFd> = found.map(|(_, _, pidfd)| pidfd).collect();
            // The root, which is the first, last: while it lives its image is not thawed.
            for pidfd in killed.iter().rev() {
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
            }
            let until = Instant::now() + PATIENCE;
            for pidfd in &killed {
                let left = until.saturating_duration_since(Instant::now());
                let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                let _ = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left));
            }
        }
    }
    true
}

/// Opens a process that is still the one that was noted.
///
/// Whoever wrote the note could signal it, and so can its reader: the same user, or root, who trusts them (`OtherOwner`).
fn open(process: &frost_image::Instance) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    // Behind that, so that it is the one that was opened.
    matches!(liveness(process), Ok(Liveness::Runs)).then_some(pidfd)
}

/// Lets a process go on to which a SIGSTOP was sent; none to which none was, to which SIGCONT would be an event, or which
/// job control has stopped.
///
/// A SIGCONT behind a SIGSTOP prevails at any moment: also if that was taken already, and did not take effect yet
/// (`prepare_signal` and `do_signal_stop`, kernel/signal.c).
fn go_on(mark: Mark, pid: i32, pidfd: &OwnedFd) {
    let waits = |status: proc::Status| {
        (status.pending | status.shared_pending) & 1 << (Signal::STOP.as_raw() - 1) != 0
    };
    let was_sent = match mark {
        Mark::Untouched => false,
        // First whether it waits: it stands still only behind that.
        Mark::Aimed => {
            proc::status(pid).is_ok_and(waits) || proc::stat(pid).is_ok_and(|stat| stat.state == b'T')
        }
        Mark::Held => true,
    };
    if was_sent {
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::CONT);
    }
}

fn parse(text: &str) -> Option<(Phase, Vec<(Mark, frost_image::Instance)>)> {
    let mut lines = text.lines();
    let (phase, marks) = lines.next()?.split_at_checked(1)?;
    let phase = match phase {
        "0" => Phase::Nothing,
        "1" => Phase::Stopping,
        "2" => Phase::Killing,
        _ => return None,
    };
    let (namespace, boot_id) = lines.next()?.split_once(' ')?;
    let pid_namespace = namespace.parse().ok()?;
    let process = |(line, mark): (&str, u8)| {
        let mark = match mark {
            b'-' => Mark::Untouched,
            b'?' => Mark::Aimed,
            b'+' => Mark::Held,
            _ => return None,
        };
        let (pid, start_time) = line.split_once(' ')?;
        let (pid, start_time) = (pid.parse().ok()?, start_time.parse().ok()?);
        let instance = frost_image::Instance { pid, start_time, pid_namespace, boot_id: boot_id.to_owned() };
        Some((mark, instance))
    };
    let lines: Vec<&str> = lines.collect();
    if lines.len() != marks.len() {
        return None;
    }
    Some((phase, lines.into_iter().zip(marks.bytes()).map(process).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_a_whole_or_not_at_all() {
        let (phase, processes) = parse("2+?\n4026531836 b\n12 345\n13 346\n").unwrap();
        assert_eq!(phase, Phase::Killing);
        assert_eq!(processes.len(), 2);
        let (mark, process) = &processes[1];
        assert_eq!((*mark, process.pid, process.start_time), (Mark::Aimed, 13, 346));
        let bad = [
            "",
            "2",
            "3\n1 b\n",
            "2\n1\n",
            "2-\n1 b\n12\n",
            "2-\n1 b\n12 x\n",
            "2\n1 b\n12 3\n",
            "2--\n1 b\n12 3\n",
            "2*\n1 b\n12 3\n",
            "é",
        ];
        for bad in bad {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
