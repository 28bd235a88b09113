//! A program that stays attached: signals are passed on, its end is ours to tell.

use crate::error::{Context, Error};
use crate::inside;
use crate::stage::Stage;
use frost_sys::{jobs, ptrace, signals};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::io::BufReader;
use std::os::unix::net::UnixStream;

/// How an attached program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It was lost from sight: its keeper was killed.
    Unknown,
}

impl Ending {
    /// Returns it as a shell does: 128 and the signal's number if it was killed.
    pub fn exit_status(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
            Self::Unknown => 128 + libc::SIGKILL,
        }
    }
}

/// Our hold on a program that we are the parent of.
#[derive(Debug)]
pub struct Attached {
    pid: i32,
    pidfd: OwnedFd,
    /// The keeper's reports, if there is one between us and the program.
    keeper: Option<BufReader<UnixStream>>,
}

/// Signals that are passed on to the program: those that ask a program to end or to look at something.
const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGWINCH,
    libc::SIGALRM,
];

impl Attached {
    pub(crate) fn child(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, keeper: None }
    }

    pub(crate) fn kept(pid: i32, pidfd: OwnedFd, keeper: BufReader<UnixStream>) -> Self {
        Self { pid, pidfd, keeper: Some(keeper) }
    }

    /// Waits for the program's end, passes signals on to it meanwhile, and lends it our terminal.
    ///
    /// # Errors
    /// If the kernel refuses to tell us of signals or of the end; the program goes on then.
    pub fn wait(mut self) -> Result<Ending, Error> {
        let stage = Stage::Release;
        let about = || "the attached program".to_owned();
        let mask =
            PASSED_ON.iter().chain(&[libc::SIGCHLD]).fold(0u64, |mask, signal| mask | 1 << (signal - 1));
        let old = signals::set_mask(mask | 1 << (libc::SIGTTOU - 1)).at(stage, about)?;
        let terminal = Terminal::lend(self.pid);
        let queue = frost_sys::signalfd::signalfd(mask).at(stage, about)?;
        let ending = self.watch(&queue, terminal.as_ref());
        drop(terminal);
        let _ = signals::set_mask(old);
        ending.at(stage, about)
    }

    fn watch(&mut self, queue: &OwnedFd, terminal: Option<&Terminal>) -> rustix::io::Result<Ending> {
        loop {
            let keeper = self.keeper.as_ref().map(|keeper| keeper.get_ref().as_fd());
            let mut fds = vec![PollFd::new(queue, PollFlags::IN)];
            fds.push(match keeper {
                Some(keeper) => PollFd::from_borrowed_fd(keeper, PollFlags::IN),
                None => PollFd::new(&self.pidfd, PollFlags::IN),
            });
            match rustix::event::poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let (signalled, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if ended {
                return Ok(self.ending());
            }
            if signalled {
                let mut info = [0u8; 128];
                rustix::io::read(queue, &mut info)?;
                let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                if signal == libc::SIGCHLD {
                    self.stopped(terminal);
                } else if let Some(signal) = Signal::from_named_raw(signal) {
                    let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
                }
            }
        }
    }

    /// If job control stopped the program, stops us too, and continues it when we are continued.
    fn stopped(&self, terminal: Option<&Terminal>) {
        if self.keeper.is_some() {
            return;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let options = rustix::process::WaitIdOptions::STOPPED | rustix::process::WaitIdOptions::NOHANG;
        if let Ok(Some(status)) = rustix::process::waitid(rustix::process::WaitId::Pid(pid), options)
            && status.stopped()
        {
            if let Some(terminal) = terminal {
                terminal.take_back();
            }
            signals::take(libc::SIGSTOP);
            if let Some(terminal) = terminal {
                terminal.lend_again();
            }
            let _ = rustix::process::kill_process_group(pid, Signal::CONT);
        }
    }

    fn ending(&mut self) -> Ending {
        if let Some(keeper) = &mut self.keeper {
            return match inside::ended(keeper) {
                Some(status) if status & 0x7f != 0 => Ending::Killed(status & 0x7f),
                Some(status) => Ending::Exited(status >> 8 & 0xff),
                None => Ending::Unknown,
            };
        }
        loop {
            match ptrace::wait(self.pid, true) {
                Ok(Some(ptrace::Stop::Exited(code))) => return Ending::Exited(code),
                Ok(Some(ptrace::Stop::Killed(signal))) => return Ending::Killed(signal),
                Ok(_) => {}
                Err(_) => return Ending::Unknown,
            }
        }
    }
}

/// Our terminal, lent to the program's process group.
struct Terminal {
    ours: Pid,
    theirs: Pid,
}

impl Terminal {
    /// Gives the program our terminal, if we have it and it is a group of its own in our session.
    fn lend(pid: i32) -> Option<Self> {
        let (pid, us) = (Pid::from_raw(pid)?, rustix::process::getpid());
        let (theirs, ours) = (jobs::group(pid).ok()??, jobs::group(us).ok()??);
        // Two sessions without a number here need not be the same one.
        if ours == theirs || jobs::session(pid).ok()?? != jobs::session(us).ok()?? {
            return None;
        }
        let stdin = rustix::stdio::stdin();
        if rustix::termios::tcgetpgrp(stdin).ok()? != ours {
            return None;
        }
        let terminal = Self { ours, theirs };
        terminal.lend_again();
        Some(terminal)
    }

    fn lend_again(&self) {
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), self.theirs);
    }

    fn take_back(&self) {
        // SIGTTOU is blocked, so a background group may do this.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), self.ours);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}
