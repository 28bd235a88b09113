//! An enclosure: namespaces in which a program finds nothing of the outside but what it is given.

use crate::clone::{Clone, fork_with};
use crate::raw::check;
use rustix::io::{Errno, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Forks into user, pid, mount, ipc and uts namespaces, and a network one if `network`; the child is pid 1 there.
///
/// A new network has not even a loopback that is up. No process outside can be named, signalled or looked at. The user
/// namespace is made for root as well: rights in there are none outside.
///
/// # Errors
/// EBUSY if the process has other threads; EPERM or ENOSPC if namespaces are not to be had.
pub fn fork(network: bool) -> Result<Clone> {
    if !crate::clone::is_alone()? {
        return Err(Errno::BUSY);
    }
    let network = if network { libc::CLONE_NEWNET } else { 0 };
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: this process has one thread, so the child has all of them and every lock is consistent.
    unsafe { fork_with((flags | network) as u64, &[], libc::SIGCHLD) }
}

/// Lets no descriptor beyond output and errors pass to the next program: whoever started us may have had others open.
///
/// Source: `close_range(2)`, CLOSE_RANGE_CLOEXEC, Linux 5.11.
pub fn keep_descriptors() -> Result<()> {
    // SAFETY: nothing is closed now, and the call touches no memory.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Makes a mount read-only and its set-id bits void, and all mounts below it, which a remount would leave as they are.
///
/// Source: `mount_setattr(2)`, Linux 5.12; in a user namespace too, where flags may be set and not taken off.
pub fn make_read_only(mount: &Path) -> Result<()> {
    /// `struct mount_attr`, `include/uapi/linux/mount.h`.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const _: () = assert!(size_of::<MountAttr>() == 32);
    const RDONLY_NOSUID: u64 = 0x1 | 0x2;
    let path = CString::new(mount.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let attributes = MountAttr { set: RDONLY_NOSUID, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the path ends with a zero, and the record has the size that is told; the call only reads them.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}
