//! When a thread last ran.

use rustix::thread::CpuSet;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// When a thread fell asleep, in the scheduler's clock of the CPU it was on.
///
/// That clock (`rq_clock_task`) leaves out interrupts and time stolen by the hypervisor, so those of two CPUs drift
/// apart, by seconds in a day; [`since`](Self::since) compares with that of the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asleep {
    nanos: i128,
    cpu: u32,
    /// Another CPU that it may have been on.
    or: Option<u32>,
}

impl Asleep {
    /// Asks when thread `tid` of process `pid` last began or went on to run: for a sleeping thread the time it fell asleep. `None` where the
    /// kernel does not tell (CONFIG_SCHED_DEBUG before Linux 6.13).
    ///
    /// Source: `se.exec_start` of `/proc/TID/sched`, kernel/sched/debug.c.
    pub fn of(pid: i32, tid: i32) -> Option<Self> {
        // The kernel forgets it of a thread that it moves to another CPU, until that runs there: so of a sleeper that was moved
        // while it was still on a queue (see `or_on`).
        let nanos = last_ran(pid, tid).filter(|nanos| *nanos > 0)?;
        Some(Self { nanos, cpu: super::thread_stat(pid, tid).ok()?.processor, or: None })
    }

    /// Takes into account that the thread was on this CPU when it called the kernel.
    ///
    /// A thread that fell asleep with a debt of time stays on the queue of its CPU, and may be moved to another one with it
    /// (`sched_delayed`, kernel/sched/fair.c, since Linux 6.12): on a busy machine one in a thousand sleepers.
    pub fn or_on(self, cpu: u32) -> Self {
        Self { or: Some(cpu).filter(|cpu| *cpu != self.cpu), ..self }
    }

    /// Returns the time since then, never too much of it.
    pub fn since(self) -> Option<Duration> {
        /// The clock is read at a tick at the latest: 100 Hz.
        const TICK: Duration = Duration::from_millis(10);
        let mut clock = clock_of(self.cpu)?;
        if let Some(other) = self.or {
            clock = clock.min(clock_of(other)?);
        }
        let nanos = u64::try_from(clock - self.nanos).unwrap_or(0);
        Some(Duration::from_nanos(nanos).saturating_sub(TICK))
    }
}

thread_local! {
    /// The scheduler's clock of each CPU that was asked for, and when that was: asking again for each of thousands
    /// of threads would take longer than all the rest.
    static CLOCKS: RefCell<HashMap<u32, (i128, Instant)>> = RefCell::default();
}

/// Returns the scheduler's clock of a CPU as of now.
fn clock_of(cpu: u32) -> Option<i128> {
    /// The clocks drift far less than a tick in this time.
    const VALID: Duration = Duration::from_secs(1);
    let known = CLOCKS.with_borrow(|clocks| clocks.get(&cpu).copied());
    let (clock, read) = match known {
        Some((clock, read)) if read.elapsed() < VALID => (clock, read),
        _ => {
            let fresh = (read_clock_of(cpu)?, Instant::now());
            CLOCKS.with_borrow_mut(|clocks| clocks.insert(cpu, fresh));
            fresh
        }
    };
    Some(clock + read.elapsed().as_nanos() as i128)
}

fn read_clock_of(cpu: u32) -> Option<i128> {
    let us = rustix::thread::gettid();
    let before = rustix::thread::sched_getaffinity(Some(us)).ok()?;
    let mut there = CpuSet::new();
    there.set(cpu as usize);
    // Running there is what brings our own clock up to that CPU's time.
    rustix::thread::sched_setaffinity(Some(us), &there).ok()?;
    std::thread::yield_now();
    let now = last_ran(rustix::process::getpid().as_raw_nonzero().get(), us.as_raw_nonzero().get());
    // If the mask cannot be set back we stay there, which does no harm.
    let _ = rustix::thread::sched_setaffinity(Some(us), &before);
    now
}

fn last_ran(pid: i32, tid: i32) -> Option<i128> {
    parse(&super::of_thread(pid, tid, "sched").ok()?)
}

/// Parses milliseconds with six decimals.
fn parse(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let line = text.lines().find(|line| line.starts_with("se.exec_start"))?;
    let (whole, fraction) = line.rsplit_once(':')?.1.trim().split_once('.')?;
    Some(whole.parse::<i128>().ok()? * 1_000_000 + fraction.parse::<i128>().ok()?)
}

/// A system call in which a thread is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub nr: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Returns the system call in which thread `tid` of process `pid` is blocked; `None` if it runs, or is in none.
///
/// Source: `/proc/PID/task/TID/syscall`; needs the right to read the thread.
pub fn blocked_in(pid: i32, tid: i32) -> Option<Call> {
    parse_call(&super::of_thread(pid, tid, "syscall").ok()?)
}

/// Parses a number and six arguments in hexadecimal; what else there may be are words or -1.
fn parse_call(text: &[u8]) -> Option<Call> {
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let nr = words.next()?.parse().ok()?;
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some(Call { nr, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_parsed() {
        let text = b"202 0x7f1 0x80 0x0 0x0 0x0 0xffffffff 0x7ffe 0x7f2\n";
        assert_eq!(parse_call(text), Some(Call { nr: 202, args: [0x7f1, 0x80, 0, 0, 0, 0xffff_ffff] }));
        assert_eq!((parse_call(b"running\n"), parse_call(b"-1 0x7ffe 0x7f2\n")), (None, None));
    }

    #[test]
    fn the_schedulers_clock_is_read() {
        assert_eq!(parse(b"se.exec_start                :        707870.913560\n"), Some(707_870_913_560));
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let asleep = Asleep::of(pid, rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        assert!(asleep.since().unwrap() < Duration::from_secs(10));
        // By the clock of another CPU it may be less, but never more.
        let cpus = rustix::thread::sched_getaffinity(None).unwrap();
        for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)) {
            let both = asleep.or_on(cpu as u32).since().unwrap();
            assert!(both <= asleep.since().unwrap());
        }
    }
}
