//! Calls that return EINTR when a thread is stopped, though no signal was due.
//!
//! Most blocking calls are restarted by the kernel itself (-ERESTARTSYS and its like). Those in the table below are
//! not: they return EINTR to any interruption, a ptrace stop among them (signal(7), "Interruption of system calls
//! and library functions by stop signals"). The thread is made to issue them again.

use frost_sys::ptrace::REGISTER_WORDS;

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

/// Returns whether call `nr` can take a relative timeout that is lost with its thread.
pub fn may_have_timeout(nr: u64) -> bool {
    matches!(
        nr as libc::c_long,
        libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
            | libc::SYS_poll
            | libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_semtimedop
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_futex
            // A call that was stopped before shows as this, whatever it was.
            | libc::SYS_restart_syscall
    )
}

/// Returns the registers with which the call is issued again.
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
