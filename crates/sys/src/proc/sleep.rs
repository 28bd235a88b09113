//! When a thread last ran.

/// Returns the scheduler's clock, in nanoseconds, when `tid` last began or went on to run: for a sleeping thread the
/// time it fell asleep, to a tick. `None` where the kernel does not tell (CONFIG_SCHED_DEBUG before Linux 6.13).
///
/// The clock is that of the thread's CPU (`rq_clock_task`): comparable with other threads of this boot to about a
/// millisecond. Source: `se.exec_start` of `/proc/TID/sched`, kernel/sched/debug.c.
pub fn last_ran(tid: i32) -> Option<i128> {
    parse(&super::read(tid, "sched").ok()?)
}

/// Parses milliseconds with six decimals.
fn parse(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let line = text.lines().find(|line| line.starts_with("se.exec_start"))?;
    let (whole, fraction) = line.rsplit_once(':')?.1.trim().split_once('.')?;
    Some(whole.parse::<i128>().ok()? * 1_000_000 + fraction.parse::<i128>().ok()?)
}

/// Returns the number of the system call in which `tid` is blocked; `None` if it runs.
///
/// Source: `/proc/TID/syscall`; needs the right to read the thread.
pub fn blocked_in(tid: i32) -> Option<u64> {
    let text = super::read(tid, "syscall").ok()?;
    std::str::from_utf8(&text).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedulers_clock_is_read() {
        assert_eq!(parse(b"se.exec_start                :        707870.913560\n"), Some(707_870_913_560));
        assert!(last_ran(std::process::id() as i32).is_some());
    }
}
