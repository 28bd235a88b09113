//! System calls as a victim makes them: by libc, with the error as text.

use crate::stage::Verdict;
use std::time::Duration;

/// Calls a libc function that returns -1 for an error: `sys!(dup(fd))?`.
macro_rules! sys {
    ($name:ident ( $($argument:expr),* $(,)? )) => {{
        #[allow(unused_unsafe)]
        let returned = unsafe { libc::$name($($argument),*) };
        if returned as i64 == -1 {
            Err(format!("{}: {}", stringify!($name), std::io::Error::last_os_error()))
        } else {
            Ok(returned)
        }
    }};
}

/// Returns from the function with a message unless the condition holds.
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// Returns from the function with both values unless they are equal.
macro_rules! same {
    ($found:expr, $expected:expr, $($message:tt)+) => {{
        let (found, expected) = (&$found, &$expected);
        if *found != *expected {
            return Err(format!("{}: {:?}, expected {:?}", format!($($message)+), found, expected));
        }
    }};
}

pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A value of all zero bytes, for the structures of libc.
pub(crate) fn zeroed<T>() -> T {
    unsafe { std::mem::zeroed() }
}

pub(crate) fn c(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).expect("no NUL inside")
}

pub(crate) fn write_all(fd: i32, bytes: &[u8]) -> Verdict {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = sys!(write(fd, rest.as_ptr().cast(), rest.len()))?;
        rest = &rest[written as usize..];
    }
    Ok(())
}

/// Reads once, at most `len` bytes.
pub(crate) fn read_some(fd: i32, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    let got = sys!(read(fd, bytes.as_mut_ptr().cast(), len))?;
    bytes.truncate(got as usize);
    Ok(bytes)
}

/// Reads until `len` bytes came or the end of the file.
pub(crate) fn read_all(fd: i32, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let some = read_some(fd, len - bytes.len())?;
        if some.is_empty() {
            break;
        }
        bytes.extend(some);
    }
    Ok(bytes)
}

/// Makes a pipe: the reading and the writing end.
pub(crate) fn pipe(flags: i32) -> Result<(i32, i32), String> {
    let mut ends = [0; 2];
    sys!(pipe2(ends.as_mut_ptr(), flags))?;
    Ok((ends[0], ends[1]))
}

pub(crate) fn open(path: &std::path::Path, flags: i32) -> Result<i32, String> {
    let path = c(&path.to_string_lossy());
    sys!(open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600))
}

pub(crate) fn now(clock: i32) -> Duration {
    let mut time: libc::timespec = zeroed();
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub(crate) fn monotonic() -> Duration {
    now(libc::CLOCK_MONOTONIC)
}

pub(crate) fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

pub(crate) fn timeval(duration: Duration) -> libc::timeval {
    libc::timeval { tv_sec: duration.as_secs() as i64, tv_usec: duration.subsec_micros().into() }
}

/// Sleeps by plain nanosleep(2).
pub(crate) fn nap(duration: Duration) {
    let time = timespec(duration);
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

/// Polls until `condition` holds; fails after a generous minute.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> Verdict {
    let start = monotonic();
    while !condition() {
        check!(monotonic().saturating_sub(start) < Duration::from_secs(60), "waited a minute until {what}");
        nap(Duration::from_millis(2));
    }
    Ok(())
}

pub(crate) fn gettid() -> i32 {
    unsafe { libc::gettid() }
}

/// Whether the thread sleeps in the system call of this number, or in its continuation after a stop.
pub(crate) fn is_in_call(tid: i32, number: i64) -> bool {
    let line = std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
    let found = line.split(' ').next().and_then(|word| word.parse::<i64>().ok());
    found == Some(number) || found == Some(libc::SYS_restart_syscall)
}

/// The state letter of a process or thread, as /proc/PID/stat has it.
pub(crate) fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Maps anonymous memory.
pub(crate) fn map(len: usize, protection: i32, flags: i32) -> Result<*mut u8, String> {
    let address = sys!(mmap(std::ptr::null_mut(), len, protection, flags | libc::MAP_ANONYMOUS, -1, 0))?;
    Ok(address.cast())
}

pub(crate) const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Maps anonymous memory shared with children to come, and hands it out as an array of numbers.
pub(crate) fn shared_words<const N: usize>() -> Result<&'static [std::sync::atomic::AtomicU32; N], String> {
    let address = map(N * 4, READ_WRITE, libc::MAP_SHARED)?;
    Ok(unsafe { &*address.cast() })
}

/// Fills memory with a pattern that tells every 8 bytes apart, by address offset and seed.
pub(crate) fn fill(address: *mut u8, len: usize, seed: u64) {
    for index in 0..len / 8 {
        unsafe { address.cast::<u64>().add(index).write_volatile(word(index as u64, seed)) };
    }
}

/// Checks what [`fill`] wrote.
pub(crate) fn check_fill(what: &str, address: *const u8, len: usize, seed: u64) -> Verdict {
    for index in 0..len / 8 {
        let found = unsafe { address.cast::<u64>().add(index).read_volatile() };
        let expected = word(index as u64, seed);
        check!(
            found == expected,
            "{what}: byte {:#x} of {len:#x} holds {found:#x}, expected {expected:#x}",
            index * 8
        );
    }
    Ok(())
}

/// Checks that memory is zero.
pub(crate) fn check_zero(what: &str, address: *const u8, len: usize) -> Verdict {
    for index in 0..len / 8 {
        let found = unsafe { address.cast::<u64>().add(index).read_volatile() };
        check!(found == 0, "{what}: byte {:#x} of {len:#x} holds {found:#x}, expected zero", index * 8);
    }
    Ok(())
}

/// Counts the pages of shared memory that are there: who reads a hole through a mapping fills it.
pub(crate) fn filled_pages(address: *const u8, len: usize) -> Result<usize, String> {
    let mut told = vec![0u8; len.div_ceil(4096)];
    sys!(mincore(address.cast_mut().cast(), len, told.as_mut_ptr()))?;
    Ok(told.iter().filter(|page| **page & 1 == 1).count())
}

fn word(index: u64, seed: u64) -> u64 {
    (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ seed.wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// Reads from the queue of errors of a socket, if anything waits there, and tells where it comes from (`ee_origin`) and its number
/// (`ee_data`).
pub(crate) fn read_error(fd: i32) -> Result<Option<(u8, u32)>, String> {
    let mut control = [0u64; 64];
    let mut header: libc::msghdr = zeroed();
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), 512);
    let got = sys!(recvmsg(fd, &mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT));
    if got.is_err() && errno() == libc::EAGAIN {
        return Ok(None);
    }
    got?;
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&header) };
    while !message.is_null() {
        let kind = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
        if matches!(kind, (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)) {
            let data = unsafe { libc::CMSG_DATA(message) }.cast::<libc::sock_extended_err>();
            let told = unsafe { data.read_unaligned() };
            return Ok(Some((told.ee_origin, told.ee_data)));
        }
        message = unsafe { libc::CMSG_NXTHDR(&header, message) };
    }
    Err("a message without its origin".to_owned())
}

/// An integer option of a socket.
pub(crate) fn sys_socket_option(fd: i32, level: i32, name: i32) -> Result<i32, String> {
    let (mut value, mut len) = (0i32, 4u32);
    sys!(getsockopt(fd, level, name, (&raw mut value).cast(), &mut len))?;
    Ok(value)
}
