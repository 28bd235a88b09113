//! Threads: how they are cloned, what is theirs, and the gate.

use super::tree::CLONE_ARGS_BYTES;
use super::{Compiler, credentials_of};
use crate::error::Error;
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_model::cpu::Thread;
use frost_model::ram::{MOST_NODES, MemoryPolicy};
use frost_model::{Pid, Process};
use frost_sys::clone::CloneArgs;
use frost_sys::ptrace::REGISTER_WORDS;
use frost_tracee::frame::{self, Frame};
use frost_tracee::restart;

// include/uapi/linux/prctl.h.
const PR_SET_TSC: u64 = 26;
const PR_TSC_SIGSEGV: u64 = 2;
const PR_MCE_KILL: u64 = 33;
const PR_MCE_KILL_SET: u64 = 1;
const PR_SET_SPECULATION_CTRL: u64 = 53;
const PR_SET_IO_FLUSHER: u64 = 57;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_CPUID: u64 = 0x1012;
const ARCH_SET_FS: u64 = 0x1002;
/// The exit status of processes that find the gate closed.
pub(crate) const GATE_CLOSED: u64 = 98;

/// Returns the argument of exit(2) by which a thread gets a wait status. One that was killed takes all others with it, so
/// it did call exit.
pub(crate) fn ended_with(status: i32) -> u64 {
    (status >> 8 & 0xff) as u64
}

/// SS_ONSTACK: reported, but not settable.
const SS_ONSTACK: u32 = 1;

/// Returns the registers of a thread in the order of `struct user_regs_struct`.
pub(crate) fn words(thread: &Thread) -> [u64; REGISTER_WORDS] {
    thread.registers.into()
}

impl Compiler<'_> {
    /// Writes the tape of a thread other than the leader and returns its address.
    pub(super) fn thread(&mut self, index: usize, process: &Process, number: usize) -> Result<u64, Error> {
        let mut script = Script::start_of_clone(&self.control);
        self.thread_state(&mut script, index, process, number);
        self.gate(&mut script, index, process, number);
        let address = script.tape.address();
        let placed = script.place(&mut self.control, index, number)?;
        self.tapes.push(placed);
        Ok(address)
    }

    /// Clones the threads other than the leader.
    pub(super) fn clone_threads(
        &mut self,
        script: &mut Script,
        index: usize,
        process: &Process,
        tapes: &[u64],
    ) {
        let own = process.cpu.first_timer_slack_ns();
        let mut slack = own;
        for (thread, tape) in process.cpu.threads.iter().skip(1).zip(tapes) {
            let first = thread.scheduling.first_timer_slack_ns();
            if first != slack {
                slack = first;
                self.slack(script, slack);
            }
            let clear = thread.clear_child_tid.raw();
            let shared = libc::CLONE_VM
                | libc::CLONE_FS
                | libc::CLONE_FILES
                | libc::CLONE_SIGHAND
                | libc::CLONE_THREAD
                | libc::CLONE_SYSVSEM
                | libc::CLONE_SETTLS
                | if clear == 0 { 0 } else { libc::CLONE_CHILD_CLEARTID };
            let [set_tid, set_tid_size] = self.thread_numbers(Pid::new(thread.tid.raw()));
            let args = self.clone_args(&CloneArgs {
                flags: shared as u64,
                child_tid: clear,
                stack: tape - 64,
                stack_size: 64,
                tls: thread.registers.fs_base,
                set_tid,
                set_tid_size,
                ..Default::default()
            });
            self.about(script, index, Stage::Thread, Subject::Id(thread.tid.raw()));
            script.call(libc::SYS_clone3, &[args, CLONE_ARGS_BYTES]);
        }
        if slack != own {
            self.slack(script, own);
        }
    }

    /// Names the calling thread.
    pub(super) fn name(&mut self, script: &mut Script, name: &[u8]) {
        let name = self.control.string(name);
        script.attempt(libc::SYS_prctl, &[libc::PR_SET_NAME as u64, name]);
    }

    /// What belongs to a thread alone.
    pub(super) fn thread_state(
        &mut self,
        script: &mut Script,
        index: usize,
        process: &Process,
        number: usize,
    ) {
        let thread = &process.cpu.threads[number];
        self.about(script, index, Stage::ThreadState, Subject::Id(thread.tid.raw()));
        self.name(script, thread.name.as_bytes());
        self.scheduling(script, thread);
        self.own_settings(script, thread);
        if number == 0 {
            script.call(libc::SYS_arch_prctl, &[ARCH_SET_FS, thread.registers.fs_base]);
            script.call(libc::SYS_set_tid_address, &[thread.clear_child_tid.raw()]);
        }
        if thread.registers.gs_base != 0 {
            script.call(libc::SYS_arch_prctl, &[ARCH_SET_GS, thread.registers.gs_base]);
        }
        if let Some(list) = thread.robust_list {
            script.call(libc::SYS_set_robust_list, &[list.head.raw(), list.len_bytes]);
        }
        let stack = thread.alt_stack;
        if stack.address != 0 || stack.len_bytes != 0 {
            let flags = u64::from(stack.flags & !SS_ONSTACK);
            let stack = self.control.words(&[stack.address, flags, stack.len_bytes]);
            script.call(libc::SYS_sigaltstack, &[stack, 0]);
        }
        if let Some(rseq) = thread.rseq {
            let args = [rseq.address.raw(), rseq.len_bytes.into(), 0, rseq.signature.into()];
            script.call(libc::SYS_rseq, &args);
        }
        let pid = self.seen_by(index, process.pd.relation.pid) as u64;
        let tid = self.seen_by(index, Pid::new(thread.tid.raw())) as u64;
        self.about(script, index, Stage::Signals, Subject::Id(thread.tid.raw()));
        for signal in &thread.pending {
            let Some(number) = self.to_send(process, signal) else { continue };
            let info = self.control.blob(signal.as_bytes());
            let args = [pid, tid, number, info];
            script.call(libc::SYS_rt_tgsigqueueinfo, &args);
        }
        if number == 0 {
            for signal in &process.pd.pending {
                let Some(number) = self.to_send(process, signal) else { continue };
                let info = self.control.blob(signal.as_bytes());
                script.call(libc::SYS_rt_sigqueueinfo, &[pid, number, info]);
            }
        }
        self.about(script, index, Stage::Credentials, Subject::Id(thread.tid.raw()));
        self.credentials(script, index, credentials_of(process, number));
        if thread.parent_death_signal != 0 {
            // A change of credentials clears it.
            let signal = thread.parent_death_signal as u64;
            script.call(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64, signal]);
        }
        if number == 0 {
            self.dumpable(script, index, process);
        }
    }

    fn own_settings(&mut self, script: &mut Script, thread: &Thread) {
        let settings = &thread.settings;
        if let Some(personality) = settings.personality {
            script.call(libc::SYS_personality, &[personality.into()]);
        }
        if let Some(policy) = settings.memory_failure {
            script.call(libc::SYS_prctl, &[PR_MCE_KILL, PR_MCE_KILL_SET, policy.into()]);
        }
        if settings.no_time_stamps {
            script.call(libc::SYS_prctl, &[PR_SET_TSC, PR_TSC_SIGSEGV]);
        }
        if settings.no_cpuid {
            script.call(libc::SYS_arch_prctl, &[ARCH_SET_CPUID, 0]);
        }
        if settings.io_flusher {
            script.call(libc::SYS_prctl, &[PR_SET_IO_FLUSHER, 1]);
        }
        for (which, state) in settings.speculation.iter().enumerate().filter(|(_, state)| **state != 0) {
            script.call(libc::SYS_prctl, &[PR_SET_SPECULATION_CTRL, which as u64, (*state).into()]);
        }
    }

    fn scheduling(&mut self, script: &mut Script, thread: &Thread) {
        let want = &thread.scheduling;
        let have = &self.baseline.sched;
        let differs = want.policy != have.policy
            || want.flags != have.flags
            || want.nice != have.nice
            || want.priority != have.priority
            || want.runtime_ns != have.runtime
            || want.deadline_ns != have.deadline
            || want.period_ns != have.period;
        // sched_setattr(2) takes the nice value of SCHED_NORMAL (0) and SCHED_BATCH (3) only; a thread of another policy
        // has one too, which counts when it comes back from that (__setscheduler_params, kernel/sched/syscalls.c).
        if want.nice != have.nice && !matches!(want.policy, 0 | 3) {
            const PRIO_PROCESS: u64 = 0;
            script.call(libc::SYS_setpriority, &[PRIO_PROCESS, 0, i64::from(want.nice) as u64]);
        }
        if differs {
            let attr = self.control.words(&[
                48 | u64::from(want.policy) << 32,
                want.flags,
                u64::from(want.nice as u32) | u64::from(want.priority) << 32,
                want.runtime_ns,
                want.deadline_ns,
                want.period_ns,
            ]);
            script.call(libc::SYS_sched_setattr, &[0, attr, 0]);
        }
        if !want.affinity.is_empty() && want.affinity != self.baseline.affinity {
            let mut mask = vec![0u64; want.affinity.last().map_or(0, |cpu| *cpu as usize / 64 + 1).min(1024)];
            for cpu in &want.affinity {
                if let Some(word) = mask.get_mut(*cpu as usize / 64) {
                    *word |= 1 << (cpu % 64);
                }
            }
            let bytes = mask.len() as u64 * 8;
            let mask = self.control.words(&mask);
            // EINVAL if none of these processors exists here: then it runs wherever it can.
            script.attempt(libc::SYS_sched_setaffinity, &[0, bytes, mask]);
        }
        if want.io_priority != self.baseline.io_priority {
            const IOPRIO_WHO_PROCESS: u64 = 1;
            script.call(libc::SYS_ioprio_set, &[IOPRIO_WHO_PROCESS, 0, want.io_priority.into()]);
        }
        if want.memory_policy != self.baseline.memory_policy {
            let [mode, mask, bits] = self.memory_policy(want.memory_policy.as_ref());
            // EINVAL if none of these nodes exists here: then memory is taken from wherever there is some.
            script.attempt(libc::SYS_set_mempolicy, &[mode, mask, bits]);
        }
        if want.timer_slack_ns != want.first_timer_slack_ns() && want.timer_slack_ns != 0 {
            self.slack(script, want.timer_slack_ns);
        }
    }

    /// Sets the timer slack of the calling thread, which is the default of those that it makes (`copy_process`, kernel/fork.c).
    pub(super) fn slack(&mut self, script: &mut Script, nanos: u64) {
        script.call(libc::SYS_prctl, &[libc::PR_SET_TIMERSLACK as u64, nanos]);
    }

    /// Returns mode, mask and length of a mask, as the calls that set a policy take them.
    pub(super) fn memory_policy(&mut self, policy: Option<&MemoryPolicy>) -> [u64; 3] {
        let Some(policy) = policy else { return [0; 3] };
        let words = policy.nodes.last().map_or(0, |node| node.min(&MOST_NODES) / 64 + 1);
        let mut mask = vec![0u64; words as usize];
        for node in &policy.nodes {
            if let Some(word) = mask.get_mut(*node as usize / 64) {
                *word |= 1 << (node % 64);
            }
        }
        if mask.is_empty() {
            return [policy.mode.into(), 0, 0];
        }
        // The kernel counts one bit less than it is told (get_nodes, mm/mempolicy.c).
        [policy.mode.into(), self.control.words(&mask), u64::from(words) * 64 + 1]
    }

    /// The end of every tape: says that it is there, and waits.
    ///
    /// A token of 8 bytes lets it go, into the program's own registers through a signal frame; end of file ends it.
    /// The tape has no condition but failure, so what read returned becomes an argument that only 8 makes valid.
    pub(super) fn gate(&mut self, script: &mut Script, index: usize, process: &Process, number: usize) {
        let thread = &process.cpu.threads[number];
        let (gate, arrived) = (self.numbers.gate as u64, self.numbers.arrived as u64);
        self.about(script, index, Stage::Gate, Subject::Id(thread.tid.raw()));
        let slot = self.control.words(&[0]);
        script.call(libc::SYS_write, &[arrived, self.one, 8]);
        let token = script.call(libc::SYS_read, &[gate, slot, 8]);
        let check = script.attempt(libc::SYS_rt_sigprocmask, &[libc::SIG_BLOCK as u64, 0, 0, 0]);
        script.tape.forward(token, check, 3);
        if let Some(status) = thread.ended {
            // Ends again, as whoever builds lets it if nothing comes in between.
            let spare = script.attempt(libc::SYS_getpid, &[]);
            self.spare.insert(thread.tid.raw(), script.tape.address_of(spare));
            script.attempt(libc::SYS_exit, &[ended_with(status)]);
            let closed = script.attempt(libc::SYS_exit_group, &[GATE_CLOSED]);
            script.tape.on_error(check, closed);
            let tail = script.attempt(libc::SYS_write, &[arrived, self.failure, 8]);
            script.attempt(libc::SYS_read, &[gate, slot, 8]);
            script.attempt(libc::SYS_exit_group, &[GATE_CLOSED]);
            script.fail_to(tail);
            return;
        }
        if let frost_model::cpu::Restart::Block { remaining: Some(time) } = thread.restart {
            let address = self.control.words(&[time.sec as u64, time.nsec as u64]);
            self.remaining.insert(thread.tid.raw(), address);
        }
        let registers = words(thread);
        let registers = match thread.restart {
            frost_model::cpu::Restart::Reissue { .. } => restart::reissued(&registers),
            frost_model::cpu::Restart::None | frost_model::cpu::Restart::Block { .. } => {
                frame::restarted(&registers)
            }
        };
        let room = Frame::len_bytes(thread.xstate.len());
        let address = self.control.blob_aligned(&vec![0; room], 16) + 8;
        let frame = Frame::new(address, &registers, &thread.xstate, thread.blocked, 0);
        self.control.overwrite(address, frame.bytes());
        // Where the builder lets the thread make calls of its own once the gate is open: with its stack pointer here, a
        // thread comes from such a call to the entry behind, and out, should the builder die meanwhile.
        let spare = script.attempt(libc::SYS_getpid, &[]);
        self.spare.insert(thread.tid.raw(), script.tape.address_of(spare));
        let syscall = self.control.syscall_address();
        script.leave(syscall, frame.sigreturn_stack(), libc::SYS_rt_sigreturn as u64);
        let closed = script.attempt(libc::SYS_exit_group, &[GATE_CLOSED]);
        script.tape.on_error(check, closed);
        let tail = script.attempt(libc::SYS_write, &[arrived, self.failure, 8]);
        script.attempt(libc::SYS_read, &[gate, slot, 8]);
        script.attempt(libc::SYS_exit_group, &[GATE_CLOSED]);
        script.fail_to(tail);
    }
}
