//! One function for each ptrace request.
//!
//! ptrace binds a target thread to the *thread* of ours that seized it; every call here must come from that one.

use crate::raw::check;
use rustix::io::{Errno, Result};

/// `struct user_regs_struct` of x86-64 (`sys/user.h`), as 27 words.
pub const REGISTER_WORDS: usize = 27;

/// NT_PRSTATUS: general registers.
const NT_PRSTATUS: libc::c_int = 1;
/// NT_X86_XSTATE: the xsave area.
const NT_X86_XSTATE: libc::c_int = 0x202;

/// Options of PTRACE_SEIZE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options(libc::c_int);

impl Options {
    /// Stops at system calls report SIGTRAP|0x80. Always set: without it the stop's SIGTRAP becomes a real signal
    /// when the tracer dies.
    pub const SYSGOOD: Self = Self(libc::PTRACE_O_TRACESYSGOOD);
    /// The target is killed when the tracer dies.
    pub const EXITKILL: Self = Self(libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL);
    /// As [`SYSGOOD`](Self::SYSGOOD); filters of system calls do not hold as long as the thread is traced.
    ///
    /// EPERM unless [`can_read`](crate::seccomp::can_read).
    pub const SUSPEND_FILTERS: Self = Self(libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_SUSPEND_SECCOMP);
}

fn request(request: libc::c_uint, tid: i32, address: u64, data: u64) -> Result<i64> {
    // SAFETY: only called by the wrappers below, each of which passes what its request expects: integers, or
    // addresses of live objects of the right size.
    check(unsafe { libc::ptrace(request, tid, address, data) })
}

/// Attaches to `tid` without stopping it.
pub fn seize(tid: i32, options: Options) -> Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, options.0 as u64).map(drop)
}

/// Changes the options of a stopped thread.
pub fn set_options(tid: i32, options: Options) -> Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options.0 as u64).map(drop)
}

/// Asks a seized thread to stop; the stop is then waited for.
pub fn interrupt(tid: i32) -> Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped thread go on, with `signal` if not 0.
pub fn cont(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as u64).map(drop)
}

/// Lets a stopped thread go on to its next entry to or exit from a system call.
pub fn cont_to_syscall(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as u64).map(drop)
}

/// Lets a thread in group-stop stay stopped, while it can be woken by SIGCONT.
pub fn listen(tid: i32) -> Result<()> {
    request(libc::PTRACE_LISTEN, tid, 0, 0).map(drop)
}

/// Lets a stopped thread go for good, with `signal` if not 0.
pub fn detach(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as u64).map(drop)
}

/// Reads the general registers, in the order of `struct user_regs_struct`.
///
/// # Errors
/// EINVAL if the thread is not an x86-64 one: a 32-bit thread has a shorter set.
pub fn registers(tid: i32) -> Result<[u64; REGISTER_WORDS]> {
    let mut words = [0u64; REGISTER_WORDS];
    let mut iov = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(&words) };
    request(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS as u64, &raw mut iov as u64)?;
    if iov.iov_len != size_of_val(&words) { Err(Errno::INVAL) } else { Ok(words) }
}

/// Sets the general registers.
pub fn set_registers(tid: i32, words: &[u64; REGISTER_WORDS]) -> Result<()> {
    let iov = libc::iovec { iov_base: words.as_ptr().cast_mut().cast(), iov_len: size_of_val(words) };
    request(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS as u64, &raw const iov as u64).map(drop)
}

/// How many words the general registers of a thread of 32 bits have.
pub const NARROW_WORDS: usize = 17;

/// Reads the general registers of a thread of 32 bits, in the order of `struct user_regs_struct32`
/// (arch/x86/include/asm/user32.h).
///
/// # Errors
/// EINVAL if it is an x86-64 one.
pub fn narrow_registers(tid: i32) -> Result<[u32; NARROW_WORDS]> {
    // With room for no more the kernel would leave out the rest of those of an x86-64 one.
    let mut words = [0u32; NARROW_WORDS + 1];
    let mut iov = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(&words) };
    request(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS as u64, &raw mut iov as u64)?;
    if iov.iov_len != NARROW_WORDS * size_of::<u32>() {
        return Err(Errno::INVAL);
    }
    words.first_chunk().copied().ok_or(Errno::INVAL)
}

/// Sets the general registers of a thread of 32 bits.
pub fn set_narrow_registers(tid: i32, words: &[u32; NARROW_WORDS]) -> Result<()> {
    let iov = libc::iovec { iov_base: words.as_ptr().cast_mut().cast(), iov_len: size_of_val(words) };
    request(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS as u64, &raw const iov as u64).map(drop)
}

/// Reads the xsave area in its non-compacted form.
pub fn xstate(tid: i32) -> Result<Vec<u8>> {
    // 2432 bytes with AVX-512, 11,008 with AMX; the kernel says how much it filled.
    let mut area = [0u8; 16384];
    let mut iov = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
    request(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE as u64, &raw mut iov as u64)?;
    Ok(area.get(..iov.iov_len).unwrap_or(&area).to_vec())
}

/// Sets the xsave area.
///
/// # Errors
/// EINVAL if it has state components that this processor lacks.
pub fn set_xstate(tid: i32, area: &[u8]) -> Result<()> {
    let iov = libc::iovec { iov_base: area.as_ptr().cast_mut().cast(), iov_len: area.len() };
    request(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE as u64, &raw const iov as u64).map(drop)
}

/// Reads the mask of blocked signals, bit 0 for signal 1.
pub fn signal_mask(tid: i32) -> Result<u64> {
    let mut mask = 0u64;
    request(PTRACE_GETSIGMASK, tid, 8, &raw mut mask as u64)?;
    Ok(mask)
}

/// Sets the mask of blocked signals.
pub fn set_signal_mask(tid: i32, mask: u64) -> Result<()> {
    request(PTRACE_SETSIGMASK, tid, 8, &raw const mask as u64).map(drop)
}

// include/uapi/linux/ptrace.h; libc has them as signed constants of another type on some targets.
const PTRACE_PEEKSIGINFO: libc::c_uint = 0x4209;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: libc::c_uint = 0x420d;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;

/// Reads signals queued for the thread, or for its process if `shared`, without taking them.
///
/// Source: PTRACE_PEEKSIGINFO, Linux 3.10.
pub fn queued_signals(tid: i32, shared: bool) -> Result<Vec<[u8; 128]>> {
    const BATCH: usize = 32;
    #[repr(C)]
    struct Args {
        offset: u64,
        flags: u32,
        count: i32,
    }
    let mut queue = Vec::new();
    loop {
        let mut batch = [[0u8; 128]; BATCH];
        let args = Args { offset: queue.len() as u64, flags: shared.into(), count: BATCH as i32 };
        let got =
            request(PTRACE_PEEKSIGINFO, tid, &raw const args as u64, batch.as_mut_ptr() as u64)? as usize;
        queue.extend_from_slice(&batch[..got.min(BATCH)]);
        if got < BATCH {
            return Ok(queue);
        }
    }
}

/// Reads the `siginfo_t` of the stop.
///
/// # Errors
/// EINVAL if the stop is a group-stop.
pub fn stop_signal_info(tid: i32) -> Result<[u8; 128]> {
    let mut info = [0u8; 128];
    request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr() as u64)?;
    Ok(info)
}

/// A thread's registration of restartable sequences.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of its `struct rseq`, 0 if there is none.
    pub address: u64,
    /// Size in bytes.
    pub size: u32,
    /// Signature of abort handlers.
    pub signature: u32,
    /// Flags.
    pub flags: u32,
    /// Padding of the kernel's struct.
    pub pad: u32,
}

/// Reads the thread's registration of restartable sequences.
///
/// Source: PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13.
pub fn rseq_configuration(tid: i32) -> Result<RseqConfiguration> {
    let mut configuration = RseqConfiguration::default();
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<RseqConfiguration>() as u64,
        &raw mut configuration as u64,
    )?;
    Ok(configuration)
}

/// Returns whether calls of the thread are handed to itself (PR_SET_SYSCALL_USER_DISPATCH).
///
/// Source: PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4.
pub fn dispatches_calls(tid: i32) -> Result<bool> {
    /// `struct ptrace_sud_config`.
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        mode: u64,
        selector: u64,
        offset: u64,
        len: u64,
    }
    let mut configuration = Configuration::default();
    let size = size_of::<Configuration>() as u64;
    request(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, &raw mut configuration as u64)?;
    Ok(configuration.mode != 0)
}

/// Reads filter `index` of a stopped thread, counted from the oldest: its instructions, and whether it logs.
///
/// # Errors
/// ENOENT if it has not that many; EACCES unless [`can_read`](crate::seccomp::can_read).
///
/// Source: PTRACE_SECCOMP_GET_FILTER (Linux 4.4), PTRACE_SECCOMP_GET_METADATA (4.16); `get_nth_filter` counts from the
/// oldest.
pub fn filter(tid: i32, index: u32) -> Result<(Vec<u8>, bool)> {
    const LOG: u64 = 1 << 1;
    let count = request(PTRACE_SECCOMP_GET_FILTER, tid, index.into(), 0)?;
    let mut code = vec![0u64; usize::try_from(count).unwrap_or(0)];
    request(PTRACE_SECCOMP_GET_FILTER, tid, index.into(), code.as_mut_ptr() as u64)?;
    // `struct seccomp_metadata`: which filter, and its flags.
    let mut metadata = [u64::from(index), 0];
    let size = size_of_val(&metadata) as u64;
    request(PTRACE_SECCOMP_GET_METADATA, tid, size, metadata.as_mut_ptr() as u64)?;
    Ok((code.iter().flat_map(|word| word.to_ne_bytes()).collect(), metadata[1] & LOG != 0))
}

/// How a wait for a traced thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// PTRACE_EVENT_STOP after an interrupt, or at the birth of an attached clone.
    Interrupt,
    /// PTRACE_EVENT_STOP because job control stopped the process by this signal.
    Group(i32),
    /// Another ptrace event, by number.
    Event(i32),
    /// At the entry to or the exit from a system call.
    Syscall,
    /// This signal is about to be delivered; passing it on is up to us.
    Signal(i32),
    /// It ended with this exit code.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
}

/// Waits for thread `tid` to stop or end; `None` with `block` false if it has done neither.
pub fn wait(tid: i32, block: bool) -> Result<Option<Stop>> {
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer.
        match check(unsafe { libc::waitpid(tid, &raw mut status, flags) }) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(decode(status))),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Collects `tid` if it has ended; of its stops nothing is taken. Returns whether it is collected now.
///
/// Source: `waitid(2)`, WEXITED.
pub fn collect(tid: i32) -> bool {
    let ended = |flags| {
        // SAFETY: all zeros are a valid `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::__WALL | libc::WEXITED | libc::WNOHANG | flags;
        // SAFETY: `info` is live.
        let waited = check(unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut info, flags) });
        // SAFETY: waitid filled it in, or left zeros, which say that there was nothing.
        let is_told = waited.is_ok() && unsafe { info.si_pid() } != 0;
        is_told && matches!(info.si_code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED)
    };
    // Whoever is traced tells of its stops though nobody asks for them, and that only once (`wait_task_stopped`, kernel/exit.c): so
    // is looked first without taking anything.
    ended(libc::WNOWAIT) && ended(0)
}

/// Waits for any tracee or child of the calling *thread* to stop or end; `None` with `block` false if none has.
///
/// # Errors
/// ECHILD if there is neither tracee nor child.
pub fn wait_any(block: bool) -> Result<Option<(i32, Stop)>> {
    let flags = libc::__WALL | libc::__WNOTHREAD | if block { 0 } else { libc::WNOHANG };
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer.
        match check(unsafe { libc::waitpid(-1, &raw mut status, flags) }) {
            Ok(0) => return Ok(None),
            Ok(tid) => return Ok(Some((tid as i32, decode(status)))),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until any child ends, or is stopped by job control.
///
/// # Errors
/// ECHILD if there is none.
pub fn wait_child() -> Result<(i32, Stop)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer.
        match check(unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WUNTRACED) }) {
            Ok(pid) => return Ok((pid as i32, decode(status))),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn decode(status: i32) -> Stop {
    if libc::WIFEXITED(status) {
        return Stop::Exited(libc::WEXITSTATUS(status));
    }
    if libc::WIFSIGNALED(status) {
        return Stop::Killed(libc::WTERMSIG(status));
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Interrupt,
        libc::PTRACE_EVENT_STOP => Stop::Group(signal),
        event => Stop::Event(event),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_is_collected_has_ended_and_a_stop_is_left_to_be_waited_for() {
        #[allow(clippy::zombie_processes, reason = "it is collected as one that is traced")]
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        seize(pid, Options::EXITKILL).unwrap();
        assert!(!collect(pid));
        interrupt(pid).unwrap();
        while crate::proc::stat(pid).unwrap().state != b't' {
            std::thread::yield_now();
        }
        assert!(!collect(pid));
        assert_eq!(wait(pid, false), Ok(Some(Stop::Interrupt)));
        child.kill().unwrap();
        while !crate::proc::stat(pid).unwrap().is_zombie() {
            std::thread::yield_now();
        }
        assert!(collect(pid));
        assert_eq!(wait(pid, false), Err(Errno::CHILD));
    }
}
