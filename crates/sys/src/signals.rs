//! Signals of our own: their numbers, the mask of the calling thread, and how they are waited for.

use crate::raw::check;
use rustix::io::Result;
use rustix::process::Signal;
use std::time::Duration;

/// The real-time signals that programs may use; those below are the C library's own (glibc, musl: up to 34).
pub const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Returns the signal of a number, one of those with names or of the [`REAL_TIME`] ones.
pub fn numbered(number: i32) -> Option<Signal> {
    let real_time = || {
        // SAFETY: such a number is a signal's, and none that the C library uses itself; it is only sent, never handled here.
        REAL_TIME.contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
    };
    Signal::from_named_raw(number).or_else(real_time)
}

/// Replaces the mask of blocked signals (bit 0 for signal 1) and returns the old one.
///
/// Source: `rt_sigprocmask(2)`, SIG_SETMASK.
pub fn set_mask(mask: u64) -> Result<u64> {
    let mut old = 0u64;
    // SAFETY: both words are live and of the size that is given; a mask is no memory that Rust relies on.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut old, 8usize)
    })?;
    Ok(old)
}

/// Blocks `signal` in the calling thread, and in those that it will make.
pub fn block(signal: i32) -> Result<()> {
    let old = set_mask(u64::MAX)?;
    set_mask(old | bit(signal)).map(drop)
}

/// Takes `signal`, which we block, out of our queue, if it is there.
pub fn discard(signal: i32) {
    wait_for(signal, Duration::ZERO);
}

/// Waits until `signal` comes, at most for as long as `most`, and takes it out of our queue. All our threads block it, else one
/// that does not may get it.
///
/// Source: `rt_sigtimedwait(2)`.
pub fn wait_for(signal: i32, most: Duration) {
    let mask = bit(signal);
    let most = [most.as_secs() as i64, most.subsec_nanos().into()];
    // SAFETY: the mask and the time live across the call, which reads their 8 and 16 bytes; nothing is asked for.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const mask,
            std::ptr::null::<u8>(),
            most.as_ptr(),
            8usize,
        )
    };
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1).clamp(0, 63)
}

/// Sends `signal` to ourselves with its default action, so that we end or stop by it if that is what it does.
///
/// Returns if the signal did neither. Source: signal(7).
pub fn take(signal: i32) {
    let action = [0u64; 4];
    // SAFETY: `action` is a kernel sigaction of 32 bytes, SIG_DFL; the other calls take integers.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0usize, 8usize);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
    }
    if let Some(bit) = u32::try_from(signal - 1).ok().filter(|bit| *bit < 64)
        && let Ok(old) = set_mask(u64::MAX)
    {
        // It is delivered here.
        let _ = set_mask(old & !(1 << bit));
        let _ = set_mask(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_was_discarded_is_not_delivered() {
        let bit = 1u64 << (libc::SIGUSR2 - 1);
        let old = set_mask(bit).unwrap();
        // SAFETY: the calls take numbers; the signal is blocked.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGUSR2) };
        discard(libc::SIGUSR2);
        discard(libc::SIGUSR2);
        // It would end this process.
        set_mask(old).unwrap();
    }
}
