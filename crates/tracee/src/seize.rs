//! Seizing and stopping a whole process tree.
//!
//! Threads and children that are born while we stop the others are found by looking again until a look finds
//! nothing new: a stopped process cannot fork. Dropping a [`StoppedTree`] lets everything go on as it was.

use crate::denial::Denial;
use crate::{elapsed, restart};
use frost_sys::impatience::Impatience;
use frost_sys::proc::{self, Asleep, Families};
use frost_sys::ptrace::{self, Options, REGISTER_WORDS, Stop};
use frost_sys::{kcmp, pidfd, signals};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Why a tree could not be stopped. Whatever was stopped already runs again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root of the tree ended.
    #[error("process {pid} is gone")]
    Gone {
        /// The root.
        pid: i32,
    },
    /// We may not trace a process.
    #[error("process {pid} ({command}) may not be looked into: {why}")]
    Denied {
        /// Which.
        pid: i32,
        /// Its command name.
        command: String,
        /// Why not.
        why: Denial,
    },
    /// Somebody else traces a process.
    #[error("process {pid} ({command}) is traced by process {tracer} ({tracer_command})")]
    Traced {
        /// Which.
        pid: i32,
        /// Its command name.
        command: String,
        /// Who traces it.
        tracer: i32,
        /// The tracer's command name.
        tracer_command: String,
    },
    /// A program of 32 bits, whose registers are others.
    #[error("process {pid} ({command}) is a program of 32 bits")]
    Narrow {
        /// Which.
        pid: i32,
        /// Its command name.
        command: String,
    },
    /// A thread did not stop in time.
    #[error("thread {tid} of process {pid} ({command}) did not stop within {} s: {why}", waited.as_secs())]
    Timeout {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// The command name.
        command: String,
        /// How long it was waited for.
        waited: Duration,
        /// What it was doing, as far as the kernel tells.
        why: &'static str,
    },
    /// The tree kept growing.
    #[error("the tree below process {pid} grew faster than it could be stopped: {processes} processes")]
    Growing {
        /// The root.
        pid: i32,
        /// How many were found.
        processes: usize,
    },
    /// A call failed that should not.
    #[error("{call} failed for thread {tid}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// The thread.
        tid: i32,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// What a thread was stopped with.
#[derive(Clone, Copy, Debug)]
struct Context {
    stop: Stop,
    registers: [u64; REGISTER_WORDS],
    mask: u64,
    reissue: bool,
    stopped: Instant,
}

/// A thread in a ptrace stop.
#[derive(Clone, Debug)]
pub struct StoppedThread {
    /// Its number in our pid namespace.
    pub tid: i32,
    /// Its number in the pid namespace of the root.
    pub inner: i32,
    /// Its number in its own pid namespace, which may be deeper.
    pub own: i32,
    /// The registers it was stopped with.
    pub registers: [u64; REGISTER_WORDS],
    /// Its mask of blocked signals.
    pub mask: u64,
    /// Whether its call is to be issued again: it returned EINTR only because of our stop, or it has a restart block, and a
    /// filter of its own may forbid the call by which the kernel goes on with that.
    pub reissue: bool,
    /// When it fell asleep in a call with a timeout.
    pub asleep: Option<Asleep>,
    /// Whether it was not in a call when it was seized, so that what it has slept is less than the time until it stopped.
    pub seen_awake: bool,
    /// How long it had slept when all of its tree stood still.
    pub slept: Option<Duration>,
    /// How long of that it had stood still itself.
    pub stood: Duration,
    /// When it was stopped, as nearly as we know: what the kernel wrote about its call is of that moment.
    pub stopped: Instant,
}

impl StoppedThread {
    /// Returns the registers with which it goes on; a call interrupted by our stop alone is issued again.
    pub fn resume_registers(&self) -> [u64; REGISTER_WORDS] {
        if self.reissue { restart::again(&self.registers) } else { self.registers }
    }
}

/// A process all of whose threads are stopped.
#[derive(Debug)]
pub struct StoppedProcess {
    /// Its number in our pid namespace.
    pub pid: i32,
    /// Its number in the pid namespace of the root.
    pub inner: i32,
    /// Its number in its own pid namespace, which may be deeper.
    pub own: i32,
    /// Its parent in our pid namespace.
    pub parent: i32,
    /// The number by which its memory and descriptors are reached: its own, or that of another thread if the leader has
    /// ended, since an ended thread gave both up (`exit_mm`, `exit_files`).
    pub through: i32,
    /// The process itself.
    pub pidfd: OwnedFd,
    /// That thread, if it is not the leader, and if the kernel has such descriptors (PIDFD_THREAD, Linux 6.9).
    pub thread_pidfd: Option<OwnedFd>,
    /// Its threads, the leader first. Empty for a zombie. A leader that has ended is not among them.
    pub threads: Vec<StoppedThread>,
    /// The signal by which job control had stopped it before us.
    pub job_stop: Option<i32>,
    /// Whether it had ended.
    pub zombie: bool,
    /// `/proc/PID/stat` as of the stop.
    pub stat: proc::Stat,
    /// `/proc/PID/status` as of the stop.
    pub status: proc::Status,
}

impl StoppedProcess {
    /// Returns whether its main thread has ended while others go on.
    pub fn lacks_leader(&self) -> bool {
        !self.threads.is_empty() && self.through != self.pid
    }

    /// Returns whether it goes on when its tracer dies, and can be kept from that by a stop.
    pub fn goes_on_unless_held(&self) -> bool {
        !self.zombie && self.job_stop.is_none()
    }

    /// Returns the descriptor by which its descriptor table is reached.
    pub fn table(&self) -> BorrowedFd<'_> {
        self.thread_pidfd.as_ref().unwrap_or(&self.pidfd).as_fd()
    }

    /// Sets calls that are issued again to the time that is left to them.
    ///
    /// Where that cannot be told, or has no place, `unhindered` threads go on with what the kernel has kept of it.
    fn shorten_timeouts(&self, unhindered: &BTreeSet<i32>) {
        let again = |thread: &&StoppedThread| thread.reissue || restart::has_restart_block(&thread.registers);
        let mut again = self.threads.iter().filter(again).peekable();
        if again.peek().is_none() {
            return;
        }
        let mappings = proc::bare_mappings(self.through).unwrap_or_default();
        for thread in again {
            let left = elapsed::remaining(thread);
            let as_it_was = restart::has_restart_block(&thread.registers) && unhindered.contains(&thread.tid);
            let registers =
                elapsed::shortened(thread, left, &mappings).or_else(|| as_it_was.then_some(thread.registers));
            if let Some(registers) = registers {
                // If it cannot be set it is gone, or goes on with the full time.
                let _ = ptrace::set_registers(thread.tid, &registers);
            }
        }
    }
}

/// A process tree at a standstill.
#[derive(Debug)]
pub struct StoppedTree {
    /// Parents before their children; the root first.
    processes: Vec<StoppedProcess>,
    /// The child of its own that the keeper has beside the tree.
    beside: Option<i32>,
    /// Threads of which is known that no filter forbids them restart_syscall(2).
    unhindered: BTreeSet<i32>,
    armed: bool,
}

/// From so much memory on, a process that is killed is helped to give it back.
const LARGE_BYTES: u64 = 64 << 20;
/// What a call shows as that the kernel has gone on with once.
const RESTART_SYSCALL: u64 = libc::SYS_restart_syscall as u64;
/// Bounds the fight against a tree that grows while we stop it.
const MOST_PROCESSES: usize = 32_768;

/// Who adopts what a tree leaves behind.
#[derive(Clone, Copy, Debug)]
pub struct Adopter {
    /// Its pid.
    pub pid: i32,
    /// A child of its own that is none of the tree.
    pub own: Option<i32>,
    /// How many filters of system calls it puts on a program, those included that it has itself.
    pub filters: u32,
}

impl Adopter {
    fn children(&self) -> impl Iterator<Item = i32> + use<> {
        let own = self.own;
        proc::children(self.pid).unwrap_or_default().into_iter().filter(move |child| Some(*child) != own)
    }
}

/// The stop of a thread is told by SIGCHLD, if that is blocked; this often is looked in any case.
const LOOK: Duration = Duration::from_millis(1);
/// After so many looks for threads that are to stop is looked whether others, that stood still, have ended.
const PATIENT_LOOKS: u32 = 8;
/// How often is looked for the stop of a thread that is to stop before the next is interrupted.
const DELICATE_LOOKS: u32 = 5;

struct Seizing {
    root: i32,
    /// Who adopts what the tree leaves behind.
    keeper: Option<Adopter>,
    /// Seized threads and their process, with what they were stopped with once they are.
    threads: BTreeMap<i32, (i32, Option<Context>)>,
    /// When threads in calls with a timeout fell asleep.
    asleep: BTreeMap<i32, Asleep>,
    /// Threads that were in no call.
    awake: BTreeSet<i32>,
    /// Threads that are seized and not yet interrupted.
    fresh: Vec<i32>,
    /// Others, which are in a call that returns EINTR to a stop.
    delicate: Vec<i32>,
    waiting: usize,
    /// How many filters of system calls a thread may have that none of the tree has installed.
    given: u32,
    deadline: Instant,
    timeout: Duration,
}

impl StoppedTree {
    /// Seizes and stops `root` and all of its descendants.
    ///
    /// If there is a `keeper` that adopts those whose parents have ended, its other children and theirs are stopped too.
    ///
    /// # Errors
    /// See [`Error`]; all threads seized until then run again, unharmed.
    pub fn stop(root: i32, keeper: Option<Adopter>, timeout: Duration) -> Result<Self, Error> {
        let mut seizing = Seizing {
            root,
            keeper,
            threads: BTreeMap::new(),
            asleep: BTreeMap::new(),
            awake: BTreeSet::new(),
            fresh: Vec::new(),
            delicate: Vec::new(),
            waiting: 0,
            // What we live under ourselves is that of a container, which whoever wakes in it is used to.
            given: proc::status(rustix::process::getpid().as_raw_nonzero().get())
                .map_or(0, |status| status.seccomp_filters)
                .max(keeper.map_or(0, |keeper| keeper.filters)),
            deadline: Instant::now() + timeout,
            timeout,
        };
        match seizing.run() {
            Ok(tree) => Ok(tree),
            Err(error) => {
                seizing.release();
                Err(error)
            }
        }
    }

    /// Returns the processes, parents before their children.
    pub fn processes(&self) -> &[StoppedProcess] {
        &self.processes
    }

    /// Returns whether a process is in a session that is led by the child of its own that the keeper has beside the tree.
    pub fn is_led(&self, process: &StoppedProcess) -> bool {
        self.beside == Some(process.stat.session)
    }

    /// Lets all of it go on as it was.
    pub fn resume(mut self) {
        self.release();
    }

    /// Lets all of it go on as it was; of some threads is known that no filter forbids them restart_syscall(2).
    pub fn resume_knowing(mut self, unhindered: BTreeSet<i32>) {
        self.unhindered = unhindered;
        self.release();
    }

    /// Lets all of it stand still even if we die: a SIGSTOP waits in each process, which takes it before any instruction.
    /// What job control has stopped already stays so by itself. `before` is called for each process, which says whether it
    /// may be held, and `behind` when it is.
    pub fn hold(
        &self,
        mut before: impl FnMut(&StoppedProcess) -> bool,
        mut behind: impl FnMut(&StoppedProcess),
    ) {
        for process in self.processes.iter().filter(|process| process.goes_on_unless_held()) {
            if before(process) {
                let _ = rustix::process::pidfd_send_signal(&process.pidfd, rustix::process::Signal::STOP);
                behind(process);
            }
        }
    }

    /// Ends all of it by SIGKILL and waits until every process has ended. `each` is called behind each that was killed.
    ///
    /// No call ends several processes at once, and what is not killed yet goes on should we die, unless it is
    /// [held](Self::hold).
    pub fn kill(mut self, mut each: impl FnMut()) {
        self.armed = false;
        // The root last: while it lives, its image counts as superseded and is not thawed beside what is left of it.
        for process in self.processes.iter().rev() {
            // It may have been killed by someone else meanwhile, which is what we want anyway.
            let _ = rustix::process::pidfd_send_signal(&process.pidfd, rustix::process::Signal::KILL);
            each();
        }
        // Giving memory back is most of the end of a large program (65 ms for 1 GiB of small pages), and there is another
        // processor: 40 ms by both. Whoever comes late is not needed. Where many threads die on all processors each mapping
        // that is given back interrupts those (`flush_tlb_mm_range`, arch/x86/mm/tlb.c), and it takes longer.
        let helped = |process: &&StoppedProcess| {
            process.status.resident_bytes >= LARGE_BYTES && process.threads.len() < MANY_THREADS
        };
        for process in self.processes.iter().rev().filter(helped) {
            let _ = frost_sys::pidfd::release_memory(process.pidfd.as_fd());
        }
        // As their tracer we are told of each thread's end first; only then is its parent. Of a leader's end we are told
        // behind all others'.
        for process in self.processes.iter().rev() {
            let (leading, others) = process.threads.split_at(process.threads.len().min(1));
            std::thread::scope(|scope| {
                // Whom any thread of ours traces all may wait for (`do_wait_pid`, kernel/exit.c). To collect one takes 10 us.
                let many = others.len() >= MANY_THREADS;
                let (first, last) = others.split_at(if many { others.len() / 2 } else { 0 });
                let helper = many.then(|| std::thread::Builder::new().spawn_scoped(scope, || collect(first)));
                collect(last);
                if !matches!(helper, Some(Ok(_))) {
                    collect(first);
                }
            });
            collect(leading);
        }
    }

    fn release(&mut self) {
        if !std::mem::replace(&mut self.armed, false) {
            return;
        }
        // Children first, so that a parent that reads its children's state finds them running.
        for process in self.processes.iter().rev() {
            process.shorten_timeouts(&self.unhindered);
            for thread in &process.threads {
                let _ = ptrace::detach(thread.tid, 0);
            }
        }
    }
}

impl Drop for StoppedTree {
    fn drop(&mut self) {
        self.release();
    }
}

/// Waits until some threads that were killed have ended, the last first.
///
/// Each is asked for by its number: a wait for any of them looks at all of them each time.
fn collect(threads: &[StoppedThread]) {
    for thread in threads.iter().rev() {
        while let Ok(Some(stop)) = ptrace::wait(thread.tid, true) {
            if matches!(stop, Stop::Exited(_) | Stop::Killed(_)) {
                break;
            }
        }
    }
}

/// A process is looked for among all of the machine rather than by each of its threads, if it has more of them than this,
/// and more than there are processes: each takes some three calls.
const MANY_THREADS: usize = 64;

/// Lists the children of threads of a process; `families` is what was found out about all processes.
fn children_of(pid: i32, threads: &[i32], families: &mut Option<Option<Families>>) -> Vec<i32> {
    let many = || threads.len() > MANY_THREADS && proc::pids().is_ok_and(|all| all.len() < threads.len());
    if (families.is_some() || many())
        && let Some(families) = families.get_or_insert_with(Families::read)
    {
        return families.of(pid).to_vec();
    }
    threads.iter().flat_map(|tid| proc::children_of(pid, *tid).unwrap_or_default()).collect()
}

impl Seizing {
    fn run(&mut self) -> Result<StoppedTree, Error> {
        let mut order: Vec<i32> = vec![self.root];
        let mut known: BTreeSet<i32> = order.iter().copied().collect();
        loop {
            let mut found = false;
            let mut postponed = false;
            // Read behind the stop of all that were found before, so that the last look misses nobody.
            let mut families = None;
            let mut index = 0;
            while index < order.len() {
                let pid = order[index];
                let (fresh, threads) = self.seize_process(pid)?;
                found |= fresh;
                for child in children_of(pid, &threads, &mut families) {
                    if self.may_hold_up(child, pid) {
                        postponed = true;
                    } else if known.insert(child) {
                        order.push(child);
                        found = true;
                    }
                }
                index += 1;
            }
            // Behind all others: who is no child of those any more has the keeper as parent by now.
            for child in self.keeper.iter().flat_map(Adopter::children) {
                if known.insert(child) {
                    order.push(child);
                    found = true;
                }
            }
            if order.len() > MOST_PROCESSES {
                return Err(Error::Growing { pid: self.root, processes: order.len() });
            }
            let are_asked = self.waiting == 0 && self.fresh.is_empty();
            if !found && !postponed && are_asked && !self.replaced_leaders() {
                if !self.overlooks(&order) {
                    break;
                }
                if Instant::now() > self.deadline {
                    return Err(self.timed_out());
                }
                signals::wait_for(libc::SIGCHLD, LOOK);
            }
            self.interrupt()?;
            self.wait_for_stops()?;
        }
        let mut processes = Vec::with_capacity(order.len());
        let mut owned: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (tid, (pid, _)) in &self.threads {
            owned.entry(*pid).or_default().push(*tid);
        }
        for pid in order {
            if let Some(process) = self.describe(pid, owned.remove(&pid).unwrap_or_default())? {
                processes.push(process);
            }
        }
        if processes.first().is_none_or(|process| process.pid != self.root || process.zombie) {
            return Err(Error::Gone { pid: self.root });
        }
        if let Some(keeper) = self.keeper {
            // Those that have ended are the keeper's to collect.
            processes.retain(|process| !process.zombie || process.parent != keeper.pid);
            processes = leaders_first(processes);
        }
        let beside = self.keeper.and_then(|keeper| keeper.own);
        Ok(StoppedTree { processes, beside, unhindered: BTreeSet::new(), armed: true })
    }

    /// Returns whether `child` may have to run on for its parent to stop: a parent in vfork(2) waits in the kernel,
    /// deaf to any stop, until its child executes or ends. Such a child shares the memory of its parent.
    fn may_hold_up(&self, child: i32, parent: i32) -> bool {
        let stops = self.threads.values().any(|(pid, stop)| *pid == parent && stop.is_none());
        stops && matches!(kcmp::kcmp(parent, child, kcmp::Resource::Vm), Ok(Ordering::Equal))
    }

    /// Seizes the threads of `pid` that are not yet ours; tells whether there were any, and which are to be asked for
    /// their children: the first, and those that were ours before.
    ///
    /// As long as there are new ones another look follows, which asks those: once, when they stand still.
    fn seize_process(&mut self, pid: i32) -> Result<(bool, Vec<i32>), Error> {
        let mut found = false;
        let mut parents = Vec::new();
        // Without it who executes a program may be waited for for ever.
        let _impatience = Impatience::begin(LOOK);
        for tid in proc::threads(pid).unwrap_or_default() {
            let known = self.threads.contains_key(&tid);
            if known || tid == pid {
                parents.push(tid);
            }
            if known {
                continue;
            }
            if !found && Denial::is_closed(tid) {
                return Err(self.refusal(pid, tid, Errno::ACCESS));
            }
            match self.seize(pid, tid) {
                Ok(()) => {}
                Err(Errno::SRCH) => continue,
                Err(Errno::INTR) => return Err(self.timed_out_at(pid, tid)),
                Err(source) => return Err(self.refusal(pid, tid, source)),
            }
            found = true;
            // The stop itself lets the thread run for a moment, so this is asked before.
            let call = proc::blocked_in(pid, tid);
            if call.as_ref().is_some_and(restart::may_have_timeout) {
                self.asleep.extend(Asleep::of(pid, tid).map(|asleep| (tid, asleep)));
            }
            if call.is_none() {
                self.awake.insert(tid);
            }
            self.threads.insert(tid, (pid, None));
            if call.is_some_and(|call| restart::returns_eintr(call.nr)) {
                self.delicate.push(tid);
            } else {
                self.fresh.push(tid);
            }
        }
        Ok((found, parents))
    }

    /// Seizes a thread of `pid`. As long as another executes a program, those that it has ended are collected.
    ///
    /// # Errors
    /// INTR if that takes too long.
    fn seize(&mut self, pid: i32, tid: i32) -> Result<(), Errno> {
        loop {
            match seize(tid) {
                Err(Errno::INTR) if Instant::now() <= self.deadline => {}
                other => return other,
            }
            self.collect_ended(&BTreeSet::from([pid]));
        }
    }

    /// Collects those threads of some processes that have ended though they stood still: who executes a program ends all others,
    /// and waits until they are collected.
    fn collect_ended(&mut self, pids: &BTreeSet<i32>) {
        for (tid, (_, state)) in self.threads.iter_mut().filter(|(_, (pid, _))| pids.contains(pid)) {
            // It is waited for once more, which finds that it is gone.
            if ptrace::collect(*tid) && state.take().is_some() {
                self.fresh.push(*tid);
            }
        }
    }

    /// Interrupts all threads that were seized.
    ///
    /// A call that returns EINTR shows the interruption until its thread was examined, so those in one are
    /// interrupted first, and each is waited for before the next.
    fn interrupt(&mut self) -> Result<(), Error> {
        for tid in std::mem::take(&mut self.delicate) {
            self.waiting += 1;
            match ptrace::interrupt(tid) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(source) => return Err(Error::Kernel { call: "PTRACE_INTERRUPT", tid, source }),
            }
            // A sleeper stops as soon as it gets the processor; one that does not is waited for with the others.
            for _ in 0..DELICATE_LOOKS {
                if self.has_stopped(tid)? {
                    break;
                }
                signals::wait_for(libc::SIGCHLD, LOOK);
            }
        }
        for tid in std::mem::take(&mut self.fresh) {
            self.waiting += 1;
            match ptrace::interrupt(tid) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(source) => return Err(Error::Kernel { call: "PTRACE_INTERRUPT", tid, source }),
            }
        }
        Ok(())
    }

    /// Looks for leaders that are others than those that were examined, and has them waited for; tells whether there are any.
    ///
    /// A thread that executes a program ends all others, those that stand still too, and takes the leader's number. Of the
    /// end of that leader its tracer is not told (`de_thread`, fs/exec.c).
    fn replaced_leaders(&mut self) -> bool {
        let mut replaced = false;
        for (tid, (pid, state)) in &mut self.threads {
            if tid == pid
                && let Some(context) = state
                && !ptrace::registers(*tid).is_ok_and(|now| is_where(&now, &context.registers))
            {
                *state = None;
                // It may have had another number when it was to be interrupted.
                self.fresh.push(*tid);
                replaced = true;
            }
        }
        replaced
    }

    /// Returns whether one of `pids` lives of which no thread is ours.
    ///
    /// While a thread that executes a program takes its leader's place, the process lists no thread at all (`de_thread`,
    /// fs/exec.c; `first_tid`, fs/proc/base.c).
    fn overlooks(&self, pids: &[i32]) -> bool {
        let owners: BTreeSet<i32> = self.threads.values().map(|(pid, _)| *pid).collect();
        let mut without = pids.iter().filter(|pid| !owners.contains(pid));
        without.any(|pid| proc::stat(*pid).is_ok_and(|stat| !stat.is_zombie()))
    }

    fn refusal(&self, pid: i32, tid: i32, source: Errno) -> Error {
        let command = proc::command(pid);
        let tracer = proc::status(tid).map_or(0, |status| status.tracer);
        if tracer != 0 {
            return Error::Traced { pid, command, tracer, tracer_command: proc::command(tracer) };
        }
        match source {
            Errno::PERM | Errno::ACCESS => Error::Denied { pid, command, why: Denial::of(pid) },
            source => Error::Kernel { call: "PTRACE_SEIZE", tid, source },
        }
    }

    fn wait_for_stops(&mut self) -> Result<(), Error> {
        let unstopped = self.threads.iter().filter(|(_, (_, context))| context.is_none());
        let mut late: Vec<i32> = unstopped.map(|(tid, _)| *tid).collect();
        let mut looks = 0;
        loop {
            let mut later = Vec::new();
            for tid in late {
                if !self.has_stopped(tid)? {
                    later.push(tid);
                }
            }
            late = later;
            if late.is_empty() {
                return Ok(());
            }
            if Instant::now() > self.deadline {
                return Err(self.timed_out());
            }
            looks += 1;
            if looks % PATIENT_LOOKS == 0 {
                let pids = late.iter().filter_map(|tid| self.threads.get(tid)).map(|(pid, _)| *pid).collect();
                self.collect_ended(&pids);
            }
            // Our processor is theirs meanwhile. With sched_yield(2) it would be that of anybody who waits for it, for a
            // whole slice of theirs, while some of the program stands still already.
            signals::wait_for(libc::SIGCHLD, LOOK);
        }
    }

    /// Takes note of what has become of a thread since it was interrupted; tells whether it has stopped or ended.
    ///
    /// Each thread is asked for by its number: a wait for any of them looks at all of them each time.
    fn has_stopped(&mut self, tid: i32) -> Result<bool, Error> {
        while self.threads.get(&tid).is_some_and(|(_, context)| context.is_none()) {
            match ptrace::wait(tid, false) {
                Ok(Some(stop)) => self.note(tid, stop)?,
                // Of the end of a leader nobody is told before that of all its threads (`delay_group_leader`, kernel/exit.c): it was
                // seized on its way there.
                Ok(None) if self.is_leader(tid) && is_over(tid) => self.forget(tid),
                Ok(None) => return Ok(false),
                // Reaped by a wait of someone else's, as of a thread by exec.
                Err(Errno::CHILD) => self.forget_executed(tid),
                Err(source) => return Err(Error::Kernel { call: "waitpid", tid, source }),
            }
        }
        Ok(true)
    }

    fn is_leader(&self, tid: i32) -> bool {
        self.threads.get(&tid).is_some_and(|(pid, _)| *pid == tid)
    }

    /// Waits no longer for a thread whose number is gone. If it has executed a program, it is the leader since (`de_thread`,
    /// fs/exec.c): of the interruptions one may have gone to the leader before it, and the other to a number that it had no more.
    fn forget_executed(&mut self, tid: i32) {
        let leader = self.threads.get(&tid).map(|(pid, _)| *pid);
        self.forget(tid);
        if let Some(leader) = leader
            && self.threads.get(&leader).is_some_and(|(_, context)| context.is_none())
        {
            // Should it stand still by now, whoever has it make calls passes over one more stop.
            let _ = ptrace::interrupt(leader);
        }
    }

    /// Waits no longer for a thread that has ended.
    fn forget(&mut self, tid: i32) {
        self.threads.remove(&tid);
        self.waiting = self.waiting.saturating_sub(1);
    }

    fn note(&mut self, tid: i32, stop: Stop) -> Result<(), Error> {
        let given = self.given;
        let Some((_, state)) = self.threads.get_mut(&tid) else { return Ok(()) };
        match stop {
            Stop::Interrupt | Stop::Group(_) => {
                if state.is_none() {
                    self.waiting = self.waiting.saturating_sub(1);
                    *state = examine(tid, stop, given)?;
                }
            }
            // A signal on its way is delivered, and the stop we asked for comes after it.
            Stop::Signal(signal) => continue_thread(tid, signal)?,
            Stop::Syscall | Stop::Event(_) => continue_thread(tid, 0)?,
            Stop::Exited(_) | Stop::Killed(_) => {
                if state.is_none() && self.waiting > 0 {
                    self.waiting -= 1;
                }
                self.threads.remove(&tid);
            }
        }
        Ok(())
    }

    fn timed_out(&self) -> Error {
        let late = self.threads.iter().find(|(_, (_, stop))| stop.is_none());
        let (tid, pid) = late.map_or((self.root, self.root), |(tid, (pid, _))| (*tid, *pid));
        self.timed_out_at(pid, tid)
    }

    fn timed_out_at(&self, pid: i32, tid: i32) -> Error {
        let syscall = proc::read(tid, "syscall").unwrap_or_default();
        let number = syscall.split(|byte| *byte == b' ').next().unwrap_or_default();
        let why = match (number, proc::stat(tid).map(|stat| stat.state)) {
            // posix_spawn(3) makes its vfork by clone or clone3, which wait for nothing else.
            (b"58", _) | (b"56" | b"435", Ok(b'D')) => "it waits in vfork for its child to execute or exit",
            (b"59" | b"322", _) => "it is in the middle of exec",
            (_, Ok(b'D')) => "it is in an uninterruptible wait, as for a disk or a network file system",
            _ => "it does not react",
        };
        Error::Timeout { pid, tid, command: proc::command(pid), waited: self.timeout, why }
    }

    /// Gathers what is known of a stopped process; `None` if it is gone.
    fn describe(&self, pid: i32, mut tids: Vec<i32>) -> Result<Option<StoppedProcess>, Error> {
        let Ok(stat) = proc::stat(pid) else { return Ok(None) };
        let Ok(mut status) = proc::status(pid) else { return Ok(None) };
        let number = rustix::process::Pid::from_raw(pid);
        let Some(number) = number else { return Ok(None) };
        let Ok(pidfd) = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty()) else {
            return Ok(None);
        };
        tids.sort_by_key(|tid| (*tid != pid, *tid));
        let mut threads = Vec::with_capacity(tids.len());
        let mut job_stop = None;
        for tid in tids {
            let Some((_, Some(context))) = self.threads.get(&tid) else { continue };
            if let Stop::Group(signal) = context.stop {
                job_stop = Some(signal);
            }
            let asleep = self.asleep.get(&tid).map(|asleep| match last_cpu(tid) {
                Some(cpu) => asleep.or_on(cpu),
                None => *asleep,
            });
            // In our own pid namespace all numbers are one, and asking thousands of threads takes its time.
            let (inner, own) = if status.inner_pids.len() > 1 { numbers(tid) } else { (tid, tid) };
            threads.push(StoppedThread {
                tid,
                inner,
                own,
                registers: context.registers,
                mask: context.mask,
                reissue: context.reissue,
                asleep,
                seen_awake: self.awake.contains(&tid),
                slept: asleep.and_then(Asleep::since),
                stood: context.stopped.elapsed(),
                stopped: context.stopped,
            });
        }
        if threads.is_empty() && !stat.is_zombie() {
            // It lived when we looked last, and was ours.
            return Err(Error::Gone { pid });
        }
        let zombie = threads.is_empty();
        let own = status.inner_pids.last().copied().unwrap_or(pid);
        let inner = status.number().unwrap_or(pid);
        let through = threads.first().map_or(pid, |thread| thread.tid);
        let mut thread_pidfd = None;
        if through != pid {
            // The leader's own shows what is left of it: no umask, no filters.
            let Ok(other) = proc::status(through) else { return Ok(None) };
            status = proc::Status { inner_pids: status.inner_pids, ..other };
            thread_pidfd = pidfd::pidfd_of_thread(through).ok();
        }
        Ok(Some(StoppedProcess {
            pid,
            inner,
            own,
            parent: stat.ppid,
            through,
            pidfd,
            thread_pidfd,
            threads,
            job_stop,
            zombie,
            stat,
            status,
        }))
    }

    /// Lets all threads go on that were seized, and with what they did.
    fn release(&mut self) {
        /// Who does not stop in this time is let go by our own end: the kernel lets a tracee go with its tracer.
        const PATIENCE: Duration = Duration::from_millis(100);
        // Only one that stands still can be let go, and what has interrupted its call it shows until it was examined.
        for tid in std::mem::take(&mut self.fresh).into_iter().chain(std::mem::take(&mut self.delicate)) {
            self.waiting += 1;
            let _ = ptrace::interrupt(tid);
        }
        let unstopped = self.threads.iter().filter(|(_, (_, context))| context.is_none());
        let mut late: Vec<i32> = unstopped.map(|(tid, _)| *tid).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            late.retain(|tid| {
                // One that could not be examined stands still, though nothing more is told of it.
                let stands = ptrace::signal_mask(*tid).is_ok();
                !self.has_stopped(*tid).unwrap_or(true) && !stands
            });
            if late.is_empty() || Instant::now() > deadline {
                break;
            }
            signals::wait_for(libc::SIGCHLD, LOOK);
        }
        let mut owned: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (tid, (pid, _)) in &self.threads {
            owned.entry(*pid).or_default().push(*tid);
        }
        for (pid, tids) in owned {
            if let Ok(Some(process)) = self.describe(pid, tids.clone()) {
                process.shorten_timeouts(&BTreeSet::new());
            }
            for tid in tids {
                let _ = ptrace::detach(tid, 0);
            }
        }
    }
}

/// Puts the leader of a session before those who are in it without being its descendants; parents still come before
/// their children.
fn leaders_first(processes: Vec<StoppedProcess>) -> Vec<StoppedProcess> {
    let mut waiting: BTreeSet<i32> = processes.iter().map(|process| process.pid).collect();
    let mut ordered = Vec::with_capacity(processes.len());
    let mut rest = processes;
    loop {
        let before = rest.len();
        let mut later = Vec::new();
        for process in rest {
            let leader = process.stat.session;
            if waiting.contains(&process.parent) || (leader != process.pid && waiting.contains(&leader)) {
                later.push(process);
            } else {
                waiting.remove(&process.pid);
                ordered.push(process);
            }
        }
        // A session's leader cannot be a descendant of another one in it, so there is always one more.
        if later.is_empty() || later.len() == before {
            ordered.extend(later);
            return ordered;
        }
        rest = later;
    }
}

/// Seizes a thread.
///
/// One that has ended cannot be, for which the kernel says EPERM too: ESRCH is made of that. But when a thread executes a
/// program, its leader has ended for a moment, and then it is the leader (`de_thread`, fs/exec.c): who looks twice sees the
/// end of the one and the life of the other.
fn seize(tid: i32) -> Result<(), Errno> {
    let mut outcome = Err(Errno::PERM);
    proc::lasts(|| {
        outcome = match ptrace::seize(tid, Options::SYSGOOD) {
            Err(Errno::PERM) if is_over(tid) => Err(Errno::SRCH),
            // It is ours already, by the number that it had before.
            Err(Errno::PERM) if ptrace::interrupt(tid).is_ok() => Ok(()),
            other => other,
        };
        outcome == Err(Errno::PERM)
    });
    outcome
}

/// Whether a thread has ended.
fn is_over(tid: i32) -> bool {
    !proc::stat(tid).is_ok_and(|stat| !stat.is_zombie())
}

fn continue_thread(tid: i32, signal: i32) -> Result<(), Error> {
    match ptrace::cont(tid, signal) {
        // Killed meanwhile: its end is reported by a later wait.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(source) => Err(Error::Kernel { call: "PTRACE_CONT", tid, source }),
    }
}

/// Reads the registers of a thread that has just stopped, and sets a call that our stop alone has interrupted to be
/// issued again: at once, so that our death at any later moment leaves no trace of the interruption.
///
/// One with a restart block the kernel goes on with by restart_syscall(2), which meets the filters as any call does: those
/// who do not know of it end the thread, as they would behind a stop of job control. `given` filters it has from elsewhere.
fn examine(tid: i32, stop: Stop, given: u32) -> Result<Option<Context>, Error> {
    let stopped = Instant::now();
    let mut registers = match ptrace::registers(tid) {
        Ok(registers) => registers,
        Err(Errno::SRCH) => return Ok(None),
        // The register set of such a thread is shorter than the one we ask for.
        Err(Errno::INVAL) => {
            // It is let go at once, if it still lives.
            let _ = restart::again_narrow(tid);
            return Err(Error::Narrow { pid: tid, command: proc::command(tid) });
        }
        Err(source) => return Err(Error::Kernel { call: "PTRACE_GETREGSET", tid, source }),
    };
    // Whoever executes a program ends it at any moment: of that its end tells.
    let mask = match ptrace::signal_mask(tid) {
        Ok(mask) => mask,
        Err(Errno::SRCH) => return Ok(None),
        Err(source) => return Err(Error::Kernel { call: "PTRACE_GETSIGMASK", tid, source }),
    };
    let has_block = restart::has_restart_block(&registers);
    if has_block && let Some(call) = restart::forgotten_call(tid, &registers) {
        registers[restart::ORIG_RAX] = call;
    }
    let is_filtered = || proc::status(tid).is_ok_and(|status| status.seccomp_filters > given);
    let reissue = restart::stopped_with_eintr(&registers)
        || has_block && registers[restart::ORIG_RAX] != RESTART_SYSCALL && is_filtered();
    if reissue {
        match ptrace::set_registers(tid, &restart::again(&registers)) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(None),
            Err(source) => return Err(Error::Kernel { call: "PTRACE_SETREGSET", tid, source }),
        }
    }
    Ok(Some(Context { stop, registers, mask, reissue, stopped }))
}

/// Whether a thread has the registers that it was examined with, but those by which its call is issued again.
fn is_where(now: &[u64; REGISTER_WORDS], examined: &[u64; REGISTER_WORDS]) -> bool {
    let of_call = [restart::RAX, restart::ORIG_RAX, restart::RIP];
    (0..REGISTER_WORDS).all(|index| of_call.contains(&index) || now[index] == examined[index])
}

/// Returns a thread's number in the pid namespace of the root, and that in its own.
fn numbers(tid: i32) -> (i32, i32) {
    let status = proc::status(tid).unwrap_or_default();
    (status.number().unwrap_or(tid), status.inner_pids.last().copied().unwrap_or(tid))
}

/// Returns the CPU that a stopped thread was on when it was last outside of the kernel; `None` if it has not registered
/// restartable sequences, which tell it.
fn last_cpu(tid: i32) -> Option<u32> {
    /// Of `struct rseq` (include/uapi/linux/rseq.h).
    const CPU_ID: u64 = 4;
    let rseq = ptrace::rseq_configuration(tid).ok().filter(|rseq| rseq.address != 0)?;
    let mut cpu = [0; 4];
    let got = frost_sys::memory::read(tid, rseq.address.checked_add(CPU_ID)?, &mut cpu).ok()?;
    // It is the program's memory, which may hold anything.
    (got == cpu.len())
        .then(|| u32::from_le_bytes(cpu))
        .filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU as u32)
}
