//! Work that takes something out of the program's and puts it back, and must not be cut off in between.

use super::Members;
use frost_sys::clone::{Clone, exit_now, fork_beside_threads};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Does `work` in a process of its own in a session of its own, in one go, so that our death in between loses nothing. It
/// may allocate, and make calls; it must take no lock. A fault may be injected behind its start, at the step of this name.
pub(super) fn aside<T: Serialize + DeserializeOwned>(
    fault: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A thread may hash what was written meanwhile.
    match fork_beside_threads()? {
        Clone::Child => {
            // Whoever kills our group or session does not mean this.
            let _ = rustix::process::setsid();
            let told: std::result::Result<T, i32> = work().map_err(Errno::raw_os_error);
            let mut bytes = Vec::new();
            let _ = ciborium::into_writer(&told, &mut bytes);
            let mut rest = bytes.as_slice();
            while let (Ok(count), false) = (rustix::io::write(&writer, rest), rest.is_empty()) {
                rest = &rest[count..];
            }
            exit_now(0)
        }
        Clone::Parent { pidfd, .. } => {
            drop(writer);
            frost_sys::fault::point(fault)?;
            let told = receive(&reader);
            let id = rustix::process::WaitId::PidFd(pidfd.as_fd());
            let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
            // No word of it: it was killed.
            let told: std::result::Result<T, i32> =
                ciborium::from_reader(told.as_slice()).map_err(|_| Errno::CHILD)?;
            told.map_err(Errno::from_raw_os_error)
        }
    }
}

/// Does `work`, which looks only, where processes have the numbers that they have in the tree: in a process of its own within
/// the pid namespace of that, if it is another one. The kernel translates the numbers of processes and groups that have ended
/// too, but only for who is in there.
pub(super) fn inside<T: Serialize + DeserializeOwned>(
    members: &Members,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(pid) = members.elsewhere() else { return work() };
    let process = rustix::process::Pid::from_raw(pid.raw()).ok_or(Errno::SRCH)?;
    let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
    let users = |id: &str| rustix::fs::readlink(format!("/proc/{id}/ns/user"), Vec::new()).ok();
    // One's own cannot be entered again (EINVAL).
    let user = if users(&pid.to_string()) == users("self") { 0 } else { libc::CLONE_NEWUSER };
    aside("freeze.inside", || {
        frost_sys::clone::enter(process.as_fd(), (user | libc::CLONE_NEWPID) as u64)?;
        // A pid namespace is that of one's children.
        aside("freeze.inside", work)
    })
}

fn receive(reader: &OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(4096);
        match rustix::io::read(reader, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return bytes,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return bytes,
        }
    }
}
