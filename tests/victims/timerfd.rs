//! Timerfds.

use crate::Victim;
use crate::call::{monotonic, now, read_some, timespec, timeval, zeroed};
use crate::stage::{Stage, Verdict};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("timerfd_far", far),
    ("timerfd_interval", interval),
    ("timerfd_expired", expired),
    ("timerfd_absolute", absolute),
    ("timerfd_unarmed", unarmed),
    ("timerfd_due", due),
    ("timerfd_blocked_reader", blocked_reader),
    ("timerfd_cancelled", cancelled),
    ("timerfd_never_early", never_early),
];

const FAR: Duration = Duration::from_secs(5000);

fn timerfd(clock: i32, flags: i32, value: Duration, interval: Duration) -> Result<i32, String> {
    let fd = sys!(timerfd_create(clock, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC))?;
    let spec = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(value) };
    sys!(timerfd_settime(fd, flags, &spec, std::ptr::null_mut()))?;
    Ok(fd)
}

fn left(fd: i32) -> Result<(Duration, Duration), String> {
    let mut spec: libc::itimerspec = zeroed();
    sys!(timerfd_gettime(fd, &mut spec))?;
    let duration = |time: libc::timespec| Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    Ok((duration(spec.it_value), duration(spec.it_interval)))
}

fn ticks(fd: i32) -> Result<u64, String> {
    read_some(fd, 8)?.try_into().map(u64::from_ne_bytes).map_err(|_| "a short read".to_owned())
}

fn near(what: &str, found: Duration, expected: Duration) -> Verdict {
    let slip = found.abs_diff(expected);
    check!(slip < Duration::from_millis(1500), "{what}: {found:?}, expected about {expected:?}");
    Ok(())
}

fn far(stage: &Stage) -> Verdict {
    let clocks = [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_REALTIME];
    let mut fds = Vec::new();
    for clock in clocks {
        fds.push(timerfd(clock, 0, FAR, Duration::from_secs(2))?);
    }
    let start = monotonic();
    stage.freeze_here()?;
    for (clock, fd) in clocks.into_iter().zip(fds) {
        let (value, interval) = left(fd)?;
        near(&format!("what clock {clock} has left"), value, FAR - (monotonic() - start))?;
        same!(interval, Duration::from_secs(2), "the interval");
        check!(ticks(fd).is_err(), "it has expired");
    }
    Ok(())
}

fn interval(stage: &Stage) -> Verdict {
    let period = Duration::from_millis(30);
    let fd = timerfd(libc::CLOCK_MONOTONIC, 0, period, period)?;
    let start = monotonic();
    stage.freeze_here()?;
    let mut count = ticks(fd).unwrap_or(0);
    crate::call::until("it ticks on", || {
        count += ticks(fd).unwrap_or(0);
        count > 20
    })?;
    let expected = (monotonic() - start).as_millis() as u64 / 30;
    check!(count.abs_diff(expected) < 50, "it ticked {count} times, expected about {expected}");
    same!(left(fd)?.1, period, "the interval");
    Ok(())
}

/// Expiries that were not read yet.
fn expired(stage: &Stage) -> Verdict {
    let fd = timerfd(libc::CLOCK_MONOTONIC, 0, Duration::from_millis(1), Duration::ZERO)?;
    let several = timerfd(libc::CLOCK_MONOTONIC, 0, Duration::from_millis(1), Duration::from_millis(1))?;
    crate::call::nap(Duration::from_millis(20));
    stage.freeze_here()?;
    same!(ticks(fd)?, 1, "expiries of the single shot");
    same!(left(fd)?, (Duration::ZERO, Duration::ZERO), "what the single shot has left");
    check!(ticks(several)? >= 19, "expiries of the interval are lost");
    Ok(())
}

fn absolute(stage: &Stage) -> Verdict {
    let clocks = [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME];
    let mut fds = Vec::new();
    for clock in clocks {
        fds.push((
            clock,
            now(clock),
            timerfd(clock, libc::TFD_TIMER_ABSTIME, now(clock) + FAR, Duration::ZERO)?,
        ));
    }
    stage.freeze_here()?;
    for (clock, start, fd) in fds {
        near(&format!("what clock {clock} has left"), left(fd)?.0, FAR - (now(clock) - start))?;
    }
    Ok(())
}

fn unarmed(stage: &Stage) -> Verdict {
    let fd = sys!(timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK))?;
    stage.freeze_here()?;
    same!(left(fd)?, (Duration::ZERO, Duration::ZERO), "what is left");
    check!(ticks(fd).is_err(), "it has expired");
    Ok(())
}

/// One that falls due by the program's own clock, not earlier.
fn due(stage: &Stage) -> Verdict {
    let fd = timerfd(libc::CLOCK_MONOTONIC, 0, Duration::from_millis(2000), Duration::ZERO)?;
    let start = monotonic();
    stage.ready();
    crate::call::until("it is due", || ticks(fd).is_ok())?;
    near("it was due after", monotonic() - start, Duration::from_millis(2000))?;
    stage.wait();
    Ok(())
}

fn blocked_reader(stage: &Stage) -> Verdict {
    let fd = timerfd(libc::CLOCK_MONOTONIC, 0, FAR, Duration::ZERO)?;
    sys!(fcntl(fd, libc::F_SETFL, 0))?;
    let child = stage.fork(|| {
        same!(ticks(fd)?, 1, "how often it was due");
        Ok(())
    })?;
    crate::call::until("the child waits", || crate::call::is_in_call(child, libc::SYS_read))?;
    stage.freeze_here()?;
    let soon = libc::itimerspec {
        it_interval: timespec(Duration::ZERO),
        it_value: timespec(Duration::from_millis(1)),
    };
    sys!(timerfd_settime(fd, 0, &soon, std::ptr::null_mut()))?;
    stage.reap(child)
}

/// One that is to tell when the clock is set.
fn cancelled(stage: &Stage) -> Verdict {
    let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
    let fd = timerfd(libc::CLOCK_REALTIME, flags, now(libc::CLOCK_REALTIME) + FAR, Duration::ZERO)?;
    let settings = || {
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).map_err(|why| why.to_string())?;
        let line = info.lines().find(|line| line.starts_with("settime flags"));
        Ok::<_, String>(line.unwrap_or_default().to_owned())
    };
    let before = settings()?;
    stage.freeze_here()?;
    same!(settings()?, before, "how it was set");
    check!(ticks(fd).is_err(), "it is due");
    check!(left(fd)?.0 > FAR - Duration::from_secs(1000), "what it has left");
    Ok(())
}

/// What clock `clock` shows.
fn shown(clock: i32) -> Result<Duration, String> {
    let mut time: libc::timespec = zeroed();
    sys!(clock_gettime(clock, &mut time))?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Timers come at their dates or behind them, not before, even if it takes a freeze some time to read all that there is. What is
/// left is told first, so a date is never taken for an earlier one than it is.
fn never_early(stage: &Stage) -> Verdict {
    let real = libc::CLOCK_REALTIME;
    let date = shown(real)? + FAR;
    let at_date = timerfd(real, libc::TFD_TIMER_ABSTIME, date, Duration::ZERO)?;
    let due = monotonic() + FAR;
    let timer = timerfd(libc::CLOCK_MONOTONIC, 0, FAR, Duration::ZERO)?;
    let alarm = libc::itimerval { it_interval: timeval(Duration::ZERO), it_value: timeval(FAR) };
    sys!(setitimer(libc::ITIMER_REAL, &alarm, std::ptr::null_mut()))?;
    let mut posix: libc::timer_t = std::ptr::null_mut();
    sys!(timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &mut posix))?;
    let spec = libc::itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(FAR) };
    sys!(timer_settime(posix, 0, &spec, std::ptr::null_mut()))?;
    stage.freeze_here()?;
    let (value, _) = left(at_date)?;
    let found = shown(real)? + value;
    check!(found >= date, "the date has come {:?} early", date - found);
    let (value, _) = left(timer)?;
    let found = monotonic() + value;
    check!(found >= due, "a timerfd is {:?} early", due - found);
    let mut alarm: libc::itimerval = zeroed();
    sys!(getitimer(libc::ITIMER_REAL, &mut alarm))?;
    // It is told in whole microseconds.
    let value = Duration::new(alarm.it_value.tv_sec as u64, alarm.it_value.tv_usec as u32 * 1000 + 1000);
    let found = monotonic() + value;
    check!(found >= due, "an alarm is {:?} early", due - found);
    let mut spec: libc::itimerspec = zeroed();
    sys!(timer_gettime(posix, &mut spec))?;
    let found = monotonic() + Duration::new(spec.it_value.tv_sec as u64, spec.it_value.tv_nsec as u32);
    check!(found >= due, "a timer is {:?} early", due - found);
    Ok(())
}
