//! The guardian while a program stands still for it.
//!
//! A priority counts among the threads of one session only, where the kernel groups them so (CONFIG_SCHED_AUTOGROUP): a
//! guardian has a session of its own, and gets as much of the processors as all other sessions do, whatever its threads'
//! priorities are. That of the session is a file of its own (`proc_sched_autogroup_set_nice`, kernel/sched/autogroup.c).

use rustix::fs::{Mode, OFlags};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::mpsc::{Sender, channel};

/// A priority that only root can take; anyone may give it back.
const FIRST: i32 = -15;

/// Gives this thread a priority, and its session.
fn set_priority(priority: i32) {
    let _ = setpriority_process(None, priority);
    set_priority_of_session(priority);
}

fn set_priority_of_session(priority: i32) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // There is no such file if threads are not grouped.
    if let Ok(file) = rustix::fs::open("/proc/self/autogroup", flags, Mode::empty()) {
        let _ = rustix::io::write(&file, priority.to_string().as_bytes());
    }
}

/// While it lives, this thread runs before all others.
///
/// Nothing is wrong where that cannot be had.
#[derive(Debug)]
pub(crate) struct Urgent {
    /// Where it may run as a rule, and where it does now.
    moved: Option<(CpuSet, usize)>,
    /// To a thread that runs before all others, too, and is on another processor already: to begin one takes a tenth of what a
    /// stop does, and it would begin on that of the program.
    helper: Option<Sender<Work>>,
}

/// What a thread is to do.
type Work = Box<dyn FnOnce() + Send>;

impl Urgent {
    /// Goes before all others.
    pub(crate) fn first() -> Self {
        set_priority(FIRST);
        Self { moved: None, helper: None }
    }

    /// Goes to the processor where the process ran last.
    ///
    /// On another processor each stop of the program costs a wake-up across processors, three times as much as the rest of
    /// it in a virtual machine.
    pub(crate) fn beside(&mut self, pid: i32) {
        let there = frost_sys::proc::stat(pid).map_or(usize::MAX, |stat| stat.processor as usize);
        let before = sched_getaffinity(None).ok().filter(|set| there < CpuSet::MAX_CPU && set.is_set(there));
        if let Some(before) = before
            && self.moved.is_none()
        {
            let mut elsewhere = before;
            elsewhere.unset(there);
            if elsewhere.count() > 0 {
                self.helper = begin_helper(elsewhere).ok();
            }
            let mut only = CpuSet::new();
            only.set(there);
            let _ = sched_setaffinity(None, &only);
            self.moved = Some((before, there));
        }
    }

    /// Has work done by a thread of ours on another processor, at once; tells whether there is one.
    pub(crate) fn have_done(&self, work: impl FnOnce() + Send + 'static) -> bool {
        self.helper.as_ref().is_some_and(|helper| helper.send(Box::new(work)).is_ok())
    }

    /// Returns what a thread of ours has to call that is not to be so: it has inherited it.
    pub(crate) fn leave(&self) -> impl FnOnce() + Send + use<> {
        let moved = self.moved;
        move || {
            let _ = setpriority_process(None, 0);
            if let Some((before, there)) = moved {
                // Away from there at once, so that the program need not wait until we are preempted.
                let mut elsewhere = before;
                elsewhere.unset(there);
                if elsewhere.count() > 0 {
                    let _ = sched_setaffinity(None, &elsewhere);
                }
                let _ = sched_setaffinity(None, &before);
            }
        }
    }
}

/// Begins a thread on some processors that does what it is sent until nobody can send any more.
fn begin_helper(processors: CpuSet) -> std::io::Result<Sender<Work>> {
    let (sender, receiver) = channel::<Work>();
    let named = std::thread::Builder::new().name("frost-helper".to_owned());
    named.spawn(move || {
        let _ = sched_setaffinity(None, &processors);
        receiver.into_iter().for_each(|work| work());
    })?;
    Ok(sender)
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.leave()();
        set_priority_of_session(0);
    }
}
