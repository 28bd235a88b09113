//! Pseudoterminals, and the settings of terminals as the kernel has them.

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

// include/uapi/asm-generic/ioctls.h
const TCGETS2: libc::Ioctl = 0x802c_542a;
const TCSETS2: libc::Ioctl = 0x402c_542b;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;
const TIOCGPTPEER: libc::Ioctl = 0x5441;
const TIOCGPTN: libc::Ioctl = 0x8004_5430;
const TIOCGPTLCK: libc::Ioctl = 0x8004_5439;
const TIOCGSID: libc::Ioctl = 0x5429;
const TIOCGPKT: libc::Ioctl = 0x8004_5438;

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

/// Opens a new pseudoterminal's master side, unlocked.
pub fn open_master() -> Result<OwnedFd> {
    let master =
        rustix::fs::open("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let unlocked: libc::c_int = 0;
    // SAFETY: the ioctl reads one integer, which lives.
    check(i64::from(unsafe { libc::ioctl(master.as_raw_fd(), TIOCSPTLCK, &raw const unlocked) }))?;
    Ok(master)
}

/// Opens the slave side of `master` with these open flags; needs no path. Source: TIOCGPTPEER, Linux 4.13.
pub fn open_slave(master: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    let flags = (flags | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
    // SAFETY: the ioctl takes an integer.
    let fd = check(i64::from(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), TIOCGPTPEER, flags) }))?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
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
