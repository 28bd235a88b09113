//! The last part: all threads are stopped, the gate is opened, true registers are set, our area is taken away.
//!
//! What happens if we die here: before the gate is opened every thread finds its end and the tree ends; after it,
//! every thread finds a token and goes on through its signal frame, and the area stays behind. The calls that threads
//! make for us in between are made inside of their tapes, or with a frame on the program's own stack, so that they
//! find the same way out of each of them.

mod filters;

use crate::build::{Half, begin};
use crate::compile::{ended_with, words};
use crate::control::CONTROL_BYTES;
use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_model::clock::Timespec;
use frost_model::cpu::{NOT_IN_SYSCALL, Restart, Thread};
use frost_model::pd::{Filter, Life};
use frost_model::{Process, Steps};
use frost_sys::memory;
use frost_sys::proc::{self, Mapping};
use frost_sys::ptrace::{self, Options, REGISTER_WORDS, Stop};
use frost_tracee::gateway::Gateway;
use frost_tracee::restart::{ORIG_RAX, RAX, RIP, RSP};
use frost_tracee::seize::StoppedThread;
use frost_tracee::{elapsed, inject};
use rustix::io::Errno;
use std::time::{Duration, Instant};

// Indices of `struct user_regs_struct`: arguments of a system call.
const RDI: usize = 14;
const RSI: usize = 13;
const RDX: usize = 12;
const R10: usize = 7;
const R8: usize = 9;
const R9: usize = 8;

/// Stops every thread at the gate. None of them is in any state that a stop could disturb.
pub(crate) fn stop(half: &Half<'_>, steps: &mut Steps) -> Result<(), Error> {
    begin(Stage::Stop)?;
    let tids =
        || half.checkpoint.processes.iter().flat_map(|process| &process.cpu.threads).map(|t| t.tid.raw());
    let about = |tid: i32| move || format!("thread {tid}");
    for tid in tids() {
        ptrace::seize(tid, Options::SYSGOOD).at(Stage::Stop, about(tid))?;
        ptrace::interrupt(tid).at(Stage::Stop, about(tid))?;
    }
    for tid in tids() {
        wait_for_interrupt(tid).at(Stage::Stop, about(tid))?;
    }
    steps.end(Stage::Stop.name());
    Ok(())
}

fn wait_for_interrupt(tid: i32) -> rustix::io::Result<()> {
    loop {
        match ptrace::wait(tid, true)? {
            Some(Stop::Interrupt) => return Ok(()),
            Some(Stop::Exited(_) | Stop::Killed(_)) => return Err(Errno::SRCH),
            Some(Stop::Signal(signal)) => ptrace::cont(tid, signal)?,
            Some(_) => ptrace::cont(tid, 0)?,
            None => {}
        }
    }
}

/// Settings that only the outside can make.
pub(crate) fn settings(half: &Half<'_>) -> Result<(), Error> {
    for process in half.checkpoint.processes.iter().filter(|process| !process.cpu.threads.is_empty()) {
        let pid = process.pd.relation.pid.raw();
        let prctl = &process.pd.prctl;
        if prctl.oom_score_adj != half.baseline.oom_score_adj {
            proc::write(pid, "oom_score_adj", prctl.oom_score_adj.to_string().as_bytes())
                .at(Stage::Settings, || format!("oom_score_adj of process {pid}"))?;
        }
        if prctl.coredump_filter != half.baseline.coredump_filter {
            proc::write(pid, "coredump_filter", format!("{:#x}", prctl.coredump_filter).as_bytes())
                .at(Stage::Settings, || format!("coredump_filter of process {pid}"))?;
        }
    }
    Ok(())
}

/// Opens the gate and lets every thread go on as the program. Returns whether our area was taken out of each.
pub(crate) fn release(half: &mut Half<'_>, steps: &mut Steps) -> Result<bool, Error> {
    begin(Stage::Commit)?;
    // A process that goes on by itself should we die does so without its filters: it had better not, nor any other without it.
    // Nobody has run an instruction yet, so that the image is all that there is.
    let is_bound = half.checkpoint.processes.iter().any(is_filtered);
    for process in half.checkpoint.processes.iter().filter(|_| is_bound) {
        bind(process, Options::EXITKILL)
            .at(Stage::Commit, || format!("process {}", process.pd.relation.pid))?;
    }
    half.open_gate()?;
    steps.end(Stage::Commit.name());
    let mut clean = true;
    // Errors from here on are no reason to fail: a process may have been killed meanwhile, and whoever is left finds
    // its own way.
    // Children first: a parent forgets what it is told of those that job control had stopped.
    for process in half.checkpoint.processes.iter().rev().filter(|process| !process.cpu.threads.is_empty()) {
        match process_goes_on(half, process) {
            Ok(()) => {}
            // Without what restricts it it must not go on. Nobody has run an instruction yet.
            Err(error) if is_filtered(process) && lives(process) => {
                end_all(half);
                return Err(error);
            }
            Err(_) => clean = false,
        }
        if matches!(process.pd.life, Life::Stopped { .. }) {
            stays_stopped(process);
        }
    }
    steps.end(Stage::Registers.name());
    for process in half.checkpoint.processes.iter().filter(|_| is_bound) {
        // It has ended by then, or it is let go below.
        let _ = bind(process, Options::SYSGOOD);
    }
    for thread in half.checkpoint.processes.iter().flat_map(|process| &process.cpu.threads) {
        let _ = ptrace::detach(thread.tid.raw(), 0);
    }
    steps.end(Stage::Release.name());
    Ok(clean)
}

/// Says what becomes of a process when we die.
fn bind(process: &Process, options: Options) -> rustix::io::Result<()> {
    process.cpu.threads.iter().try_for_each(|thread| ptrace::set_options(thread.tid.raw(), options))
}

fn is_filtered(process: &Process) -> bool {
    process.cpu.threads.iter().any(|thread| !thread.filters.is_empty())
}

fn lives(process: &Process) -> bool {
    proc::stat(process.pd.relation.pid.raw()).is_ok_and(|stat| !stat.is_zombie())
}

fn end_all(half: &Half<'_>) {
    for process in &half.checkpoint.processes {
        if let Some(pid) = rustix::process::Pid::from_raw(process.pd.relation.pid.raw()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// How long a process may take to be stopped by job control; nothing hinders it.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);

/// Lets a process go into the stop of job control that it was in.
///
/// SIGSTOP stops it whatever its handlers and its group; which signal it was at first only a parent could tell that had
/// not asked yet.
fn stays_stopped(process: &Process) {
    let pid = process.pd.relation.pid.raw();
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
    }
    for thread in &process.cpu.threads {
        let _ = ptrace::detach(thread.tid.raw(), 0);
    }
    let deadline = Instant::now() + STOPPED_WITHIN;
    while proc::stat(pid).is_ok_and(|stat| stat.state != b'T') && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Lets a stopped process forget that it was just told of children that stopped.
///
/// Whether it had asked before the freeze is not known. A process that handles SIGCHLD, as a shell, is taken to have; any
/// other may be told once more than it was.
fn forget_stops(half: &Half<'_>, process: &Process) -> rustix::io::Result<()> {
    let tid = process.pd.relation.pid.raw();
    let mut any = false;
    let handler = process.pd.actions.get(libc::SIGCHLD as usize - 1).map_or(0, |action| action.handler);
    if handler <= 1 {
        return Ok(());
    }
    for child in &half.checkpoint.processes {
        if child.pd.relation.parent == Some(process.pd.relation.pid)
            && matches!(child.pd.life, Life::Stopped { .. })
        {
            any = true;
            let options = (libc::WSTOPPED | libc::WNOHANG) as u64;
            let viewer = process.pd.relation.pid;
            let Some(id) = half.checkpoint.seen_by(viewer, child.pd.relation.pid) else { continue };
            let id = id.raw() as u64;
            call(half, tid, libc::SYS_waitid, &[libc::P_PID.into(), id, 0, options, 0])?;
        }
    }
    let was_pending = process.pd.pending.iter().any(|signal| signal.signal() == libc::SIGCHLD);
    if any && !was_pending {
        let [mask, at_once] = half.program.drain;
        call(half, tid, libc::SYS_rt_sigtimedwait, &[mask, 0, at_once, 8])?;
    }
    Ok(())
}

/// Sets the true state of all threads of a process and takes our area away.
fn process_goes_on(half: &Half<'_>, process: &Process) -> Result<(), Error> {
    let pid = process.pd.relation.pid;
    let about = || format!("process {pid}");
    begin(Stage::Registers)?;
    let Some((leader, others)) = process.cpu.threads.split_first() else { return Ok(()) };
    let filters = &half.checkpoint.objects.filters;
    let mut restarts = Restarts { process, filters, clocks_since: half.clocks_since, mappings: None };
    let mut stopped = Vec::with_capacity(process.cpu.threads.len());
    for thread in others {
        let registers = restarts.true_registers(half, thread).at(Stage::Registers, about)?;
        set(thread, registers).at(Stage::Registers, about)?;
        stopped.push(as_stopped(thread, registers));
    }
    forget_stops(half, process).at(Stage::Registers, about)?;
    close_gate(half, leader.tid.raw()).at(Stage::Registers, about)?;
    if let Some(status) = leader.ended {
        // It stands in front of its end, and comes to it without our area once it is let go.
        let args = [ended_with(status)];
        enter(half, leader.tid.raw(), libc::SYS_exit, &args).at(Stage::Registers, about)?;
        begin(Stage::Unmap)?;
        return take_area(half, process, &stopped, &mut restarts);
    }
    let registers = restarts.true_registers(half, leader).at(Stage::Registers, about)?;
    set(leader, registers).at(Stage::Registers, about)?;
    stopped.push(as_stopped(leader, registers));
    begin(Stage::Unmap)?;
    take_area(half, process, &stopped, &mut restarts)
}

/// Takes our area out of a process whose threads have their true registers, and puts its filters on.
fn take_area(
    half: &Half<'_>,
    process: &Process,
    stopped: &[StoppedThread],
    restarts: &mut Restarts<'_>,
) -> Result<(), Error> {
    let pid = process.pd.relation.pid;
    unmap(half, stopped, restarts.mappings(), pid.raw()).map_err(|error| Error::Call {
        pid,
        stage: Stage::Unmap,
        object: format!("the area of the thaw: {error}"),
        source: Errno::FAULT,
    })?;
    if !is_filtered(process) {
        return Ok(());
    }
    begin(Stage::Filters)?;
    // Our own area is in the list, if it was read before.
    let base = half.program.control.base();
    let mut mappings = restarts.mappings().to_vec();
    mappings.retain(|mapping| mapping.end <= base || base + CONTROL_BYTES <= mapping.start);
    filters::install(half, process, stopped, &mappings).map_err(|error| {
        let source = match &error {
            inject::Error::Kernel { source, .. } => *source,
            _ => Errno::FAULT,
        };
        Error::Call {
            pid,
            stage: Stage::Filters,
            object: format!("its filters of system calls: {error}"),
            source,
        }
    })
}

/// Describes a thread that has its true registers as one that was stopped with them.
fn as_stopped(thread: &Thread, registers: [u64; REGISTER_WORDS]) -> StoppedThread {
    let tid = thread.tid.raw();
    StoppedThread {
        tid,
        inner: tid,
        own: tid,
        registers,
        mask: thread.blocked,
        reissue: false,
        asleep: None,
        seen_awake: false,
        slept: None,
        stood: Duration::ZERO,
        stopped: Instant::now(),
    }
}

/// Lets a thread at the gate make one call inside of its tape and returns the result. It is then in a stop at the call's
/// exit; the entry that follows in its tape lets it out should we die.
fn call(half: &Half<'_>, tid: i32, nr: libc::c_long, args: &[u64]) -> rustix::io::Result<i64> {
    enter(half, tid, nr, args)?;
    ptrace::cont_to_syscall(tid, 0)?;
    wait_for_syscall(tid)?;
    Ok(ptrace::registers(tid)?[RAX] as i64)
}

/// Lets a thread at the gate begin a call; it is then in a stop at the call's entry.
fn enter(half: &Half<'_>, tid: i32, nr: libc::c_long, args: &[u64]) -> rustix::io::Result<()> {
    let spare = half.program.spare.get(&tid).ok_or(Errno::SRCH)?;
    let mut registers = ptrace::registers(tid)?;
    registers[RIP] = half.program.control.syscall_address();
    registers[RSP] = *spare;
    registers[RAX] = nr as u64;
    // Nothing that was interrupted is to be restarted.
    registers[ORIG_RAX] = NOT_IN_SYSCALL;
    for (index, value) in [RDI, RSI, RDX, R10, R8, R9].into_iter().zip(args) {
        registers[index] = *value;
    }
    ptrace::set_registers(tid, &registers)?;
    ptrace::cont_to_syscall(tid, 0)?;
    wait_for_syscall(tid)
}

fn wait_for_syscall(tid: i32) -> rustix::io::Result<()> {
    loop {
        match ptrace::wait(tid, true)? {
            Some(Stop::Syscall) => return Ok(()),
            Some(Stop::Exited(_) | Stop::Killed(_)) => return Err(Errno::SRCH),
            Some(_) => ptrace::cont_to_syscall(tid, 0)?,
            None => {}
        }
    }
}

/// Closes our two descriptors in the process of thread `tid`.
fn close_gate(half: &Half<'_>, tid: i32) -> rustix::io::Result<()> {
    let [low, high] = {
        let mut both = [half.numbers.gate, half.numbers.arrived];
        both.sort_unstable();
        both
    };
    if high == low + 1 {
        call(half, tid, libc::SYS_close_range, &[low as u64, high as u64, 0])?;
    } else {
        call(half, tid, libc::SYS_close, &[low as u64])?;
        call(half, tid, libc::SYS_close, &[high as u64])?;
    }
    // From here on its true registers can be set at any time.
    to_interrupt(tid)
}

/// Unmaps our area in a process whose threads all have their true registers; so they have afterwards.
fn unmap(
    half: &Half<'_>,
    threads: &[StoppedThread],
    mappings: &[Mapping],
    pid: i32,
) -> Result<(), inject::Error> {
    let gateway = Gateway::find(pid, threads, mappings)?;
    let area = [half.program.control.base(), CONTROL_BYTES, 0, 0, 0, 0];
    let result = gateway.call(threads, libc::SYS_munmap, &area);
    let thread = &threads[gateway.thread()];
    let back = to_interrupt(thread.tid)
        // The mask first: with the program's registers nothing else would set it.
        .and_then(|()| ptrace::set_signal_mask(thread.tid, thread.mask))
        .and_then(|()| ptrace::set_registers(thread.tid, &thread.registers));
    let kernel = |call| move |source| inject::Error::Kernel { call, tid: thread.tid, source };
    match result? {
        0 => back.map_err(kernel("PTRACE_SETREGSET")),
        errno => Err(kernel("munmap")(Errno::from_raw_os_error(-errno as i32))),
    }
}

/// Brings a thread from a stop at a call's exit to an interrupt stop, without letting it run: only from there does
/// the kernel look at an interrupted call's registers (`arch_do_signal_or_restart`).
fn to_interrupt(tid: i32) -> rustix::io::Result<()> {
    ptrace::interrupt(tid)?;
    ptrace::cont(tid, 0)?;
    wait_for_interrupt(tid)
}

/// Sets the state of a thread that no tape can set.
fn set(thread: &Thread, registers: [u64; REGISTER_WORDS]) -> rustix::io::Result<()> {
    let tid = thread.tid.raw();
    if !thread.xstate.is_empty() {
        ptrace::set_xstate(tid, &thread.xstate)?;
    }
    if frost_tracee::restart::is_gone_on_with(&registers) {
        // The page that its call lies in: a signal that comes while the thread waits for it would be one of before the call.
        let _ = memory::read(tid, registers[RIP].wrapping_sub(2), &mut [0; 2]);
    }
    // The mask first: a signal that is due goes to its handler when the true registers are there, or, should we die
    // in between, from the gate.
    ptrace::set_signal_mask(tid, thread.blocked)?;
    ptrace::set_registers(tid, &registers)
}

/// Finds the registers with which threads go on with the calls they were in.
struct Restarts<'a> {
    process: &'a Process,
    /// All filters of system calls.
    filters: &'a [Filter],
    /// Since when the program's clocks go on.
    clocks_since: Option<Instant>,
    /// The mappings of the process, read when first asked for.
    mappings: Option<Vec<Mapping>>,
}

impl Restarts<'_> {
    fn mappings(&mut self) -> &[Mapping] {
        let pid = self.process.pd.relation.pid.raw();
        self.mappings.get_or_insert_with(|| proc::bare_mappings(pid).unwrap_or_default())
    }

    /// Returns the registers with which a thread at the gate goes on; if its call needs a restart block, it has one then.
    fn true_registers(
        &mut self,
        half: &Half<'_>,
        thread: &Thread,
    ) -> rustix::io::Result<[u64; REGISTER_WORDS]> {
        match self.registers(thread) {
            Some(registers) => Ok(registers),
            None => Ok(after_priming(thread, prime(half, thread)?)),
        }
    }

    /// Returns the registers with which a thread goes on; `None` if its call needs a restart block.
    ///
    /// A call is issued again with the time it had left, by the program's own `syscall` instruction, so that its number
    /// is there should the thread be frozen again: with a restart block it would show as restart_syscall(2).
    fn registers(&mut self, thread: &Thread) -> Option<[u64; REGISTER_WORDS]> {
        let registers = words(thread);
        let (remaining, block) = match thread.restart {
            Restart::None => return Some(registers),
            Restart::Reissue { remaining } => (remaining, false),
            // A filter that does not know of restart_syscall(2) ends who goes on with a restart block.
            Restart::Block { remaining } => (remaining, self.may_restart(thread)),
        };
        if block && (self.signal_is_due(thread) || registers[ORIG_RAX] == libc::SYS_restart_syscall as u64) {
            // The kernel itself makes an EINTR of it, or cannot do better.
            return Some(registers);
        }
        let Some(left) = remaining.and_then(|left| u64::try_from(left.as_nanos()).ok()) else {
            return Some(frost_tracee::restart::again(&registers));
        };
        // Its end is a moment of the program's clocks, which have gone on since before all of this was built.
        let gone = self.clocks_since.map_or(Duration::ZERO, |since| since.elapsed());
        let left = Duration::from_nanos(left).saturating_sub(gone);
        match elapsed::shortened(&as_stopped(thread, registers), Some(left), self.mappings()) {
            None if block => None,
            None => Some(frost_tracee::restart::again(&registers)),
            shortened => shortened,
        }
    }

    /// Returns whether all filters of a thread let the kernel go on with an interrupted call for it.
    fn may_restart(&self, thread: &Thread) -> bool {
        let lets = |filter: &Filter| filter.allows(libc::SYS_restart_syscall as u64, &[None; 6]);
        thread.filters.iter().all(|index| self.filters.get(*index as usize).is_some_and(lets))
    }

    /// Returns whether a signal waits that the thread does not block.
    fn signal_is_due(&self, thread: &Thread) -> bool {
        let mut waiting = thread.pending.iter().chain(&self.process.pd.pending);
        waiting.any(|signal| {
            u32::try_from(signal.signal() - 1).is_ok_and(|bit| bit < 64 && thread.blocked & (1 << bit) == 0)
        })
    }
}

/// The registers of a thread whose call returned `primed` when it was made again.
fn after_priming(thread: &Thread, primed: Option<i64>) -> [u64; REGISTER_WORDS] {
    let mut registers = words(thread);
    if let Some(result) = primed {
        registers[RAX] = result as u64;
        if !matches!(result, -516..=-512) {
            // It has ended by now: what it waited for was there.
            registers[ORIG_RAX] = NOT_IN_SYSCALL;
        }
    }
    registers
}

/// Gives a thread the restart block that its interrupted call had: it makes the call with the time that was left,
/// and is interrupted before it waits. Returns what the call returned, -516 as a rule.
fn prime(half: &Half<'_>, thread: &Thread) -> rustix::io::Result<Option<i64>> {
    let Restart::Block { remaining } = thread.restart else { return Ok(None) };
    let registers = words(thread);
    if registers[ORIG_RAX] == NOT_IN_SYSCALL {
        return Ok(None);
    }
    let nr = registers[ORIG_RAX] as libc::c_long;
    let mut args = [RDI, RSI, RDX, R10, R8, R9].map(|index| registers[index]);
    if let (Some(remaining), Some(address)) = (remaining, half.program.remaining.get(&thread.tid.raw())) {
        const FUTEX_CMD_MASK: u64 = 0x7f;
        match nr {
            libc::SYS_nanosleep => args[0] = *address,
            libc::SYS_clock_nanosleep if args[1] & libc::TIMER_ABSTIME as u64 == 0 => args[2] = *address,
            libc::SYS_poll => args[2] = whole_millis(remaining),
            // All other operations that have a restart block take an absolute time.
            libc::SYS_futex if args[1] & FUTEX_CMD_MASK == libc::FUTEX_WAIT as u64 => args[3] = *address,
            _ => {}
        }
    }
    let tid = thread.tid.raw();
    enter(half, tid, nr, &args)?;
    to_interrupt(tid)?;
    Ok(Some(ptrace::registers(tid)?[RAX] as i64))
}

/// Rounds up, so that a wait is never too short.
fn whole_millis(time: Timespec) -> u64 {
    let millis = (time.as_nanos() + 999_999) / 1_000_000;
    millis.clamp(0, i32::MAX.into()) as u64
}
