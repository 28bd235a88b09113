//! How much of a timeout was left when a thread was stopped.
//!
//! The kernel keeps the end of a relative timeout to itself. Where it does not write what is left into the program's
//! memory, the time since the thread fell asleep is told by the scheduler's clock when the thread last ran, read
//! before it was stopped. It is compared with that of our own thread.

use frost_model::clock::Timespec;
use frost_sys::{memory, proc};
use frost_tracee::seize::StoppedThread;

// Indices of `struct user_regs_struct`.
const R10: usize = 7;
const RDX: usize = 12;
const RSI: usize = 13;
const RDI: usize = 14;
const ORIG_RAX: usize = 15;

const FUTEX_CMD_MASK: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;

/// Returns what was left of the timeout of the call that `thread` was stopped in; `None` if it has none, if it is
/// absolute, or if nothing can be told: the call is then issued again with its own arguments.
pub(crate) fn remaining(thread: &StoppedThread) -> Option<Timespec> {
    let registers = &thread.registers;
    let tid = thread.tid;
    let whole = match registers[ORIG_RAX] as libc::c_long {
        // The kernel has written what is left where the program asked for it.
        libc::SYS_nanosleep if registers[RSI] != 0 => return timespec(tid, registers[RSI]),
        libc::SYS_clock_nanosleep if registers[R10] != 0 => return timespec(tid, registers[R10]),
        libc::SYS_nanosleep => timespec(tid, registers[RDI])?,
        libc::SYS_clock_nanosleep => timespec(tid, registers[RDX])?,
        libc::SYS_poll => milliseconds(registers[RDX])?,
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => milliseconds(registers[R10])?,
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => timespec(tid, registers[R10])?,
        libc::SYS_rt_sigtimedwait => timespec(tid, registers[RDX])?,
        libc::SYS_futex if registers[RSI] & FUTEX_CMD_MASK == FUTEX_WAIT => timespec(tid, registers[R10])?,
        _ => return None,
    };
    let slept = slept_nanos(thread)?.clamp(0, whole.as_nanos());
    Some(Timespec::from_nanos(whole.as_nanos() - slept))
}

fn timespec(tid: i32, address: u64) -> Option<Timespec> {
    let mut bytes = [0u8; 16];
    if address == 0 || memory::read(tid, address, &mut bytes) != Ok(16) {
        return None;
    }
    let (sec, nsec) = bytes.split_at(8);
    Some(Timespec {
        sec: i64::from_ne_bytes(sec.try_into().ok()?),
        nsec: i64::from_ne_bytes(nsec.try_into().ok()?),
    })
}

/// A timeout in milliseconds as an `int`; negative is for ever.
fn milliseconds(register: u64) -> Option<Timespec> {
    let timeout = register as u32 as i32;
    (timeout >= 0).then(|| Timespec::from_nanos(i128::from(timeout) * 1_000_000))
}

fn slept_nanos(thread: &StoppedThread) -> Option<i128> {
    let since = thread.asleep_since?;
    // Our own thread has just been scheduled in after the yield, so its clock is that of now.
    std::thread::yield_now();
    Some(proc::last_ran(std::process::id() as i32)? - since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_timeout_is_none() {
        assert_eq!(milliseconds(u64::from(u32::MAX)), None);
        assert_eq!(milliseconds(1500), Some(Timespec { sec: 1, nsec: 500_000_000 }));
    }
}
