//! A program that stays attached: signals are passed on, its end is ours to tell, our terminal is lent to it.

mod terminal;

pub(crate) use terminal::Terminal;

use crate::error::{Context, Error};
use crate::inside::{self, Fate};
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
    terminal: Option<Terminal>,
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
    pub(crate) fn child(pid: i32, pidfd: OwnedFd, terminal: Option<Terminal>) -> Self {
        Self { pid, pidfd, keeper: None, terminal }
    }

    pub(crate) fn kept(
        pid: i32,
        pidfd: OwnedFd,
        keeper: BufReader<UnixStream>,
        terminal: Option<Terminal>,
    ) -> Self {
        Self { pid, pidfd, keeper: Some(keeper), terminal }
    }

    /// Waits for the program's end, passes signals on to it meanwhile, and lends it our terminal.
    ///
    /// # Errors
    /// If the kernel refuses to tell us of signals or of the end; the program goes on then.
    pub fn wait(mut self) -> Result<Ending, Error> {
        let stage = Stage::Release;
        let about = || "the attached program".to_owned();
        // A key that stops a job reaches the program by itself, and us too if it is of our group: whether we stop is for
        // the program to say.
        let mask = PASSED_ON.iter().chain(&[libc::SIGCHLD, libc::SIGTSTP]);
        let mask = mask.fold(0u64, |mask, signal| mask | 1 << (signal - 1));
        let old = signals::set_mask(mask | 1 << (libc::SIGTTOU - 1)).at(stage, about)?;
        let queue = frost_sys::signalfd::signalfd(mask).at(stage, about)?;
        if let Some(terminal) = &self.terminal {
            terminal.tell_size();
        }
        let ending = self.watch(&queue);
        self.terminal = None;
        let _ = signals::set_mask(old);
        ending.at(stage, about)
    }

    fn watch(&mut self, queue: &OwnedFd) -> rustix::io::Result<Ending> {
        // It may have stopped before we were told of stops.
        self.look_for_stop();
        loop {
            let read_ahead = self.keeper.as_ref().is_some_and(|keeper| !keeper.buffer().is_empty());
            let (signalled, told) = if read_ahead { (false, true) } else { self.await_news(queue)? };
            if told && let Some(ending) = self.hear() {
                return Ok(ending);
            }
            if signalled {
                let mut info = [0u8; 128];
                rustix::io::read(queue, &mut info)?;
                self.signalled(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]));
            }
        }
    }

    /// Waits for a signal to us, or news of the program.
    fn await_news(&self, queue: &OwnedFd) -> rustix::io::Result<(bool, bool)> {
        let keeper = self.keeper.as_ref().map(|keeper| keeper.get_ref().as_fd());
        let mut fds = [
            PollFd::new(queue, PollFlags::IN),
            match keeper {
                Some(keeper) => PollFd::from_borrowed_fd(keeper, PollFlags::IN),
                None => PollFd::new(&self.pidfd, PollFlags::IN),
            },
        ];
        loop {
            match rustix::event::poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            };
        }
        Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty()))
    }

    /// Learns what became of the program, and does what a stop asks for.
    fn hear(&mut self) -> Option<Ending> {
        let Some(keeper) = &mut self.keeper else { return Some(self.ending()) };
        match inside::fate(keeper) {
            Some(Fate::Stopped { signal }) => {
                self.stopped(signal);
                None
            }
            Some(Fate::Ended { status }) if status & 0x7f != 0 => Some(Ending::Killed(status & 0x7f)),
            Some(Fate::Ended { status }) => Some(Ending::Exited(status >> 8 & 0xff)),
            None => Some(Ending::Unknown),
        }
    }

    fn signalled(&mut self, signal: i32) {
        match signal {
            libc::SIGCHLD => return self.look_for_stop(),
            libc::SIGTSTP => return,
            libc::SIGCONT => {
                // We may have been brought to the foreground.
                if let Some(terminal) = &self.terminal {
                    terminal.lend();
                }
            }
            _ => {}
        }
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
        }
    }

    /// Looks whether job control stopped the program, if it is our child.
    fn look_for_stop(&mut self) {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.keeper.is_none()) else { return };
        let options = rustix::process::WaitIdOptions::STOPPED | rustix::process::WaitIdOptions::NOHANG;
        if let Ok(Some(status)) = rustix::process::waitid(rustix::process::WaitId::Pid(pid), options)
            && let Some(signal) = status.stopping_signal()
        {
            self.stopped(signal);
        }
    }

    /// Stops as the program was stopped, and continues it when we are continued.
    fn stopped(&mut self, signal: i32) {
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back();
        }
        signals::take(signal);
        if let Some(terminal) = &self.terminal {
            terminal.lend();
        }
        let group = Pid::from_raw(self.pid).and_then(|pid| jobs::group(pid).ok().flatten());
        match group.filter(|group| *group != rustix::process::getpgrp()) {
            Some(group) => _ = rustix::process::kill_process_group(group, Signal::CONT),
            None => _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::CONT),
        }
    }

    fn ending(&self) -> Ending {
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
