//! What fcntl(2) does to a description: whom it signals (F_SETOWN and its like), and locks of its own.

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Result;

// include/uapi/asm-generic/fcntl.h
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;
/// `fcntl` command that sets the owner from a [`struct f_owner_ex`](Owner).
pub const F_SETOWN_EX: libc::c_int = 15;
const F_GETOWN_EX: libc::c_int = 16;

/// `struct f_owner_ex`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// F_OWNER_TID (0), F_OWNER_PID (1) or F_OWNER_PGRP (2).
    pub kind: i32,
    /// The thread, process or group in our pid namespace, 0 for none.
    pub id: i32,
}

/// Reads who gets the signals of a description.
pub fn owner(fd: impl AsFd) -> Result<Owner> {
    let mut owner = Owner::default();
    // SAFETY: `owner` is a live object of the layout that the command fills.
    check(i64::from(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETOWN_EX, &raw mut owner) }))?;
    Ok(owner)
}

/// Chooses who gets the signals of a description; an identifier of 0 is nobody.
pub fn set_owner(fd: impl AsFd, owner: Owner) -> Result<()> {
    // SAFETY: `owner` is a live object of the layout that the command reads.
    check(i64::from(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETOWN_EX, &raw const owner) })).map(drop)
}

/// Reads which signal that is, 0 for SIGIO.
pub fn signal(fd: impl AsFd) -> Result<i32> {
    // SAFETY: the command takes no argument.
    check(i64::from(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETSIG) })).map(|signal| signal as i32)
}

/// Chooses the signal, 0 for SIGIO.
pub fn set_signal(fd: impl AsFd, signal: i32) -> Result<()> {
    // SAFETY: the command takes an integer.
    check(i64::from(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETSIG, signal) })).map(drop)
}

/// Takes a lease on a file (F_SETLEASE), which tells the owner of the description, or us if it has none.
///
/// # Errors
/// EAGAIN if the file is open in a way that does not go with it.
pub fn lease(fd: impl AsFd, exclusive: bool) -> Result<()> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    // SAFETY: the command takes an integer.
    check(i64::from(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETLEASE, kind) })).map(drop)
}

/// Takes a lock of the description itself on a range of its file, without waiting (F_OFD_SETLK).
pub fn lock_range(fd: impl AsFd, exclusive: bool, start: u64, len: Option<u64>) -> Result<()> {
    // A length of 0 reaches to the end, wherever that comes to be.
    let range = libc::flock {
        l_type: if exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start as i64,
        l_len: len.unwrap_or(0) as i64,
        l_pid: 0,
    };
    // SAFETY: `range` is a live object of the layout that the command reads.
    check(i64::from(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const range) }))
        .map(drop)
}
