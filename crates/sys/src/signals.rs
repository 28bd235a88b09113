//! The signal mask of the calling thread.

use crate::raw::check;
use rustix::io::Result;

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
