//! Timers of a process that end in a signal.

use crate::clock::TimerSpec;
use crate::id::Tid;
use serde::{Deserialize, Serialize};

/// The three interval timers of setitimer(2), of microsecond precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalTimers {
    /// ITIMER_REAL.
    pub real: TimerSpec,
    /// ITIMER_VIRTUAL.
    pub virtual_: TimerSpec,
    /// ITIMER_PROF.
    pub prof: TimerSpec,
}

/// A timer made by timer_create(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// Its kernel identifier, kept across a thaw.
    pub id: i32,
    /// The CLOCK_ number.
    pub clock: i32,
    /// What happens at expiry.
    pub notify: Notify,
    /// The signal sent.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// Interval and time left.
    pub spec: TimerSpec,
    /// Expiries that were missed so far (timer_getoverrun), for people: the kernel takes no initial value.
    pub overrun: i32,
}

/// Whom a timer notifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notify {
    /// SIGEV_NONE.
    Nobody,
    /// SIGEV_SIGNAL.
    Process,
    /// SIGEV_THREAD_ID.
    Thread(Tid),
}
