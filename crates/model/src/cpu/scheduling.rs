//! How the scheduler treats a thread.

use crate::ram::MemoryPolicy;
use serde::{Deserialize, Serialize};

/// The usual timer slack, that of the first process of all, in nanoseconds.
pub const USUAL_TIMER_SLACK_NS: u64 = 50_000;

/// `struct sched_attr`, affinity and I/O priority of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// SCHED_ policy number.
    pub policy: u32,
    /// SCHED_FLAG_ bits.
    pub flags: u64,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// Priority of the real-time policies.
    pub priority: u32,
    /// Runtime of SCHED_DEADLINE, or the slice of the normal policies, in nanoseconds.
    pub runtime_ns: u64,
    /// Deadline of SCHED_DEADLINE in nanoseconds.
    pub deadline_ns: u64,
    /// Period of SCHED_DEADLINE in nanoseconds.
    pub period_ns: u64,
    /// The affinity mask: CPUs the thread may run on, by ascending number.
    pub affinity: Vec<u32>,
    /// ioprio_get(2): class and level in one number.
    pub io_priority: u32,
    /// PR_GET_TIMERSLACK in nanoseconds.
    pub timer_slack_ns: u64,
    /// What PR_SET_TIMERSLACK with 0 goes back to, if that is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_timer_slack_ns: Option<u64>,
    /// From which nodes its memory is taken (set_mempolicy), if it has a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicy>,
}

impl Scheduling {
    /// Returns the timer slack that the thread began with, that of who made it at that time.
    pub fn first_timer_slack_ns(&self) -> u64 {
        self.default_timer_slack_ns.unwrap_or(USUAL_TIMER_SLACK_NS)
    }
}
