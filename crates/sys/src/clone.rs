//! Making processes with chosen pids and namespaces.

use crate::raw::check;
use crate::spawn::{self, hand_over};
use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions};
use std::time::{Duration, Instant};

/// `struct clone_args` up to the fields of Linux 5.7 (`include/uapi/linux/sched.h`, CLONE_ARGS_SIZE_VER2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 88);

/// Which side of a clone we are on.
#[derive(Debug)]
pub enum Clone {
    /// The child. Other threads of the parent do not exist here: call only what is async-signal-safe.
    Child,
    /// The parent, with the child's pid and a descriptor of it.
    Parent {
        /// The child's pid in our namespace.
        pid: i32,
        /// The child.
        pidfd: OwnedFd,
    },
}

/// Forks with `flags` (CLONE_NEW..., never CLONE_VM or CLONE_THREAD), optionally with chosen pids.
///
/// `set_tid` lists the child's pid in the innermost namespace first, then outwards. The child sends `exit_signal`
/// to its parent when it ends, usually SIGCHLD.
///
/// # Errors
/// EEXIST if a chosen pid is taken, EPERM without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE over the namespace.
///
/// # Safety
/// As fork(2): the child has one thread only, so locks that other threads of the caller hold stay held there,
/// the allocator's among them. Call it from a single-threaded process, or let the child make nothing but
/// system calls.
///
/// Source: `clone3(2)`; set_tid: Linux 5.5.
pub unsafe fn fork_with(flags: u64, set_tid: &[i32], exit_signal: i32) -> Result<Clone> {
    let mut pidfd: i32 = -1;
    let args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: exit_signal as u64,
        // The kernel refuses a pointer with a count of zero.
        set_tid: if set_tid.is_empty() { 0 } else { set_tid.as_ptr() as u64 },
        set_tid_size: set_tid.len() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` and what it points to live across the call; without CLONE_VM the child gets a copy of our
    // memory and goes on here on its own stack. The caller answers for what the child does.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    // SAFETY: the kernel stored a new descriptor of ours there.
    Ok(Clone::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// How long a thread that was joined may still be seen.
const GONE_WITHIN: Duration = Duration::from_millis(100);

/// Returns whether this process has one thread only.
///
/// Whoever joins a thread is woken a moment before that is gone from `/proc` (`mm_release` in `do_exit`, kernel/fork.c and
/// kernel/exit.c).
pub(crate) fn is_alone() -> Result<bool> {
    let began = Instant::now();
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let goes = |tid: &i32| *tid == own || crate::proc::stat(*tid).map_or(true, |stat| stat.is_ending());
    loop {
        let threads = crate::proc::threads(std::process::id() as i32)?;
        if threads.len() == 1 {
            return Ok(true);
        }
        if !threads.iter().all(goes) || began.elapsed() > GONE_WITHIN {
            return Ok(false);
        }
        std::thread::yield_now();
    }
}

/// Forks, if this process has one thread only.
///
/// Safe because that is checked: no lock can be held by a thread that does not exist in the child.
///
/// # Errors
/// EBUSY if the process has other threads.
pub fn fork_single_threaded(exit_signal: i32) -> Result<Clone> {
    if !is_alone()? {
        return Err(rustix::io::Errno::BUSY);
    }
    // SAFETY: this process has one thread, so the child has all of them and every lock is consistent.
    unsafe { fork_with(0, &[], exit_signal) }
}

/// Forks, whether or not this process has other threads, by way of the C library.
///
/// The child may allocate memory: glibc, and musl since 1.2.3, bring their allocator into order in it. It must take no other
/// lock that a thread of ours may hold, and end by [`exit_now`].
///
/// # Errors
/// Those of fork(2) and pidfd_open(2).
pub fn fork_beside_threads() -> Result<Clone> {
    // SAFETY: no memory is shared with the child, in which this thread goes on alone; the contract is above.
    let pid = check(i64::from(unsafe { libc::fork() }))? as i32;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    let number = rustix::process::Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?;
    Ok(Clone::Parent {
        pid,
        pidfd: rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())?,
    })
}

/// Ends the process at once, without running destructors or exit handlers: what a forked child must do.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor but one: for a forked child that holds nothing else.
pub fn close_others(kept: &OwnedFd) {
    use rustix::fd::AsRawFd;
    let kept = kept.as_raw_fd() as libc::c_uint;
    // Before it is called nothing has been made of the others in the child that would close them once more.
    let close = |from: libc::c_uint, to: libc::c_uint| {
        if from <= to {
            // SAFETY: the child that calls this ends without dropping what owns these descriptors.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    };
    if kept > 0 {
        close(0, kept - 1);
    }
    close(kept + 1, libc::c_uint::MAX);
}

/// Namespaces for System V IPC and the names of the host.
pub const IPC_AND_UTS: u64 = (libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;

/// A namespace for the network.
pub const NETWORK: u64 = libc::CLONE_NEWNET as u64;

/// Forks into new pid and mount namespaces, a user namespace if `user`, and those of `more`: the child is pid 1 there.
///
/// # Errors
/// Those of [`fork_with`].
///
/// The child goes on here with a copy of our memory. If the calling process has other threads, locks that they hold stay
/// held in the child; so it is to be called from a process with one thread.
pub fn fork_into_namespaces(user: bool, more: u64) -> Result<Clone> {
    let user = if user { libc::CLONE_NEWUSER } else { 0 };
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | user;
    // SAFETY: the contract above; no memory is shared with the child.
    unsafe { fork_with(flags as u64 | more, &[], libc::SIGCHLD) }
}

/// Forks as [`fork_single_threaded`] does, with a chosen pid in the namespace for our children.
///
/// # Errors
/// EBUSY if the process has other threads; else those of [`fork_with`].
pub fn fork_numbered(pid: i32) -> Result<Clone> {
    if !is_alone().unwrap_or(true) {
        return Err(rustix::io::Errno::BUSY);
    }
    // SAFETY: as in `fork_single_threaded`. Behind setns(2) into a pid namespace /proc may show another one, where we
    // are not found; the caller was checked before it.
    unsafe { fork_with(0, &[pid], libc::SIGCHLD) }
}

/// Forks as [`fork_numbered`] does, a child of our own parent; with the next free pid, if none is chosen.
///
/// # Errors
/// As there.
pub fn fork_sibling(pid: Option<i32>) -> Result<Clone> {
    if !is_alone().unwrap_or(true) {
        return Err(rustix::io::Errno::BUSY);
    }
    // SAFETY: as in `fork_numbered`. clone3(2) refuses a signal beside CLONE_PARENT: it is that of the caller then.
    unsafe { fork_with(libc::CLONE_PARENT as u64, pid.as_slice(), 0) }
}

/// Enters namespaces of another process: `flags` are of CLONE_NEW..., those for pids concern our children only.
///
/// # Errors
/// EPERM without rights over them; EINVAL for a user namespace that is our own, or if we have other threads.
///
/// Source: `setns(2)` with a pidfd, Linux 5.8.
pub fn enter(process: rustix::fd::BorrowedFd<'_>, flags: u64) -> Result<()> {
    use rustix::fd::AsRawFd;
    // SAFETY: the call takes numbers; descriptors stay as they are, and paths are looked up by name only.
    check(unsafe { libc::setns(process.as_raw_fd(), flags as libc::c_int) }).map(drop)
}

/// Enters a namespace of process or thread `id`, that for IPC or the network, and first the user namespace that gives rights
/// over it.
///
/// By `/proc`, since a pidfd of a process shows no namespaces once its leader has ended (`validate_nsset`, kernel/nsproxy.c),
/// and there are none of threads before Linux 6.9.
///
/// # Errors
/// As [`enter`]; ENOENT if the process is gone.
pub fn enter_with_user(id: i32, flag: libc::c_int) -> Result<()> {
    let open = |name: &str| {
        let path = crate::proc::path(id, &format!("ns/{name}"));
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let namespace = open(if flag == libc::CLONE_NEWNET { "net" } else { "ipc" })?;
    // One's own cannot be entered again (EINVAL).
    if !crate::proc::is_in_our_namespace(id, "user") {
        enter(open("user")?.as_fd(), libc::CLONE_NEWUSER as u64)?;
    }
    enter(namespace.as_fd(), flag as u64)
}

/// Runs `work` in a process of its own, which may enter namespaces for good, and returns the bytes that it made.
///
/// `work` may allocate, and must take no lock that another thread of ours may hold.
///
/// # Errors
/// What `work` failed with; ECHILD if that process died.
pub fn apart(work: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match fork_beside_threads()? {
        Clone::Child => {
            use rustix::fd::AsRawFd;
            crate::own::close_all_but(Some(writer.as_raw_fd()));
            let made = work();
            let mut bytes =
                made.as_ref().err().map_or(0, |errno| errno.raw_os_error()).to_ne_bytes().to_vec();
            bytes.extend(made.unwrap_or_default());
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                match rustix::io::write(&writer, rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            exit_now(0)
        }
        Clone::Parent { pidfd, .. } => {
            drop(writer);
            let mut bytes = Vec::new();
            let read = std::io::Read::read_to_end(&mut std::fs::File::from(reader), &mut bytes);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            let errno: [u8; 4] = bytes.get(..4).and_then(|head| head.try_into().ok()).ok_or(Errno::CHILD)?;
            match i32::from_ne_bytes(errno) {
                0 => Ok(bytes.split_off(4)),
                errno => Err(Errno::from_raw_os_error(errno)),
            }
        }
    }
}

/// Runs `work` in a process of its own, as [`apart`] does, and returns the descriptors that it opened there.
///
/// # Errors
/// As there.
pub fn opened_apart(work: impl FnOnce() -> Result<Vec<OwnedFd>>) -> Result<Vec<OwnedFd>> {
    // Each descriptor with a byte, and then the number of the error.
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match fork_beside_threads()? {
        Clone::Child => {
            use rustix::fd::AsRawFd;
            crate::own::close_all_but(Some(theirs.as_raw_fd()));
            let sent = work().and_then(|opened| opened.iter().try_for_each(|fd| hand_over(&theirs, fd)));
            let errno = sent.err().map_or(0, Errno::raw_os_error);
            let _ = spawn::send(&theirs, &errno.to_ne_bytes(), None);
            exit_now(0)
        }
        Clone::Parent { pidfd, .. } => {
            drop(theirs);
            let mut opened = Vec::new();
            let mut bytes = [0; 4];
            let errno = loop {
                match spawn::receive(&ours, &mut bytes, RecvFlags::empty()) {
                    Ok((4, _)) => break Ok(i32::from_ne_bytes(bytes)),
                    // Without one there was no room for it in our table.
                    Ok((1, descriptor)) => opened.push(descriptor.ok_or(Errno::MFILE)),
                    Ok(_) => break Err(Errno::CHILD),
                    Err(Errno::INTR) => {}
                    Err(errno) => break Err(errno),
                }
            };
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            match errno? {
                0 => opened.into_iter().collect(),
                errno => Err(Errno::from_raw_os_error(errno)),
            }
        }
    }
}
