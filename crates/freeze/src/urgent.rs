//! The guardian while a program stands still for it.

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A priority that only root can take; anyone may give it back.
const FIRST: i32 = -15;

/// While it lives, this thread runs where a program does, and before all others.
///
/// On another processor each stop of the program costs a wake-up across processors, three times as much as the rest of
/// it in a virtual machine. Nothing is wrong where neither can be had.
pub(crate) struct Urgent {
    before: Option<CpuSet>,
    there: usize,
}

impl Urgent {
    /// Goes to the processor where the process ran last.
    pub(crate) fn beside(pid: i32) -> Self {
        let there = frost_sys::proc::stat(pid).map_or(usize::MAX, |stat| stat.processor as usize);
        let before = sched_getaffinity(None).ok().filter(|set| there < CpuSet::MAX_CPU && set.is_set(there));
        if before.is_some() {
            let mut only = CpuSet::new();
            only.set(there);
            let _ = sched_setaffinity(None, &only);
        }
        let _ = setpriority_process(None, FIRST);
        Self { before, there }
    }

    /// Returns what a thread of ours has to call that is not to be so: it has inherited it.
    pub(crate) fn leave(&self) -> impl FnOnce() + Send + use<> {
        let Self { before, there } = *self;
        move || {
            let _ = setpriority_process(None, 0);
            if let Some(before) = before {
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

impl Drop for Urgent {
    fn drop(&mut self) {
        self.leave()();
    }
}
