//! Timers that end in a signal.

use crate::Victim;
use crate::call::{gettid, monotonic, nap, timespec, timeval, until, zeroed};
use crate::stage::{Stage, Verdict};
use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("timers_interval_real", interval_real),
    ("timers_interval_cpu", interval_cpu),
    ("timers_interval_far", interval_far),
    ("timers_alarm", alarm),
    ("timers_posix_signal", posix_signal),
    ("timers_posix_thread", posix_thread),
    ("timers_posix_none", posix_none),
    ("timers_posix_ids", posix_ids),
    ("timers_posix_many", posix_many),
    ("timers_posix_pending", posix_pending),
    ("timers_posix_pending_thread", posix_pending_thread),
    ("timers_posix_overrun", posix_overrun),
    ("timers_posix_often", posix_often),
];

static TICKS: AtomicU64 = AtomicU64::new(0);
static TID: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);

extern "C" fn tick(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    VALUE.store(unsafe { (*info).si_value() }.sival_ptr as u64, SeqCst);
    TID.store(unsafe { libc::gettid() }, SeqCst);
    TICKS.fetch_add(1, SeqCst);
}

fn handle(signal: i32) -> Verdict {
    let mut action: libc::sigaction = zeroed();
    action.sa_sigaction = tick as *const () as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
    sys!(sigaction(signal, &action, null_mut()))?;
    Ok(())
}

const FAR: Duration = Duration::from_secs(5000);

fn near(what: &str, found: Duration, expected: Duration) -> Verdict {
    let slip = found.abs_diff(expected);
    check!(slip < Duration::from_millis(1500), "{what}: {found:?}, expected about {expected:?}");
    Ok(())
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

/// It ticks on, as often as time goes by.
fn interval_real(stage: &Stage) -> Verdict {
    handle(libc::SIGALRM)?;
    let period = Duration::from_millis(25);
    let timer = libc::itimerval { it_interval: timeval(period), it_value: timeval(period) };
    sys!(setitimer(libc::ITIMER_REAL, &timer, null_mut()))?;
    until("it ticks", || TICKS.load(SeqCst) > 3)?;
    stage.ready();
    stage.wait();
    let (start, ticks) = (monotonic(), TICKS.load(SeqCst));
    until("it ticks again", || TICKS.load(SeqCst) > ticks + 20)?;
    let waited = monotonic() - start;
    check!(waited > Duration::from_millis(450), "twenty ticks of 25 ms came within {waited:?}");
    let mut now: libc::itimerval = zeroed();
    sys!(getitimer(libc::ITIMER_REAL, &mut now))?;
    same!(duration(now.it_interval), period, "its interval");
    Ok(())
}

fn interval_cpu(stage: &Stage) -> Verdict {
    handle(libc::SIGVTALRM)?;
    handle(libc::SIGPROF)?;
    for which in [libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        let timer = libc::itimerval {
            it_interval: timeval(Duration::from_millis(30)),
            it_value: timeval(Duration::from_millis(400)),
        };
        sys!(setitimer(which, &timer, null_mut()))?;
    }
    stage.freeze_here()?;
    for which in [libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        let mut now: libc::itimerval = zeroed();
        sys!(getitimer(which, &mut now))?;
        near("what is left", duration(now.it_value), Duration::from_millis(400))?;
        check!(duration(now.it_value) > Duration::ZERO, "timer {which} is off");
    }
    let start = monotonic();
    while TICKS.load(SeqCst) < 4 {
        check!(monotonic() - start < Duration::from_secs(60), "no CPU timer ticks");
    }
    Ok(())
}

/// What is left of a long time does not count the time frozen.
fn interval_far(stage: &Stage) -> Verdict {
    let timer = libc::itimerval { it_interval: timeval(Duration::from_secs(3)), it_value: timeval(FAR) };
    sys!(setitimer(libc::ITIMER_REAL, &timer, null_mut()))?;
    let start = monotonic();
    stage.freeze_here()?;
    let mut now: libc::itimerval = zeroed();
    sys!(getitimer(libc::ITIMER_REAL, &mut now))?;
    near("what is left", duration(now.it_value), FAR - (monotonic() - start))?;
    same!(duration(now.it_interval), Duration::from_secs(3), "its interval");
    Ok(())
}

fn alarm(stage: &Stage) -> Verdict {
    handle(libc::SIGALRM)?;
    unsafe { libc::alarm(2) };
    let start = monotonic();
    stage.ready();
    until("the alarm rings", || TICKS.load(SeqCst) > 0)?;
    near("the alarm rang after", monotonic() - start, Duration::from_secs(2))?;
    stage.wait();
    same!(TICKS.load(SeqCst), 1, "how often it rang");
    Ok(())
}

/// `struct sigevent` of the kernel.
fn create(clock: i32, notify: i32, signal: i32, value: u64, tid: i32) -> Result<i32, String> {
    let mut event: libc::sigevent = zeroed();
    event.sigev_notify = notify;
    event.sigev_signo = signal;
    event.sigev_value = libc::sigval { sival_ptr: value as *mut _ };
    event.sigev_notify_thread_id = tid;
    let mut id = -1i32;
    sys!(syscall(libc::SYS_timer_create, clock, &raw mut event, &raw mut id))?;
    Ok(id)
}

fn set(id: i32, flags: i32, value: Duration, interval: Duration) -> Verdict {
    let spec = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(value) };
    sys!(syscall(libc::SYS_timer_settime, id, flags, &raw const spec, null_mut::<u8>()))?;
    Ok(())
}

fn left(id: i32) -> Result<(Duration, Duration), String> {
    let mut spec: libc::itimerspec = zeroed();
    sys!(syscall(libc::SYS_timer_gettime, id, &raw mut spec))?;
    let duration = |time: libc::timespec| Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    Ok((duration(spec.it_value), duration(spec.it_interval)))
}

fn posix_signal(stage: &Stage) -> Verdict {
    handle(libc::SIGRTMIN() + 4)?;
    let id = create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, libc::SIGRTMIN() + 4, 0x1234_5678_9abc, 0)?;
    set(id, 0, Duration::from_millis(50), Duration::from_millis(50))?;
    until("it ticks", || TICKS.load(SeqCst) > 2)?;
    stage.ready();
    stage.wait();
    let ticks = TICKS.load(SeqCst);
    VALUE.store(0, SeqCst);
    until("it ticks again", || TICKS.load(SeqCst) > ticks + 5)?;
    same!(VALUE.load(SeqCst), 0x1234_5678_9abc, "its value");
    same!(left(id)?.1, Duration::from_millis(50), "its interval");
    Ok(())
}

/// Each timer signals its own thread.
fn posix_thread(stage: &Stage) -> Verdict {
    handle(libc::SIGRTMIN() + 5)?;
    let (tid, done) = (AtomicI32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            tid.store(gettid(), SeqCst);
            while !done.load(SeqCst) {
                nap(Duration::from_millis(5));
            }
        });
        until("the thread stands", || tid.load(SeqCst) != 0)?;
        let thread = tid.load(SeqCst);
        let id = create(libc::CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID, libc::SIGRTMIN() + 5, 5, thread)?;
        set(id, 0, Duration::from_millis(20), Duration::from_millis(20))?;
        let seen = stage.freeze_amid_threads();
        let ticks = TICKS.load(SeqCst);
        let ticked = until("it ticks again", || TICKS.load(SeqCst) > ticks + 3);
        done.store(true, SeqCst);
        same!(TID.load(SeqCst), thread, "the thread that was signalled");
        seen.and(ticked)
    })
}

/// Timers that notify nobody, of all clocks, relative and absolute.
fn posix_none(stage: &Stage) -> Verdict {
    let clocks =
        [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_REALTIME, libc::CLOCK_PROCESS_CPUTIME_ID];
    let mut timers = Vec::new();
    for clock in clocks {
        let id = create(clock, libc::SIGEV_NONE, 0, 0, 0)?;
        set(id, 0, FAR, Duration::from_secs(9))?;
        timers.push((clock, id, FAR));
    }
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME] {
        let id = create(clock, libc::SIGEV_NONE, 0, 0, 0)?;
        set(id, libc::TIMER_ABSTIME, crate::call::now(clock) + FAR, Duration::ZERO)?;
        timers.push((clock, id, FAR));
    }
    let unarmed = create(libc::CLOCK_MONOTONIC, libc::SIGEV_NONE, 0, 0, 0)?;
    let start = monotonic();
    stage.freeze_here()?;
    for (index, (clock, id, total)) in timers.into_iter().enumerate() {
        let gone = if clock == libc::CLOCK_PROCESS_CPUTIME_ID { Duration::ZERO } else { monotonic() - start };
        let (value, interval) = left(id)?;
        near(&format!("what timer {index} of clock {clock} has left"), value, total - gone)?;
        same!(interval, Duration::from_secs(if index < 4 { 9 } else { 0 }), "the interval of timer {index}");
    }
    same!(left(unarmed)?, (Duration::ZERO, Duration::ZERO), "a timer that was never set");
    Ok(())
}

/// Identifiers stay, with gaps where timers were deleted.
fn posix_ids(stage: &Stage) -> Verdict {
    let make = |value| create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, libc::SIGUSR1, value, 0);
    let ids: Vec<i32> = (0..20).map(make).collect::<Result<_, _>>()?;
    for id in ids.iter().skip(1).step_by(2) {
        sys!(syscall(libc::SYS_timer_delete, *id))?;
    }
    stage.freeze_here()?;
    for (index, id) in ids.iter().enumerate() {
        same!(left(*id).is_ok(), index % 2 == 0, "whether timer {index} exists");
    }
    let next = make(0)?;
    check!(!ids.iter().step_by(2).any(|id| *id == next), "a new timer got the number of an old one");
    Ok(())
}

/// More than can be asked for at once.
fn posix_many(stage: &Stage) -> Verdict {
    let interval = |index: usize| Duration::from_secs(1 + index as u64);
    let mut ids = Vec::new();
    for index in 0..9000 {
        let id = create(libc::CLOCK_MONOTONIC, libc::SIGEV_NONE, 0, 0, 0)?;
        set(id, 0, FAR, interval(index))?;
        ids.push(id);
    }
    stage.freeze_here()?;
    for (index, id) in ids.into_iter().enumerate() {
        same!(left(id)?.1, interval(index), "the interval of timer {index}");
    }
    Ok(())
}

fn block(signal: i32) -> Result<libc::sigset_t, String> {
    let mut set: libc::sigset_t = zeroed();
    sys!(sigaddset(&mut set, signal))?;
    sys!(pthread_sigmask(libc::SIG_BLOCK, &set, null_mut()))?;
    Ok(set)
}

/// Takes a signal that waits: its value and how many periods it missed.
fn take(set: &libc::sigset_t) -> Option<(u64, i32)> {
    let (mut info, none): (libc::siginfo_t, libc::timespec) = (zeroed(), zeroed());
    sys!(sigtimedwait(set, &mut info, &none)).ok()?;
    let overrun = unsafe { (&raw const info).cast::<i32>().add(5).read() };
    Some((unsafe { info.si_value() }.sival_ptr as u64, overrun))
}

/// Whether the kernel drops the signal of a timer that was set anew, as Linux 6.13 and later do.
fn drops_stale() -> Result<bool, String> {
    let set = block(libc::SIGRTMIN() + 7)?;
    let id = create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, libc::SIGRTMIN() + 7, 0, 0)?;
    set_expired(id)?;
    self::set(id, 0, FAR, Duration::ZERO)?;
    let dropped = take(&set).is_none();
    sys!(syscall(libc::SYS_timer_delete, id))?;
    Ok(dropped)
}

fn set_expired(id: i32) -> Verdict {
    set(id, libc::TIMER_ABSTIME, Duration::from_nanos(1), Duration::ZERO)
}

/// A signal that waits stays its timer's: it goes where that is set anew or deleted.
fn posix_pending(stage: &Stage) -> Verdict {
    let stale = drops_stale()?;
    let signal = libc::SIGRTMIN() + 6;
    let set = block(signal)?;
    let clocks =
        [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME, libc::CLOCK_PROCESS_CPUTIME_ID];
    let mut timers = Vec::new();
    for (index, clock) in clocks.into_iter().cycle().take(16).enumerate() {
        let id = create(clock, libc::SIGEV_SIGNAL, signal, index as u64, 0)?;
        set_expired(id)?;
        timers.push(id);
    }
    // Set anew already, but for its signal.
    self::set(timers[12], 0, FAR, Duration::ZERO)?;
    sys!(syscall(libc::SYS_timer_delete, timers[13]))?;
    stage.freeze_here()?;
    same!(left(timers[0])?, (Duration::ZERO, Duration::ZERO), "what an expired timer has left");
    check!(left(timers[12])?.0 > FAR - Duration::from_secs(1000), "what one that was set anew has left");
    for index in 0..4 {
        self::set(timers[index], 0, FAR, Duration::ZERO)?;
        sys!(syscall(libc::SYS_timer_delete, timers[index + 4]))?;
    }
    let mut taken = Vec::new();
    while let Some((value, _)) = take(&set) {
        taken.push(value);
    }
    taken.sort_unstable();
    let expected: Vec<u64> = if stale { vec![8, 9, 10, 11, 14, 15] } else { (0..16).collect() };
    same!(taken, expected, "the timers whose signals came");
    set_expired(timers[0])?;
    same!(take(&set), Some((0, 0)), "the signal of one that expires again");
    Ok(())
}

fn posix_pending_thread(stage: &Stage) -> Verdict {
    let stale = drops_stale()?;
    let signal = libc::SIGRTMIN() + 6;
    let set = block(signal)?;
    let (tid, done) = (AtomicI32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            tid.store(gettid(), SeqCst);
            while !done.load(SeqCst) {
                nap(Duration::from_millis(5));
            }
            [take(&set), take(&set)]
        });
        until("the thread stands", || tid.load(SeqCst) != 0)?;
        for value in [1, 2] {
            let id = create(libc::CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID, signal, value, tid.load(SeqCst))?;
            set_expired(id)?;
            VALUE.store(id as u64, SeqCst);
        }
        let seen = stage.freeze_amid_threads();
        let deleted = sys!(syscall(libc::SYS_timer_delete, VALUE.load(SeqCst)));
        done.store(true, SeqCst);
        let taken = thread.join().map_err(|_| "the thread panicked")?;
        deleted?;
        let second = if stale { None } else { Some((2, 0)) };
        same!(taken, [Some((1, 0)), second], "the signals of the thread");
        seen
    })
}

/// A signal that waits is not lost if its timer expires more than once while it is read how much it has left.
fn posix_often(stage: &Stage) -> Verdict {
    let signal = libc::SIGRTMIN() + 6;
    let set = block(signal)?;
    let period = Duration::from_micros(200);
    let mut timers = Vec::new();
    for value in 0..8 {
        let id = create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, signal, value, 0)?;
        self::set(id, 0, period, period)?;
        timers.push(id);
    }
    nap(Duration::from_millis(5));
    stage.freeze_here()?;
    for id in timers {
        let (value, interval) = left(id)?;
        check!(interval == period && value <= period, "it has {value:?} left of {interval:?}");
    }
    let mut taken: Vec<u64> = (0..8).map_while(|_| take(&set)).map(|(value, _)| value).collect();
    taken.sort_unstable();
    same!(taken, (0..8).collect::<Vec<u64>>(), "the timers whose signals waited");
    Ok(())
}

/// Periods that pass while a signal waits are counted, and the next signal comes in step.
fn posix_overrun(stage: &Stage) -> Verdict {
    let signal = libc::SIGRTMIN() + 6;
    let set = block(signal)?;
    const SLIP: Duration = Duration::from_millis(100);
    let period = Duration::from_millis(400);
    let mut timers = Vec::new();
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME] {
        let id = create(clock, libc::SIGEV_SIGNAL, signal, timers.len() as u64, 0)?;
        let first = crate::call::now(clock) + Duration::from_millis(1);
        self::set(id, libc::TIMER_ABSTIME, first, period)?;
        timers.push((clock, id, first));
    }
    nap(Duration::from_millis(20));
    stage.freeze_here()?;
    nap(Duration::from_millis(1300));
    for index in 0..timers.len() as u64 {
        let (value, overrun) = take(&set).ok_or("its signal does not wait")?;
        same!(value, index, "its value");
        let (clock, _, first) = timers[index as usize];
        let most = (crate::call::now(clock) - first).as_millis() / period.as_millis();
        check!((3..=most as i32).contains(&overrun), "{overrun} periods of at most {most} were missed");
    }
    for (clock, id, first) in timers {
        let (value, interval) = left(id)?;
        same!(interval, period, "its interval");
        let next = crate::call::now(clock) + value - first;
        let slip = next.as_nanos() % period.as_nanos();
        let slip = slip.min(period.as_nanos() - slip);
        check!(slip < SLIP.as_nanos(), "it comes {slip} ns out of step");
    }
    check!(take(&set).is_none(), "a signal more");
    Ok(())
}
