//! What a process has beside memory, descriptors and threads.

use super::{Compiler, FileMode, FileUse, credentials_of};
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_model::Process;
use frost_model::clock::{TimerSpec, Timespec};
use frost_model::pd::{Limit, Notify, PosixTimer, SigInfo};
use frost_model::rm::{Attachment, Bounds};
use std::collections::{HashMap, HashSet};

/// include/uapi/linux/prctl.h.
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const PR_SET_THP_DISABLE: u64 = 41;
const PR_SET_MDWE: u64 = 65;
const PR_SET_MEMORY_MERGE: u64 = 67;
const MCL_ONFAULT: u64 = 4;
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// The size of `struct prctl_mm_map`.
const MM_MAP_BYTES: u64 = 104;
/// Commands of membarrier(2) that register, as MEMBARRIER_CMD_GET_REGISTRATIONS reports them.
const MEMBARRIER_REGISTER: [u32; 4] = [1 << 2, 1 << 4, 1 << 6, 1 << 8];
/// The most timers that are made in vain to reach an identifier on a kernel where it cannot be chosen.
pub(crate) const MOST_TIMER_STEPS: i32 = 4096;

impl Compiler<'_> {
    /// Tells the kernel where heap, stack, arguments and binary are.
    pub(super) fn bounds(&mut self, script: &mut Script, index: usize, process: &Process) {
        let bounds = &process.rm.bounds;
        if *bounds == Bounds::default() {
            return;
        }
        self.about(script, index, Stage::Bounds, Subject::Step);
        let exe = process.pd.exe.as_ref();
        let exe = exe.and_then(|file| self.numbers.files.get(&FileUse::new(file, FileMode::Read)).copied());
        let exe = exe.or_else(|| self.nameless_binary(process).filter(|_| process.pd.exe.is_none()));
        let auxv = self.control.blob(&bounds.auxv);
        let exe_and_size = u64::from(exe.unwrap_or(-1) as u32) << 32 | bounds.auxv.len() as u64;
        let map = self.control.words(&[
            bounds.start_code,
            bounds.end_code,
            bounds.start_data,
            bounds.end_data,
            bounds.start_brk,
            bounds.brk,
            bounds.start_stack,
            bounds.arg_start,
            bounds.arg_end,
            bounds.env_start,
            bounds.env_end,
            auxv,
            exe_and_size,
        ]);
        script.call(libc::SYS_prctl, &[PR_SET_MM, PR_SET_MM_MAP, map, MM_MAP_BYTES, 0]);
    }

    /// The file or memory without a name from which a process was executed: what is mapped where its code begins.
    fn nameless_binary(&self, process: &Process) -> Option<i32> {
        let start = process.rm.bounds.start_code;
        let code = process
            .rm
            .regions
            .iter()
            .find(|region| (region.range.start()..region.range.end()).contains(&start));
        match code?.attachment {
            Attachment::Dataspace { dataspace, .. } => {
                self.numbers.dataspaces.get(dataspace.index()).copied().flatten()
            }
            Attachment::Description { description, .. } => {
                self.numbers.descriptions.get(description.index()).copied().flatten()
            }
            _ => None,
        }
    }

    /// Root directory, working directory and file mode mask.
    pub(super) fn directories(&mut self, script: &mut Script, index: usize, process: &Process) {
        let number = |file| self.numbers.files.get(&FileUse::new(file, FileMode::Directory)).copied();
        let root = process.pd.root.as_ref().and_then(number);
        let cwd = process.pd.cwd.as_ref().and_then(number);
        // Among the mounts of its nest, which what we opened is not: getcwd(2) would not find it there.
        let nested = self.checkpoint.nest_of(process.pd.relation.pid).is_some();
        let path = process.pd.cwd.as_ref().filter(|cwd| nested && !cwd.identity.removed);
        if let (Some(path), None) = (path, root) {
            self.about(script, index, Stage::Directories, Subject::Named("working directory"));
            let path = self.control.string(path.path.as_bytes());
            script.call(libc::SYS_chdir, &[path]);
            self.about(script, index, Stage::Directories, Subject::Named("file mode mask"));
            script.call(libc::SYS_umask, &[process.pd.umask.into()]);
            return;
        }
        if let Some(root) = root {
            self.about(script, index, Stage::Directories, Subject::Named("root directory"));
            let here = self.control.string(b".");
            script.call(libc::SYS_fchdir, &[root as u64]);
            script.call(libc::SYS_chroot, &[here]);
        }
        if let Some(cwd) = cwd {
            self.about(script, index, Stage::Directories, Subject::Named("working directory"));
            script.call(libc::SYS_fchdir, &[cwd as u64]);
        }
        self.about(script, index, Stage::Directories, Subject::Named("file mode mask"));
        script.call(libc::SYS_umask, &[process.pd.umask.into()]);
    }

    /// What each signal does.
    pub(super) fn actions(&mut self, script: &mut Script, index: usize, process: &Process) {
        for (number, action) in process.pd.actions.iter().enumerate() {
            let signal = number as i32 + 1;
            let is_default = action.handler == 0 && action.flags == 0 && action.mask == 0;
            if is_default || signal == libc::SIGKILL || signal == libc::SIGSTOP {
                continue;
            }
            self.about(script, index, Stage::Actions, Subject::Signal(signal));
            let words = [action.handler, action.flags, action.restorer, action.mask];
            let address = self.control.words(&words);
            script.call(libc::SYS_rt_sigaction, &[signal as u64, address, 0, 8]);
        }
    }

    /// Settings made by prctl(2) and its like, before there are threads.
    pub(super) fn settings(&mut self, script: &mut Script, index: usize, process: &Process) {
        let prctl = &process.pd.prctl;
        if prctl.personality != self.baseline.personality {
            self.about(script, index, Stage::Settings, Subject::Named("personality"));
            script.call(libc::SYS_personality, &[prctl.personality.into()]);
        }
        let thp_disable = u32::from(prctl.thp_disable) | prctl.thp_flags;
        if thp_disable != self.baseline.thp_disable {
            self.about(script, index, Stage::Settings, Subject::Named("PR_SET_THP_DISABLE"));
            let args = [PR_SET_THP_DISABLE, prctl.thp_disable.into(), prctl.thp_flags.into(), 0, 0];
            script.call(libc::SYS_prctl, &args);
        }
        if prctl.mdwe != 0 {
            self.about(script, index, Stage::Settings, Subject::Named("PR_SET_MDWE"));
            script.call(libc::SYS_prctl, &[PR_SET_MDWE, prctl.mdwe.into()]);
        }
        if prctl.memory_merge {
            self.about(script, index, Stage::Settings, Subject::Named("PR_SET_MEMORY_MERGE"));
            script.call(libc::SYS_prctl, &[PR_SET_MEMORY_MERGE, 1]);
        }
        // All that is mapped until now was locked or not by itself.
        let future = u64::from(prctl.lock_future) & (libc::MCL_FUTURE as u64 | MCL_ONFAULT);
        if future & libc::MCL_FUTURE as u64 != 0 {
            self.about(script, index, Stage::Settings, Subject::Named("mlockall"));
            script.call(libc::SYS_mlockall, &[future]);
        }
        for command in MEMBARRIER_REGISTER {
            if prctl.membarrier & command != 0 {
                self.about(script, index, Stage::Settings, Subject::Named("membarrier registration"));
                script.call(libc::SYS_membarrier, &[command.into(), 0, 0]);
            }
        }
    }

    /// Interval timers and POSIX timers.
    pub(super) fn timers(&mut self, script: &mut Script, index: usize, process: &Process) {
        let timers = &process.pd.posix_timers;
        if !timers.is_empty() && self.baseline.timer_ids {
            self.about(script, index, Stage::Timers, Subject::Named("PR_TIMER_CREATE_RESTORE_IDS"));
            script.call(libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 1]);
        }
        let mut next = 0;
        let mut sorted: Vec<_> = timers.iter().collect();
        sorted.sort_unstable_by_key(|timer| timer.id);
        for timer in sorted {
            self.about(script, index, Stage::Timers, Subject::Timer(timer.id));
            let (notify, thread) = match timer.notify {
                Notify::Process => (0, 0),
                Notify::Nobody => (1, 0),
                Notify::Thread(tid) => (4, self.seen_by(index, frost_model::Pid::new(tid.raw()))),
            };
            let mut event = vec![timer.value, timer.signal as u64 | notify << 32, thread as u64];
            event.resize(8, 0);
            let event = self.control.words(&event);
            let clock = timer.clock as u64;
            if !self.baseline.timer_ids {
                // Identifiers are given in ascending order, one for each timer ever made.
                while next < timer.id.min(MOST_TIMER_STEPS) {
                    let id = self.control.words(&[0]);
                    script.call(libc::SYS_timer_create, &[clock, event, id]);
                    script.call(libc::SYS_timer_delete, &[next as u64]);
                    next += 1;
                }
                next += 1;
            }
            let id = self.control.words(&[timer.id as u64]);
            script.call(libc::SYS_timer_create, &[clock, event, id]);
        }
        if !timers.is_empty() && self.baseline.timer_ids {
            self.about(script, index, Stage::Timers, Subject::Named("PR_TIMER_CREATE_RESTORE_IDS"));
            script.call(libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 0]);
        }
        // They go on from here: as late as may be.
        let expired = expired_timers(process);
        let sent: HashSet<i32> = expired.iter().map(|timer| timer.id).collect();
        let others = timers.iter().filter(|timer| !sent.contains(&timer.id) && !timer.spec.value.is_zero());
        let again: Vec<_> = expired.into_iter().map(|timer| (timer, self.last_expiry(timer))).collect();
        for (timer, (flags, value)) in
            again.into_iter().chain(others.map(|timer| (timer, (0, timer.spec.value))))
        {
            self.about(script, index, Stage::Timers, Subject::Timer(timer.id));
            let interval = timer.spec.interval;
            let words = [interval.sec, interval.nsec, value.sec, value.nsec].map(|word| word as u64);
            let spec = self.control.words(&words);
            script.call(libc::SYS_timer_settime, &[timer.id as u64, flags as u64, spec, 0]);
        }
        let interval_timers = &process.pd.interval_timers;
        let all = [interval_timers.real, interval_timers.virtual_, interval_timers.prof];
        for (which, TimerSpec { interval, mut value }) in all.into_iter().enumerate() {
            // The kernel winds ITIMER_REAL up again when its signal is taken (`dequeue_signal`, kernel/signal.c); while
            // the signal is pending nothing is left of the time.
            let due = process.pd.pending.iter().any(|signal| signal.signal() == libc::SIGALRM);
            if which == 0 && value.is_zero() && due {
                value = interval;
            }
            if value.is_zero() && interval.is_zero() {
                continue;
            }
            self.about(script, index, Stage::Timers, Subject::Timer(-1 - which as i32));
            // A value of less than a microsecond would disarm the timer.
            let micros = |nanos: i64| (nanos + 999) / 1000;
            let words = [interval.sec, micros(interval.nsec), value.sec, micros(value.nsec)];
            let spec = self.control.words(&words.map(|word| word as u64));
            script.call(libc::SYS_setitimer, &[which as u64, spec, 0]);
        }
    }

    /// Returns flags and moment by which a timer sends at once the signal that waited to be taken.
    ///
    /// When that is taken, the kernel counts the periods that have passed since (`common_hrtimer_rearm`,
    /// kernel/time/posix-timers.c). How many had passed before the freeze it tells to who takes the signal only.
    fn last_expiry(&self, timer: &PosixTimer) -> (i32, Timespec) {
        const LEAST: Timespec = Timespec { sec: 0, nsec: 1 };
        let TimerSpec { interval, value } = timer.spec;
        let now = match timer.clock {
            _ if interval.is_zero() => Timespec::default(),
            libc::CLOCK_MONOTONIC => self.checkpoint.clocks.monotonic,
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => self.checkpoint.clocks.boottime,
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => self.baseline.realtime,
            libc::CLOCK_TAI => return (0, LEAST),
            // A clock of processor time has begun anew.
            _ => Timespec::default(),
        };
        let moment = Timespec::from_nanos(now.as_nanos() + value.as_nanos() - interval.as_nanos());
        (libc::TIMER_ABSTIME, moment.max(LEAST))
    }

    /// Returns the number that a waiting signal is sent with, unless its timer sends it.
    ///
    /// The signal of a timer that was set anew or deleted since is not given to anybody since Linux 6.13
    /// (`posixtimer_deliver_signal`, kernel/time/posix-timers.c); it waits to be dropped.
    pub(super) fn to_send(&self, process: &Process, signal: &SigInfo) -> Option<u64> {
        let dropped = signal.timer().is_some_and(|id| {
            // Of that kernel or a later one.
            self.baseline.timer_ids || expired_timers(process).iter().any(|timer| timer.id == id)
        });
        (!dropped).then_some(signal.signal() as u64)
    }

    /// Resource limits that differ from the builder's.
    pub(super) fn limits(&mut self, script: &mut Script, index: usize, process: &Process) {
        for (number, limit) in process.pd.limits.iter().enumerate() {
            if self.baseline.limits.get(number) == Some(limit) {
                continue;
            }
            self.about(script, index, Stage::Limits, Subject::Limit(number as u32));
            let Limit { soft, hard } = *limit;
            let address = self.control.words(&[soft, hard]);
            script.call(libc::SYS_prlimit64, &[0, number as u64, address, 0]);
        }
    }

    /// The last settings of a process: they depend on its credentials.
    pub(super) fn dumpable(&mut self, script: &mut Script, index: usize, process: &Process) {
        let ours = &self.baseline.credentials;
        let dumpable = process.pd.prctl.dumpable;
        if dumpable == 1 && credentials_of(process, 0) == ours {
            return;
        }
        self.about(script, index, Stage::Settings, Subject::Named("PR_SET_DUMPABLE"));
        // 2 cannot be set; a change of credentials leaves it as the system's default.
        script.call(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, u64::from(dumpable == 1)]);
    }
}

/// Returns the timers made by timer_create(2) whose signal waits to be taken, in the order of those.
///
/// One that has more left than a period, or is to fire once and has not, was set anew since it sent that.
fn expired_timers(process: &Process) -> Vec<&PosixTimer> {
    let of_threads = process.cpu.threads.iter().flat_map(|thread| &thread.pending);
    let sent =
        process.pd.pending.iter().chain(of_threads).filter_map(|info| Some((info.timer()?, info.signal())));
    let expired =
        |timer: &&PosixTimer| timer.notify != Notify::Nobody && timer.spec.value <= timer.spec.interval;
    let by_id: HashMap<_, _> = process
        .pd
        .posix_timers
        .iter()
        .filter(expired)
        .map(|timer| ((timer.id, timer.signal), timer))
        .collect();
    sent.filter_map(|sent| by_id.get(&sent).copied()).collect()
}
