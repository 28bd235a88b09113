//! How much of a timeout was left when a thread was stopped.
//!
//! The kernel keeps the end of a relative timeout to itself. Where it does not write what is left into the program's
//! memory, the time since the thread fell asleep is told by the scheduler's clock when the thread last ran, read
//! before it was stopped. It is compared with that of our own thread.

use crate::frame;
use crate::restart::{self, FUTEX_CMD_MASK, ORIG_RAX, R10, RDI, RDX, RSI};
use crate::seize::StoppedThread;
use frost_sys::memory;
use frost_sys::proc::{Asleep, Mapping};
use frost_sys::ptrace::REGISTER_WORDS;
use std::time::Duration;

const FUTEX_WAIT: u64 = 0;

/// Returns what is left by now of the timeout of the call that `thread` was stopped in; `None` if it has none, if it
/// is absolute, or if nothing can be told: the call is then issued again with its own arguments.
pub fn remaining(thread: &StoppedThread) -> Option<Duration> {
    remaining_after(thread, thread.asleep.and_then(Asleep::since), thread.stopped.elapsed())
}

/// Returns what was left of it when all of its tree stood still, the time since then not counted: that is when the
/// clocks of an image are read. On a busy machine other threads stop much later.
pub fn remaining_at_stop(thread: &StoppedThread) -> Option<Duration> {
    remaining_after(thread, thread.slept, thread.stood)
}

/// `slept` is how long it was in the call, `stood` how long of that it stood still.
fn remaining_after(thread: &StoppedThread, slept: Option<Duration>, stood: Duration) -> Option<Duration> {
    let registers = &thread.registers;
    let tid = thread.tid;
    // The kernel has written what is left where the program asked for it, when it was stopped.
    let at_stop = |address| Some(timespec(tid, address)?.saturating_sub(stood));
    let whole = match registers[ORIG_RAX] as libc::c_long {
        libc::SYS_nanosleep if registers[RSI] != 0 => return at_stop(registers[RSI]),
        libc::SYS_clock_nanosleep if registers[R10] != 0 => return at_stop(registers[R10]),
        libc::SYS_nanosleep => timespec(tid, registers[RDI])?,
        libc::SYS_clock_nanosleep => timespec(tid, registers[RDX])?,
        libc::SYS_poll => milliseconds(registers[RDX])?,
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => milliseconds(registers[R10])?,
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => timespec(tid, registers[R10])?,
        libc::SYS_rt_sigtimedwait => timespec(tid, registers[RDX])?,
        libc::SYS_futex if registers[RSI] & FUTEX_CMD_MASK == FUTEX_WAIT => timespec(tid, registers[R10])?,
        _ => return None,
    };
    // Who fell asleep between two looks is taken to have done so at the later one: the restart block would tell better, but
    // goes on with a call whose number nobody knows any more.
    Some(whole.saturating_sub(slept.or_else(|| thread.seen_awake.then_some(stood))?))
}

/// The bytes at the end of a stack in which [`shortened`] may have put a timeout: two of them, aligned to 64.
pub(crate) const ROOM_BYTES: u64 = 128;

/// How far below the stack a timeout is put if there is room. A signal that comes when the thread has been let go, but has
/// not issued its call yet, has the kernel write a frame just below the red zone, and a handler run below that: what the
/// call then read there was the end of the frame, and it waited for 37 years (FP_XSTATE_MAGIC2 as seconds).
const DEPTH_BYTES: u64 = 32 * 1024;

/// What such a frame and a small handler take. On a stack with less room than that the kernel's restart block tells better
/// what is left of a call, if that has one.
const SIGNAL_BYTES: u64 = 4096;

/// Returns the registers with which a thread, stopped in a call that is issued again, waits for `left` only; `None` if what
/// is left is not known, or nothing can be made of it.
///
/// A timeout in memory is replaced by one below the thread's stack, which nothing there outlives; with it the thread
/// can be stopped and asked again, while a call that the kernel restarts by itself has forgotten what it was.
/// `mappings` are those of its process.
pub fn shortened(
    thread: &StoppedThread,
    left: Option<Duration>,
    mappings: &[Mapping],
) -> Option<[u64; REGISTER_WORDS]> {
    let registers = &thread.registers;
    let mut again = restart::again(registers);
    // Rounded up, so that nobody wakes too soon.
    let millis = |left: Duration| left.as_micros().div_ceil(1000) as u64;
    let argument = match registers[ORIG_RAX] as libc::c_long {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => {
            again[R10] = millis(left?);
            return Some(again);
        }
        // For ever.
        libc::SYS_poll if milliseconds(registers[RDX]).is_none() => return Some(again),
        libc::SYS_poll => {
            again[RDX] = millis(left?);
            return Some(again);
        }
        libc::SYS_futex if registers[RSI] & FUTEX_CMD_MASK == FUTEX_WAIT => R10,
        // All other operations that wait take an absolute time.
        libc::SYS_futex => return Some(again),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => R10,
        libc::SYS_rt_sigtimedwait | libc::SYS_clock_nanosleep => RDX,
        libc::SYS_nanosleep => RDI,
        _ => return None,
    };
    let left = left?;
    let room = place(thread, mappings)?;
    // Never over the one that the call was issued with: it is what will be asked for as the whole timeout once more.
    let address = if registers[argument] == room { room + 16 } else { room };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&left.as_secs().to_ne_bytes());
    bytes[8..].copy_from_slice(&u64::from(left.subsec_nanos()).to_ne_bytes());
    if memory::write(thread.tid, address, &bytes) != Ok(16) {
        return None;
    }
    again[argument] = address;
    Some(again)
}

/// Returns an address below the thread's stack for a timeout of the call that it is in; the end of the stack where that is
/// near, as no handler gets further down.
fn place(thread: &StoppedThread, mappings: &[Mapping]) -> Option<u64> {
    let end = frame::end_of_stack(thread, mappings)?.next_multiple_of(64);
    let near = frame::below_red_zone(thread, 32)?;
    let least = if restart::has_restart_block(&thread.registers) { end + SIGNAL_BYTES } else { end };
    (near >= least).then(|| frame::below_red_zone(thread, DEPTH_BYTES).map_or(end, |deep| deep.max(end)))
}

fn timespec(tid: i32, address: u64) -> Option<Duration> {
    let mut bytes = [0u8; 16];
    if address == 0 || memory::read(tid, address, &mut bytes) != Ok(16) {
        return None;
    }
    let (sec, nsec) = bytes.split_at(8);
    let nsec = u32::try_from(u64::from_ne_bytes(nsec.try_into().ok()?)).ok()?;
    Some(Duration::new(u64::from_ne_bytes(sec.try_into().ok()?), nsec.min(999_999_999)))
}

/// A timeout in milliseconds as an `int`; negative is for ever.
fn milliseconds(register: u64) -> Option<Duration> {
    u64::try_from(register as u32 as i32).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_time_that_a_sleeper_stood_still_counts_as_slept() {
        let left = [100u64, 500_000_000];
        let mut registers = [0; REGISTER_WORDS];
        registers[ORIG_RAX] = libc::SYS_nanosleep as u64;
        registers[RSI] = left.as_ptr() as u64;
        let thread = StoppedThread {
            tid: rustix::thread::gettid().as_raw_nonzero().get(),
            inner: 0,
            own: 0,
            registers,
            mask: 0,
            reissue: false,
            asleep: None,
            seen_awake: false,
            slept: None,
            stood: Duration::from_secs(1),
            stopped: Instant::now().checked_sub(Duration::from_secs(30)).unwrap(),
        };
        assert_eq!(remaining_at_stop(&thread), Some(Duration::from_millis(99_500)));
        let now = remaining(&thread).unwrap();
        assert!(now <= Duration::from_millis(70_500) && now > Duration::from_secs(1), "{now:?}");
        registers[ORIG_RAX] = libc::SYS_clock_nanosleep as u64;
        registers[R10] = registers[RSI];
        assert!(remaining(&StoppedThread { registers, ..thread }).unwrap() <= Duration::from_millis(70_500));
    }

    #[test]
    fn a_negative_timeout_is_none() {
        assert_eq!(milliseconds(u64::from(u32::MAX)), None);
        assert_eq!(milliseconds(1500), Some(Duration::from_millis(1500)));
    }
}
