//! Whether this kernel, for this user, gives what a freeze or a thaw relies on.
//!
//! Nothing is concluded from versions or configuration: each question makes the call, in a child of its own where
//! the call would change us. A child here makes system calls only, so it may be forked from any process.

use crate::clone::{Clone, fork_with};
use crate::ptrace;
use crate::raw::check;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, Signal, WaitOptions};
use std::ffi::CStr;

/// Where in the life of a namespace a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// clone3(2) with the flags of the namespaces.
    Create,
    /// clone3(2) with a chosen pid inside of them.
    ChoosePid,
    /// Mounting a fresh `/proc` inside of them.
    MountProc,
}

/// Namespaces for pids of its own, and the `/proc` that shows them.
pub const PID_AND_MOUNT: u64 = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
/// A user namespace, which an ordinary user needs for all others.
pub const USER: u64 = libc::CLONE_NEWUSER as u64;
/// A time namespace. `clone3(2)`: CLONE_NEWTIME, Linux 5.6.
pub const TIME: u64 = 0x80;

/// Exit statuses of a probing child: which stage failed; 0 for none.
const FAILED_CHOOSE: i32 = 0x40;
const FAILED_MOUNT: i32 = 0x41;

/// Makes a child in new namespaces `flags`, which makes a grandchild with a chosen pid and, with a mount namespace,
/// mounts a fresh `/proc`.
///
/// # Errors
/// The stage that failed, and its errno ([`Errno::PERM`] for those inside, whose errno is not told).
pub fn namespaces(flags: u64) -> std::result::Result<(), (Stage, Errno)> {
    // SAFETY: the child makes system calls only, and ends by _exit.
    match unsafe { fork_with(flags, &[], libc::SIGCHLD) }.map_err(|errno| (Stage::Create, errno))? {
        Clone::Child => {
            let status = if flags & libc::CLONE_NEWPID as u64 == 0 { 0 } else { inside(flags) };
            // SAFETY: _exit(2) ends the child and returns nowhere.
            unsafe { libc::_exit(status) }
        }
        Clone::Parent { pid, .. } => match reap(pid) {
            Ok(0) => Ok(()),
            Ok(FAILED_CHOOSE) => Err((Stage::ChoosePid, Errno::PERM)),
            Ok(_) => Err((Stage::MountProc, Errno::PERM)),
            Err(errno) => Err((Stage::Create, errno)),
        },
    }
}

/// What pid 1 of the new namespaces tries; returns its exit status.
fn inside(flags: u64) -> i32 {
    const CHOSEN: i32 = 4711;
    // SAFETY: as in `namespaces`; the grandchild ends at once.
    match unsafe { fork_with(0, &[CHOSEN], libc::SIGCHLD) } {
        // SAFETY: _exit(2) ends the grandchild and returns nowhere.
        Ok(Clone::Child) => unsafe { libc::_exit(0) },
        Ok(Clone::Parent { pid, .. }) if pid == CHOSEN => {
            if reap(pid).is_err() {
                return FAILED_CHOOSE;
            }
        }
        Ok(Clone::Parent { .. }) | Err(_) => return FAILED_CHOOSE,
    }
    if flags & libc::CLONE_NEWNS as u64 == 0 {
        return 0;
    }
    let mount = |kind: &CStr, path: &CStr, flags: libc::c_ulong| {
        // SAFETY: the strings live across the call, which copies them; the mount namespace is the child's own.
        check(libc::c_long::from(unsafe {
            libc::mount(kind.as_ptr(), path.as_ptr(), kind.as_ptr(), flags, std::ptr::null())
        }))
    };
    // Private first, so that the mount of /proc does not spread to the world outside.
    let mounted = mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)
        .and_then(|_| mount(c"proc", c"/proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC));
    if mounted.is_ok() { 0 } else { FAILED_MOUNT }
}

/// Makes a child with a pid of our choice in the pid namespace we are in.
///
/// # Errors
/// [`Errno::PERM`] for whoever lacks CAP_CHECKPOINT_RESTORE and CAP_SYS_ADMIN; [`Errno::EXIST`] if another process
/// took the pid between the two forks.
pub fn chosen_pid() -> Result<()> {
    let mut chosen = None;
    for set_tid in [false, true] {
        let tids = if set_tid { chosen.as_slice() } else { &[] };
        // SAFETY: the child ends at once by _exit.
        match unsafe { fork_with(0, tids, libc::SIGCHLD) }? {
            // SAFETY: _exit(2) ends the child and returns nowhere.
            Clone::Child => unsafe { libc::_exit(0) },
            Clone::Parent { pid, .. } => {
                reap(pid)?;
                chosen = Some(pid);
            }
        }
    }
    Ok(())
}

/// Seizes and stops a child of ours, reads its registers, xstate and memory, and lets it go.
///
/// # Errors
/// That of the first call that failed.
pub fn trace_child() -> Result<()> {
    // SAFETY: the child makes system calls only.
    let (pid, _pidfd) = match unsafe { fork_with(0, &[], libc::SIGCHLD) }? {
        Clone::Child => loop {
            // SAFETY: pause(2) takes nothing.
            unsafe { libc::pause() };
        },
        Clone::Parent { pid, pidfd } => (pid, pidfd),
    };
    let outcome = ptrace::seize(pid, ptrace::Options::EXITKILL)
        .and_then(|()| ptrace::interrupt(pid))
        .and_then(|()| ptrace::wait(pid, true))
        .and_then(|_| ptrace::registers(pid))
        .and_then(|_| ptrace::xstate(pid))
        .map(drop);
    if let Some(child) = Pid::from_raw(pid) {
        // Not reaped yet, so the number is still our child's. Gone already is as good.
        let _ = rustix::process::kill_process(child, Signal::KILL);
    }
    reap(pid)?;
    outcome
}

/// Makes an executable memfd, as the stub of a thaw is started from.
///
/// # Errors
/// [`Errno::ACCESS`] where `vm.memfd_noexec` is 2. Kernels before 6.3 do not know MFD_EXEC ([`Errno::INVAL`]) and
/// need it not.
pub fn executable_memfd() -> Result<()> {
    /// `include/uapi/linux/memfd.h`, Linux 6.3.
    const MFD_EXEC: libc::c_uint = 0x10;
    // SAFETY: the name lives across the call.
    let fd = check(libc::c_long::from(unsafe {
        libc::memfd_create(c"frost-probe".as_ptr(), libc::MFD_CLOEXEC | MFD_EXEC)
    }))?;
    // SAFETY: the kernel just installed this descriptor for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

/// Asks for the size of `struct prctl_mm_map`, which a kernel without CONFIG_CHECKPOINT_RESTORE refuses.
///
/// # Errors
/// [`Errno::INVAL`] if PR_SET_MM_MAP is not there.
pub fn mm_map() -> Result<()> {
    let mut size: libc::c_uint = 0;
    // SAFETY: the kernel stores an unsigned int at the given address, which is ours.
    check(libc::c_long::from(unsafe {
        libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP_SIZE, &raw mut size, 0, 0)
    }))
    .map(drop)
}

/// Makes a userfaultfd that tracks writes, for user faults only or for those of the kernel too.
///
/// # Errors
/// [`Errno::PERM`] if kernel faults are for the privileged (`vm.unprivileged_userfaultfd`), ENOSYS without
/// CONFIG_USERFAULTFD, [`Errno::INVAL`] if this kernel has no WP_ASYNC.
pub fn userfaultfd(kernel_faults: bool) -> Result<()> {
    /// `include/uapi/linux/userfaultfd.h`, Linux 5.11.
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    let flags = libc::O_CLOEXEC | if kernel_faults { 0 } else { UFFD_USER_MODE_ONLY };
    // SAFETY: the call takes an integer and touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    // SAFETY: the kernel just installed this descriptor for us.
    crate::userfaultfd::WriteTracker::new(unsafe { OwnedFd::from_raw_fd(fd as i32) }).map(drop)
}

/// Waits for a child of ours to end; returns its exit status, or EIO if a signal ended it.
fn reap(pid: i32) -> Result<i32> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status.exit_status().unwrap_or(Errno::IO.raw_os_error())),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_can_be_traced() {
        trace_child().unwrap();
    }

    #[test]
    fn a_probe_leaves_no_child_behind() {
        let _ = namespaces(USER | PID_AND_MOUNT | TIME);
        let _ = chosen_pid();
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
        assert_eq!(children.trim(), "");
    }
}
