//! Capture of the CPU session.

use crate::filter::Filters;
use crate::inner::ThreadFacts;
use crate::pd;
use crate::statuses::Statuses;
use frost_model::clock::Timespec;
use frost_model::cpu::{
    AltStack, CpuState, Registers, Restart, RobustList, Rseq, Scheduling, Thread, ThreadSettings,
};
use frost_model::id::{TargetAddr, Tid};
use frost_model::path::BytePath;
use frost_sys::proc::Status;
use frost_sys::{memory, ptrace, sched};
use frost_tracee::seize::{StoppedProcess, StoppedThread};
use frost_tracee::{elapsed, restart};
use rustix::io::Errno;

/// Captures the threads of a process.
pub(crate) fn capture(
    process: &StoppedProcess,
    facts: &[ThreadFacts],
    statuses: &Statuses,
    filters: &Filters,
) -> Result<CpuState, Errno> {
    // What a process is said to have is what its first thread has.
    let Some(of_all) = facts.first() else { return Ok(CpuState { threads: Vec::new() }) };
    let states = statuses.of_process(process.pid).map(|(_, status)| status);
    let threads = process.threads.iter().zip(facts).zip(states).map(|((thread, facts), status)| {
        let captured = capture_thread(process, thread, facts, of_all, status?)?;
        Ok(Thread { filters: filters.of(thread.tid).to_vec(), ..captured })
    });
    let mut threads: Vec<Thread> = threads.collect::<Result<_, _>>()?;
    if process.lacks_leader()
        && let Some(other) = threads.first()
    {
        threads.insert(0, ended_leader(process, other));
    }
    Ok(CpuState { threads })
}

/// Describes a leader that has ended: all that is left of it is its number, its name and its status.
fn ended_leader(process: &StoppedProcess, other: &Thread) -> Thread {
    Thread {
        tid: Tid::new(process.inner),
        name: BytePath::new(process.stat.comm.clone()),
        registers: other.registers,
        restart: Restart::None,
        xstate: other.xstate.clone(),
        // It is there for an instant at thaw, and takes no signal that is for the others.
        blocked: u64::MAX,
        pending: Vec::new(),
        alt_stack: AltStack::default(),
        robust_list: None,
        rseq: None,
        clear_child_tid: TargetAddr::new(0),
        credentials: None,
        scheduling: other.scheduling.clone(),
        parent_death_signal: 0,
        settings: ThreadSettings::default(),
        ended: Some(process.stat.exit_code),
        filters: Vec::new(),
    }
}

fn capture_thread(
    process: &StoppedProcess,
    thread: &StoppedThread,
    facts: &ThreadFacts,
    of_all: &ThreadFacts,
    status: &Status,
) -> Result<Thread, Errno> {
    let tid = thread.tid;
    let credentials = pd::credentials(status, facts.securebits);
    let leader = pd::credentials(&process.status, of_all.securebits);
    let rseq = ptrace::rseq_configuration(tid).unwrap_or_default();
    let (robust_head, robust_len) = sched::robust_list(tid).unwrap_or((0, 0));
    Ok(Thread {
        tid: Tid::new(thread.inner),
        name: BytePath::new(status.name.clone()),
        registers: Registers::from(outside_of_critical_section(
            process.through,
            &thread.registers,
            rseq.address,
        )),
        restart: restart(thread),
        xstate: ptrace::xstate(tid)?,
        blocked: thread.mask,
        pending: pd::pending(tid, false, status.pending)?,
        alt_stack: facts.alt_stack,
        robust_list: (robust_head != 0)
            .then_some(RobustList { head: TargetAddr::new(robust_head), len_bytes: robust_len }),
        rseq: (rseq.address != 0).then_some(Rseq {
            address: TargetAddr::new(rseq.address),
            len_bytes: rseq.size,
            signature: rseq.signature,
            flags: rseq.flags,
        }),
        clear_child_tid: TargetAddr::new(facts.clear_child_tid),
        credentials: (credentials != leader).then_some(credentials),
        scheduling: scheduling(tid, facts)?,
        parent_death_signal: facts.parent_death_signal,
        settings: ThreadSettings {
            personality: facts.personality.filter(|_| facts.personality != of_all.personality),
            ..facts.settings
        },
        ended: None,
        filters: Vec::new(),
    })
}

/// Returns the registers with which a thread leaves the restartable sequence it was stopped in, if it was in one.
///
/// A thread that is thawed may be on another CPU, as after any preemption; then the kernel sends it to the sequence's
/// abort handler (`rseq_ip_fixup`, kernel/rseq.c). It would not know of it after a thaw, since registration starts anew.
fn outside_of_critical_section(
    pid: i32,
    registers: &[u64; ptrace::REGISTER_WORDS],
    rseq: u64,
) -> [u64; ptrace::REGISTER_WORDS] {
    /// Offset of the pointer to the descriptor in `struct rseq` (include/uapi/linux/rseq.h).
    const RSEQ_CS: u64 = 8;
    let mut registers = *registers;
    let mut pointer = [0; 8];
    if rseq == 0 || memory::read(pid, rseq + RSEQ_CS, &mut pointer) != Ok(8) {
        return registers;
    }
    // struct rseq_cs: version and flags, start_ip, post_commit_offset, abort_ip.
    let mut descriptor = [0; 32];
    let pointer = u64::from_le_bytes(pointer);
    if pointer == 0 || memory::read(pid, pointer, &mut descriptor) != Ok(32) {
        return registers;
    }
    let word = |at: usize| descriptor[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let (start, len, abort) = (word(8), word(16), word(24));
    if registers[restart::RIP].wrapping_sub(start) < len {
        registers[restart::RIP] = abort;
    }
    registers
}

fn restart(thread: &StoppedThread) -> Restart {
    if restart::has_restart_block(&thread.registers) {
        Restart::Block { remaining: remaining(thread) }
    } else if thread.reissue {
        Restart::Reissue { remaining: remaining(thread) }
    } else {
        Restart::None
    }
}

fn remaining(thread: &StoppedThread) -> Option<Timespec> {
    // The clocks of the image stand at the stop.
    elapsed::remaining_at_stop(thread).map(|left| Timespec::from_nanos(left.as_nanos() as i128))
}

fn scheduling(tid: i32, facts: &ThreadFacts) -> Result<Scheduling, Errno> {
    let attributes = sched::attributes(tid)?;
    let cpus = rustix::thread::sched_getaffinity(rustix::process::Pid::from_raw(tid))?;
    Ok(Scheduling {
        policy: attributes.policy,
        flags: attributes.flags,
        // sched_getattr(2) tells it of the fair policies only.
        nice: rustix::process::getpriority_process(rustix::process::Pid::from_raw(tid))?,
        priority: attributes.priority,
        runtime_ns: attributes.runtime,
        deadline_ns: attributes.deadline,
        period_ns: attributes.period,
        affinity: (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|cpu| cpus.is_set(*cpu))
            .map(|cpu| cpu as u32)
            .collect(),
        io_priority: sched::io_priority(tid).unwrap_or(0),
        timer_slack_ns: facts.timer_slack_ns,
        default_timer_slack_ns: facts.default_timer_slack_ns,
        memory_policy: facts.memory_policy.clone(),
    })
}
