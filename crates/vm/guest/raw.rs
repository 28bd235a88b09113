//! System calls, each a function that is safe to call.

use crate::call::call;
pub(crate) use crate::call::{Errno, Result};

pub(crate) const EINTR: Errno = Errno(4);
pub(crate) const EAGAIN: Errno = Errno(11);
pub(crate) const ENOENT: Errno = Errno(2);
pub(crate) const EACCES: Errno = Errno(13);

/// A call whose arguments are numbers, or addresses of live bytes that it reads only.
///
/// The wrappers below see to that; each names its call by its number in arch/x86/entry/syscalls/syscall_64.tbl.
fn plain(number: usize, args: [usize; 6]) -> Result<usize> {
    // SAFETY: every caller is in this file, and passes numbers, or pointers to what it borrows across the call.
    unsafe { call(number, args) }
}

/// A path or name that ends in NUL.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// Takes bytes that end in NUL; what does not is the empty text.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        if bytes.last() == Some(&0) { Self(bytes) } else { Self(b"\0") }
    }

    fn address(self) -> usize {
        self.0.as_ptr() as usize
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        &self.0[..self.0.len() - 1]
    }
}

/// Makes a text of a literal.
macro_rules! text {
    ($text:literal) => {
        crate::raw::Text::new(concat!($text, "\0").as_bytes())
    };
}
pub(crate) use text;

pub(crate) fn exit(status: i32) -> ! {
    loop {
        let _ = plain(231, [status as usize, 0, 0, 0, 0, 0]);
    }
}

pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes no more than the length of the live buffer.
    unsafe { call(0, [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    plain(1, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0])
}

pub(crate) const O_RDWR: usize = 2;
pub(crate) const O_WRONLY: usize = 1;
pub(crate) const O_NOCTTY: usize = 0o400;
pub(crate) const O_NONBLOCK: usize = 0o4000;
pub(crate) const O_DIRECTORY: usize = 0o200_000;
pub(crate) const O_CLOEXEC: usize = 0o2_000_000;

pub(crate) fn open(path: Text<'_>, flags: usize) -> Result<i32> {
    const AT_FDCWD: isize = -100;
    plain(257, [AT_FDCWD as usize, path.address(), flags, 0, 0, 0]).map(|fd| fd as i32)
}

pub(crate) fn close(fd: i32) {
    let _ = plain(3, [fd as usize, 0, 0, 0, 0, 0]);
}

pub(crate) fn entries(directory: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: getdents64 writes no more than the length of the live buffer.
    unsafe { call(217, [directory as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

pub(crate) fn mkdir(path: Text<'_>) {
    let _ = plain(83, [path.address(), 0o755, 0, 0, 0, 0]);
}

pub(crate) const MS_NOSUID_NODEV_NOEXEC: usize = 2 | 4 | 8;
pub(crate) const MS_BIND: usize = 4096;
pub(crate) const MS_MOVE: usize = 8192;
pub(crate) const MS_REC: usize = 16384;

pub(crate) fn mount(from: Text<'_>, to: Text<'_>, kind: Text<'_>, flags: usize) -> Result<()> {
    plain(165, [from.address(), to.address(), kind.address(), flags, 0, 0]).map(drop)
}

pub(crate) fn unmount(path: Text<'_>) -> Result<()> {
    plain(166, [path.address(), 0, 0, 0, 0, 0]).map(drop)
}

/// Mounts the file system at `path` read-only: all of it is then written.
pub(crate) fn make_read_only(path: Text<'_>) -> Result<()> {
    const MS_REMOUNT_RDONLY: usize = 32 | 1;
    plain(165, [text!("none").address(), path.address(), 0, MS_REMOUNT_RDONLY, 0, 0]).map(drop)
}

pub(crate) fn sync() {
    let _ = plain(162, [0; 6]);
}

pub(crate) fn power_off() -> ! {
    loop {
        let _ = plain(169, [0xfee1_dead, 672_274_793, 0x4321_fedc, 0, 0, 0]);
    }
}

pub(crate) fn load_module(fd: i32) -> Result<()> {
    plain(313, [fd as usize, text!("").address(), 0, 0, 0, 0]).map(drop)
}

pub(crate) fn sleep_ms(ms: u64) {
    let span = [ms / 1000, ms % 1000 * 1_000_000];
    let _ = plain(35, [span.as_ptr() as usize, 0, 0, 0, 0, 0]);
}

/// Makes a pipe whose ends do not wait; returns its reading and its writing end.
pub(crate) fn pipe() -> Result<[i32; 2]> {
    let mut ends = [0i32; 2];
    // SAFETY: the kernel writes two numbers into the live array.
    unsafe { call(293, [ends.as_mut_ptr() as usize, O_CLOEXEC, 0, 0, 0, 0]) }.map(|_| ends)
}

pub(crate) fn do_not_wait(fd: i32) {
    const F_SETFL: usize = 4;
    let _ = plain(72, [fd as usize, F_SETFL, O_NONBLOCK, 0, 0, 0]);
}

pub(crate) fn dup_to(fd: i32, number: i32) {
    let _ = plain(33, [fd as usize, number as usize, 0, 0, 0, 0]);
}

/// Forks; 0 in the child.
pub(crate) fn fork() -> Result<i32> {
    const SIGCHLD: usize = 17;
    // SAFETY: clone without CLONE_VM and with no stack given: the child has a copy of all memory.
    unsafe { call(56, [SIGCHLD, 0, 0, 0, 0, 0]) }.map(|pid| pid as i32)
}

pub(crate) fn new_session() {
    let _ = plain(112, [0; 6]);
}

/// Lets what is mounted from now on be one's own.
pub(crate) fn own_mounts() -> Result<()> {
    const CLONE_NEWNS: usize = 0x2_0000;
    plain(272, [CLONE_NEWNS, 0, 0, 0, 0, 0]).map(drop)
}

pub(crate) fn enter_root(path: Text<'_>) -> Result<()> {
    plain(161, [path.address(), 0, 0, 0, 0, 0]).map(drop)
}

pub(crate) fn change_directory(path: Text<'_>) -> Result<()> {
    plain(80, [path.address(), 0, 0, 0, 0, 0]).map(drop)
}

/// Texts whose addresses are given to execve(2), ended by a zero.
pub(crate) struct Texts {
    addresses: [usize; 1024],
    count: usize,
}

impl Texts {
    pub(crate) const fn new() -> Self {
        Self { addresses: [0; 1024], count: 0 }
    }

    /// Adds a text that lives as long as the program; beyond 1023 there is no room.
    pub(crate) fn push(&mut self, text: Text<'static>) {
        if self.count + 1 < self.addresses.len() {
            self.addresses[self.count] = text.address();
            self.count += 1;
        }
    }
}

pub(crate) fn execute(path: Text<'_>, arguments: &Texts, environment: &Texts) -> Errno {
    let (arguments, environment) = (arguments.addresses.as_ptr(), environment.addresses.as_ptr());
    match plain(59, [path.address(), arguments as usize, environment as usize, 0, 0, 0]) {
        Ok(_) => Errno(0),
        Err(errno) => errno,
    }
}

/// Reaps a child; its pid and status, if one ended.
pub(crate) fn reap() -> Option<(i32, i32)> {
    const WNOHANG: usize = 1;
    let mut status = 0i32;
    // SAFETY: the kernel writes a number into the live variable.
    let pid = unsafe { call(61, [usize::MAX, (&raw mut status) as usize, WNOHANG, 0, 0, 0]) };
    pid.ok().filter(|pid| *pid > 0).map(|pid| (pid as i32, status))
}

pub(crate) fn kill(pid: i32, signal: u8) {
    let _ = plain(62, [pid as isize as usize, signal as usize, 0, 0, 0, 0]);
}

/// Blocks every signal and returns a descriptor that reads SIGCHLD.
pub(crate) fn take_signals() -> Result<i32> {
    set_mask(u64::MAX);
    let child = 1u64 << 16;
    plain(289, [usize::MAX, (&raw const child) as usize, 8, O_NONBLOCK | O_CLOEXEC, 0, 0]).map(|fd| fd as i32)
}

pub(crate) fn set_mask(mask: u64) {
    const SIG_SETMASK: usize = 2;
    let _ = plain(14, [SIG_SETMASK, (&raw const mask) as usize, 0, 8, 0, 0]);
}

/// One descriptor that is waited for.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) fd: i32,
    pub(crate) events: i16,
    pub(crate) came: i16,
}

pub(crate) const POLLIN: i16 = 1;
pub(crate) const POLLOUT: i16 = 4;
pub(crate) const POLLHUP: i16 = 16;

pub(crate) fn wait(waits: &mut [Wait], ms: Option<u64>) {
    let span = ms.map(|ms| [ms / 1000, ms % 1000 * 1_000_000]);
    let span = span.as_ref().map_or(0, |span| span.as_ptr() as usize);
    // SAFETY: the kernel writes the last field of the live structures.
    let _ = unsafe { call(271, [waits.as_mut_ptr() as usize, waits.len(), span, 0, 0, 0]) };
}

/// An ioctl whose argument is a structure of ours that the kernel reads or writes.
pub(crate) fn control<T>(fd: i32, request: usize, argument: &mut T) -> Result<usize> {
    // SAFETY: each request that is used here concerns a structure of exactly the type given.
    unsafe { call(16, [fd as usize, request, (argument as *mut T) as usize, 0, 0, 0]) }
}

pub(crate) fn control_number(fd: i32, request: usize, number: usize) -> Result<usize> {
    plain(16, [fd as usize, request, number, 0, 0, 0])
}

pub(crate) fn datagram_socket() -> Result<i32> {
    const AF_INET: usize = 2;
    const SOCK_DGRAM: usize = 2;
    plain(41, [AF_INET, SOCK_DGRAM | O_CLOEXEC, 0, 0, 0, 0]).map(|fd| fd as i32)
}

pub(crate) fn set_clock(nanoseconds: u64) {
    let time = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    let _ = plain(227, [0, time.as_ptr() as usize, 0, 0, 0, 0]);
}

static mut CONFIG: [u8; 1 << 17] = [0; 1 << 17];

/// Reads a file into memory that lives as long as the program. To be called once.
pub(crate) fn read_config(path: Text<'_>) -> Result<&'static [u8]> {
    let fd = open(path, O_CLOEXEC)?;
    // SAFETY: there is one thread, and this is the only mention of it; it is called once.
    let buffer: &'static mut [u8] = unsafe { &mut *(&raw mut CONFIG) };
    let mut len = 0;
    loop {
        match read(fd, &mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    close(fd);
    Ok(&buffer[..len])
}

pub(crate) extern "C" fn start() -> ! {
    crate::run()
}
