//! Our terminal, lent to an attached program.
//!
//! What a shell does for a job, we do for the program, and the shell does it for us: the program's process group is in
//! the foreground, under the settings that the program had made. If it stops, the terminal gets our settings back; when we
//! are continued it gets its own again. Its end gives ours back for good.

use crate::cap::Route;
use crate::plan::Plan;
use frost_model::Checkpoint;
use frost_model::cap::{Capability, Outside, OutsideKind};
use frost_sys::{jobs, proc, pty, signals};
use rustix::fd::BorrowedFd;
use rustix::process::{Pid, Signal};
use rustix::termios::{isatty, tcgetpgrp, tcgetwinsize, tcsetpgrp};

type Settings = [u8; pty::TERMIOS2_BYTES];

/// A terminal that is ours; dropping it takes it back.
#[derive(Debug)]
pub struct Terminal {
    /// Which of our standard descriptors it is.
    number: i32,
    ours: Pid,
    /// Ours and the program's; nothing where a program was just started, which takes the terminal as it finds it: then
    /// the shell does what there is to do, as it does for any job.
    our_settings: Option<Settings>,
    /// The group of the program that is in the foreground; ours if the program belongs to that.
    theirs: Pid,
    their_settings: Option<Settings>,
    /// Rows and columns that the program knows of.
    their_size: (u16, u16),
}

impl Terminal {
    /// Lends the program our terminal, if it is to have it and is a job of our session.
    ///
    /// To be called before the program goes on, so that it is in the foreground from the first: a read in the background
    /// would stop it.
    pub(crate) fn lend_to(checkpoint: &Checkpoint, plan: &Plan, root: i32) -> Option<Self> {
        let (number, outside) = lent(checkpoint, plan)?;
        let OutsideKind::Terminal { settings, size, foreground, .. } = &outside.kind else { return None };
        let (root, us) = (Pid::from_raw(root)?, rustix::process::getpid());
        let (own_group, ours) = (jobs::group(root).ok()??, jobs::group(us).ok()??);
        // Whose leader is outside of our pid namespace has no number here, as in a shell below `frost run`. There may be
        // several of these, but the root has its session from us, or it leads one that has a number.
        if jobs::session(root).ok()? != jobs::session(us).ok()? {
            return None;
        }
        let our_settings = pty::settings(standard(number)).ok()?;
        let terminal = Self {
            number,
            ours,
            our_settings: Some(our_settings),
            // A shell had put a job of its own there.
            theirs: foreground.and_then(|inner| outer_group(root, inner.raw())).unwrap_or(own_group),
            their_settings: Some(settings.as_slice().try_into().unwrap_or(our_settings)),
            their_size: *size,
        };
        terminal.lend();
        Some(terminal)
    }

    /// Finds our terminal, for a program that is about to be started; nobody has it yet but us.
    pub fn ours() -> Option<Self> {
        let number = (0..3).find(|number| tcgetpgrp(standard(*number)).is_ok())?;
        let size = tcgetwinsize(standard(number)).map_or((0, 0), |size| (size.ws_row, size.ws_col));
        let ours = jobs::group(rustix::process::getpid()).ok()??;
        Some(Self { number, ours, our_settings: None, theirs: ours, their_settings: None, their_size: size })
    }

    /// Returns its path.
    pub fn path(&self) -> Option<std::path::PathBuf> {
        let name = rustix::termios::ttyname(standard(self.number), Vec::new()).ok()?;
        Some(name.to_string_lossy().into_owned().into())
    }

    /// Returns the number of our descriptor of it, if our job is in its foreground.
    pub fn foreground(&self) -> Option<i32> {
        (tcgetpgrp(standard(self.number)) == Ok(self.ours)).then_some(self.number)
    }

    /// Is told of the program that was started as a job of its own and given the terminal.
    #[must_use]
    pub fn given_to(mut self, root: Option<i32>) -> Self {
        let group = root.and_then(Pid::from_raw).and_then(|root| jobs::group(root).ok().flatten());
        self.theirs = group.unwrap_or(self.ours);
        self
    }

    /// Gives it to the program, unless it is not ours at the moment: we are in the background.
    pub(crate) fn lend(&self) {
        let fd = standard(self.number);
        unstopped(|| {
            if tcgetpgrp(fd) == Ok(self.ours) {
                if let Some(settings) = &self.their_settings {
                    let _ = pty::set_settings(fd, settings);
                }
                let _ = tcsetpgrp(fd, self.theirs);
            }
        });
    }

    /// Takes it back and remembers what the program made of it, unless a job of somebody else has it.
    pub(crate) fn take_back(&mut self) {
        let fd = standard(self.number);
        unstopped(|| {
            let Ok(now) = tcgetpgrp(fd) else { return };
            let gone = rustix::process::test_kill_process_group(now) == Err(rustix::io::Errno::SRCH);
            if now != self.theirs && !gone && !is_below_us(now) {
                return;
            }
            if !gone {
                self.theirs = now;
            }
            let _ = tcsetpgrp(fd, self.ours);
            if let Some(settings) = &self.our_settings {
                self.their_settings = pty::settings(fd).ok().or(self.their_settings);
                let _ = pty::set_settings(fd, settings);
            }
        });
    }

    /// Tells the program that its terminal has another size than it knows, as the kernel does.
    pub(crate) fn tell_size(&self) {
        let Ok(size) = tcgetwinsize(standard(self.number)) else { return };
        if (size.ws_row, size.ws_col) != self.their_size && self.theirs != self.ours {
            let _ = rustix::process::kill_process_group(self.theirs, Signal::WINCH);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Runs `work` with all signals blocked: SIGTTOU would stop whoever changes a terminal from the background.
fn unstopped(work: impl FnOnce()) {
    let old = signals::set_mask(u64::MAX);
    work();
    if let Ok(old) = old {
        let _ = signals::set_mask(old);
    }
}

/// Whether the leader of a group is a descendant of ours: the program may be a shell, with groups of its own.
fn is_below_us(group: Pid) -> bool {
    let us = rustix::process::getpid().as_raw_nonzero().get();
    let mut above = group.as_raw_nonzero().get();
    while let Ok(stat) = proc::stat(above) {
        if stat.ppid == us {
            return true;
        }
        above = stat.ppid;
    }
    false
}

/// Finds the terminal that the program gets from us: under which of our numbers, and what it was.
fn lent<'a>(checkpoint: &'a Checkpoint, plan: &Plan) -> Option<(i32, &'a Outside)> {
    let terminals = || {
        plan.capabilities.iter().zip(&checkpoint.descriptions).filter_map(|(planned, description)| {
            match (planned.route, &description.capability) {
                (Route::Inherit(number), Capability::Outside(outside)) if isatty(standard(number)) => {
                    Some((number, outside))
                }
                _ => None,
            }
        })
    };
    // One that was its controlling terminal, rather than another that it had open.
    let controls = |(_, outside): &(i32, &Outside)| {
        matches!(outside.kind, OutsideKind::Terminal { controlling: true, .. })
    };
    terminals().find(controls).or_else(|| terminals().next())
}

/// Finds the group, as we see it, that has the number `inner` for the tree below `root`.
fn outer_group(root: Pid, inner: i32) -> Option<Pid> {
    let mut todo = vec![root.as_raw_nonzero().get()];
    // What lives deeper has numbers there that others have here.
    let level = proc::status(todo[0]).ok()?.inner_groups.len().checked_sub(1)?;
    while let Some(pid) = todo.pop() {
        let groups = proc::status(pid).map(|status| status.inner_groups).unwrap_or_default();
        if groups.get(level) == Some(&inner) {
            return jobs::group(Pid::from_raw(pid)?).ok()?;
        }
        todo.extend(proc::children(pid).unwrap_or_default());
    }
    None
}

fn standard(number: i32) -> BorrowedFd<'static> {
    match number {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}
