//! Times of the frozen program.

use serde::{Deserialize, Serialize};

/// A time or a span in the kernel's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: i64,
}

impl Timespec {
    /// Makes a span from nanoseconds.
    pub const fn from_nanos(nanos: i128) -> Self {
        Self { sec: nanos.div_euclid(1_000_000_000) as i64, nsec: nanos.rem_euclid(1_000_000_000) as i64 }
    }

    /// Returns it in nanoseconds.
    pub const fn as_nanos(self) -> i128 {
        self.sec as i128 * 1_000_000_000 + self.nsec as i128
    }

    /// Returns whether it is zero, which disarms a timer.
    pub const fn is_zero(self) -> bool {
        self.sec == 0 && self.nsec == 0
    }
}

/// The interval and the time left of a timer, as in `struct itimerspec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerSpec {
    /// The period, zero for a timer that fires once.
    pub interval: Timespec,
    /// What is left until the next expiry, zero for a disarmed timer.
    pub value: Timespec,
}

/// What the program's clocks showed when it was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// CLOCK_MONOTONIC as the program saw it, its time namespace included.
    pub monotonic: Timespec,
    /// CLOCK_BOOTTIME as the program saw it.
    pub boottime: Timespec,
    /// CLOCK_REALTIME, for people and for nothing else: it is not carried.
    pub realtime: Timespec,
}
