//! System calls, each a function that is safe to call.

use crate::call::{Errno, Result, call};

pub(crate) const EAGAIN: Errno = Errno(11);
pub(crate) const EBUSY: Errno = Errno(16);
pub(crate) const EMFILE: Errno = Errno(24);

// Numbers of x86-64, arch/x86/entry/syscalls/syscall_64.tbl.
const READ: usize = 0;
const WRITE: usize = 1;
const CLOSE: usize = 3;
const RT_SIGPROCMASK: usize = 14;
const IOCTL: usize = 16;
const FCNTL: usize = 72;
const SENDMSG: usize = 46;
const RECVMSG: usize = 47;
const GETSOCKOPT: usize = 55;
const WAIT4: usize = 61;
const KILL: usize = 62;
const CHDIR: usize = 80;
const PRCTL: usize = 157;
const EXIT_GROUP: usize = 231;
const OPENAT: usize = 257;
const RENAMEAT: usize = 264;
const PPOLL: usize = 271;
const ACCEPT4: usize = 288;
const SIGNALFD4: usize = 289;
const GETEUID: usize = 107;
const PROCESS_VM_READV: usize = 310;
const PREAD64: usize = 17;
const UNLINKAT: usize = 263;
const EVENTFD2: usize = 290;

pub(crate) fn exit(status: i32) -> ! {
    loop {
        // SAFETY: it takes a number and does not return.
        let _ = unsafe { call(EXIT_GROUP, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes no more than the length of the live buffer.
    unsafe { call(READ, [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel only reads the live bytes.
    unsafe { call(WRITE, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

pub(crate) fn close(fd: i32) {
    // SAFETY: it takes a number.
    let _ = unsafe { call(CLOSE, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Blocks every signal and returns a descriptor that reads SIGCHLD.
pub(crate) fn take_signals() -> Result<i32> {
    const SFD_NONBLOCK_CLOEXEC: usize = 0o2_004_000;
    const SIG_SETMASK: usize = 2;
    let (all, child) = (u64::MAX, 1u64 << 16);
    // SAFETY: both masks live across the calls, which read their 8 bytes.
    unsafe {
        call(RT_SIGPROCMASK, [SIG_SETMASK, &raw const all as usize, 0, 8, 0, 0])?;
        let fd = call(SIGNALFD4, [usize::MAX, &raw const child as usize, 8, SFD_NONBLOCK_CLOEXEC, 0, 0])?;
        Ok(fd as i32)
    }
}

/// Collects a child that ended, or looks at one that was stopped: its pid and status; `None` if there is none now.
pub(crate) fn wait() -> Option<(i32, i32)> {
    const WNOHANG_WUNTRACED_WALL: usize = 1 | 2 | 0x4000_0000;
    let mut status = 0i32;
    // SAFETY: the kernel fills the live integer.
    let pid = unsafe { call(WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG_WUNTRACED_WALL, 0, 0, 0]) };
    pid.ok().filter(|pid| *pid > 0).map(|pid| (pid as i32, status))
}

/// Waits for the end of a child; returns whether there was one.
pub(crate) fn wait_for_any() -> bool {
    wait_for(-1)
}

/// Waits for the end of a certain child; returns whether there was one.
pub(crate) fn wait_for(pid: i32) -> bool {
    const WALL: usize = 0x4000_0000;
    // SAFETY: a null status is allowed.
    unsafe { call(WAIT4, [pid as usize, 0, WALL, 0, 0, 0]) }.is_ok()
}

pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: it takes numbers.
    let _ = unsafe { call(KILL, [pid as usize, signal as usize, 0, 0, 0, 0]) };
}

/// Names the process, and lives on without the parent.
pub(crate) fn settle(name: &[u8; 16]) {
    const PR_SET_PDEATHSIG: usize = 1;
    const PR_SET_NAME: usize = 15;
    // SAFETY: the name ends in NUL, and so does the path.
    unsafe {
        let _ = call(PRCTL, [PR_SET_NAME, name.as_ptr() as usize, 0, 0, 0, 0]);
        let _ = call(PRCTL, [PR_SET_PDEATHSIG, 0, 0, 0, 0, 0]);
        let _ = call(CHDIR, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]);
    }
}

pub(crate) fn effective_user() -> u32 {
    // SAFETY: it takes nothing.
    unsafe { call(GETEUID, [0; 6]) }.unwrap_or(0) as u32
}

/// Reads from the start of a file into `buffer`, and returns how much there was.
pub(crate) fn read_file(path: &core::ffi::CStr, buffer: &mut [u8]) -> Result<usize> {
    const CWD: usize = -100isize as usize;
    const CLOEXEC_NOFOLLOW: usize = 0o2_400_000;
    // SAFETY: the path ends in NUL and lives.
    let fd = unsafe { call(OPENAT, [CWD, path.as_ptr() as usize, CLOEXEC_NOFOLLOW, 0, 0, 0]) }? as i32;
    let count = read(fd, buffer);
    close(fd);
    count
}

/// Reads from the start of `/proc/PID` with `name` behind it, which ends in NUL, and returns how much there was.
pub(crate) fn read_of(pid: i32, name: &[u8], buffer: &mut [u8]) -> usize {
    let mut digits = [0; 10];
    let (mut at, mut rest) = (digits.len(), pid.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let (mut path, mut end) = ([0; 32], 0);
    for part in [b"/proc/", &digits[at..], name] {
        path[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    core::ffi::CStr::from_bytes_until_nul(&path).map_or(0, |path| read_file(path, buffer).unwrap_or(0))
}

/// Calls `each` with the pids of our children, from the one that we have had for longest on, until that returns true.
pub(crate) fn any_child(mut each: impl FnMut(i32) -> bool) {
    const CWD: i32 = -100;
    let Ok(fd) = open(CWD, c"/proc/self/task/1/children", false) else { return };
    let (mut text, mut pid) = ([0; 256], 0i32);
    'file: while let Ok(count @ 1..) = read(fd, &mut text) {
        for byte in &text[..count] {
            if byte.is_ascii_digit() {
                pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
            } else if pid > 0 && each(core::mem::take(&mut pid)) {
                break 'file;
            }
        }
    }
    close(fd);
}

/// Reads memory of another process; whether all of it was there.
pub(crate) fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> bool {
    let ours = [buffer.as_mut_ptr() as usize, buffer.len()];
    let theirs = [address as usize, buffer.len()];
    let (ours, theirs) = (ours.as_ptr() as usize, theirs.as_ptr() as usize);
    // SAFETY: the kernel writes no more than the length of the live buffer.
    let got = unsafe { call(PROCESS_VM_READV, [pid as usize, ours, 1, theirs, 1, 0]) };
    got == Ok(buffer.len())
}

/// `struct seccomp_notif`: a call that waits for our word.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Notice {
    id: u64,
    /// The thread.
    pub(crate) tid: u32,
    flags: u32,
    /// The number of the call.
    pub(crate) nr: i32,
    arch: u32,
    instruction_pointer: u64,
    pub(crate) arguments: [u64; 6],
}

/// Takes the next call that waits; `None` if it is gone by now.
pub(crate) fn next_notice(listener: i32) -> Option<Notice> {
    const SECCOMP_IOCTL_NOTIF_RECV: usize = 0xc050_2100;
    // The kernel wants it to be zero.
    let mut notice = Notice { id: 0, tid: 0, flags: 0, nr: 0, arch: 0, instruction_pointer: 0, arguments: [0; 6] };
    // SAFETY: the kernel fills the live struct, whose size of 80 bytes is part of the request's number.
    let got = unsafe {
        call(IOCTL, [listener as usize, SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice as usize, 0, 0, 0])
    };
    got.ok().map(|_| core::hint::black_box(notice))
}

/// Lets the call go on. One that was interrupted meanwhile is made, and told of, again.
pub(crate) fn let_go_on(listener: i32, notice: &Notice) {
    const SECCOMP_IOCTL_NOTIF_SEND: usize = 0xc018_2101;
    const SECCOMP_USER_NOTIF_FLAG_CONTINUE: u64 = 1;
    // `struct seccomp_notif_resp`: id, value, error and flags.
    let response = [notice.id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE << 32];
    // SAFETY: the kernel reads the 24 live bytes.
    let _ = unsafe {
        call(IOCTL, [listener as usize, SECCOMP_IOCTL_NOTIF_SEND, response.as_ptr() as usize, 0, 0, 0])
    };
}

/// Makes an empty file for appending.
pub(crate) fn create(directory: i32, path: &core::ffi::CStr) -> Result<i32> {
    const CREATE_TRUNCATE_APPEND: usize = 0o1 | 0o100 | 0o1000 | 0o2000;
    const CLOEXEC_NOFOLLOW: usize = 0o2_400_000;
    let flags = CLOEXEC_NOFOLLOW | CREATE_TRUNCATE_APPEND;
    // SAFETY: the path ends in NUL and lives.
    unsafe { call(OPENAT, [directory as usize, path.as_ptr() as usize, flags, 0o600, 0, 0]) }.map(|fd| fd as i32)
}

/// Opens a file to write over what is in it, if there is one.
pub(crate) fn open_over(directory: i32, path: &core::ffi::CStr) -> Result<i32> {
    const CREATE: usize = 0o1 | 0o100;
    const CLOEXEC_NOFOLLOW: usize = 0o2_400_000;
    let flags = CLOEXEC_NOFOLLOW | CREATE;
    // SAFETY: the path ends in NUL and lives.
    unsafe { call(OPENAT, [directory as usize, path.as_ptr() as usize, flags, 0o600, 0, 0]) }.map(|fd| fd as i32)
}

pub(crate) fn rename(directory: i32, from: &core::ffi::CStr, to: &core::ffi::CStr) {
    let directory = directory as usize;
    // SAFETY: both paths end in NUL and live.
    let _ = unsafe {
        call(RENAMEAT, [directory, from.as_ptr() as usize, directory, to.as_ptr() as usize, 0, 0])
    };
}

/// Reads from the begin of a file.
pub(crate) fn read_again(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes no more than the length of the live buffer.
    unsafe { call(PREAD64, [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

/// Opens a file that is there, to read or to write it.
pub(crate) fn open(directory: i32, path: &core::ffi::CStr, write: bool) -> Result<i32> {
    const CLOEXEC_NOFOLLOW: usize = 0o2_400_000;
    let flags = CLOEXEC_NOFOLLOW | usize::from(write);
    // SAFETY: the path ends in NUL and lives.
    unsafe { call(OPENAT, [directory as usize, path.as_ptr() as usize, flags, 0, 0, 0]) }.map(|fd| fd as i32)
}

/// Removes the directory `../NAME` of another one.
pub(crate) fn remove_directory(directory: i32, path: &core::ffi::CStr) -> Result<()> {
    const AT_REMOVEDIR: usize = 0x200;
    // SAFETY: the path ends in NUL and lives.
    unsafe { call(UNLINKAT, [directory as usize, path.as_ptr() as usize, AT_REMOVEDIR, 0, 0, 0]) }.map(drop)
}

/// Removes a file.
pub(crate) fn remove(directory: i32, path: &core::ffi::CStr) {
    // SAFETY: the path ends in NUL and lives.
    let _ = unsafe { call(UNLINKAT, [directory as usize, path.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// Makes a counter to be notified by.
pub(crate) fn counter() -> Result<i32> {
    const NONBLOCK_CLOEXEC: usize = 0o2_004_000;
    // SAFETY: it takes numbers.
    unsafe { call(EVENTFD2, [0, NONBLOCK_CLOEXEC, 0, 0, 0, 0]) }.map(|fd| fd as i32)
}

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PollFd {
    pub(crate) fd: i32,
    pub(crate) events: i16,
    pub(crate) revents: i16,
}

pub(crate) const POLLIN: i16 = 1;
pub(crate) const POLLOUT: i16 = 4;
pub(crate) const POLLPRI: i16 = 2;
pub(crate) const POLLERR: i16 = 8;
pub(crate) const POLLHUP: i16 = 16;

/// Waits for any of `fds`, at most so many milliseconds if that is not negative.
pub(crate) fn poll(fds: &mut [PollFd], timeout_ms: i64) {
    let time = [timeout_ms / 1000, timeout_ms % 1000 * 1_000_000];
    let time = if timeout_ms < 0 { 0 } else { &raw const time as usize };
    // SAFETY: the kernel fills `revents` of the live array, and reads the live time.
    let _ = unsafe { call(PPOLL, [fds.as_mut_ptr() as usize, fds.len(), time, 0, 8, 0]) };
}

/// Accepts a connection of our own user.
pub(crate) fn accept(listener: i32) -> Result<i32> {
    const NONBLOCK_CLOEXEC: usize = 0o2_004_000;
    const SOL_SOCKET: usize = 1;
    const SO_PEERCRED: usize = 17;
    // SAFETY: null addresses are allowed; the credentials and their length live.
    unsafe {
        let fd = call(ACCEPT4, [listener as usize, 0, 0, NONBLOCK_CLOEXEC, 0, 0])?;
        let mut credentials = [u32::MAX; 3];
        let mut length = 12u32;
        let got = call(
            GETSOCKOPT,
            [fd, SOL_SOCKET, SO_PEERCRED, credentials.as_mut_ptr() as usize, &raw mut length as usize, 0],
        );
        if got.is_err() || credentials[1] != effective_user() {
            close(fd as i32);
            return Err(Errno(1));
        }
        Ok(fd as i32)
    }
}

/// `struct cmsghdr` with one descriptor, padded to 24 bytes.
#[repr(C, align(8))]
struct Control {
    length: usize,
    level: i32,
    kind: i32,
    fd: i32,
    padding: i32,
}

impl Control {
    /// Of SCM_RIGHTS in SOL_SOCKET, with 4 bytes behind the head.
    const fn of(fd: i32) -> Self {
        Self { length: 20, level: 1, kind: 1, fd, padding: 0 }
    }
}

/// Receives a packet and the descriptor that comes with it, -1 if there is none; 0 bytes if the other side is gone.
pub(crate) fn receive(fd: i32, buffer: &mut [u8]) -> Result<(usize, i32)> {
    const MSG_DONTWAIT_CMSG_CLOEXEC: usize = 0x4000_0040;
    let mut control = Control::of(-1);
    let parts = [buffer.as_mut_ptr() as usize, buffer.len()];
    // `struct msghdr`, as in `send`. There is room for one descriptor, so the kernel gives no more.
    let mut message = [0, 0, parts.as_ptr() as usize, 1, &raw mut control as usize, 24, 0];
    // SAFETY: the kernel writes no more than the lengths of the live buffer, of the control data and of the message.
    let count = unsafe {
        call(RECVMSG, [fd as usize, message.as_mut_ptr() as usize, MSG_DONTWAIT_CMSG_CLOEXEC, 0, 0, 0])
    }?;
    // The kernel has written behind the compiler's back.
    let (length, control) = (message[5], core::hint::black_box(&control));
    let given = length >= 20 && (control.level, control.kind) == (1, 1);
    Ok((count, if given { control.fd } else { -1 }))
}

/// Sends a packet, with a descriptor if it is not negative. Does not wait.
pub(crate) fn send(fd: i32, head: &[u8], data: &[u8], descriptor: i32) -> Result<usize> {
    const MSG_DONTWAIT_NOSIGNAL: usize = 0x4040;
    let control = Control::of(descriptor);
    let parts = [[head.as_ptr() as usize, head.len()], [data.as_ptr() as usize, data.len()]];
    // `struct msghdr`: name, its length, parts, their number, control, its length, flags.
    let (at, length) = if descriptor < 0 { (0, 0) } else { (&raw const control as usize, 24) };
    let message = [0, 0, parts.as_ptr() as usize, 2, at, length, 0];
    // SAFETY: all that the message points to lives across the call and is only read.
    unsafe { call(SENDMSG, [fd as usize, message.as_ptr() as usize, MSG_DONTWAIT_NOSIGNAL, 0, 0, 0]) }
}

/// Opens the slave side of a terminal's master. Source: TIOCGPTPEER, Linux 4.13.
pub(crate) fn open_slave(master: i32) -> Result<i32> {
    const TIOCGPTPEER: usize = 0x5441;
    const RDWR_NOCTTY_CLOEXEC: usize = 0o2_000_402;
    // SAFETY: it takes numbers.
    unsafe { call(IOCTL, [master as usize, TIOCGPTPEER, RDWR_NOCTTY_CLOEXEC, 0, 0, 0]) }.map(|fd| fd as i32)
}

/// Lets writes take as much as there is room for, and no call wait.
pub(crate) fn never_wait(fd: i32) {
    const F_GETFL: usize = 3;
    const F_SETFL: usize = 4;
    const O_NONBLOCK: usize = 0o4_000;
    // SAFETY: it takes numbers.
    unsafe {
        if let Ok(flags) = call(FCNTL, [fd as usize, F_GETFL, 0, 0, 0, 0]) {
            let _ = call(FCNTL, [fd as usize, F_SETFL, flags | O_NONBLOCK, 0, 0, 0]);
        }
    }
}

/// Sets the size of a terminal.
pub(crate) fn resize(master: i32, rows: u16, columns: u16) {
    const TIOCSWINSZ: usize = 0x5414;
    let size = [rows, columns, 0, 0];
    // SAFETY: the kernel reads the 8 live bytes.
    let _ = unsafe { call(IOCTL, [master as usize, TIOCSWINSZ, size.as_ptr() as usize, 0, 0, 0]) };
}

/// Reads our start: the argument behind the name, and the first variable of the environment.
pub(crate) extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts the argument count there, then the arguments, a null, the environment, a null; each is the
    // address of a string that ends in NUL and lives as long as we do.
    let setup = unsafe {
        let count = *stack;
        let environment = *stack.add(count + 2) as *const u8;
        let mut length = 0;
        // Volatile, or the compiler makes a call of strlen of it, which there is not.
        while !environment.is_null() && environment.add(length).read_volatile() != 0 {
            length += 1;
        }
        if length == 0 { &[] } else { core::slice::from_raw_parts(environment, length) }
    };
    if setup.starts_with(b"LEADER") { lead() } else { crate::keep::keep(setup) }
}

/// Does nothing, until it is killed.
fn lead() -> ! {
    settle(b"frost-session\0\0\0");
    let Ok(_) = take_signals() else { exit(102) };
    loop {
        poll(&mut [], -1);
    }
}

/// Large and zero: it lies in .bss, so that only what is used of it takes memory.
#[repr(align(4096))]
pub(crate) struct Area<T>(core::cell::UnsafeCell<T>);

// SAFETY: the program has one thread.
unsafe impl<T> Sync for Area<T> {}

impl<T> Area<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Lends it, once: the caller is the only one in the program who calls this for it.
    #[allow(clippy::mut_from_ref, reason = "each is lent once")]
    pub(crate) fn lend(&'static self) -> &'static mut T {
        // SAFETY: `keep` is entered once and lends each area once.
        unsafe { &mut *self.0.get() }
    }
}
