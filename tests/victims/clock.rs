//! Clocks, as the program sees them across the time it was away.

use crate::Victim;
use crate::call::{monotonic, nap, now};
use crate::stage::{Stage, Verdict};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[("clock_continues", continues), ("clock_cpu_time", cpu_time)];

/// No clock goes back, and CLOCK_MONOTONIC does not count the time that CLOCK_REALTIME saw pass while frozen.
fn continues(stage: &Stage) -> Verdict {
    let clocks = [
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_BOOTTIME,
        libc::CLOCK_MONOTONIC_RAW,
        libc::CLOCK_MONOTONIC_COARSE,
    ];
    let mut last = clocks.map(now);
    let mut jump = Duration::ZERO;
    stage.ready();
    while !stage.gone() {
        nap(Duration::from_millis(1));
        let read = clocks.map(now);
        for (index, clock) in clocks.iter().enumerate() {
            check!(
                read[index] >= last[index],
                "clock {clock} went from {:?} back to {:?}",
                last[index],
                read[index]
            );
        }
        jump = jump.max(read[0] - last[0]);
        last = read;
    }
    // The vDSO and the system call agree.
    let by_call = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (one, two, three) = (monotonic(), by_call(), monotonic());
    check!(one <= two && two <= three, "the vDSO says {one:?} and {three:?}, the call between says {two:?}");
    std::fs::write(stage.path("jump_ms"), jump.as_millis().to_string()).map_err(|why| why.to_string())
}

/// A thread's CPU clock may start anew, but it goes forward and is not negative.
fn cpu_time(stage: &Stage) -> Verdict {
    stage.freeze_here()?;
    let one = now(libc::CLOCK_PROCESS_CPUTIME_ID);
    let mut sum = 0u64;
    for i in 0..2_000_000u64 {
        sum = std::hint::black_box(sum.wrapping_add(i));
    }
    check!(now(libc::CLOCK_PROCESS_CPUTIME_ID) > one, "CPU time stands still");
    Ok(())
}
