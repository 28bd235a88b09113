//! The program's clocks go on from where they stood, by a time namespace.

use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_model::Checkpoint;
use frost_model::clock::Timespec;
use rustix::io::Errno;
use rustix::time::ClockId;

/// Prepares a time namespace for our children, in which CLOCK_MONOTONIC and CLOCK_BOOTTIME show what they showed when
/// the program was stopped.
pub(crate) fn go_on(checkpoint: &Checkpoint) -> Result<(), Error> {
    let clocks = &checkpoint.clocks;
    if clocks.monotonic.is_zero() {
        return Ok(());
    }
    let stage = Stage::Namespaces;
    frost_sys::time::unshare_time().at(stage, || "a time namespace".to_owned())?;
    let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    // The new namespace starts with the offsets of ours, which our own clocks show already.
    let ours = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let mut words =
            line.unwrap_or("").split_ascii_whitespace().map(|word| word.parse::<i64>().unwrap_or(0));
        Timespec { sec: words.next().unwrap_or(0), nsec: words.next().unwrap_or(0) }.as_nanos()
    };
    let line = |name: &str, clock: ClockId, then: Timespec| {
        let now = rustix::time::clock_gettime(clock);
        let now = Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.as_nanos();
        let offset = Timespec::from_nanos(ours(name) + then.as_nanos() - now);
        format!("{name} {} {}\n", offset.sec, offset.nsec)
    };
    let offsets = line("monotonic", ClockId::Monotonic, clocks.monotonic)
        + &line("boottime", ClockId::Boottime, clocks.boottime);
    std::fs::write("/proc/self/timens_offsets", offsets)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .at(stage, || "the clocks of a time namespace".to_owned())
}
