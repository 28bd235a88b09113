//! Starting an executable that is a descriptor, in a child about which all is known.

use crate::clone::{Clone, fork_with};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Result;
use std::ffi::CStr;

/// The kernel's `struct sigaction` of x86-64: handler, flags, restorer, mask. All zero is SIG_DFL.
const DEFAULT_ACTION: [u64; 4] = [0; 4];
/// The exit status of a child whose execveat failed.
pub const NOT_EXECUTED: i32 = 127;

/// Starts `executable` as a child with pid `set_tid` (see [`fork_with`]), with `name` as its only argument, no
/// environment, every signal's action the default, and every signal blocked.
///
/// The child inherits all descriptors that are not close-on-exec, limits, and the namespaces for children. Returns
/// its pid in our namespace and its pidfd. If the execution fails it exits with [`NOT_EXECUTED`].
///
/// With `sibling` it becomes a child of our own parent instead.
///
/// # Errors
/// Those of [`fork_with`]; there is no child then.
///
/// Source: `execveat(2)` with AT_EMPTY_PATH, which needs no path and so no `/proc`.
pub fn spawn(
    executable: BorrowedFd<'_>,
    name: &CStr,
    set_tid: &[i32],
    sibling: bool,
) -> Result<(i32, OwnedFd)> {
    // clone3(2) refuses a signal beside CLONE_PARENT: it is that of the caller then.
    let (flags, signal) = if sibling { (libc::CLONE_PARENT as u64, 0) } else { (0, libc::SIGCHLD) };
    let fd = executable.as_raw_fd();
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    let all = u64::MAX;
    // SAFETY: the child makes nothing but system calls on memory prepared above, and ends by execveat or _exit.
    match unsafe { fork_with(flags, set_tid, signal) }? {
        Clone::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Clone::Child => {
            // SAFETY: each call gets addresses of live objects of the size that the kernel expects: a mask of 8
            // bytes, a kernel sigaction of 32, two arrays that end in null. _exit returns nowhere.
            unsafe {
                libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, 0usize, 8usize);
                for signal in 1..=64 {
                    libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT_ACTION.as_ptr(), 0usize, 8usize);
                }
                libc::syscall(
                    libc::SYS_execveat,
                    fd,
                    c"".as_ptr(),
                    arguments.as_ptr(),
                    environment.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
                libc::_exit(NOT_EXECUTED)
            }
        }
    }
}
