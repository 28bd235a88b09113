//! Capture of the PD session.

use crate::inner::ProcessFacts;
use frost_model::Process;
use frost_model::cap::FileRef;
use frost_model::clock::Timespec;
use frost_model::id::{Pid, Tid};
use frost_model::path::BytePath;
use frost_model::pd::{
    Credentials, Descriptor, Life, Limit, Notify, PdState, PosixTimer, PrctlState, Relation, SIGNALS, SigInfo,
};
use frost_sys::proc::{self, Target, Timer};
use frost_sys::ptrace;
use frost_tracee::seize::{StoppedProcess, StoppedTree};
use rustix::io::Errno;
use std::collections::HashSet;
use std::time::Instant;

/// Says how a process stands to the others of its tree.
pub(crate) fn relation(tree: &StoppedTree, process: &StoppedProcess, subreaper: bool) -> Relation {
    let root = &tree.processes()[0];
    let parent = tree.processes().iter().find(|other| other.pid == process.parent);
    let is_root = process.pid == root.pid;
    // A group or session that the root did not found itself is that of whoever started it, unless it lives in the session
    // of a terminal that it gets again.
    let strange = !tree.is_led(root);
    let group_outside = strange && root.stat.pgrp != root.pid && process.stat.pgrp == root.stat.pgrp;
    let session_outside =
        strange && root.stat.session != root.pid && process.stat.session == root.stat.session;
    let inner = |number: Option<i32>| number.filter(|number| *number > 0).map(Pid::new);
    Relation {
        pid: Pid::new(process.inner),
        parent: if is_root { None } else { parent.map(|parent| Pid::new(parent.inner)) },
        group: inner(process.status.group()).filter(|_| !group_outside),
        session: inner(process.status.session()).filter(|_| !session_outside),
        controls_terminal: process.stat.tty_nr != 0 && process.stat.session == process.pid,
        exit_signal: process.stat.exit_signal,
        subreaper,
    }
}

/// Returns the credentials that `/proc/ID/status` shows of a process or thread.
pub(crate) fn credentials(status: &proc::Status, securebits: u32) -> Credentials {
    Credentials {
        uids: status.uids,
        gids: status.gids,
        groups: status.groups.clone(),
        inheritable: status.cap_inheritable,
        permitted: status.cap_permitted,
        effective: status.cap_effective,
        bounding: status.cap_bounding,
        ambient: status.cap_ambient,
        securebits,
        no_new_privs: status.no_new_privs,
    }
}

/// What is read of a process before its descriptors are captured.
pub(crate) struct Places {
    /// The binary, unless it has no name.
    pub(crate) exe: Option<FileRef>,
    pub(crate) cwd: FileRef,
    /// The root directory, if it is not ours.
    pub(crate) root: Option<FileRef>,
}

/// Assembles the PD session of a living process.
pub(crate) fn capture(
    tree: &StoppedTree,
    process: &StoppedProcess,
    facts: &ProcessFacts,
    timers: &[Timer],
    places: Places,
    descriptors: Vec<Descriptor>,
) -> Result<PdState, Errno> {
    let pid = process.through;
    let securebits = facts.threads.first().map_or(0, |thread| thread.securebits);
    let hex = |name: &str| {
        let text = proc::read(pid, name).unwrap_or_default();
        u32::from_str_radix(String::from_utf8_lossy(&text).trim(), 16).unwrap_or(0)
    };
    let oom_score = proc::read(pid, "oom_score_adj").unwrap_or_default();
    Ok(PdState {
        relation: relation(tree, process, facts.subreaper),
        life: process.job_stop.map_or(Life::Running, |signal| Life::Stopped { signal }),
        command: BytePath::new(process.stat.comm.clone()),
        arguments: arguments(pid),
        exe: places.exe,
        credentials: credentials(&process.status, securebits),
        cwd: Some(places.cwd),
        root: places.root,
        umask: process.status.umask,
        actions: facts.actions.clone(),
        pending: pending(process.threads[0].tid, true, process.status.shared_pending)?,
        limits: proc::limits(pid)?.into_iter().map(|(soft, hard)| Limit { soft, hard }).collect(),
        interval_timers: facts.interval_timers,
        posix_timers: posix_timers(process, facts, timers),
        prctl: PrctlState {
            dumpable: facts.dumpable,
            thp_disable: facts.thp_disable != 0,
            // Bit 0 says that it is set.
            thp_flags: facts.thp_disable & !1,
            personality: hex("personality"),
            oom_score_adj: String::from_utf8_lossy(&oom_score).trim().parse().unwrap_or(0),
            coredump_filter: hex("coredump_filter"),
            membarrier: facts.membarrier,
            mdwe: facts.mdwe,
            lock_future: facts.lock_future,
            memory_merge: facts.memory_merge,
        },
        descriptors,
    })
}

/// Assembles what is left of a process that has ended.
pub(crate) fn capture_zombie(tree: &StoppedTree, process: &StoppedProcess) -> PdState {
    PdState {
        relation: relation(tree, process, false),
        life: Life::Zombie { status: process.stat.exit_code },
        command: BytePath::new(process.stat.comm.clone()),
        arguments: Vec::new(),
        exe: None,
        credentials: credentials(&process.status, 0),
        cwd: None,
        root: None,
        umask: 0,
        actions: Vec::new(),
        pending: Vec::new(),
        limits: Vec::new(),
        interval_timers: Default::default(),
        posix_timers: Vec::new(),
        prctl: PrctlState::default(),
        descriptors: Vec::new(),
    }
}

/// Reads a queue of pending signals, of which the mask was read before.
///
/// Where RLIMIT_SIGPENDING left no room for more than the bit of a signal, there is nothing in the queue: who takes it is
/// told that process 0 sent it by kill(2) (`__send_signal_locked` and `collect_signal`, kernel/signal.c).
pub(crate) fn pending(tid: i32, shared: bool, mask: u64) -> Result<Vec<SigInfo>, Errno> {
    let mut pending: Vec<SigInfo> =
        ptrace::queued_signals(tid, shared)?.into_iter().map(SigInfo::new).collect();
    let queued = pending.iter().fold(0, |queued, info| queued | bit(info.signal()));
    for signal in (1..=SIGNALS as i32).filter(|signal| mask & !queued & bit(*signal) != 0) {
        let mut info = [0; SigInfo::LEN_BYTES];
        info[..4].copy_from_slice(&signal.to_ne_bytes());
        pending.push(SigInfo::new(info));
    }
    Ok(pending)
}

fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

fn arguments(pid: i32) -> Vec<BytePath> {
    let line = proc::read(pid, "cmdline").unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    if line.is_empty() { Vec::new() } else { line.split(|byte| *byte == 0).map(BytePath::new).collect() }
}

/// Sets what is left of timers whose signal waits, and which have expired again between the stop and the moment in which that was
/// read: with more left than a period they would look as if they had been set anew, and their signals stale.
pub(crate) fn keep_in_period(process: &mut Process, stopped: Instant) {
    let of_threads = process.cpu.threads.iter().flat_map(|thread| &thread.pending);
    let sent: HashSet<i32> = process.pd.pending.iter().chain(of_threads).filter_map(SigInfo::timer).collect();
    let since = stopped.elapsed().as_nanos() as i128;
    for timer in process.pd.posix_timers.iter_mut().filter(|timer| sent.contains(&timer.id)) {
        let (value, interval) = (timer.spec.value.as_nanos(), timer.spec.interval.as_nanos());
        if interval > 0 && (interval + 1..=interval + since).contains(&value) {
            timer.spec.value = Timespec::from_nanos((value - 1) % interval + 1);
        }
    }
}

fn posix_timers(process: &StoppedProcess, facts: &ProcessFacts, timers: &[Timer]) -> Vec<PosixTimer> {
    let notify = |target| match target {
        Target::Nobody => Notify::Nobody,
        Target::Process => Notify::Process,
        Target::Thread(tid) => {
            let thread = process.threads.iter().find(|thread| thread.tid == tid);
            Notify::Thread(Tid::new(thread.map_or(tid, |thread| thread.inner)))
        }
    };
    timers
        .iter()
        .zip(&facts.timers)
        .map(|(timer, (spec, overrun))| PosixTimer {
            id: timer.id,
            clock: timer.clock,
            notify: notify(timer.target),
            signal: timer.signal,
            value: timer.value,
            spec: *spec,
            overrun: *overrun,
        })
        .collect()
}
