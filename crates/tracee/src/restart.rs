//! Calls that return EINTR when a thread is stopped, though no signal was due.
//!
//! Most blocking calls are restarted by the kernel itself (-ERESTARTSYS and its like). Those in the table below are
//! not: they return EINTR to any interruption, a ptrace stop among them (signal(7), "Interruption of system calls
//! and library functions by stop signals"). The thread is made to issue them again.

use frost_sys::proc::Call;
use frost_sys::ptrace::{self, REGISTER_WORDS};

/// Index of `r10` in the registers.
pub(crate) const R10: usize = 7;
/// Index of `rdx` in the registers.
pub(crate) const RDX: usize = 12;
/// Index of `rsi` in the registers.
pub(crate) const RSI: usize = 13;
/// Index of `rdi` in the registers.
pub(crate) const RDI: usize = 14;
/// Index of `rax` in the registers.
pub const RAX: usize = 10;
/// Index of `orig_rax` in the registers.
pub const ORIG_RAX: usize = 15;
/// Index of `rip` in the registers.
pub const RIP: usize = 16;
/// Index of `rsp` in the registers.
pub const RSP: usize = 19;

/// -ERESTART_RESTARTBLOCK: the call has a restart block in the kernel.
pub const RESTART_BLOCK: i64 = -516;

/// io_pgetevents(2), which libc does not name for every target.
const IO_PGETEVENTS: libc::c_long = 333;

/// The calls that a stop interrupts with EINTR. Each has a victim of the same name.
///
/// Sockets are in it for calls with a timeout (SO_RCVTIMEO, SO_SNDTIMEO): without one they return -ERESTARTSYS.
const RETURN_EINTR: [libc::c_long; 21] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    IO_PGETEVENTS,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
];

/// Returns whether call `nr` is in the table.
pub fn returns_eintr(nr: u64) -> bool {
    RETURN_EINTR.contains(&(nr as libc::c_long))
}

/// Returns whether a thread stopped with these registers got EINTR from a call of the table.
pub fn stopped_with_eintr(registers: &[u64; REGISTER_WORDS]) -> bool {
    registers[RAX] as i64 == -i64::from(libc::EINTR) && returns_eintr(registers[ORIG_RAX])
}

/// Returns whether a call may have a relative timeout that is lost with its thread.
///
/// Of thousands of threads most wait for a lock, without one; to ask when each fell asleep would take longer than to
/// stop it.
pub fn may_have_timeout(call: &Call) -> bool {
    let [_, second, third, fourth, ..] = call.args;
    let for_ever = |millis: u64| (millis as u32 as i32) < 0;
    match call.nr as libc::c_long {
        libc::SYS_nanosleep | libc::SYS_clock_nanosleep => true,
        libc::SYS_poll => !for_ever(third),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => !for_ever(fourth),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => fourth != 0,
        libc::SYS_rt_sigtimedwait => third != 0,
        // FUTEX_WAIT; all other operations that wait take an absolute time.
        libc::SYS_futex => second & FUTEX_CMD_MASK == libc::FUTEX_WAIT as u64 && fourth != 0,
        // A call that was stopped before shows as this, whatever it was.
        libc::SYS_restart_syscall => true,
        _ => false,
    }
}

pub(crate) const FUTEX_CMD_MASK: u64 = 0x7f;

/// -ERESTARTNOHAND: the call is issued again unless a handler has run.
const UNLESS_HANDLED: i64 = -514;

/// Returns the registers with which a thread in a stop in which the kernel looks for signals goes on with the call that it
/// was in: it is issued again, unless a handler runs before that. Then it returns EINTR, as it would have without us.
///
/// A thread that stands in front of its call takes a signal that comes until it gets a processor for one of before the call,
/// and waits on: behind us stand all threads of a tree in a queue, and the first of them may signal the others.
///
/// Source: `arch_do_signal_or_restart` and `handle_signal`, arch/x86/kernel/signal.c.
pub fn again(registers: &[u64; REGISTER_WORDS]) -> [u64; REGISTER_WORDS] {
    let mut registers = *registers;
    registers[RAX] = UNLESS_HANDLED as u64;
    registers
}

/// Has the call of a thread of 32 bits issued again, as [`again`] does, if it was interrupted.
///
/// It has other numbers for its calls; but what shows EINTR where no signal comes is what our stop has interrupted.
pub fn again_narrow(tid: i32) -> rustix::io::Result<()> {
    // Indices of `struct user_regs_struct32`.
    const EAX: usize = 6;
    const ORIG_EAX: usize = 11;
    let mut registers = ptrace::narrow_registers(tid)?;
    if registers[EAX] as i32 == -libc::EINTR && registers[ORIG_EAX] as i32 >= 0 {
        registers[EAX] = UNLESS_HANDLED as u32;
        ptrace::set_narrow_registers(tid, &registers)?;
    }
    Ok(())
}

/// Returns whether a thread with these registers goes on with a call, unless a handler runs before that.
pub fn is_gone_on_with(registers: &[u64; REGISTER_WORDS]) -> bool {
    registers[ORIG_RAX] as i64 >= 0 && matches!(registers[RAX] as i64, -512 | UNLESS_HANDLED | RESTART_BLOCK)
}

/// Returns the registers with which the call is issued again where the kernel does not do it, as from a frame.
pub fn reissued(registers: &[u64; REGISTER_WORDS]) -> [u64; REGISTER_WORDS] {
    let mut registers = *registers;
    registers[RAX] = registers[ORIG_RAX];
    registers[RIP] = registers[RIP].wrapping_sub(2);
    registers[ORIG_RAX] = u64::MAX;
    registers
}

/// Returns whether the thread's call has a restart block, which a frame cannot give back.
pub fn has_restart_block(registers: &[u64; REGISTER_WORDS]) -> bool {
    registers[RAX] as i64 == RESTART_BLOCK && registers[ORIG_RAX] as i64 >= 0
}

/// The calls that have a restart block.
const WITH_RESTART_BLOCK: [libc::c_long; 4] =
    [libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_poll, libc::SYS_futex];

/// Returns which call a thread was in that the kernel restarted once already: then `orig_rax` says restart_syscall,
/// and its own number is forgotten. `None` if it was not restarted, or if it cannot be told.
///
/// The number is found in the code, which loads it right before the call; else by what the arguments can mean.
pub fn forgotten_call(tid: i32, registers: &[u64; REGISTER_WORDS]) -> Option<u64> {
    if registers[ORIG_RAX] as libc::c_long != libc::SYS_restart_syscall {
        return None;
    }
    let mut code = [0u8; 32];
    let from = registers[RIP].checked_sub(2 + code.len() as u64)?;
    let known = |number: &u64| WITH_RESTART_BLOCK.contains(&(*number as libc::c_long));
    if frost_sys::memory::read(tid, from, &mut code) == Ok(code.len())
        && let Some(number) = loaded_number(&code).filter(known)
    {
        return Some(number);
    }
    by_arguments(registers, |address| is_time(tid, address))
}

/// Whether there is a `struct timespec` at an address, as the kernel takes it.
fn is_time(tid: i32, address: u64) -> bool {
    let mut time = [0u8; 16];
    let word = |at: usize, time: &[u8; 16]| {
        time[at..].first_chunk().map_or(i64::MIN, |bytes| i64::from_le_bytes(*bytes))
    };
    frost_sys::memory::read(tid, address, &mut time) == Ok(time.len())
        && word(0, &time) >= 0
        && (0..1_000_000_000).contains(&word(8, &time))
}

/// Finds the last `mov $number, %eax` (b8) or `mov $number, %rax` (48 c7 c0) in code.
fn loaded_number(code: &[u8]) -> Option<u64> {
    let number = |at: usize| Some(u64::from(u32::from_le_bytes(code.get(at..at + 4)?.try_into().ok()?)));
    (0..code.len()).rev().find_map(|at| {
        let rest = &code[at..];
        let found = if rest.starts_with(&[0x48, 0xc7, 0xc0]) {
            number(at + 3)
        } else if rest.starts_with(&[0xb8]) {
            number(at + 1)
        } else {
            None
        };
        found.filter(|number| *number < 512)
    })
}

/// Tells by what the arguments are, as where a wrapper takes the number as an argument itself (musl's calls that a
/// cancellation may end, syscall(2) of every C library). `is_time` says whether a timeout lies at an address.
fn by_arguments(registers: &[u64; REGISTER_WORDS], is_time: impl Fn(u64) -> bool) -> Option<u64> {
    const MOST_CLOCKS: u64 = 16;
    const MOST_POLLED: u64 = 1 << 20;
    let pointer = |value: u64| (0x1_0000..1 << 47).contains(&value);
    let [first, second, third, fourth] = [RDI, RSI, RDX, R10].map(|index| registers[index]);
    let futex = |operation: u64| matches!(operation & FUTEX_CMD_MASK, 0 | 9) && operation & !0x1ff == 0;
    let call = if first < MOST_CLOCKS && second == 0 && is_time(third) {
        libc::SYS_clock_nanosleep
    } else if pointer(first) && first.is_multiple_of(4) && futex(second) && is_time(fourth) {
        libc::SYS_futex
    } else if is_time(first) && (second == 0 || second >= MOST_POLLED && pointer(second)) {
        libc::SYS_nanosleep
    } else if (first == 0 || pointer(first)) && second < MOST_POLLED {
        libc::SYS_poll
    } else {
        return None;
    };
    Some(call as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_in_the_code_of_c_libraries() {
        // mov $0xe6, %eax; xor %esi, %esi
        assert_eq!(loaded_number(&[0x90, 0xb8, 0xe6, 0, 0, 0, 0x31, 0xf6]), Some(230));
        // mov $7, %rax
        assert_eq!(loaded_number(&[0x48, 0xc7, 0xc0, 7, 0, 0, 0]), Some(7));
        assert_eq!(loaded_number(&[0x90; 8]), None);
    }

    #[test]
    fn a_call_without_its_number_is_known_by_its_arguments() {
        let (time, list) = (0x7f00_0000_1000, 0x7f00_0000_2000);
        let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
        for (expected, [rdi, rsi, rdx, r10]) in [
            (libc::SYS_clock_nanosleep, [1, 0, time, 0]),
            (libc::SYS_nanosleep, [time, 0, 7, 0]),
            (libc::SYS_nanosleep, [time, list, 0, 0]),
            (libc::SYS_futex, [list, wait, 0, time]),
            (libc::SYS_futex, [list, libc::FUTEX_WAIT_BITSET as u64, 0, time]),
            (libc::SYS_poll, [list, 1, 1000, 0]),
            // As many as FUTEX_WAIT_BITSET and FUTEX_PRIVATE_FLAG are.
            (libc::SYS_poll, [list, 9, 1000, 0]),
            (libc::SYS_poll, [list, 128, 1000, list]),
            // Longer than an address is low.
            (libc::SYS_poll, [0, 0, 100_000_000, 0]),
        ] {
            let mut registers = [0; REGISTER_WORDS];
            (registers[RDI], registers[RSI], registers[RDX], registers[R10]) = (rdi, rsi, rdx, r10);
            let told = by_arguments(&registers, |address| address == time);
            assert_eq!(told, Some(expected as u64), "{rdi:x} {rsi:x} {rdx:x} {r10:x}");
        }
    }

    #[test]
    fn only_what_can_time_out_has_a_timeout() {
        let call = |nr: libc::c_long, args| Call { nr: nr as u64, args };
        let private_wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
        for (expected, call) in [
            (false, call(libc::SYS_futex, [8, private_wait, 0, 0, 0, 0])),
            (true, call(libc::SYS_futex, [8, private_wait, 0, 16, 0, 0])),
            (false, call(libc::SYS_futex, [8, libc::FUTEX_WAIT_BITSET as u64, 0, 16, 0, 0])),
            (false, call(libc::SYS_poll, [8, 1, u64::from(u32::MAX), 0, 0, 0])),
            (true, call(libc::SYS_poll, [8, 1, 1000, 0, 0, 0])),
            (false, call(libc::SYS_epoll_wait, [3, 8, 1, u64::MAX, 0, 0])),
            (true, call(libc::SYS_nanosleep, [8, 0, 0, 0, 0, 0])),
            (false, call(libc::SYS_read, [0; 6])),
        ] {
            assert_eq!(may_have_timeout(&call), expected, "{call:?}");
        }
    }

    #[test]
    fn what_is_no_restart_is_left_alone() {
        assert_eq!(forgotten_call(1, &[0; REGISTER_WORDS]), None);
    }
}
