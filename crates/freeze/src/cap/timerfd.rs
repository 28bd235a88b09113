//! Timers behind a descriptor.

use super::{Error, Held};
use crate::host::left_at;
use frost_model::cap::{Capability, TimerFd};
use frost_model::clock::{TimerSpec, Timespec};
use std::time::Instant;

/// Captures a timerfd.
pub(super) fn capture(held: &Held, stopped: Instant) -> Result<Capability, Error> {
    // A periodic timer that expired stands still until somebody looks (fs/timerfd.c counts one expiry and does not
    // start it again). timerfd_gettime(2) adds the periods that passed and starts it, as a read would, but keeps
    // the count unread.
    rustix::time::timerfd_gettime(&held.fd).map_err(|e| held.error(e))?;
    let info = held.info()?;
    let parsed = (|| {
        Some(TimerFd {
            clock: info.field("clockid")?.parse().ok()?,
            settime_flags: u32::from_str_radix(info.field("settime flags")?, 8).ok()?,
            ticks: info.field("ticks")?.parse().ok()?,
            spec: TimerSpec {
                interval: span(info.field("it_interval")?)?,
                value: left_at(stopped, span(info.field("it_value")?)?),
            },
        })
    })();
    parsed.map(Capability::TimerFd).ok_or_else(|| Error::Refused { object: held.describe() })
}

/// Parses `(seconds, nanoseconds)`.
fn span(text: &str) -> Option<Timespec> {
    let (sec, nsec) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some(Timespec { sec: sec.trim().parse().ok()?, nsec: nsec.trim().parse().ok()? })
}
