//! Timers behind a descriptor.

use super::file;
use frost_model::cap::TimerFd;
use frost_model::clock::{Clocks, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec as KernelTime, timerfd_create,
    timerfd_settime,
};

/// Makes a timerfd that is not armed yet.
pub(super) fn make(timer: &TimerFd, flags: u32) -> Result<OwnedFd> {
    // CLOCK_ numbers of include/uapi/linux/time.h.
    let clock = match timer.clock {
        0 => TimerfdClockId::Realtime,
        1 => TimerfdClockId::Monotonic,
        7 => TimerfdClockId::Boottime,
        8 => TimerfdClockId::RealtimeAlarm,
        9 => TimerfdClockId::BoottimeAlarm,
        _ => return Err(Errno::INVAL),
    };
    let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC)?;
    file::set_status(&fd, flags)?;
    Ok(fd)
}

/// Arms it with what was left. An absolute time of CLOCK_REALTIME stays that time of the world.
pub(super) fn arm(fd: impl AsFd, timer: &TimerFd, clocks: &Clocks) -> Result<()> {
    let mut flags = TimerfdTimerFlags::empty();
    let mut value = timer.spec.value;
    let absolute = timer.settime_flags & TimerfdTimerFlags::ABSTIME.bits() != 0;
    if absolute && matches!(timer.clock, 0 | 8) && !value.is_zero() {
        flags = TimerfdTimerFlags::from_bits_retain(timer.settime_flags & 3);
        value = Timespec::from_nanos(clocks.realtime.as_nanos() + value.as_nanos());
    }
    let time = |span: Timespec| KernelTime { tv_sec: span.sec, tv_nsec: span.nsec as _ };
    let spec = Itimerspec { it_interval: time(timer.spec.interval), it_value: time(value) };
    if !value.is_zero() {
        timerfd_settime(&fd, flags, &spec)?;
    }
    if timer.ticks != 0 {
        // After arming, which sets the count to 0.
        frost_sys::timerfd::set_ticks(&fd, timer.ticks)?;
    }
    Ok(())
}
