//! Pseudoterminals, and the settings of terminals as the kernel has them.

mod queue;

pub use queue::{Flow, Waiting, advance, put, take};

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

// include/uapi/asm-generic/ioctls.h
const TCGETS2: libc::Ioctl = 0x802c_542a;
const TCSETS2: libc::Ioctl = 0x402c_542b;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;
const TIOCGPTPEER: libc::Ioctl = 0x5441;
const TIOCGPTN: libc::Ioctl = 0x8004_5430;
const TIOCGPTLCK: libc::Ioctl = 0x8004_5439;
const TIOCGSID: libc::Ioctl = 0x5429;
const TIOCGPKT: libc::Ioctl = 0x8004_5438;
const TIOCPKT: libc::Ioctl = 0x5420;
const TIOCGEXCL: libc::Ioctl = 0x8004_5440;
const TIOCEXCL: libc::Ioctl = 0x540c;
const TIOCGPGRP: libc::Ioctl = 0x540f;
const TIOCGDEV: libc::Ioctl = 0x8004_5432;
const TCXONC: libc::Ioctl = 0x540a;
/// Makes a terminal the controlling one of the calling session leader.
pub const TIOCSCTTY: u64 = 0x540e;
/// Sets the foreground process group.
pub const TIOCSPGRP: u64 = 0x5410;

/// The size of `struct termios2`.
pub const TERMIOS2_BYTES: usize = 44;

/// Reads `struct termios2`.
pub fn settings(fd: impl AsFd) -> Result<[u8; TERMIOS2_BYTES]> {
    let mut settings = [0u8; TERMIOS2_BYTES];
    // SAFETY: the ioctl fills 44 bytes, which `settings` has.
    check(i64::from(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TCGETS2, settings.as_mut_ptr()) }))?;
    Ok(settings)
}

/// Sets `struct termios2`, at once.
pub fn set_settings(fd: impl AsFd, settings: &[u8; TERMIOS2_BYTES]) -> Result<()> {
    // SAFETY: the ioctl reads 44 bytes, which `settings` has.
    check(i64::from(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TCSETS2, settings.as_ptr()) })).map(drop)
}

/// Returns whether some of the settings are locked (TIOCSLCKTRMIOS): a change of those is ignored.
pub fn has_locked_settings(fd: impl AsFd) -> bool {
    const TIOCGLCKTRMIOS: libc::Ioctl = 0x5456;
    // Of the size of `struct termios2`, which is the longest that there is.
    let mut locked = [0u8; TERMIOS2_BYTES];
    // SAFETY: the ioctl fills a `struct termios`, for which `locked` has room.
    let told = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TIOCGLCKTRMIOS, locked.as_mut_ptr()) };
    told == 0 && locked != [0; TERMIOS2_BYTES]
}

/// Returns whether a side of a pseudoterminal has another line discipline than N_TTY (TIOCSETD). Each side has its own, and a
/// master tells that of its own only (`tiocgetd` in `tty_ioctl`, drivers/tty/tty_io.c).
pub fn has_other_discipline(fd: impl AsFd) -> bool {
    const TIOCGETD: libc::Ioctl = 0x5424;
    let mut number: libc::c_int = 0;
    // SAFETY: the ioctl stores an int.
    let told = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TIOCGETD, &raw mut number) };
    told == 0 && number != 0
}

/// Opens a new pseudoterminal's master side, unlocked.
pub fn open_master() -> Result<OwnedFd> {
    open_master_at(rustix::fs::CWD, "/dev/ptmx")
}

fn open_master_at(directory: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(directory, path, flags, Mode::empty())?;
    set_locked(&master, false)?;
    Ok(master)
}

/// Opens masters until those with the `wanted` numbers are among them, and returns one for each, in that order: another
/// one where a number is taken.
///
/// The kernel always gives the lowest number that is free, so it takes as many openings as there are free numbers below.
pub fn open_masters(wanted: &[u32]) -> Result<Vec<OwnedFd>> {
    open_masters_by(wanted, open_master)
}

/// Opens masters as [`open_masters`] does, in the instance of devpts whose root directory is given.
pub fn open_masters_in(instance: BorrowedFd<'_>, wanted: &[u32]) -> Result<Vec<OwnedFd>> {
    open_masters_by(wanted, || open_master_at(instance, "ptmx"))
}

fn open_masters_by(wanted: &[u32], open: impl Fn() -> Result<OwnedFd>) -> Result<Vec<OwnedFd>> {
    let mut found: Vec<Option<OwnedFd>> = wanted.iter().map(|_| None).collect();
    let mut spare = Vec::new();
    let highest = wanted.iter().copied().max().unwrap_or(0);
    while found.iter().any(Option::is_none) {
        let master = match open() {
            Ok(master) => master,
            // There is no room for all below it; what there is must do.
            Err(Errno::NOSPC | Errno::MFILE | Errno::NFILE) if !spare.is_empty() => break,
            Err(error) => return Err(error),
        };
        let number = slave_number(&master)? as u32;
        match wanted.iter().position(|wanted| *wanted == number) {
            Some(index) => found[index] = Some(master),
            None => spare.push(master),
        }
        if number >= highest {
            break;
        }
    }
    let mut spare = spare.into_iter();
    found.into_iter().map(|found| found.or_else(|| spare.next()).map_or_else(&open, Ok)).collect()
}

/// Sets whether the slave of a master may not be opened.
pub fn set_locked(master: impl AsFd, locked: bool) -> Result<()> {
    write_integer(master, TIOCSPTLCK, locked.into())
}

/// Sets whether a master is in packet mode (TIOCPKT).
pub fn set_packet_mode(master: impl AsFd, on: bool) -> Result<()> {
    write_integer(master, TIOCPKT, on.into())
}

fn write_integer(fd: impl AsFd, request: libc::Ioctl, value: libc::c_int) -> Result<()> {
    // SAFETY: each request passed by this file's functions reads one integer, which lives.
    check(i64::from(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw const value) })).map(drop)
}

/// Forbids further opens of a terminal (TIOCEXCL).
pub fn set_exclusive(terminal: impl AsFd) -> Result<()> {
    // SAFETY: the ioctl takes no argument.
    check(i64::from(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), TIOCEXCL) })).map(drop)
}

/// Stops output, or lets it go on, as Ctrl-S and Ctrl-Q do.
pub fn set_stopped(terminal: impl AsFd, stopped: bool) -> Result<()> {
    // TCOOFF is 0 and TCOON is 1.
    let action = libc::c_ulong::from(!stopped);
    // SAFETY: the ioctl takes an integer.
    check(i64::from(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), TCXONC, action) })).map(drop)
}

/// Opens the slave side of `master` with these open flags; needs no path. Source: TIOCGPTPEER, Linux 4.13.
pub fn open_slave(master: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    // O_CLOEXEC would stay in the flags of the description, and then `/proc/PID/fdinfo` shows it for every descriptor of it
    // (ptm_open_peer, drivers/tty/pty.c, does not take it out as open(2) does).
    let flags = (flags | OFlags::NOCTTY).difference(OFlags::CLOEXEC).bits();
    // SAFETY: the ioctl takes an integer.
    let fd = check(i64::from(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), TIOCGPTPEER, flags) }))?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

fn read_integer(fd: impl AsFd, request: libc::Ioctl) -> Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: each request passed by this file's functions fills one integer.
    check(i64::from(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut value) }))?;
    Ok(value)
}

/// Reads the number of the slave of a master: `/dev/pts/N`.
pub fn slave_number(master: impl AsFd) -> Result<i32> {
    read_integer(master, TIOCGPTN)
}

/// Reads whether the slave of a master may not be opened by path yet.
pub fn is_locked(master: impl AsFd) -> Result<bool> {
    read_integer(master, TIOCGPTLCK).map(|locked| locked != 0)
}

/// Reads whether a master is in packet mode (TIOCPKT).
pub fn is_packet_mode(master: impl AsFd) -> Result<bool> {
    read_integer(master, TIOCGPKT).map(|mode| mode != 0)
}

/// Reads the session whose controlling terminal this is.
///
/// # Errors
/// ENOTTY if it is not *our* controlling terminal, unless `fd` is a master.
pub fn session(fd: impl AsFd) -> Result<i32> {
    read_integer(fd, TIOCGSID)
}

/// Reads whether a terminal is in exclusive mode (TIOCEXCL).
pub fn is_exclusive(terminal: impl AsFd) -> Result<bool> {
    read_integer(terminal, TIOCGEXCL).map(|on| on != 0)
}

/// Reads the foreground process group of the slave of a master; 0 if there is none that has a number here.
pub fn foreground(master: impl AsFd) -> Result<i32> {
    read_integer(master, TIOCGPGRP)
}

/// Reads which terminal a descriptor denotes, also one of `/dev/tty`: major and minor number. A master gives its slave.
pub fn device(fd: impl AsFd) -> Result<(u32, u32)> {
    // In the encoding of new_encode_dev (include/linux/kdev_t.h): minor in bits 0-7 and 20-31, major in 8-19.
    let device = read_integer(fd, TIOCGDEV)? as u32;
    Ok(((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00)))
}

/// Reads the number N of `/dev/pts/N` that a descriptor denotes, whichever way it was opened; `None` for other terminals.
pub fn number(fd: impl AsFd) -> Option<u32> {
    // Majors 136 to 143, of 256 numbers each (Documentation/admin-guide/devices.txt); since long one major has all.
    match device(fd).ok()? {
        (major @ 136..=143, minor) => Some((major - 136) * 256 + minor),
        _ => None,
    }
}
