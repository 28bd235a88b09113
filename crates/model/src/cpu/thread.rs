//! One thread.

use super::{Registers, Restart, Scheduling, USUAL_TIMER_SLACK_NS};
use crate::id::{TargetAddr, Tid};
use crate::path::BytePath;
use crate::pd::{Credentials, SigInfo};
use serde::{Deserialize, Serialize};

/// The threads of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuState {
    /// The threads, the leader first, the others by ascending number.
    pub threads: Vec<Thread>,
}

impl CpuState {
    /// Returns the timer slack that the process began with.
    pub fn first_timer_slack_ns(&self) -> u64 {
        let first = self.threads.first();
        first.map_or(USUAL_TIMER_SLACK_NS, |thread| thread.scheduling.first_timer_slack_ns())
    }
}

/// A thread, stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number in its innermost pid namespace.
    pub tid: Tid,
    /// Its name, at most 15 bytes.
    pub name: BytePath,
    /// General registers.
    pub registers: Registers,
    /// How it goes on with the system call it was in.
    pub restart: Restart,
    /// The area of NT_X86_XSTATE: the xsave area in its non-compacted form.
    #[serde(with = "crate::sparse")]
    pub xstate: Vec<u8>,
    /// Blocked signals, bit 0 for signal 1.
    pub blocked: u64,
    /// Signals pending for this thread, in the order of their queue.
    pub pending: Vec<SigInfo>,
    /// The alternate signal stack.
    pub alt_stack: AltStack,
    /// The list of futexes to be released when the thread dies.
    pub robust_list: Option<RobustList>,
    /// The registration of restartable sequences.
    pub rseq: Option<Rseq>,
    /// The address that is cleared and woken when the thread ends (set_tid_address).
    pub clear_child_tid: TargetAddr,
    /// Credentials, where they differ from those of the leader.
    pub credentials: Option<Credentials>,
    /// How it is scheduled.
    pub scheduling: Scheduling,
    /// The signal it gets when its parent ends (PR_GET_PDEATHSIG), 0 for none.
    pub parent_death_signal: i32,
    /// Settings of prctl(2) that a thread rarely has.
    #[serde(default, skip_serializing_if = "ThreadSettings::is_default")]
    pub settings: ThreadSettings,
    /// Its wait status, if it has ended while others go on. Only a leader is then left to be seen; all else of it but its
    /// number and name means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<i32>,
    /// Its filters of system calls, the oldest first: indices into `filters`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<u32>,
}

/// Settings of prctl(2) that belong to one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadSettings {
    /// PR_MCE_KILL_GET, if it is not the system's default: when a corrupted page kills it (0 late, 1 early).
    pub memory_failure: Option<u32>,
    /// Whether reading the time-stamp counter is an error (PR_TSC_SIGSEGV).
    pub no_time_stamps: bool,
    /// Whether asking which processor it is is an error (ARCH_SET_CPUID).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cpuid: bool,
    /// Whether it serves the writing of pages (PR_SET_IO_FLUSHER).
    pub io_flusher: bool,
    /// What PR_GET_SPECULATION_CTRL tells of each misfeature, where it was turned off; else 0.
    pub speculation: [u32; 3],
    /// personality(2), if it is not that of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<u32>,
}

impl ThreadSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `stack_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AltStack {
    /// Where it starts.
    pub address: u64,
    /// SS_ flags; SS_DISABLE if there is none.
    pub flags: u32,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// Arguments of set_robust_list(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RobustList {
    /// The address of the head.
    pub head: TargetAddr,
    /// The size of the head in bytes.
    pub len_bytes: u64,
}

/// Arguments of rseq(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rseq {
    /// The address of the thread's `struct rseq`.
    pub address: TargetAddr,
    /// Its size in bytes.
    pub len_bytes: u32,
    /// The signature that precedes abort handlers.
    pub signature: u32,
    /// Flags.
    pub flags: u32,
}
