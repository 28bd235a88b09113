//! The program's clocks go on from where they stood, by a time namespace.

use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_model::Checkpoint;
use frost_model::clock::Timespec;
use rustix::io::Errno;
use rustix::time::ClockId;
use std::time::{Duration, Instant};

/// The offsets of our own time namespace, in nanoseconds, which our own clocks show already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    monotonic: i128,
    boottime: i128,
}

impl Own {
    /// Reads them.
    ///
    /// Before the first [`go_on`]: behind it the file tells those of the namespace that is for our children
    /// (time_namespaces(7)), and another one starts with these.
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        let offset = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let mut words =
                line.unwrap_or("").split_ascii_whitespace().map(|word| word.parse::<i64>().unwrap_or(0));
            Timespec { sec: words.next().unwrap_or(0), nsec: words.next().unwrap_or(0) }.as_nanos()
        };
        Self { monotonic: offset("monotonic"), boottime: offset("boottime") }
    }
}

/// Prepares a time namespace for our children, in which CLOCK_MONOTONIC and CLOCK_BOOTTIME show what they showed when
/// the program was stopped, and a tick more. May be called again, for children to come.
///
/// Returns when they went on: from then on the program's timeouts run, however long it takes to build it.
pub(crate) fn go_on(checkpoint: &Checkpoint, own: Own) -> Result<Option<Instant>, Error> {
    let clocks = &checkpoint.clocks;
    if clocks.monotonic.is_zero() {
        return Ok(None);
    }
    let stage = Stage::Namespaces;
    frost_sys::time::unshare_time().at(stage, || "a time namespace".to_owned())?;
    // The coarse clocks stand still between two ticks, and have the same offset: the one that was read a moment before the
    // freeze may be by so much ahead of the one that is read first (`do_hres` and `do_coarse`, lib/vdso/gettimeofday.c).
    let tick = rustix::time::clock_getres(ClockId::MonotonicCoarse);
    let tick = Duration::new(tick.tv_sec.unsigned_abs(), tick.tv_nsec.unsigned_abs() as u32);
    let line = |name: &str, clock: ClockId, ours: i128, then: Timespec| {
        let now = rustix::time::clock_gettime(clock);
        let now = Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.as_nanos();
        let offset = Timespec::from_nanos(ours + then.as_nanos() + tick.as_nanos() as i128 - now);
        format!("{name} {} {}\n", offset.sec, offset.nsec)
    };
    let began = Instant::now();
    let offsets = line("monotonic", ClockId::Monotonic, own.monotonic, clocks.monotonic)
        + &line("boottime", ClockId::Boottime, own.boottime, clocks.boottime);
    std::fs::write("/proc/self/timens_offsets", offsets)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .at(stage, || "the clocks of a time namespace".to_owned())?;
    Ok(Some(began.checked_sub(tick).unwrap_or(began)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn each_new_namespace_shows_the_program_s_time() {
        let mut checkpoint = crate::synthetic::checkpoint(vec![]);
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        checkpoint.clocks.monotonic = Timespec { sec: now.tv_sec + 5000, nsec: 1 };
        checkpoint.clocks.boottime = checkpoint.clocks.monotonic;
        // It holds for the children of one thread.
        let run = move || {
            let own = Own::read();
            for _ in 0..3 {
                if go_on(&checkpoint, own).is_err() {
                    eprintln!("skipped: whoever runs this may not make time namespaces");
                    return;
                }
                let told = Command::new("cat").arg("/proc/uptime").output().unwrap().stdout;
                let told = String::from_utf8(told).unwrap();
                let uptime: f64 = told.split(' ').next().unwrap().parse().unwrap();
                let expected = (now.tv_sec + 5000) as f64;
                assert!(
                    (expected - 1.0..expected + 1000.0).contains(&uptime),
                    "{uptime}, expected {expected}"
                );
            }
        };
        std::thread::spawn(run).join().unwrap();
    }
}
