//! A program that stays attached: signals are passed on, its end is ours to tell, our terminal is lent to it.

mod terminal;

pub use terminal::Terminal;

use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_keeper::Connection;
use frost_keeper::protocol as say;
use frost_sys::{jobs, ptrace, signals};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// How an attached program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// With exit status 0, and it has left others behind that go on.
    Left,
    /// It was ended since its budget of memory was used up.
    Starved,
    /// It was frozen: this is the version of its image.
    Frozen(u32),
    /// It was lost from sight: its keeper was killed.
    Unknown,
}

impl Ending {
    /// Reads a status as of wait(2).
    pub fn of_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited(status >> 8 & 0xff),
            signal => Self::Killed(signal),
        }
    }

    /// Reads [`ENDED`](say::ENDED).
    pub fn of_message(message: say::Message) -> Self {
        if message.c == 1 { Self::Starved } else { Self::of_status(message.a) }
    }

    /// Returns it as a shell does: 128 and the signal's number if it was killed, as a freeze and the end of its keeper do.
    pub fn exit_status(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Left => 0,
            Self::Killed(signal) => 128 + signal,
            Self::Frozen(_) | Self::Starved | Self::Unknown => 128 + libc::SIGKILL,
        }
    }
}

/// Our hold on a program: we are its parent, or its keeper is.
#[derive(Debug)]
pub struct Attached {
    pid: i32,
    /// `None` if it has ended already.
    pidfd: Option<OwnedFd>,
    /// The keeper, if there is one between us and the program.
    keeper: Option<Connection>,
    terminal: Option<Terminal>,
    passing: Option<Passing>,
}

/// Signals that are passed on to the program, beside the real-time ones: those that ask a program to end or to look at
/// something, and that nothing but somebody's wish sends to us.
const PASSED_ON: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGWINCH,
    libc::SIGALRM,
    libc::SIGURG,
    libc::SIGIO,
    libc::SIGPWR,
];

/// Signals that are the program's to take, kept from acting on us until this is dropped.
///
/// From before there is a program: one that came between its start and our first look would end us, and it would never
/// know.
#[derive(Debug)]
pub struct Passing {
    queue: OwnedFd,
    before: u64,
}

impl Passing {
    /// Blocks them.
    ///
    /// # Errors
    /// If the kernel has no descriptor for us.
    pub fn begin() -> rustix::io::Result<Self> {
        // Whether we stop when we are asked to is for the program to say.
        let named = PASSED_ON.into_iter().chain([libc::SIGCHLD, libc::SIGTSTP]);
        let mask = named.chain(signals::REAL_TIME).fold(0u64, |mask, signal| mask | 1 << (signal - 1));
        let queue = frost_sys::signalfd::signalfd(mask)?;
        let before = signals::set_mask(mask | 1 << (libc::SIGTTOU - 1))?;
        Ok(Self { queue, before })
    }

    /// The signals that were blocked before.
    pub fn before(&self) -> u64 {
        self.before
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let _ = signals::set_mask(self.before);
    }
}

impl Attached {
    pub(crate) fn child(
        pid: i32,
        pidfd: OwnedFd,
        terminal: Option<Terminal>,
        passing: Option<Passing>,
    ) -> Self {
        Self { pid, pidfd: Some(pidfd), keeper: None, terminal, passing }
    }

    /// Takes hold of a program, whose root is `pid` if it has not ended already, by a connection that watches its keeper.
    pub fn kept(
        pid: Option<i32>,
        keeper: Connection,
        terminal: Option<Terminal>,
        passing: Option<Passing>,
    ) -> Self {
        let number = pid.and_then(Pid::from_raw);
        let pidfd = number.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { pid: pid.unwrap_or(0), pidfd, keeper: Some(keeper), terminal, passing }
    }

    /// Waits for the program's end, passes signals on to it meanwhile, and lends it our terminal.
    ///
    /// # Errors
    /// If the kernel refuses to tell us of signals or of the end; the program goes on then.
    pub fn wait(mut self) -> Result<Ending, Error> {
        let about = || "the attached program".to_owned();
        let passing = match self.passing.take() {
            Some(passing) => passing,
            None => Passing::begin().at(Stage::Release, about)?,
        };
        if let Some(terminal) = &self.terminal {
            terminal.tell_size();
        }
        let ending = self.watch(&passing.queue);
        self.terminal = None;
        drop(passing);
        ending.at(Stage::Release, about)
    }

    fn watch(&mut self, queue: &OwnedFd) -> rustix::io::Result<Ending> {
        // It may have stopped before we were told of stops.
        self.look_for_stop();
        loop {
            let (signalled, told) = self.await_news(queue)?;
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
        let news = match (&self.keeper, &self.pidfd) {
            (Some(keeper), _) => PollFd::new(keeper, PollFlags::IN),
            (None, Some(pidfd)) => PollFd::new(pidfd, PollFlags::IN),
            (None, None) => return Ok((false, true)),
        };
        let mut fds = [PollFd::new(queue, PollFlags::IN), news];
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
        let Some(keeper) = &self.keeper else { return Some(self.ending()) };
        let Ok(packet) = keeper.receive() else { return Some(Ending::Unknown) };
        match packet.message.kind {
            say::ENDED if packet.message.b != 0 => Some(Ending::Left),
            say::ENDED => Some(Ending::of_message(packet.message)),
            say::ICE => Some(Ending::Frozen(packet.message.a as u32)),
            say::STOPPED => {
                self.stopped(packet.message.a);
                None
            }
            _ => None,
        }
    }

    fn signalled(&mut self, signal: i32) {
        match signal {
            libc::SIGCHLD => return self.look_for_stop(),
            // The key that stops a job reached it as well.
            libc::SIGTSTP if self.group().is_none() => return,
            libc::SIGCONT => {
                // We may have been brought to the foreground.
                if let Some(terminal) = &self.terminal {
                    terminal.lend();
                }
            }
            _ => {}
        }
        if let Some(signal) = signals::numbered(signal) {
            self.send(signal);
        }
    }

    fn send(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd {
            let _ = rustix::process::pidfd_send_signal(pidfd, signal);
        }
    }

    /// Returns the program's process group, if that is not ours.
    fn group(&self) -> Option<Pid> {
        let group = Pid::from_raw(self.pid).and_then(|pid| jobs::group(pid).ok().flatten());
        group.filter(|group| *group != rustix::process::getpgrp())
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
        // That which continued us is passed on below. Once more, when our turn comes to read it, it would undo a stop
        // that the program was asked for since.
        signals::discard(libc::SIGCONT);
        if let Some(terminal) = &self.terminal {
            terminal.lend();
        }
        match self.group() {
            Some(group) => _ = rustix::process::kill_process_group(group, Signal::CONT),
            None => self.send(Signal::CONT),
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
