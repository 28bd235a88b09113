//! Timers behind a descriptor.

use crate::clock::TimerSpec;
use serde::{Deserialize, Serialize};

/// A timerfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFd {
    /// The CLOCK_ number.
    pub clock: i32,
    /// TFD_TIMER_ flags of the last setting (TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET).
    pub settime_flags: u32,
    /// Expiries that were not read yet.
    pub ticks: u64,
    /// Interval and time left.
    pub spec: TimerSpec,
}
