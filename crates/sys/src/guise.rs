//! Calls made under another process' number, user and groups: what the kernel takes down of whoever connects a socket.

use crate::clone::{Clone, exit_now, fork_with, is_alone};
use crate::raw::check;
use rustix::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, Result};

/// Whom a process is to look like.
#[derive(Clone, Copy, Debug)]
pub struct Guise<'a> {
    /// Its number in the namespace for our children; it is another one where that is taken, or not ours to choose.
    pub pid: i32,
    /// Its user, its group, and the others; as ours, as far as they are not ours to take.
    pub ids: Option<(u32, u32, &'a [u32])>,
}

/// Why work under a guise was not done: how many parts of it had been, and what the next one failed with.
pub type Failed = (usize, Errno);

/// Whether a guise can be taken: by who has one thread only, but for those that are joined and still seen.
pub fn is_possible() -> bool {
    // Behind setns(2) into a pid namespace /proc may show another one, where we are not found.
    is_alone().unwrap_or(true)
}

/// Does `work` in a process of its own that has the number and the ids of `guise`, and our descriptors: what it opens is
/// open here too, and what it returns becomes ours. It has the rights to files that we have.
///
/// # Errors
/// What `work` failed with. EBUSY unless it [is possible](is_possible): other threads may hold locks, which nobody would
/// open in there. ECHILD if the process was killed.
///
/// The kernel keeps what it took down of a process when that is gone: `struct pid` and `struct cred` are counted.
pub fn act(
    guise: Guise<'_>,
    work: impl FnOnce() -> std::result::Result<Vec<OwnedFd>, Failed>,
) -> std::result::Result<Vec<OwnedFd>, Failed> {
    let begin = |errno| (0, errno);
    if !is_possible() {
        return Err(begin(Errno::BUSY));
    }
    let told = rustix::fs::memfd_create("told", MemfdFlags::CLOEXEC).map_err(begin)?;
    let files = libc::CLONE_FILES as u64;
    // Exit signal 0: nobody is told, and only __WALL finds it.
    // SAFETY: we have one thread, so the child has all of them and every lock is consistent; no memory is shared.
    let fork = |set_tid: &[i32]| unsafe { fork_with(files, set_tid, 0) };
    let chosen = if guise.pid > 0 { fork(&[guise.pid]) } else { fork(&[]) };
    match chosen.or_else(|_| fork(&[])).map_err(begin)? {
        Clone::Child => {
            if let Some((uid, gid, groups)) = guise.ids {
                take(uid, gid, groups);
            }
            let words: Vec<i32> = match work() {
                Ok(made) => [0, 0].into_iter().chain(made.into_iter().map(IntoRawFd::into_raw_fd)).collect(),
                Err((done, errno)) => vec![errno.raw_os_error(), done as i32],
            };
            let bytes: Vec<u8> = words.into_iter().flat_map(i32::to_ne_bytes).collect();
            let mut rest = bytes.as_slice();
            while let (Ok(count), false) = (rustix::io::write(&told, rest), rest.is_empty()) {
                rest = &rest[count..];
            }
            exit_now(0)
        }
        Clone::Parent { pid, .. } => {
            wait(pid).map_err(begin)?;
            let words = words(&told).map_err(begin)?;
            match words.as_slice() {
                // SAFETY: the process, which is gone, gave these up to us: it shared our table and has closed none.
                [0, _, made @ ..] => Ok(made.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect()),
                [errno, done] => Err((*done as usize, Errno::from_raw_os_error(*errno))),
                // No word of it: it was killed.
                _ => Err(begin(Errno::CHILD)),
            }
        }
    }
}

fn wait(pid: i32) -> Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer.
        match check(i64::from(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) })) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

fn words(told: impl AsFd) -> Result<Vec<i32>> {
    let len = rustix::fs::fstat(&told)?.st_size as usize;
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match rustix::io::pread(&told, &mut bytes[done..], done as u64)? {
            0 => break,
            got => done += got,
        }
    }
    Ok(bytes.chunks_exact(4).filter_map(|word| word.try_into().ok().map(i32::from_ne_bytes)).collect())
}

/// Takes a user and groups, and keeps its capabilities and its rights to files. By bare calls: the C library would ask
/// threads to do the same, of which the process has none.
fn take(uid: u32, gid: u32, groups: &[u32]) {
    /// SECBIT_NO_SETUID_FIXUP (include/uapi/linux/securebits.h): capabilities stay as they are when the user changes.
    const NO_SETUID_FIXUP: libc::c_long = 1 << 2;
    // SAFETY: all calls take integers, but one that takes an array and its length.
    unsafe {
        let (own_user, own_group) = (libc::geteuid(), libc::getegid());
        let bits = libc::syscall(libc::SYS_prctl, libc::PR_GET_SECUREBITS, 0, 0, 0, 0);
        let kept =
            libc::syscall(libc::SYS_prctl, libc::PR_SET_SECUREBITS, bits | NO_SETUID_FIXUP, 0, 0, 0) == 0;
        if bits < 0 || !kept && uid != own_user {
            // It could not do its work any more.
            return;
        }
        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
        libc::syscall(libc::SYS_setresgid, gid, gid, gid);
        libc::syscall(libc::SYS_setresuid, uid, uid, uid);
        libc::syscall(libc::SYS_setfsgid, own_group);
        libc::syscall(libc::SYS_setfsuid, own_user);
    }
}
