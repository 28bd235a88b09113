//! Attaching to a thread without waiting for ever.
//!
//! PTRACE_SEIZE waits for who executes a program (`cred_guard_mutex`, `ptrace_attach`, kernel/ptrace.c), and that one waits
//! until all other threads of the process are gone (`de_thread`, fs/exec.c), which those that are traced are not before their
//! tracer has collected them: whoever attaches to one after another waits for himself. A signal does not help alone, since the
//! kernel begins the call again behind it (ERESTARTNOINTR). So its handler leaves the call out and puts EINTR in its place.

use crate::raw::check;
use crate::signals;
use rustix::io::Result;
use std::time::Duration;

/// The signal, of which nobody else has use: the last one.
const SIGNAL: i32 = *signals::REAL_TIME.end();

/// While it lives, ptrace requests of the calling thread that wait return [`INTR`](rustix::io::Errno::INTR) after a time; now
/// and then one does that would not have waited, without having been made.
pub struct Impatience {
    action: libc::sigaction,
    mask: u64,
    timer: i32,
}

impl Impatience {
    /// Begins.
    ///
    /// # Errors
    /// EAGAIN if there may be no more timers (RLIMIT_SIGPENDING).
    pub fn begin(patience: Duration) -> Result<Self> {
        /// Of `struct sigevent` (include/uapi/asm-generic/siginfo.h): this thread alone gets the signal.
        const SIGEV_THREAD_ID: u64 = 4;
        // SAFETY: the call takes nothing.
        let tid = unsafe { libc::gettid() };
        let mut event = [0u64; 8];
        (event[1], event[2]) = (SIGNAL as u64 | SIGEV_THREAD_ID << 32, tid as u64);
        let mut timer = 0i32;
        let clock = libc::CLOCK_MONOTONIC;
        // SAFETY: the event has the size of `struct sigevent`, and the kernel stores a number of 32 bits.
        check(unsafe { libc::syscall(libc::SYS_timer_create, clock, event.as_ptr(), &raw mut timer) })?;
        // SAFETY: all zeros are a valid `struct sigaction`.
        let (mut new, mut action): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        new.sa_sigaction = leave_out as *const () as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: both are live, and the handler does nothing but look at and change the interrupted registers.
        let set = check(unsafe { libc::sigaction(SIGNAL, &raw const new, &raw mut action) });
        let begun = set.and_then(|_| {
            let mask = signals::set_mask(u64::MAX)?;
            let this = Self { action, mask, timer };
            signals::set_mask(mask & !(1 << (SIGNAL - 1)))?;
            Ok(this)
        });
        if begun.is_err() {
            delete(timer);
        }
        let begun = begun?;
        let part = [patience.as_secs() as i64, patience.subsec_nanos().into()];
        let times = [part, part];
        let none = std::ptr::null_mut::<u8>();
        // SAFETY: the array has the size of `struct itimerspec`, and nothing is asked for.
        check(unsafe { libc::syscall(libc::SYS_timer_settime, timer, 0, times.as_ptr(), none) })?;
        Ok(begun)
    }
}

impl Drop for Impatience {
    fn drop(&mut self) {
        delete(self.timer);
        // One that was on its way has come by now, since we do not block it.
        // SAFETY: it is what the kernel gave.
        unsafe { libc::sigaction(SIGNAL, &raw const self.action, std::ptr::null_mut()) };
        let _ = signals::set_mask(self.mask);
    }
}

fn delete(timer: i32) {
    // SAFETY: the call takes a number.
    unsafe { libc::syscall(libc::SYS_timer_delete, timer) };
}

/// Leaves a ptrace call out that is about to be made, or made again, and puts EINTR in its place.
extern "C" fn leave_out(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // `struct ucontext` has flags, a link and a stack, 40 bytes, before `struct sigcontext_64` (include/uapi/asm-generic/ucontext.h,
    // arch/x86/include/uapi/asm/sigcontext.h), in which rax is the 14th word and rip the 17th.
    const RAX: usize = 5 + 13;
    const RIP: usize = 5 + 16;
    /// The instruction `syscall`.
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let words = context.cast::<i64>();
    // SAFETY: the kernel passes such a structure to a handler with SA_SIGINFO, and takes the registers from it behind us. What
    // rip points to is about to be executed, so that it can be read.
    unsafe {
        let (rax, rip) = (words.add(RAX), words.add(RIP));
        if *rax == libc::SYS_ptrace && *(*rip as *const [u8; 2]) == SYSCALL {
            *rip += SYSCALL.len() as i64;
            *rax = -i64::from(libc::EINTR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptrace::{self, Options, Stop};
    use rustix::io::Errno;

    /// A thread that executes a program waits for another that is traced.
    #[test]
    fn who_executes_a_program_is_not_waited_for_for_ever() {
        let mut child = std::process::Command::new("python3");
        child.args(["-c", EXECUTES]).stdin(std::process::Stdio::piped());
        let Ok(mut child) = child.spawn() else {
            println!("skipped: there is no python3");
            return;
        };
        let leader = child.id() as i32;
        // The one that waits for its input is that which will execute.
        let reads = |tid: &i32| crate::proc::blocked_in(leader, *tid).is_some_and(|call| call.nr == 0);
        let (executing, idle) = loop {
            let threads = crate::proc::threads(leader).unwrap_or_default();
            let others: Vec<i32> = threads.into_iter().filter(|tid| *tid != leader).collect();
            match others[..] {
                [one, other] if reads(&one) => break (one, other),
                [one, other] if reads(&other) => break (other, one),
                _ => std::thread::yield_now(),
            }
        };
        ptrace::seize(leader, Options::EXITKILL).unwrap();
        ptrace::seize(idle, Options::EXITKILL).unwrap();
        // It may execute now.
        drop(child.stdin.take());
        while crate::proc::stat(idle).is_ok_and(|stat| !stat.is_zombie()) {
            std::thread::yield_now();
        }
        let impatience = Impatience::begin(Duration::from_millis(1)).unwrap();
        assert_eq!(ptrace::seize(executing, Options::EXITKILL), Err(Errno::INTR));
        assert!(ptrace::collect(idle));
        assert!(!ptrace::collect(idle));
        // It is the leader by now, or will be.
        while matches!(ptrace::seize(executing, Options::EXITKILL), Err(Errno::INTR)) {}
        drop(impatience);
        child.kill().unwrap();
        while !matches!(ptrace::wait(leader, true), Ok(Some(Stop::Killed(_))) | Err(_)) {}
    }

    const EXECUTES: &str = "
import os, sys, threading, time
threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()
def execute():
    sys.stdin.read()
    os.execv('/bin/sleep', ['sleep', '1000'])
threading.Thread(target=execute).start()
";
}
